"""What users other than root may do, and which bits a change takes away."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.posix.calls import RENAME_EXCHANGE, as_user, fails, opened, renameat2
from tests.posix.conftest import CONTENT, FileCase, Place

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become others")

ALICE, BOB, GROUP = 4001, 4002, 4100
alice = partial(as_user, ALICE, GROUP)
bob = partial(as_user, BOB, BOB)


def write(path: Path) -> None:
    with opened(path, os.O_WRONLY) as descriptor:
        os.write(descriptor, b"x")


def create(path: Path, mode: int = 0o644) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))


@pytest.fixture
def reachable(place: Place) -> Iterator[Place]:
    """Every user can get to the test's directory (pytest keeps its own to itself), and write into it."""
    place.root.chmod(0o777)
    opened_up = []
    if place.is_reference:
        for above in place.root.parents:
            if not above.stat().st_mode & 0o005 == 0o005:
                opened_up.append((above, above.stat().st_mode & 0o7777))
                above.chmod(0o755)
    yield place
    for above, mode in opened_up:
        above.chmod(mode)


def test_new_files_belong_to_their_maker(reachable: Place) -> None:
    root = reachable.root
    alice(lambda: create(root / "f"))
    alice(lambda: (root / "d").mkdir())
    alice(lambda: (root / "l").symlink_to("f"))
    alice(lambda: os.mkfifo(root / "p"))
    for name in "fdlp":
        found = os.lstat(root / name)
        assert (found.st_uid, found.st_gid) == (ALICE, GROUP), name


@pytest.mark.parametrize("mode", range(8))
def test_permission_bits_of_each_class(reachable: Place, mode: int) -> None:
    for name, shift, call in (("owner", 6, alice), ("group", 3, partial(as_user, BOB, GROUP)), ("other", 0, bob)):
        path = reachable.file(name)
        os.chown(path, ALICE, GROUP)
        path.chmod(mode << shift)
        for bit, attempt in ((4, path.read_bytes), (2, lambda path=path: write(path)), (1, None)):
            if attempt is None:
                assert call(lambda path=path: os.access(path, os.F_OK))
            elif mode & bit:
                call(attempt)
            else:
                with fails(errno.EACCES):
                    call(attempt)


def test_directories_need_search_and_write(reachable: Place) -> None:
    path = reachable.dir()
    (path / "f").write_bytes(b"x")
    for mode, can_list, can_reach, can_create in ((0o4, True, False, False), (0o1, False, True, False), (0o3, False, True, True)):
        path.chmod(0o700 | mode)
        for allowed, attempt in (
            (can_list, partial(os.listdir, path)),
            (can_reach, (path / "f").read_bytes),
            (can_create, partial(create, path / f"new{mode}")),
            (can_create, partial(os.mkdir, path / f"newd{mode}")),
        ):
            if allowed:
                bob(attempt)
            else:
                with fails(errno.EACCES):
                    bob(attempt)
    path.chmod(0o755)
    os.chown(path / "f", BOB, BOB)  # whose own file he may link in general, whatever fs.protected_hardlinks says
    for refused in (
        partial(os.unlink, path / "f"),
        partial(os.rename, path / "f", reachable.root / "f"),
        partial(os.link, path / "f", path / "g"),
        partial(os.symlink, "x", path / "l"),
        partial(os.mkfifo, path / "p"),
    ):
        with fails(errno.EACCES):
            bob(refused)
    assert (path / "f").read_bytes() == b"x"


def test_sticky_directory(reachable: Place) -> None:
    root = reachable.root
    root.chmod(0o1777)
    alice(lambda: create(root / "f"))
    (root / "f").chmod(0o666)
    alice(lambda: (root / "d").mkdir())
    bob(lambda: create(root / "b"))
    refused: list[Callable[[], object]] = [
        lambda: (root / "f").unlink(),
        lambda: (root / "d").rmdir(),
        lambda: (root / "f").rename(root / "g"),
        lambda: (root / "b").rename(root / "f"),
        lambda: renameat2(root / "b", root / "f", RENAME_EXCHANGE),
    ]
    for attempt in refused:
        with fails(errno.EPERM):
            bob(attempt)
    bob(lambda: write(root / "f"))
    alice(lambda: (root / "f").rename(root / "g"))
    alice(lambda: (root / "g").unlink())
    alice(lambda: (root / "d").rmdir())
    os.chown(root, ALICE, GROUP)
    alice(lambda: (root / "b").unlink())


