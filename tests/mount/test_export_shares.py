"""A bucket that takes requests and does not answer holds up nobody but those who need it."""

from __future__ import annotations

import pytest

from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import Site, two_associations
from tests.mount.test_export_scale import fill, wait_until

MANY = 250
"""More than one association may have under way."""


@pytest.fixture
def both(here: Site, proxy: BackgroundProxy) -> Site:
    """One association of which no copy is answered, with more of them than can be under way, and one that is well."""
    names = [f"f{number:03d}" for number in range(MANY)]
    fill(here, names, "one/")
    here.source = str(two_associations(here.bucket, here.scratch))
    here.mount()
    proxy.add("hold", method="PUT", path="/one/", times=10 * MANY)
    for name in names:
        (here.root / "one" / name).chmod(0o640)
    return here


def test_a_bucket_that_does_not_answer_copies_holds_up_no_other(both: Site, proxy: BackgroundProxy) -> None:
    wait_until(lambda: both.status()["export"]["in_flight"] >= 190)
    for number in range(50):
        (both.root / "two" / f"n{number}").write_bytes(b"new")
    (both.root / "two" / "n0").rename(both.root / "two" / "m0")
    wait_until(lambda: len(both.keys("two/")) == 50)  # by themselves
    (both.root / "two" / "last").write_bytes(b"last")
    (both.root / "two" / "m0").unlink()
    both.drain(both.root / "two")
    assert "two/last" in both.keys("two/") and "two/m0" not in both.keys("two/")
    proxy.clear_faults()
    both.drain()
    assert all(both.head(key)["Metadata"]["file-permissions"] == "0100640" for key in both.keys("one/"))
