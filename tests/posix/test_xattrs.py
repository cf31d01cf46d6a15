"""Extended attributes: xattr(7), and access control lists."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.posix.calls import fails, getxattr_into, listxattr_into, opened
from tests.posix.conftest import CONTENT, FileCase, Place


def test_values_are_kept_as_they_are(file: FileCase) -> None:
    values = {
        "user.a": b"x",
        "user.empty": b"",
        "user.binary": bytes(range(256)),
        "user." + "n" * 250: b"long name",
        "user.ä": b"y",
    }
    for name, value in values.items():
        os.setxattr(file.path, name, value)
    assert {name: os.getxattr(file.path, name) for name in os.listxattr(file.path)} == values
    os.removexattr(file.path, "user.a")
    with fails(errno.ENODATA):
        os.getxattr(file.path, "user.a")
    with fails(errno.ENODATA):
        os.removexattr(file.path, "user.a")
    assert len(os.listxattr(file.path)) == len(values) - 1
    assert file.path.read_bytes() == CONTENT


def test_create_and_replace(place: Place) -> None:
    path = place.file()
    with fails(errno.ENODATA):
        os.setxattr(path, "user.a", b"x", os.XATTR_REPLACE)
    os.setxattr(path, "user.a", b"x", os.XATTR_CREATE)
    with fails(errno.EEXIST):
        os.setxattr(path, "user.a", b"y", os.XATTR_CREATE)
    assert os.getxattr(path, "user.a") == b"x"
    os.setxattr(path, "user.a", b"z", os.XATTR_REPLACE)
    assert os.getxattr(path, "user.a") == b"z"
    with fails(errno.EINVAL):
        os.setxattr(path, "user.a", b"z", 1 << 10)


def test_sizes_are_told_and_too_small_a_buffer_is_refused(place: Place) -> None:
    path = place.file()
    os.setxattr(path, "user.a", b"12345")
    os.setxattr(path, "user.b", b"")
    assert getxattr_into(path, b"user.a", 0) == 5 == getxattr_into(path, b"user.a", 5)
    assert getxattr_into(path, b"user.b", 0) == 0
    with fails(errno.ERANGE):
        getxattr_into(path, b"user.a", 4)
    assert listxattr_into(path, 0) == 14 == listxattr_into(path, 14)
    with fails(errno.ERANGE):
        listxattr_into(path, 13)


def test_limits(place: Place) -> None:
    path = place.file()
    with fails(errno.ERANGE):
        os.setxattr(path, "user." + "n" * 251, b"x")
    with fails(errno.ERANGE):
        os.setxattr(path, "", b"x")
    with fails(errno.E2BIG):
        os.setxattr(path, "user.a", bytes(65537))
    with fails(errno.EINVAL, errno.EOPNOTSUPP):
        os.setxattr(path, "user.", b"x")
    assert os.listxattr(path) == []
    if not place.is_reference:  # ext4 has room for one block of them
        os.setxattr(path, "user.a", bytes(65536))
        assert os.getxattr(path, "user.a") == bytes(65536)


def test_as_many_as_can_be_listed(place: Place) -> None:
    """listxattr(2) returns at most 64 KiB of names: more would make them invisible."""
    path = place.file()
    if _on_tmpfs(path):
        pytest.skip("takes more than it can list")
    count = 0
    with fails(errno.ENOSPC):
        for count in range(2000):
            os.setxattr(path, f"user.{count:0200d}", b"")
    assert len(os.listxattr(path)) == count > 10
    os.setxattr(path, f"user.{0:0200d}", b"changed")
    os.removexattr(path, f"user.{1:0200d}")
    os.setxattr(path, f"user.{1:0200d}", b"")


def _on_tmpfs(path: Path) -> bool:
    kinds = {line.split()[4]: line.split(" - ")[1].split()[0] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    return next(kinds[str(above)] for above in path.parents if str(above) in kinds) == "tmpfs"


def test_namespaces(place: Place) -> None:
    path = place.file()
    for name in ("plain", "foreign.x", "users.x", "system.x"):
        with fails(errno.EOPNOTSUPP):
            os.setxattr(path, name, b"x")
        with fails(errno.EOPNOTSUPP):
            os.getxattr(path, name)
    os.setxattr(path, "trusted.x", b"root's")
    assert os.getxattr(path, "trusted.x") == b"root's" and os.listxattr(path) == ["trusted.x"]


def test_user_attributes_are_for_files_and_directories(place: Place) -> None:
    directory = place.dir()
    os.setxattr(directory, "user.a", b"x")
    assert os.listxattr(directory) == ["user.a"]
    link, fifo = place.root / "l", place.root / "p"
    link.symlink_to("d")
    os.mkfifo(fifo)
    for path in (link, fifo):
        with fails(errno.EPERM):
            os.setxattr(path, "user.a", b"x", follow_symlinks=False)
        with fails(errno.ENODATA, errno.EPERM):
            os.getxattr(path, "user.a", follow_symlinks=False)
        os.setxattr(path, "trusted.a", b"x", follow_symlinks=False)
    assert os.getxattr(link, "user.a") == b"x"


def test_attributes_follow_the_inode(place: Place) -> None:
    path = place.file()
    os.setxattr(path, "user.a", b"x")
    os.link(path, place.root / "g")
    path.rename(place.root / "h")
    assert os.getxattr(place.root / "g", "user.a") == os.getxattr(place.root / "h", "user.a") == b"x"
    place.file()
    assert os.listxattr(path) == []


def test_file_capabilities_are_kept_and_lost_by_writing(place: Place) -> None:
    path = place.file()
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(path, "security.capability", capability)
    assert os.getxattr(path, "security.capability") == capability and os.listxattr(path) == ["security.capability"]
    assert path.read_bytes() == b"content"
    with opened(path, os.O_WRONLY) as descriptor:
        os.write(descriptor, b"x")
    with fails(errno.ENODATA):
        os.getxattr(path, "security.capability")


ACL = bytes.fromhex("0200000001000600ffffffff02000600a10f000004000400ffffffff10000600ffffffff20000400ffffffff")
"""u::rw- u:4001:rw- g::r-- m::rw- o::r--"""


def test_access_control_lists(place: Place) -> None:
    """pyfuse3 cannot keep the kernel from applying the umask, which a directory's default list must override: refused."""
    path, directory = place.file(), place.dir()
    if place.is_reference:
        os.setxattr(path, "system.posix_acl_access", ACL)
        return
    for target, name in ((path, "access"), (directory, "access"), (directory, "default")):
        with fails(errno.EOPNOTSUPP):
            os.setxattr(target, f"system.posix_acl_{name}", ACL)
        with fails(errno.EOPNOTSUPP):
            os.getxattr(target, f"system.posix_acl_{name}")
    assert os.listxattr(path) == []


def test_virtual_attributes_are_there_but_not_listed_nor_changed(place: Place) -> None:
    if place.is_reference:
        pytest.skip("ours only")
    path: Path = place.file()
    assert os.getxattr(path, "user.s3lustrefs.hsm").startswith(b"(0x")
    assert os.listxattr(path) == []
    for name in ("hsm", "status", "other"):
        with fails(errno.EPERM):
            os.setxattr(path, f"user.s3lustrefs.{name}", b"x")
        with fails(errno.EPERM):
            os.removexattr(path, f"user.s3lustrefs.{name}")
