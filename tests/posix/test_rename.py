"""rename(2) and renameat2(2)."""

from __future__ import annotations

import errno
import os

import pytest

from tests.posix.calls import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, fails, opened, renameat2
from tests.posix.conftest import CONTENT, Across, FileCase, Place


def test_file_moves_with_all_it_has(file: FileCase) -> None:
    before = file.path.stat()
    target = file.path.with_name("g")
    file.path.rename(target)
    after = target.stat()
    assert not file.path.exists()
    assert (after.st_ino, after.st_mtime_ns, after.st_mode) == (before.st_ino, before.st_mtime_ns, before.st_mode)
    assert target.read_bytes() == CONTENT


def test_rename_replaces_a_file(file: FileCase) -> None:
    new = file.path.with_name("new")
    new.write_bytes(b"new")
    with opened(file.path, os.O_RDONLY) as descriptor:
        new.rename(file.path)
        assert os.fstat(descriptor).st_nlink == 0
        assert os.pread(descriptor, len(CONTENT), 0) == CONTENT, "an open file lives on"
    assert file.path.read_bytes() == b"new" and not new.exists()


def test_open_file_is_renamed(file: FileCase) -> None:
    with opened(file.path, os.O_RDWR) as descriptor:
        file.path.rename(file.path.with_name("g"))
        os.pwrite(descriptor, b"after", 0)
        assert os.pread(descriptor, 8, 0) == b"after" + CONTENT[5:8]
    assert file.path.with_name("g").read_bytes() == b"after" + CONTENT[5:]


def test_rename_onto_itself_does_nothing(place: Place) -> None:
    path = place.file()
    before = path.stat()
    path.rename(path)
    directory = place.dir()
    directory.rename(directory)
    after = path.stat()
    assert (after.st_ctime_ns, after.st_nlink) == (before.st_ctime_ns, 1)
    assert path.read_bytes() == b"content"


def test_rename_onto_a_hard_link_of_itself_does_nothing(place: Place) -> None:
    path = place.file()
    os.link(path, place.root / "g")
    path.rename(place.root / "g")
    assert sorted(os.listdir(place.root)) == ["f", "g"] and path.stat().st_nlink == 2


@pytest.mark.parametrize("kind", ["file", "dir", "symlink", "fifo"])
def test_no_replace(place: Place, kind: str) -> None:
    path, taken = place.file(), place.root / "taken"
    {"file": taken.touch, "dir": taken.mkdir, "symlink": lambda: taken.symlink_to("nowhere"), "fifo": lambda: os.mkfifo(taken)}[
        kind
    ]()
    with fails(errno.EEXIST):
        renameat2(path, taken, RENAME_NOREPLACE)
    with fails(errno.EEXIST):
        renameat2(path, path, RENAME_NOREPLACE)
    renameat2(path, place.root / "free", RENAME_NOREPLACE)
    assert sorted(os.listdir(place.root)) == ["free", "taken"]


def test_exchange_of_files(file: FileCase) -> None:
    other = file.path.with_name("other")
    other.write_bytes(b"other")
    inos = file.path.stat().st_ino, other.stat().st_ino
    renameat2(file.path, other, RENAME_EXCHANGE)
    assert (other.stat().st_ino, file.path.stat().st_ino) == inos
    assert other.read_bytes() == CONTENT and file.path.read_bytes() == b"other"


def test_exchange_of_file_and_directory(place: Place) -> None:
    path, directory = place.file(), place.dir()
    (directory / "inner").mkdir()
    sub = place.dir("sub")
    moved = sub / "d"
    directory.rename(moved)
    before = place.root.stat().st_nlink, sub.stat().st_nlink
    renameat2(path, moved, RENAME_EXCHANGE)
    assert path.is_dir() and moved.is_file() and (path / "inner").is_dir()
    assert (place.root.stat().st_nlink, sub.stat().st_nlink) == (before[0] + 1, before[1] - 1)
    renameat2(path, place.root / "sub", RENAME_EXCHANGE)
    assert (path / "d").is_file() and (place.root / "sub" / "inner").is_dir()


def test_exchange_that_cannot_be(place: Place) -> None:
    path, directory = place.file(), place.dir()
    (directory / "inner").mkdir()
    with fails(errno.ENOENT):
        renameat2(path, place.root / "missing", RENAME_EXCHANGE)
    with fails(errno.EINVAL):
        renameat2(directory, directory / "inner", RENAME_EXCHANGE)
    with fails(errno.EINVAL, errno.ENOTEMPTY):
        renameat2(directory / "inner", directory, RENAME_EXCHANGE)
    renameat2(path, path, RENAME_EXCHANGE)
    assert path.read_bytes() == b"content"


def test_flags_that_are_none(place: Place) -> None:
    path = place.file()
    for flags in (RENAME_NOREPLACE | RENAME_EXCHANGE, 1 << 20):
        with fails(errno.EINVAL):
            renameat2(path, place.root / "g", flags)
    assert path.exists()


def test_whiteout_rename(place: Place) -> None:
    """FUSE carries no RENAME_WHITEOUT: an overlay cannot have its upper layer on the mount."""
    path = place.file()
    if place.is_reference:
        renameat2(path, place.root / "g", RENAME_WHITEOUT)
        assert (place.root / "g").read_bytes() == b"content"
        return
    with fails(errno.EINVAL):
        renameat2(path, place.root / "g", RENAME_WHITEOUT)
    assert path.read_bytes() == b"content"


def test_directory_into_itself(place: Place) -> None:
    path = place.dir()
    deep = path / "a" / "b"
    deep.mkdir(parents=True)
    for target in (path / "x", deep / "x", deep):
        with fails(errno.EINVAL):
            os.rename(path, target)
    for source in (deep, path / "a"):
        with fails(errno.ENOTEMPTY):
            os.rename(source, path)
    assert deep.is_dir()


