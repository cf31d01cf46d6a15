"""Looking up names: path_resolution(7), and names of any bytes."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable

import pytest

from tests.posix.calls import Stream, fails, opened
from tests.posix.conftest import LINKED, Place

LONG = "n" * 255


def test_name_of_255_bytes_works_everywhere(place: Place) -> None:
    path = place.file(LONG, b"x")
    assert path.read_bytes() == b"x" and os.listdir(place.root) == [LONG]
    path.rename(place.root / ("m" * 255))
    os.link(place.root / ("m" * 255), path)
    os.mkdir(place.root / ("d" * 255))
    os.symlink("x", place.root / ("s" * 255))
    assert len(os.listdir(place.root)) == 4


CALLS_ON_NAME: dict[str, Callable[[str], object]] = {
    "stat": os.stat,
    "open": lambda path: os.open(path, os.O_RDONLY),
    "create": lambda path: os.open(path, os.O_RDWR | os.O_CREAT, 0o644),
    "mkdir": os.mkdir,
    "mkfifo": os.mkfifo,
    "symlink": lambda path: os.symlink("target", path),
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "readlink": os.readlink,
    "chmod": lambda path: os.chmod(path, 0o600),
    "truncate": lambda path: os.truncate(path, 0),
    "rename": lambda path: os.rename(path, path + "x"),
    "getxattr": lambda path: os.getxattr(path, "user.x"),
}


@pytest.mark.parametrize("call", CALLS_ON_NAME)
def test_name_of_256_bytes_is_too_long(place: Place, call: str) -> None:
    with fails(errno.ENAMETOOLONG):
        CALLS_ON_NAME[call](str(place.root / (LONG + "n")))
    assert os.listdir(place.root) == []


def test_new_name_of_256_bytes_is_too_long(place: Place) -> None:
    path = place.file()
    for call in (os.rename, os.link):
        with fails(errno.ENAMETOOLONG):
            call(path, place.root / (LONG + "n"))
    assert os.listdir(place.root) == ["f"]


def test_path_over_4095_bytes_is_too_long(place: Place) -> None:
    with fails(errno.ENAMETOOLONG):
        os.stat(f"{place.root}/" + "./" * 2048 + "f")
    deep = place.dir()
    os.chdir(deep)
    for _ in range(20):  # longer than PATH_MAX, reached step by step
        os.mkdir(LONG)
        os.chdir(LONG)
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY))
    assert os.listdir(".") == ["f"]
    os.unlink("f")
    for _ in range(20):
        os.chdir("..")
        os.rmdir(LONG)


@pytest.mark.parametrize("call", [name for name in CALLS_ON_NAME if name not in ("create", "mkdir", "mkfifo", "symlink")])
def test_missing_name_and_missing_directory(place: Place, call: str) -> None:
    for path in (place.root / "missing", place.root / "missing" / "name"):
        with fails(errno.ENOENT):
            CALLS_ON_NAME[call](str(path))


@pytest.mark.parametrize("call", CALLS_ON_NAME)
def test_component_that_is_no_directory(place: Place, call: str) -> None:
    path = place.file()
    with fails(errno.ENOTDIR):
        CALLS_ON_NAME[call](f"{path}/name")


@pytest.mark.parametrize("call", ["mkdir", "mkfifo", "symlink"])
@pytest.mark.parametrize("kind", ["file", "dir", "symlink", "dangling"])
def test_taken_name_exists(place: Place, call: str, kind: str) -> None:
    path = place.root / "taken"
    place.file("other")
    {
        "file": path.touch,
        "dir": path.mkdir,
        "symlink": lambda: path.symlink_to("other"),
        "dangling": lambda: path.symlink_to("nowhere"),
    }[kind]()
    with fails(errno.EEXIST):
        CALLS_ON_NAME[call](str(path))


def test_symbolic_link_loops(place: Place) -> None:
    place.file("end")
    (place.root / "self").symlink_to("self")
    for call in ("stat", "open", "create", "chmod", "truncate"):
        with fails(errno.ELOOP):
            CALLS_ON_NAME[call](str(place.root / "self"))
    assert os.readlink(place.root / "self") == "self"
    before = "end"
    for number in range(41):
        (place.root / f"l{number}").symlink_to(before)
        before = f"l{number}"
    assert (place.root / "l39").read_bytes() == b"content"
    with fails(errno.ELOOP):
        os.stat(place.root / "l40")


def test_trailing_slash_wants_a_directory(place: Place) -> None:
    path = place.file()
    for call in ("stat", "open", "unlink", "truncate", "rmdir", "readlink"):
        with fails(errno.ENOTDIR):
            CALLS_ON_NAME[call](f"{path}/")
    with fails(errno.EISDIR):
        CALLS_ON_NAME["create"](f"{place.root}/new/")
    with fails(errno.ENOTDIR):
        os.rename(path, f"{place.root}/new/")
    os.mkdir(f"{place.root}/new/")
    os.rename(f"{place.root}/new/", f"{place.root}/newer/")
    with fails(errno.EISDIR):
        os.unlink(f"{place.root}/newer/")
    os.rmdir(f"{place.root}/newer/")


def test_trailing_slash_follows_a_link(place: Place) -> None:
    place.dir()
    link = place.root / "l"
    link.symlink_to("d")
    assert os.lstat(f"{link}/").st_ino == os.stat(place.root / "d").st_ino != os.lstat(link).st_ino
    with fails(errno.ENOTDIR):
        os.rmdir(f"{link}/")
    with fails(errno.ENOTDIR):
        os.unlink(f"{link}/")
    (place.root / "to-file").symlink_to("f")
    place.file()
    with fails(errno.ENOTDIR):
        os.lstat(f"{place.root}/to-file/")


def test_dot_and_dot_dot(place: Place) -> None:
    path = place.dir()
    inner = path / "inner"
    inner.mkdir()
    assert os.stat(f"{inner}/..").st_ino == os.stat(f"{path}/.").st_ino == path.stat().st_ino
    with fails(errno.EINVAL):
        os.rmdir(f"{inner}/.")
    with fails(errno.ENOTEMPTY):
        os.rmdir(f"{inner}/..")
    for name in (".", ".."):
        with fails(errno.EBUSY):
            os.rename(f"{inner}/{name}", f"{path}/x")
        with fails(errno.EEXIST):
            os.mkdir(f"{inner}/{name}")
        with fails(errno.EISDIR):
            os.unlink(f"{inner}/{name}")
    inner.rename(place.root / "moved")
    assert os.stat(f"{place.root}/moved/..").st_ino == place.root.stat().st_ino


def test_dangling_link_is_created_through(place: Place) -> None:
    (place.root / "l").symlink_to("target")
    with opened(place.root / "l", os.O_CREAT | os.O_WRONLY) as descriptor:
        os.write(descriptor, b"x")
    assert (place.root / "target").read_bytes() == b"x"


def test_absence_is_not_remembered_too_long(place: Place) -> None:
    for make in (
        lambda path: path.touch(),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("x"),
        lambda path: os.mkfifo(path),
        lambda path: os.link(place.root / "f", path),
        lambda path: os.rename(place.root / "old", path),
    ):
        place.file()
        place.file("old")
        path = place.root / "name"
        assert not os.path.lexists(path)
        make(path)
        assert os.path.lexists(path)
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
        assert not os.path.lexists(path)


def test_working_directory_that_was_removed(place: Place) -> None:
    path = place.dir()
    os.chdir(path)
    path.rmdir()
    for call in ("create", "mkdir", "symlink", "mkfifo"):
        with fails(errno.ENOENT):
            CALLS_ON_NAME[call]("name")
    assert os.listdir(".") == []
    assert os.stat(".").st_nlink == 0
    with fails(errno.ENOENT):
        os.getcwd()


def test_names_are_compared_byte_by_byte(place: Place) -> None:
    names = ["a", "A", "ä", "a\u0308", " ", " a", "a ", "*", "\\", "-rf", "a\tb", "\x7f", "\x01"]
    if place.setting != LINKED:
        names.append("\n")  # no key for moto, which would look for it without its end
    for name in names:
        place.file(name, name.encode())
    assert sorted(os.listdir(place.root)) == sorted(names)
    assert all((place.root / name).read_bytes() == name.encode() for name in names)


def test_names_of_any_bytes(place: Place) -> None:
    """S3 keys are UTF-8: other names stay local, and `why` says so."""
    root = os.fsencode(place.root)
    names = [bytes([each]) * 3 for each in range(1, 256) if each != ord("/") and bytes([each]) != b"."]
    for name in names:
        os.close(os.open(root + b"/" + name, os.O_CREAT | os.O_WRONLY))
    assert sorted(os.listdir(root)) == sorted(names)
    os.mkdir(root + b"/d\xff")
    os.symlink(b"\xfe", root + b"/s\xff")
    os.rename(root + b"/d\xff", root + b"/e\xff")
    assert os.readlink(root + b"/s\xff") == b"\xfe"
    with Stream(place.root) as stream:
        assert {each.name for each in stream.rest()} >= {*names, b"e\xff", b"s\xff"}
    shutil.rmtree(root)  # what cannot be exported would fail every drain from now on


def test_names_not_in_utf8_stay_local_and_say_so(place: Place) -> None:
    if place.setting != LINKED:
        pytest.skip("about exports")
    path = os.fsencode(place.root) + b"/\xff\xfe"
    with opened(path, os.O_CREAT | os.O_WRONLY) as descriptor:
        os.write(descriptor, b"local")
    place.file("plain")
    here = place.mount()
    here.try_drain(place.root)
    prefix = f"one/{place.root.name}/"
    assert here.keys(prefix) == [prefix, f"{prefix}plain"]
    about = here.cli("why", os.fsdecode(path)).stdout
    assert "UTF-8" in about, about
    with opened(path, os.O_RDONLY) as descriptor:
        assert os.read(descriptor, 10) == b"local"
    os.unlink(path)
