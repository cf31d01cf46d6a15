"""The daemon dies while HSM requests are under way: orders that were accepted are carried out, and no file goes with its object."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

import pytest

from s3lustrefs.errors import UsageError
from s3lustrefs.meta.check import check_state_dir
from tests.crash.harness import Crashing

BODY = b"content" * 100
EAGER = "import_interval=1s"
"""A sweep that takes the name of an object that is gone would come soon."""


def order(crashing: Crashing, path: str, name: str) -> None:
    answer = os.getxattr(crashing.root / path, f"system.s3lustrefs.hsm.{name}")
    assert not answer, answer


def state(crashing: Crashing, path: str) -> str:
    return os.getxattr(crashing.root / path, "system.s3lustrefs.hsm").decode()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def end(crashing: Crashing) -> None:
    crashing.drain()
    assert crashing.end_cleanly() == 0
    assert check_state_dir(crashing.state_dir) == []


def exported(crashing: Crashing, *options: str) -> None:
    """A mount with one file that is local and in the bucket."""
    crashing.s3.put_object(Bucket=crashing.bucket, Key="p/file", Body=BODY)
    crashing.mount("", *options)
    crashing.wait_import()
    assert (crashing.root / "file").read_bytes() == BODY
    crashing.client().call("Drain", paths=["/"], urgent=True)


@pytest.mark.parametrize("failpoint", ["", "delete.before", "delete.answered"])
def test_a_removal_by_order_keeps_the_file_and_takes_the_object(crashing: Crashing, failpoint: str) -> None:
    exported(crashing, EAGER)
    assert crashing.end_cleanly() == 0
    crashing.mount(failpoint, EAGER)
    crashing.wait_import()
    with contextlib.suppress(OSError, UsageError):
        order(crashing, "file", "remove")
        if not failpoint:
            crashing.kill()
    assert crashing.wait_death() == -9
    crashing.clear()
    crashing.mount("", EAGER)
    crashing.wait_import()
    crashing.drain()
    eventually(lambda: crashing.keys() == [])
    crashing.client().call("Refresh", path="/")
    assert (crashing.root / "file").read_bytes() == BODY
    assert state(crashing, "file") == "(0x00000000)"
    order(crashing, "file", "archive")
    eventually(lambda: crashing.keys() == ["p/file"])
    end(crashing)


@pytest.mark.parametrize("failpoint", ["", "put.before", "put.answered"])
def test_an_order_to_archive_survives(crashing: Crashing, failpoint: str) -> None:
    crashing.mount(failpoint, "auto_export=none")
    crashing.wait_import()
    (crashing.root / "file").write_bytes(BODY)
    eventually(lambda: crashing.client().call("Drain", paths=["/"], urgent=True)["remaining"] == 0)
    assert crashing.keys() == []
    with contextlib.suppress(OSError):
        order(crashing, "file", "archive")
        if not failpoint:
            crashing.kill()
    assert crashing.wait_death() == -9
    crashing.clear()
    crashing.mount("", "auto_export=none")
    eventually(lambda: state(crashing, "file").startswith("(0x00000009)"))
    assert crashing.s3.get_object(Bucket=crashing.bucket, Key="p/file")["Body"].read() == BODY
    end(crashing)


def test_flags_survive(crashing: Crashing) -> None:
    exported(crashing)
    order(crashing, "file", "set.00000030")
    (crashing.root / "file").chmod(0o600)
    crashing.kill()
    crashing.wait_death()
    crashing.clear()
    crashing.mount()
    crashing.wait_import()
    assert state(crashing, "file").startswith("(0x00000039) exists archived never_release never_archive")
    end(crashing)


def test_a_release_by_order_cut_short_loses_no_byte(crashing: Crashing) -> None:
    exported(crashing)
    assert crashing.end_cleanly() == 0
    crashing.mount("release.recorded")
    crashing.wait_import()
    with contextlib.suppress(OSError):
        order(crashing, "file", "release")
    assert crashing.wait_death() == -9
    crashing.clear()
    crashing.mount()
    crashing.wait_import()
    assert (crashing.root / "file").read_bytes() == BODY
    end(crashing)


def test_restores_that_wait_are_forgotten_and_the_file_is_whole(crashing: Crashing) -> None:
    crashing.s3.put_object(Bucket=crashing.bucket, Key="p/file", Body=BODY)
    crashing.mount("residency.before")
    crashing.wait_import()
    with contextlib.suppress(OSError):
        order(crashing, "file", "restore")
    assert crashing.wait_death() == -9
    crashing.clear()
    crashing.mount()
    crashing.wait_import()
    assert state(crashing, "file").startswith("(0x0000000d) released")
    assert (crashing.root / "file").read_bytes() == BODY
    end(crashing)