def test_directory_onto_directories(place: Place) -> None:
    path, empty, full = place.dir(), place.dir("empty"), place.dir("full")
    (path / "content").touch()
    (full / "x").touch()
    links = place.root.stat().st_nlink
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rename(path, full)
    with opened(empty, os.O_RDONLY) as replaced:
        os.rename(path, empty)
        assert os.fstat(replaced).st_nlink == 0
        assert os.listdir(replaced) == []
    assert (empty / "content").exists() and not path.exists()
    assert place.root.stat().st_nlink == links - 1


def test_directories_and_files_do_not_replace_each_other(place: Place) -> None:
    path, directory = place.file(), place.dir()
    (place.root / "l").symlink_to("d")
    with fails(errno.ENOTDIR):
        os.rename(directory, path)
    with fails(errno.ENOTDIR):
        os.rename(directory, place.root / "l")
    with fails(errno.EISDIR):
        os.rename(path, directory)
    with fails(errno.EISDIR):
        os.rename(place.root / "l", directory)


@pytest.mark.parametrize("old", ["file", "symlink", "fifo"])
@pytest.mark.parametrize("new", ["file", "symlink", "fifo"])
def test_any_kind_replaces_any_other(place: Place, old: str, new: str) -> None:
    for name, kind in (("old", old), ("new", new)):
        path = place.root / name
        {"file": path.touch, "symlink": lambda path=path: path.symlink_to("x"), "fifo": lambda path=path: os.mkfifo(path)}[kind]()
    ino = os.lstat(place.root / "old").st_ino
    os.rename(place.root / "old", place.root / "new")
    assert os.listdir(place.root) == ["new"] and os.lstat(place.root / "new").st_ino == ino


def test_directory_moves_with_its_tree(place: Place) -> None:
    path, other = place.dir(), place.dir("other")
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "b" / "f").write_bytes(b"deep")
    links = place.root.stat().st_nlink, other.stat().st_nlink
    with opened(path / "a", os.O_RDONLY) as descriptor:
        path.rename(other / "moved")
        assert os.listdir(descriptor) == ["b"]
        assert os.stat("..", dir_fd=descriptor).st_ino == (other / "moved").stat().st_ino
    assert (other / "moved" / "a" / "b" / "f").read_bytes() == b"deep"
    assert (place.root.stat().st_nlink, other.stat().st_nlink) == (links[0] - 1, links[1] + 1)


# --- from one association to another, in and out ----------------------------------------------------------------------------


def test_across_files_and_trees(across: Across) -> None:
    (across.source / "d" / "e").mkdir(parents=True)
    (across.source / "d" / "e" / "f").write_bytes(b"content")
    (across.source / "d" / "l").symlink_to("e/f")
    (across.target / "d").mkdir()
    (across.source / "d").rename(across.target / "d")
    assert (across.target / "d" / "l").read_bytes() == b"content" and os.listdir(across.source) == []
    if across.site is not None:
        here = across.site
        here.drain()
        name = across.target.name
        expected = {f"two/{name}/", f"two/{name}/d/", f"two/{name}/d/e/", f"two/{name}/d/e/f", f"two/{name}/d/l"}
        assert {key for key in here.keys() if f"/{name}/" in key} - {f"one/{name}/"} == (
            expected if across.setting.endswith("-linked") else set()
        )


def test_across_exchange_and_replace(across: Across) -> None:
    a, b = across.source / "a", across.target / "b"
    a.write_bytes(b"a")
    b.write_bytes(b"b")
    renameat2(a, b, RENAME_EXCHANGE)
    assert (a.read_bytes(), b.read_bytes()) == (b"b", b"a")
    with fails(errno.EEXIST):
        renameat2(a, b, RENAME_NOREPLACE)
    a.rename(b)
    assert b.read_bytes() == b"b" and not a.exists()
    if across.site is not None:
        across.site.drain()
        keys = [key for key in across.site.keys() if f"/{a.parent.name}/" in key and not key.endswith("/")]
        assert keys == ([f"two/{b.parent.name}/b"] if across.setting.endswith("-linked") else [])


def test_across_hard_links(across: Across) -> None:
    a, b = across.source / "a", across.target / "b"
    a.write_bytes(b"a")
    os.link(a, b)
    assert a.stat().st_ino == b.stat().st_ino and b.stat().st_nlink == 2
    b.write_bytes(b"changed")
    assert a.read_bytes() == b"changed"
    if across.site is not None:
        here = across.site
        here.drain()
        keys = [f"{here_is}/{a.parent.name}/{name}" for here_is, name in (("one", "a"), ("two", "b"))]
        wanted = [key for key, path in zip(keys, (a, b), strict=True) if path.is_relative_to(here.root / key.split("/")[0])]
        assert {key: here.body(key) for key in wanted} == dict.fromkeys(wanted, b"changed")
    a.unlink()
    assert b.read_bytes() == b"changed" and b.stat().st_nlink == 1


@pytest.mark.parametrize("target", ["local", "one", "two"])
def test_imported_files_move_across_without_being_downloaded(file: FileCase, target: str) -> None:
    if file.site is None or file.setting in ("local", "linked"):
        pytest.skip("about imported files")
    resident = file.resident_bytes()
    moved = file.site.root / target / f"moved-{file.path.parent.name}"
    file.path.rename(moved)
    about = file.site.about(str(moved.relative_to(file.site.root)))
    assert about["resident_bytes"] == resident
    assert moved.read_bytes() == CONTENT