def test_only_the_owner_changes_attributes(reachable: Place) -> None:
    path = reachable.file()
    os.chown(path, ALICE, GROUP)
    path.chmod(0o666)
    for refused in (
        partial(os.chmod, path, 0o600),
        partial(os.chown, path, BOB, -1),
        partial(os.chown, path, -1, BOB),
        partial(os.utime, path, ns=(1, 1)),
    ):
        with fails(errno.EPERM):
            bob(refused)
    bob(partial(os.utime, path))  # to the present time: write permission is enough
    path.chmod(0o644)
    with fails(errno.EACCES):
        bob(partial(os.utime, path))
    alice(partial(os.chmod, path, 0o600))
    alice(partial(os.utime, path, ns=(1, 1)))
    alice(partial(os.chown, path, -1, GROUP))
    for refused in (partial(os.chown, path, BOB, -1), partial(os.chown, path, -1, BOB)):
        with fails(errno.EPERM):
            alice(refused)


@pytest.mark.parametrize("how", ["write", "truncate", "ftruncate", "open", "chown", "chgrp"])
def test_set_id_bits_do_not_outlive_a_change(file: FileCase, how: str) -> None:
    path = file.path
    os.chown(path, ALICE, GROUP)
    path.chmod(0o6777)
    assert path.stat().st_mode & 0o7777 == 0o6777
    # The directories on the way are root's own on the reference: the descriptor is what counts.
    with opened(path, os.O_RDWR) as descriptor:
        link = f"/proc/self/fd/{descriptor}"
        if how == "write":
            bob(partial(os.pwrite, descriptor, b"x", 0))
        elif how == "truncate":
            bob(partial(_through, link, lambda again: os.ftruncate(again, 10)))
        elif how == "ftruncate":
            bob(partial(os.ftruncate, descriptor, 10))
        elif how == "open":
            bob(partial(_truncating_open, link))
        elif how == "chown":
            os.fchown(descriptor, BOB, -1)
        else:
            alice(partial(os.fchown, descriptor, -1, GROUP))
    assert path.stat().st_mode & 0o7777 == 0o777


def _through(link: str, call: Callable[[int], object]) -> None:
    with opened(link, os.O_RDWR) as descriptor:
        call(descriptor)


def _truncating_open(link: str) -> None:
    os.close(os.open(link, os.O_WRONLY | os.O_TRUNC))


def test_set_id_bits_outlive_what_root_writes_and_what_others_read(file: FileCase) -> None:
    os.chown(file.path, ALICE, GROUP)
    file.path.chmod(0o6755)
    with opened(file.path, os.O_RDWR) as descriptor:
        assert bob(partial(os.pread, descriptor, 10, 0)) == CONTENT[:10]
        os.pwrite(descriptor, b"root", 0)
    assert file.path.stat().st_mode & 0o7777 == 0o6755


def test_group_bit_without_execution_is_mandatory_locking_and_stays(place: Place) -> None:
    path = place.file()
    path.chmod(0o2666)
    with opened(path, os.O_WRONLY) as descriptor:
        bob(partial(os.write, descriptor, b"x"))
    assert path.stat().st_mode & 0o7777 in (0o2666, 0o666)  # Linux 6.0 and later take it away too


def test_set_group_directory_hands_its_group_down(reachable: Place) -> None:
    path = reachable.dir()
    os.chown(path, BOB, GROUP + 1)
    path.chmod(0o2777)
    alice(lambda: create(path / "f", 0o2755))
    alice(lambda: (path / "d").mkdir())
    alice(lambda: (path / "l").symlink_to("f"))
    assert [os.lstat(path / name).st_gid for name in "fdl"] == [GROUP + 1] * 3
    assert (path / "d").stat().st_mode & 0o7000 == 0o2000
    assert (path / "f").stat().st_mode & 0o7000 == 0, "not a member of that group"


def test_set_group_bit_is_for_members(reachable: Place) -> None:
    path = reachable.file()
    os.chown(path, ALICE, GROUP + 1)
    alice(partial(os.chmod, path, 0o2755))
    assert path.stat().st_mode & 0o7777 == 0o755
    os.chown(path, ALICE, GROUP)
    alice(partial(os.chmod, path, 0o2755))
    assert path.stat().st_mode & 0o7777 == 0o2755


def test_masked_modes(reachable: Place) -> None:
    before = os.umask(0o027)
    try:
        create(reachable.root / "f", 0o777)
        os.mkdir(reachable.root / "d", 0o777)
        os.mkfifo(reachable.root / "p", 0o666)
    finally:
        os.umask(before)
    assert [(reachable.root / name).stat().st_mode & 0o777 for name in "fdp"] == [0o750, 0o750, 0o640]


def test_root_is_not_stopped(file: FileCase) -> None:
    file.path.chmod(0)
    assert file.path.read_bytes() == CONTENT
    write(file.path)


def test_access_answers_like_open(reachable: Place) -> None:
    path = reachable.file()
    path.chmod(0o604)
    assert bob(lambda: os.access(path, os.R_OK, effective_ids=True))
    assert not bob(lambda: os.access(path, os.W_OK, effective_ids=True))
    assert not os.access(path, os.X_OK), "not even root"
