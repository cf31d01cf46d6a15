"""Mounts whose disks are full: ENOSPC to whoever needs room, nothing to anybody else, and no restart when there is room again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.disk.disks import MIB, fill, tmpfs
from tests.mount.site import Site

MakeSite = Callable[..., Site]


@contextmanager
def fails_with(number: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number, caught.value


def end(place: Site) -> None:
    """Everything is in the bucket, and the state directory is whole."""
    place.drain()
    expected = {f"p/{path.relative_to(place.root)}": path.read_bytes() for path in place.root.rglob("*") if path.is_file()}
    assert {key: body for key, body in place.objects("p/").items() if not key.endswith("/")} == expected
    place.unmount()
    assert place.cli("fsck", place.state_dir).stdout.count("\n") <= 1


def test_full_state_directory_refuses_changes_and_nothing_else(make_site: MakeSite, small: Path, tmp_path: Path) -> None:
    place = make_site(cache_dir=str(tmp_path / "cache"))
    place.state_dir = small / "state"
    place.expected_log += ["No space left on device"]
    place.put("p/cold", b"cold")
    place.mount()
    (place.root / "dir").mkdir()
    (place.root / "old").write_bytes(b"old content")
    closed_late = (place.root / "late").open("wb", buffering=0)
    closed_late.write(b"written before the disk was full")
    filler = fill(small)
    _use_up_the_log(place)
    before = sorted(os.listdir(place.root))
    for change in (
        lambda: (place.root / "new").touch(),
        lambda: (place.root / "dir2").mkdir(),
        lambda: (place.root / "old").rename(place.root / "dir/moved"),
        lambda: (place.root / "old").unlink(),
        lambda: (place.root / "old").chmod(0o600),
        lambda: os.truncate(place.root / "old", 3),
        lambda: os.truncate(place.root / "old", 3000),
        lambda: os.link(place.root / "old", place.root / "again"),
        lambda: os.symlink("old", place.root / "link"),
        lambda: os.setxattr(place.root / "old", "user.x", b"x"),
        lambda: closed_late.write(b"more"),
    ):
        with fails_with(errno.ENOSPC):
            change()
    closed_late.close()
    assert sorted(os.listdir(place.root)) == before and os.listdir(place.root / "dir") == []
    assert (place.root / "old").read_bytes() == b"old content"
    assert (place.root / "old").stat().st_mode & 0o777 == 0o644
    assert (place.root / "late").read_bytes() == b"written before the disk was full"
    assert "free space on the file system of the state directory" in str(place.status()["state_failure"])
    filler.unlink()
    (place.root / "new").write_bytes(b"new")
    (place.root / "old").rename(place.root / "dir/moved")
    assert (place.root / "cold").read_bytes() == b"cold"
    end(place)
    assert place.body("p/late") == b"written before the disk was full"


def _use_up_the_log(place: Site) -> None:
    """A file system that is full still has the rest of the log's last block."""
    for number in range(1000):
        try:
            os.setxattr(place.root / "dir", "user.filler", bytes(300 + number % 7))
        except OSError as exc:
            assert exc.errno == errno.ENOSPC
            return
    raise AssertionError("the state directory is never full")


def test_full_target_among_others_releases_what_lies_on_it(make_site: MakeSite, tmp_path: Path) -> None:
    """Twice as much as the small target holds goes through it, while the large one has room for everything."""
    with tmpfs(tmp_path / "small", 12) as small:
        place = make_site(cache_dir=f"{small}:{tmp_path / 'large'}").mount()
        place.expected_log += ["storage target fails .*No space left"]
        contents = {f"f{number}": os.urandom(MIB) for number in range(40)}
        for name, content in contents.items():
            (place.root / name).write_bytes(content)
        for name, content in contents.items():
            assert (place.root / name).read_bytes() == content, name
        on_large = [path for path in (tmp_path / "large").rglob("*") if path.is_file()]
        assert len(on_large) >= 19, "files on the target that has room stay"
        end(place)


def test_full_target_is_enospc_to_those_on_it_only(make_site: MakeSite, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", 8) as small:
        place = make_site(cache_dir=f"{small}:{tmp_path / 'large'}", auto_export="none").mount()
        place.expected_log += ["No space left on device"]
        contents: dict[str, bytes] = {}
        failed = []
        for number in range(24):
            content = os.urandom(MIB)
            try:
                (place.root / f"f{number}").write_bytes(content)
                contents[f"f{number}"] = content
            except OSError as exc:
                assert exc.errno == errno.ENOSPC
                failed.append(f"f{number}")
        assert len(contents) >= 18 and len(failed) >= 4
        targets = place.status()["cache"]["targets"]
        assert "No space left" in targets[0]["failure"] and targets[1]["failure"] is None
        assert "FAILING" in place.cli("status", place.root).stdout
        assert all((place.root / name).stat().st_size < MIB for name in failed), "part of each was written, if anything"
        _grow_without_room(place, failed[0])
        for name in failed:
            (place.root / name).unlink()
        for name, content in contents.items():
            assert (place.root / name).read_bytes() == content
        on_small = [name for name in contents if (tmp_path / "small" / _chunk(place, name)).exists()]
        (place.root / on_small[0]).unlink()
        (place.root / on_small[1]).write_bytes(b"again")
        assert (place.root / on_small[1]).read_bytes() == b"again"
        place.unmount()
        place.cli("fsck", place.state_dir)


def _grow_without_room(place: Site, name: str) -> None:
    """What a failed write left behind the end of a file never shows when the file grows over it."""
    path = place.root / name
    size = path.stat().st_size
    with path.open("ab", buffering=0) as file:
        for _ in range(3):
            with pytest.raises(OSError):
                while True:
                    file.write(b"x" * (256 << 10))
    size = path.stat().st_size
    os.truncate(path, size + MIB)
    assert path.read_bytes()[size:] == bytes(MIB)


def _chunk(place: Site, name: str) -> str:
    ino = (place.root / name).stat().st_ino
    return f"chunks/{ino >> 12 & 0xFF:02x}/{ino:x}.0.0"


def test_reading_cold_files_on_a_full_target_is_enospc_until_there_is_room(make_site: MakeSite, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", 8) as small:
        place = make_site(cache_dir=str(small))
        place.expected_log += ["No space left on device", "do not fit"]
        body = os.urandom(2 * MIB)
        place.put("p/cold", body)
        place.mount()
        filler = fill(small)
        with fails_with(errno.ENOSPC):
            (place.root / "cold").read_bytes()
        (place.root / "name").mkdir()
        filler.unlink()
        assert (place.root / "cold").read_bytes() == body
        place.unmount()


def test_files_are_exported_from_a_full_target(make_site: MakeSite, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", 8) as small:
        place = make_site(cache_dir=str(small)).mount()
        place.expected_log += ["No space left on device", "do not fit"]
        with (place.root / "sparse").open("wb") as file:
            file.truncate(3 * MIB)
            file.seek(2 * MIB)
            file.write(b"middle")
        (place.root / "hole").touch()
        os.truncate(place.root / "hole", 100)
        filler = fill(small)
        place.drain()
        assert place.body("p/sparse") == bytes(2 * MIB) + b"middle" + bytes(MIB - 6)
        assert place.body("p/hole") == bytes(100)
        filler.unlink()
        end(place)
