"""Mounts whose disks fail: EIO to whoever needs what failed, nothing to anybody else, and no restart when they work again."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.disk.disks import MIB, ext4, turn_read_only
from tests.disk.failing_disk import FailingDisk
from tests.disk.test_full import end, fails_with
from tests.mount.site import WAIT_SECONDS, Site

MakeSite = Callable[..., Site]
_FAILURES = ["storage target fails", "No space left on device", "Input/output error", "Read-only file system"]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.05)


def fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def on_target(place: Site, target: int, prefix: str, content: bytes) -> str:
    """A new file whose only chunk is on that one of two targets."""
    for number in range(10):
        path = place.root / f"{prefix}{number}"
        path.touch()
        if path.stat().st_ino % 2 == target:
            path.write_bytes(content)
            return path.name
        path.unlink()
    raise AssertionError("inode numbers do not alternate")


@pytest.fixture
def half(make_site: MakeSite, disk: FailingDisk, tmp_path: Path) -> Iterator[Site]:
    """A mount with two storage targets, the first of which fails on demand."""
    place = make_site(cache_dir=f"{disk.path}:{tmp_path / 'well'}")
    place.expected_log += _FAILURES
    place.put("p/cold", os.urandom(3 * MIB))
    yield place.mount()


@pytest.mark.parametrize("number", [errno.EIO, pytest.param(errno.EROFS, marks=pytest.mark.long)])
def test_failing_target_hurts_only_what_lies_on_it(half: Site, disk: FailingDisk, number: int) -> None:
    bad, good = on_target(half, 0, "bad", b"b" * MIB), on_target(half, 1, "good", b"g" * MIB)
    half.drain()
    fsync(half.root / bad)
    disk.fail("write", "create", "truncate", "unlink", names="chunks", number=number)
    with fails_with(number), (half.root / bad).open("r+b", buffering=0) as file:
        file.write(b"new")
    with (half.root / good).open("r+b", buffering=0) as file:
        file.write(b"new")
        os.fsync(file.fileno())
    fresh = on_target(half, 1, "fresh", b"f" * MIB)
    (half.root / bad).rename(half.root / "renamed")
    (half.root / "dir").mkdir()
    (half.root / "dir").chmod(0o700)
    assert (half.root / "renamed").read_bytes() == b"b" * MIB
    failing, well = half.status()["cache"]["targets"]
    assert os.strerror(number) in failing["failure"] and str(disk.path) in failing["failure"] and not well["failure"]
    half.drain(half.root / fresh)
    half.drain(half.root / good)
    assert half.body(f"p/{good}") == b"new" + b"g" * (MIB - 3)
    disk.heal()
    with (half.root / "renamed").open("r+b", buffering=0) as file:
        file.write(b"new")
        os.fsync(file.fileno())
    assert half.body("p/cold") == (half.root / "cold").read_bytes()
    end(half)


def test_truncated_bytes_never_come_back_when_the_target_could_not_drop_them(half: Site, disk: FailingDisk) -> None:
    name = on_target(half, 0, "bad", b"b" * MIB)
    disk.fail("truncate", "unlink", names="chunks")
    os.truncate(half.root / name, 100)
    with fails_with(errno.EIO):
        os.truncate(half.root / name, MIB)
    assert (half.root / name).read_bytes() == b"b" * 100
    disk.heal()
    os.truncate(half.root / name, MIB)
    assert (half.root / name).read_bytes() == b"b" * 100 + bytes(MIB - 100)
    end(half)


def test_unlinked_file_gives_its_space_back_when_the_target_works(half: Site, disk: FailingDisk) -> None:
    name = on_target(half, 0, "bad", b"b" * MIB)
    disk.fail("unlink", names="chunks")
    (half.root / name).unlink()
    assert not (half.root / name).exists()
    disk.heal()
    wait_until(lambda: not any(path.stat().st_size for path in disk.backing.rglob("*.*.*")))
    end(half)


def test_reads_that_fail_are_eio_and_right_again_afterwards(half: Site, disk: FailingDisk) -> None:
    name = on_target(half, 0, "bad", b"b" * MIB)
    half.drain()
    half.unmount()
    half.mount()
    disk.fail("read", "open", names="chunks")
    with fails_with(errno.EIO):
        (half.root / name).read_bytes()
    (half.root / name).rename(half.root / "renamed")
    half.drain()
    disk.heal()
    assert (half.root / "renamed").read_bytes() == b"b" * MIB
    end(half)


def test_exports_wait_for_a_target_that_cannot_be_read(half: Site, disk: FailingDisk) -> None:
    disk.fail("read", "open", names="chunks")
    bad, good = on_target(half, 0, "bad", b"b" * MIB), on_target(half, 1, "good", b"g" * MIB)
    half.drain(half.root / good)
    wait_until(lambda: half.why(bad)["export"]["attempts"])
    why = half.why(bad)
    assert "Input/output error" in why["last_error"] and "storage target" in why["remedy"]
    disk.heal()
    end(half)


# --- lost content ----------------------------------------------------------------------------------------------------------


def test_file_that_lost_bytes_is_told_and_kept_from_readers_and_the_bucket(half: Site, disk: FailingDisk) -> None:
    good = on_target(half, 1, "good", b"g")
    half.drain()
    disk.fail("fsync", names="chunks")
    bad = on_target(half, 0, "bad", b"b" * MIB)
    with fails_with(errno.EIO):
        fsync(half.root / bad)
    (half.root / good).write_bytes(b"good")
    fsync(half.root / good)
    assert half.status()["state_failure"] is None
    disk.heal()
    for _ in range(2):
        with fails_with(errno.EIO):
            fsync(half.root / bad)
        with fails_with(errno.EIO):
            (half.root / bad).read_bytes()
        with fails_with(errno.EIO), (half.root / bad).open("r+b", buffering=0) as file:
            file.write(b"x")
        half.kill_daemon()
        half.mount()
    fsync(half.root / good)
    done = half.try_drain(half.root)
    assert done.returncode == 1 and f"/{bad}" in done.stdout + done.stderr
    why = half.why(bad)
    assert "was lost" in why["last_error"] and "anew" in why["remedy"]
    assert f"p/{bad}" not in half.keys()
    assert f"path=/{bad}" in half.log() and "content was lost" in half.cli("why", half.root / bad).stdout
    (half.root / bad).write_bytes(b"written anew")
    fsync(half.root / bad)
    end(half)
    assert half.body(f"p/{bad}") == b"written anew"


def test_lost_local_copy_of_an_object_is_fetched_again(half: Site, disk: FailingDisk) -> None:
    body = half.body("p/cold")
    assert (half.root / "cold").read_bytes() == body
    disk.fail("fsync", names="chunks")
    other = on_target(half, 1, "other", b"o")
    fsync(half.root / other)
    disk.heal()
    if (half.root / "cold").stat().st_ino % 2 == 0:
        assert half.about("cold")["resident_bytes"] == 0
    assert (half.root / "cold").read_bytes() == body
    assert half.about("cold")["resident_bytes"] == len(body)
    end(half)


@pytest.mark.long
def test_deleting_a_file_that_lost_bytes_ends_the_matter(half: Site, disk: FailingDisk) -> None:
    disk.fail("fsync", names="chunks")
    bad = on_target(half, 0, "bad", b"b" * MIB)
    with fails_with(errno.EIO):
        fsync(half.root / bad)
    disk.heal()
    (half.root / bad).unlink()
    (half.root / bad).write_bytes(b"another file")
    end(half)


# --- the state directory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, pytest.param(errno.EROFS, marks=pytest.mark.long)])
def test_failing_state_directory_refuses_changes_and_nothing_else(
    make_site: MakeSite, disk: FailingDisk, tmp_path: Path, number: int
) -> None:
    place = make_site(cache_dir=str(tmp_path / "cache"))
    place.state_dir = disk.path / "state"
    place.expected_log += [*_FAILURES, "close not recorded", "exports pause"]
    place.mount()
    (place.root / "old").write_bytes(b"old content")
    fsync(place.root / "old")
    late = (place.root / "late").open("wb", buffering=0)
    late.write(b"late")
    disk.fail("write", "fsync", "create", "unlink", "truncate", names="meta", number=number)
    with fails_with(number):
        (place.root / "new").touch()
    with fails_with(number):
        (place.root / "old").rename(place.root / "moved")
    with fails_with(number):
        late.write(b"more")
    with pytest.raises(OSError):
        os.fsync(late.fileno())
    late.close()
    assert sorted(os.listdir(place.root)) == ["late", "old"]
    assert (place.root / "old").read_bytes() == b"old content"
    wait_until(lambda: place.status()["state_failure"])
    disk.heal()
    (place.root / "new").write_bytes(b"new")
    fsync(place.root / "new")
    wait_until(lambda: not place.status()["state_failure"])
    end(place)
    assert place.body("p/late") == b"late"


def test_ext4_that_turned_read_only_after_an_error(make_site: MakeSite, tmp_path: Path) -> None:
    with ext4(tmp_path / "a", 64) as path:
        place = make_site(cache_dir=f"{path}:{tmp_path / 'well'}").mount()
        place.expected_log += [*_FAILURES, "content lost", "export failed"]
        old = on_target(place, 0, "old", b"o" * MIB)
        fsync(place.root / old)
        place.drain()
        turn_read_only(path)
        with fails_with(errno.EROFS), (place.root / old).open("r+b", buffering=0) as file:
            file.write(b"new")
        good = on_target(place, 1, "good", b"g" * MIB)
        fsync(place.root / good)
        assert (place.root / old).read_bytes() == b"o" * MIB
        assert "make its file system writable again" in place.status()["cache"]["targets"][0]["failure"]
        end(place)
