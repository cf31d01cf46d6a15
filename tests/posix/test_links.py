"""Hard links, symbolic links, link counts, and files that are open without a name."""

from __future__ import annotations

import errno
import mmap
import os

import pytest

from tests.posix.calls import AT_SYMLINK_FOLLOW, fails, linkat, opened, tick
from tests.posix.conftest import CONTENT, FileCase, Place


def test_names_of_one_file_share_everything(file: FileCase) -> None:
    other = file.path.with_name("other")
    before = file.path.stat()
    tick()
    os.link(file.path, other)
    one = file.path.stat()
    assert (
        os.path.samestat(one, other.stat())
        and one.st_nlink == 2
        and one.st_ctime_ns > before.st_ctime_ns
        and one.st_mtime_ns == before.st_mtime_ns
    )
    other.chmod(0o600)
    assert file.path.stat().st_mode & 0o777 == 0o600
    with opened(other, os.O_WRONLY) as descriptor:
        os.write(descriptor, b"through the other name")
    assert file.path.read_bytes() == b"through the other name" + CONTENT[22:]
    tick()
    file.path.unlink()
    assert other.stat().st_nlink == 1 and other.stat().st_ctime_ns > one.st_ctime_ns
    assert other.read_bytes() == b"through the other name" + CONTENT[22:]


def test_links_that_cannot_be(place: Place) -> None:
    path, directory = place.file(), place.dir()
    with fails(errno.EPERM):
        os.link(directory, place.root / "x")
    with fails(errno.EEXIST):
        os.link(path, directory)
    with fails(errno.EEXIST):
        os.link(path, path)
    with fails(errno.ENOENT):
        os.link(path, place.root / "missing" / "x")


def test_many_names(place: Place) -> None:
    path = place.file()
    for number in range(100):
        os.link(path, place.root / f"n{number}")
    assert path.stat().st_nlink == 101
    for number in range(0, 100, 2):
        (place.root / f"n{number}").unlink()
    path.unlink()
    assert (place.root / "n99").stat().st_nlink == 50 and (place.root / "n1").read_bytes() == b"content"


def test_link_to_a_symbolic_link_is_one_itself(place: Place) -> None:
    place.file()
    link = place.root / "l"
    link.symlink_to("f")
    linkat(link, place.root / "l2", 0)
    assert os.readlink(place.root / "l2") == "f" and os.lstat(link).st_nlink == 2
    linkat(link, place.root / "g", AT_SYMLINK_FOLLOW)
    assert (place.root / "g").stat().st_nlink == 2 and not (place.root / "g").is_symlink()


def test_symbolic_links(place: Place) -> None:
    for number, target in enumerate(["x", "t" * 4095, "/absolute/../odd//path/", "ä\n"]):
        link = place.root / f"l{number}"
        link.symlink_to(target)
        found = os.lstat(link)
        assert os.readlink(link) == target
        assert (found.st_size, found.st_mode & 0o7777, found.st_nlink) == (len(target.encode()), 0o777, 1)
    with fails(errno.ENOENT):
        os.symlink("", place.root / "empty")
    with fails(errno.ENAMETOOLONG):
        os.symlink("t" * 4096, place.root / "long")
    with fails(errno.EINVAL):
        os.readlink(place.file())
    with fails(errno.ENOENT):
        os.stat(place.root / "l0")


def test_wrong_way_to_remove(place: Place) -> None:
    path, directory = place.file(), place.dir()
    (directory / "x").touch()
    with fails(errno.EISDIR):
        os.unlink(directory)
    with fails(errno.ENOTDIR):
        os.rmdir(path)
    with fails(errno.ENOTEMPTY):
        os.rmdir(directory)
    (place.root / "l").symlink_to("d")
    with fails(errno.ENOTDIR):
        os.rmdir(place.root / "l")
    (place.root / "l").unlink()
    assert (directory / "x").exists()


