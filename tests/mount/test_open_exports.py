"""Exports of files that stay open, several of them, and what happens to them meanwhile."""

from __future__ import annotations

from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import Site
from tests.mount.test_export_scale import wait_until


def test_a_file_whose_export_takes_long_does_not_keep_others_waiting(here: Site, proxy: BackgroundProxy) -> None:
    here.mount(export_open_after="1")
    proxy.add("hold", method="PUT", path="/p/log")
    with open(here.root / "log", "wb", buffering=0) as slow, open(here.root / "other", "wb", buffering=0) as other:
        slow.write(b"first")
        proxy.wait_held()
        slow.write(b", second")  # late again sooner than the other, and must wait for itself only
        other.write(b"other")
        wait_until(lambda: here.keys("p/") == ["p/other"])
        proxy.clear_faults()
        wait_until(lambda: "p/log" in here.keys("p/") and here.body("p/log") == b"first, second")
