"""Which call changes which time, and setting them."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.calls import (
    AT_SYMLINK_NOFOLLOW,
    RENAME_EXCHANGE,
    UTIME_NOW,
    UTIME_OMIT,
    fails,
    opened,
    renameat2,
    tick,
    utimensat,
)
from tests.posix.conftest import CONTENT, FileCase, Place, read_direct

OLD = 1_000_000_000 * 10**9 + 123_456_789
NONE, MTIME, CTIME, BOTH = "", "mtime", "ctime", "mtime ctime"


def changed(path: Path, call: Callable[[], object]) -> str:
    """Which of the times of a path a call changes."""
    before = os.lstat(path)
    tick()
    call()
    after = os.lstat(path)
    found = [name for name in ("mtime", "ctime") if getattr(after, f"st_{name}_ns") != getattr(before, f"st_{name}_ns")]
    return " ".join(found)


def _write(path: Path, data: bytes, offset: int = 0) -> None:
    with opened(path, os.O_WRONLY) as descriptor:
        os.pwrite(descriptor, data, offset)


FILE_CALLS: dict[str, tuple[Callable[[Path], object], str]] = {
    "read": (lambda path: path.read_bytes(), NONE),
    "stat": (lambda path: path.stat(), NONE),
    "open for writing": (lambda path: os.close(os.open(path, os.O_RDWR | os.O_CREAT)), NONE),
    "write": (lambda path: _write(path, b"x"), BOTH),
    "write at the end": (lambda path: _write(path, b"x", len(CONTENT)), BOTH),
    "write nothing": (lambda path: _write(path, b""), NONE),
    "truncate": (lambda path: os.truncate(path, 5), BOTH),
    "extend": (lambda path: os.truncate(path, len(CONTENT) + 5), BOTH),
    "truncate to the same size": (lambda path: os.truncate(path, len(CONTENT)), BOTH),
    "truncating open": (lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)), BOTH),
    "chmod": (lambda path: path.chmod(0o600), CTIME),
    "chmod to the same": (lambda path: path.chmod(path.stat().st_mode), CTIME),
    "chown": (lambda path: os.chown(path, 3, 3), CTIME),
    "link": (lambda path: os.link(path, path.with_name("g")), CTIME),
    "setxattr": (lambda path: os.setxattr(path, "user.a", b"x"), CTIME),
    "utime": (lambda path: os.utime(path, ns=(OLD, OLD)), BOTH),
    "atime only": (lambda path: utimensat(path, (1, 1), (0, UTIME_OMIT)), CTIME),
    "utime of nothing": (lambda path: utimensat(path, (0, UTIME_OMIT), (0, UTIME_OMIT)), NONE),
    "fsync": (lambda path: _sync(path), NONE),
}


def _sync(path: Path) -> None:
    with opened(path, os.O_RDWR) as descriptor:
        os.fsync(descriptor)


@pytest.mark.parametrize("call", FILE_CALLS)
def test_times_of_a_file(file: FileCase, call: str) -> None:
    act, expected = FILE_CALLS[call]
    assert changed(file.path, lambda: act(file.path)) == expected


def test_times_of_a_file_that_is_renamed_or_unlinked(place: Place) -> None:
    path = place.file()
    os.link(path, place.root / "g")
    with opened(path, os.O_RDONLY) as descriptor:
        for call in (lambda: path.rename(place.root / "h"), lambda: (place.root / "h").unlink()):
            before = os.fstat(descriptor)
            tick()
            call()
            after = os.fstat(descriptor)
            assert after.st_mtime_ns == before.st_mtime_ns and after.st_ctime_ns > before.st_ctime_ns
        other = place.file("other")
        before = os.fstat(descriptor)
        tick()
        other.rename(place.root / "g")
        assert os.fstat(descriptor).st_ctime_ns > before.st_ctime_ns, "replaced"


DIRECTORY_CALLS: dict[str, tuple[Callable[[Path], object], str]] = {
    "list": (lambda root: os.listdir(root), NONE),
    "create": (lambda root: (root / "new").touch(), BOTH),
    "mkdir": (lambda root: (root / "newd").mkdir(), BOTH),
    "symlink": (lambda root: (root / "newl").symlink_to("x"), BOTH),
    "mkfifo": (lambda root: os.mkfifo(root / "newp"), BOTH),
    "link": (lambda root: os.link(root / "f", root / "g"), BOTH),
    "unlink": (lambda root: (root / "f").unlink(), BOTH),
    "rmdir": (lambda root: (root / "d").rmdir(), BOTH),
    "rename": (lambda root: (root / "f").rename(root / "renamed"), BOTH),
    "rename in": (lambda root: (root / "d" / "inner").rename(root / "inner"), BOTH),
    "rename out": (lambda root: (root / "f").rename(root / "d" / "f"), BOTH),
    "exchange": (lambda root: renameat2(root / "f", root / "d", RENAME_EXCHANGE), BOTH),
    "write of a file": (lambda root: (root / "f").write_bytes(b"y"), NONE),
    "chmod of a file": (lambda root: (root / "f").chmod(0o600), NONE),
    "creation of what is there": (lambda root: (root / "f").touch(), NONE),
    "creation below": (lambda root: (root / "d" / "x").touch(), NONE),
}


@pytest.mark.parametrize("call", DIRECTORY_CALLS)
def test_times_of_a_directory(place: Place, call: str) -> None:
    place.file()
    place.dir()
    if call != "rmdir":
        (place.root / "d" / "inner").touch()
    act, expected = DIRECTORY_CALLS[call]
    assert changed(place.root, lambda: act(place.root)) == expected


def test_times_of_a_moved_directory(place: Place) -> None:
    path, other = place.dir(), place.dir("other")
    tick()
    before = path.stat()
    path.rename(other / "d")
    after = (other / "d").stat()
    assert after.st_mtime_ns in (before.st_mtime_ns, after.st_ctime_ns) and after.st_ctime_ns > before.st_ctime_ns


# --- setting them ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ns", [0, 1, OLD, 2**31 * 10**9 + 1, 2**33 * 10**9 + 999_999_999, -1, -(10**9) - 1])
def test_nanoseconds_are_kept(file: FileCase, ns: int) -> None:
    os.utime(file.path, ns=(ns, ns + 1))
    found = file.path.stat()
    assert (found.st_atime_ns, found.st_mtime_ns) == (ns, ns + 1)


def test_now_and_omit(file: FileCase) -> None:
    os.utime(file.path, ns=(OLD, OLD))
    start = time.time_ns() - 10**8
    utimensat(file.path, (0, UTIME_NOW), (0, UTIME_OMIT))
    found = file.path.stat()
    assert start < found.st_atime_ns < time.time_ns() + 10**8 and found.st_mtime_ns == OLD
    utimensat(file.path, (7, 8), (0, UTIME_NOW))
    found = file.path.stat()
    assert found.st_atime_ns == 7 * 10**9 + 8 and start < found.st_mtime_ns < time.time_ns() + 10**8
    utimensat(file.path, (0, UTIME_OMIT), (5, 6))
    found = file.path.stat()
    assert (found.st_atime_ns, found.st_mtime_ns) == (7 * 10**9 + 8, 5 * 10**9 + 6)
    with fails(errno.EINVAL):
        utimensat(file.path, (0, 10**9), (0, 0))


def test_times_of_links_and_special_files(place: Place) -> None:
    place.file()
    link, fifo, directory = place.root / "l", place.root / "p", place.dir()
    link.symlink_to("f")
    os.mkfifo(fifo)
    utimensat(link, (1, 2), (3, 4), AT_SYMLINK_NOFOLLOW)
    assert os.lstat(link).st_mtime_ns == 3 * 10**9 + 4 != (place.root / "f").stat().st_mtime_ns
    for path in (fifo, directory):
        os.utime(path, ns=(OLD, OLD))
        assert path.stat().st_mtime_ns == OLD


def test_change_after_set_times_counts(file: FileCase) -> None:
    os.utime(file.path, ns=(OLD, OLD))
    _write(file.path, b"x")
    assert file.path.stat().st_mtime_ns > OLD
    with opened(file.path, os.O_WRONLY) as descriptor:
        os.write(descriptor, b"y")
        os.utime(descriptor, ns=(OLD, OLD))
    assert file.path.stat().st_mtime_ns == OLD, "closing is no change (rsync and tar rely on it)"


# --- access times --------------------------------------------------------------------------------------------------------------


def test_access_time_is_relative(file: FileCase) -> None:
    os.utime(file.path, ns=(OLD, OLD + 1))
    with opened(file.path, os.O_RDONLY) as descriptor:
        assert os.fstat(descriptor).st_atime_ns == OLD
        read_direct(file.path, 0, 4096)  # what comes out of the kernel's cache is not told
        first = os.fstat(descriptor).st_atime_ns
        assert first > OLD, "older than the modification: read again since"
        tick()
        read_direct(file.path, 0, 4096)
        assert os.fstat(descriptor).st_atime_ns == first, "less than a day ago"
    assert file.path.stat().st_atime_ns == first
    now = time.time_ns()
    os.utime(file.path, ns=(now - 2 * 86400 * 10**9, OLD))
    read_direct(file.path, 0, 4096)
    assert file.path.stat().st_atime_ns > now - 10**9, "more than a day ago"


def test_access_time_without_asking_the_daemon(file: FileCase) -> None:
    """What the kernel reads out of its own cache, FUSE never hears of."""
    assert file.path.read_bytes() == CONTENT
    os.utime(file.path, ns=(OLD, OLD + 1))
    assert file.path.read_bytes() == CONTENT
    found = file.path.stat().st_atime_ns
    assert found > OLD if file.is_reference else found == OLD


def test_access_time_that_is_not_wanted(file: FileCase) -> None:
    os.utime(file.path, ns=(OLD, OLD + 1))
    with opened(file.path, os.O_RDONLY | os.O_NOATIME) as descriptor:
        os.pread(descriptor, 10, 0)
    assert file.path.stat().st_atime_ns == OLD


def test_access_times_of_directories_and_links(place: Place) -> None:
    place.file()
    link = place.root / "l"
    link.symlink_to("f")
    utimensat(link, (1, 0), (2, 0), AT_SYMLINK_NOFOLLOW)
    os.utime(place.root, ns=(OLD, OLD + 1))
    os.listdir(place.root)
    os.readlink(link)
    assert place.root.stat().st_atime_ns > OLD
    assert os.lstat(link).st_atime_ns > 10**9