def test_link_count_of_directories(place: Place) -> None:
    path = place.dir()
    assert path.stat().st_nlink == 2
    for name in ("a", "b"):
        (path / name).mkdir()
    (path / "f").touch()
    (path / "l").symlink_to("a")
    assert path.stat().st_nlink == 4
    (path / "a").rmdir()
    assert path.stat().st_nlink == 3
    (path / "b").rename(place.root / "b")
    assert path.stat().st_nlink == 2


# --- open without a name ------------------------------------------------------------------------------------------------------


def test_unlinked_open_file_is_a_whole_file(file: FileCase) -> None:
    with opened(file.path, os.O_RDWR) as descriptor:
        file.path.unlink()
        assert os.fstat(descriptor).st_nlink == 0
        assert os.pread(descriptor, len(CONTENT), 0) == CONTENT
        os.pwrite(descriptor, b"more", len(CONTENT))
        os.ftruncate(descriptor, len(CONTENT) + 2)
        os.fchmod(descriptor, 0o600)
        os.fchown(descriptor, 5, 6)
        os.utime(descriptor, ns=(1, 2))
        os.setxattr(descriptor, "user.a", b"x")
        found = os.fstat(descriptor)
        assert (found.st_size, found.st_mode & 0o777, found.st_uid, found.st_gid) == (len(CONTENT) + 2, 0o600, 5, 6)
        assert (found.st_mtime_ns, os.getxattr(descriptor, "user.a")) == (2, b"x")
        with mmap.mmap(descriptor, 4096) as mapped:
            mapped[:4] = b"mmap"
            mapped.flush()
        assert os.pread(descriptor, 5, 0) == b"mmap" + CONTENT[4:5]
        os.fsync(descriptor)
        with opened(f"/proc/self/fd/{descriptor}", os.O_RDONLY) as again:
            assert os.pread(again, 10, len(CONTENT)) == b"mo"
        with fails(errno.ENOENT):
            linkat(f"/proc/self/fd/{descriptor}", file.path, AT_SYMLINK_FOLLOW)
        file.path.write_bytes(b"another")
        assert os.pread(descriptor, 4, 0) == b"mmap"
    assert file.path.read_bytes() == b"another"


def test_unlinked_file_lives_in_a_mapping(file: FileCase) -> None:
    descriptor = os.open(file.path, os.O_RDWR)
    mapped = mmap.mmap(descriptor, len(CONTENT))
    os.close(descriptor)
    file.path.unlink()
    assert mapped[:] == CONTENT
    mapped[-3:] = b"end"
    mapped.flush()
    mapped.close()


def test_removed_open_directory(place: Place) -> None:
    path = place.dir()
    with opened(path, os.O_RDONLY) as descriptor:
        path.rmdir()
        assert os.listdir(descriptor) == [] and os.fstat(descriptor).st_nlink == 0
        with fails(errno.ENOENT):
            os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)
        os.fchmod(descriptor, 0o700)
        path.mkdir()
        (path / "new").touch()
        assert os.listdir(descriptor) == []


@pytest.mark.parametrize("kind", ["file", "symlink", "fifo", "dir"])
def test_unlinked_inode_lives_as_long_as_anyone_refers_to_it(place: Place, kind: str) -> None:
    path = place.root / "x"
    {"file": path.touch, "dir": path.mkdir, "symlink": lambda: path.symlink_to("t"), "fifo": lambda: os.mkfifo(path)}[kind]()
    with opened(path, os.O_PATH | os.O_NOFOLLOW) as descriptor:
        ino = os.fstat(descriptor).st_ino
        if kind == "dir":
            path.rmdir()
        else:
            path.unlink()
        found = os.fstat(descriptor)
        assert (found.st_nlink, found.st_ino) == (0, ino)
        if kind == "symlink":
            assert os.readlink("", dir_fd=descriptor) == "t"
        else:
            os.chmod(f"/proc/self/fd/{descriptor}", 0o711)
            assert os.fstat(descriptor).st_mode & 0o777 == 0o711
        place.file("new")
        assert (place.root / "new").stat().st_ino != ino
