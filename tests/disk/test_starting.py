"""Mounting and unmounting while a disk is full or fails: one line that says why, never a traceback, and nothing lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.disk.disks import fill
from tests.disk.failing_disk import FailingDisk
from tests.mount.site import Site, ended

MakeSite = Callable[..., Site]


@pytest.mark.parametrize("is_new", [pytest.param(True, marks=pytest.mark.long), False], ids=["first", "again"])
def test_mounting_with_a_full_state_directory_says_so_or_works(
    make_site: MakeSite, small: Path, tmp_path: Path, is_new: bool
) -> None:
    place = make_site(cache_dir=str(tmp_path / "cache"))
    place.state_dir = small / "state"
    place.expected_log += ["No space left on device"]
    if not is_new:
        place.mount()
        (place.root / "f").write_bytes(b"before")
        place.unmount()
    filler = fill(small)
    done = place.try_mount()
    if done.returncode == 0:
        assert not is_new
        assert (place.root / "f").read_bytes() == b"before"
        place.unmount()
    else:
        assert "No space left" in done.stderr and "defect" not in done.stderr, done.stderr
    filler.unlink()
    place.mount()
    (place.root / "g").write_bytes(b"after")
    place.drain()
    place.unmount()
    assert place.body("p/g") == b"after"


@pytest.mark.long
@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO])
@pytest.mark.parametrize("part", ["state", "cache"])
def test_mounting_on_a_failing_disk_says_so(make_site: MakeSite, disk: FailingDisk, tmp_path: Path, part: str, number: int) -> None:
    place = make_site(cache_dir=str((disk.path if part == "cache" else tmp_path) / "cache"))
    place.state_dir = (disk.path if part == "state" else tmp_path) / "state"
    place.expected_log += [os.strerror(number)]
    place.mount()
    (place.root / "f").write_bytes(b"before")
    place.drain()
    place.unmount()
    disk.fail("write", "create", "truncate", "unlink", "mkdir", "rename", "mknod", number=number)
    done = place.try_mount()
    assert done.returncode != 0
    assert os.strerror(number) in done.stderr and "defect" not in done.stderr, done.stderr
    disk.heal()
    place.mount()
    assert (place.root / "f").read_bytes() == b"before"
    place.unmount()


def test_unmounting_while_the_state_directory_fails_keeps_everything_for_the_next_mount(
    make_site: MakeSite, disk: FailingDisk, tmp_path: Path
) -> None:
    place = make_site(cache_dir=str(tmp_path / "cache"))
    place.state_dir = disk.path / "state"
    place.expected_log += ["Input/output error"]
    place.mount()
    for number in range(5):
        (place.root / f"f{number}").write_bytes(b"%d" % number)
    disk.fail("write", "create", "truncate", "unlink", "fsync", "rename", names="meta|lock|sock")
    place.unmount()
    disk.heal()
    place.mount()
    assert [(place.root / f"f{number}").read_bytes() for number in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    place.drain()
    place.unmount()
    place.cli("fsck", place.state_dir)


@pytest.mark.long
def test_table_that_cannot_be_read_ends_the_daemon_and_nothing_is_lost(
    make_site: MakeSite, disk: FailingDisk, tmp_path: Path
) -> None:
    """README, "Exceptions": LMDB maps its file into memory, and the kernel answers a page it cannot read with SIGBUS."""
    place = make_site(cache_dir=str(tmp_path / "cache"))
    place.state_dir = disk.path / "state"
    place.expected_log += ["Input/output error", "daemon died"]
    place.mount()
    for number in range(300):
        (place.root / f"f{number}").write_bytes(b"%d" % number)
    place.drain()
    place.unmount()
    place.mount()
    with ended(place.note_daemon()):
        disk.fail("read", names="data.mdb")
        Path("/proc/sys/vm/drop_caches").write_text("1\n")
        with pytest.raises(OSError):
            for number in range(300):
                os.stat(place.root / f"f{number}")
    assert "Bus error" in place.log()
    disk.heal()
    place.mount()
    assert {path.name: path.read_bytes() for path in place.root.iterdir()} == {f"f{n}": b"%d" % n for n in range(300)}
    place.unmount()
