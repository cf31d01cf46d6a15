from __future__ import annotations

import os
from pathlib import Path

import pytest

from s3lustrefs.cli.mount_checks import Host, check_host, check_mount_point
from s3lustrefs.errors import FuseUnavailable, MountPointError, UsageError
from s3lustrefs.mountinfo import holding, mounted_at, read_mounts

MOUNTINFO = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /mnt/run rw,nosuid,nodev - fuse.s3lustrefs s3://lab/run\\040one rw,user_id=0
31 22 0:41 / /mnt/run\\0402 rw - fuse.s3lustrefs scratch rw
32 22 0:40 /sub /mnt/bind rw - fuse.s3lustrefs s3://lab/run\\040one rw
33 30 0:42 / /mnt/run/inner rw shared:3 - tmpfs tmpfs rw
"""


@pytest.fixture
def mountinfo(tmp_path: Path) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTINFO)
    return path


@pytest.fixture
def host(mountinfo: Path) -> Host:
    return Host(mountinfo=mountinfo, dev_fuse=Path(os.devnull), euid=0)


def test_mounts_are_read_with_their_escapes(mountinfo: Path) -> None:
    entries = {entry.mount_point: entry for entry in read_mounts(mountinfo)}
    assert entries["/mnt/run"].source == "s3://lab/run one"
    assert entries["/mnt/run 2"].source == "scratch"
    assert [point for point, entry in entries.items() if entry.is_ours] == ["/mnt/run", "/mnt/run 2"]


@pytest.mark.parametrize(
    ("path", "mount_point"),
    [
        ("/mnt/run", "/mnt/run"),
        ("/mnt/run/a/b", "/mnt/run"),
        ("/mnt/run 2/a", "/mnt/run 2"),
        ("/mnt/run/inner/x", "/mnt/run/inner"),
        ("/mnt/runner", "/"),
        ("/", "/"),
    ],
)
def test_path_is_held_by_the_innermost_mount(mountinfo: Path, path: str, mount_point: str) -> None:
    entry = holding(path, read_mounts(mountinfo))
    assert entry is not None and entry.mount_point == mount_point


def test_last_mount_on_a_point_is_the_one_that_shows(mountinfo: Path) -> None:
    mountinfo.write_text(MOUNTINFO + "40 22 0:50 / /mnt/run rw - tmpfs cover rw\n")
    entry = mounted_at("/mnt/run", read_mounts(mountinfo))
    assert entry is not None and entry.source == "cover"


# --- the host -----------------------------------------------------------------------------------------------------------


def test_missing_device_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FuseUnavailable, match="absent does not exist: load the kernel module with `modprobe fuse`"):
        check_host(Host(dev_fuse=tmp_path / "absent"), allow_other=False)


def test_missing_fusermount_matters_to_others_than_root_only() -> None:
    with pytest.raises(FuseUnavailable, match="needs fusermount3: install the package fuse3"):
        check_host(Host(dev_fuse=Path(os.devnull), euid=1000, fusermount=None), allow_other=False)
    check_host(Host(dev_fuse=Path(os.devnull), euid=0, fusermount=None), allow_other=True)


@pytest.mark.parametrize(("text", "allowed"), [("# user_allow_other\n", False), ("user_allow_other\n", True), (None, False)])
def test_allow_other_needs_the_administrators_consent(tmp_path: Path, text: str | None, allowed: bool) -> None:
    conf = tmp_path / "fuse.conf"
    if text is not None:
        conf.write_text(text)
    host = Host(dev_fuse=Path(os.devnull), fuse_conf=conf, euid=1000, fusermount="/bin/true")
    if allowed:
        check_host(host, allow_other=True)
    else:
        with pytest.raises(UsageError, match=f"needs a line `user_allow_other` in {conf}"):
            check_host(host, allow_other=True)
    check_host(host, allow_other=False)


# --- the mount point ----------------------------------------------------------------------------------------------------


def test_free_directory_is_resolved(tmp_path: Path, host: Host) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert check_mount_point(str(tmp_path / "link"), host) == str(tmp_path / "real")


def test_bad_mount_points_are_one_clear_error_each(tmp_path: Path, host: Host) -> None:
    with pytest.raises(MountPointError, match="no such directory; create it with `mkdir -p"):
        check_mount_point(str(tmp_path / "absent"), host)
    with pytest.raises(MountPointError, match="not a directory"):
        check_mount_point(str(host.mountinfo), host)
    with pytest.raises(MountPointError, match=r"not empty \(it has 'mountinfo'\)"):
        check_mount_point(str(tmp_path), host)


def test_mounted_point_is_refused_naming_what_is_there(tmp_path: Path, host: Host) -> None:
    point = tmp_path / "point"
    point.mkdir()
    with host.mountinfo.open("a") as file:
        file.write(f"50 22 0:60 / {point} rw - fuse.s3lustrefs s3://lab/other rw\n")
    with pytest.raises(MountPointError, match=r"s3://lab/other \(fuse.s3lustrefs\) is already mounted here"):
        check_mount_point(str(point), host)
