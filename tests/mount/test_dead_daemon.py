"""A mount whose daemon was killed, cleared by the checks before the next mount; the daemon here is the smallest there can be."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3lustrefs.cli.mount_checks import Host, check_mount_point, is_dead
from s3lustrefs.cli.target import Target
from s3lustrefs.errors import DaemonUnreachable, MountPointError
from s3lustrefs.mountinfo import mounted_at, read_mounts

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse") or os.geteuid() != 0, reason="needs /dev/fuse and root")

SMALLEST = """
import os, stat, sys
import pyfuse3, trio

class Nothing(pyfuse3.Operations):
    async def getattr(self, inode, ctx=None):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_mode = inode, stat.S_IFDIR | 0o755
        entry.attr_timeout = 3600
        return entry
    async def opendir(self, inode, ctx):
        return inode
    async def readdir(self, fh, start, token):
        return

pyfuse3.init(Nothing(), sys.argv[1], {"fsname=s3://lab/run", f"subtype={sys.argv[2]}"})
print("ready", flush=True)
trio.run(pyfuse3.main)
"""


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Path]:
    point = tmp_path / "point"
    point.mkdir()
    yield point
    subprocess.run(["umount", "-l", str(point)], capture_output=True, check=False)


def mount_and_kill(point: Path, subtype: str = "s3lustrefs") -> None:
    daemon = subprocess.Popen([sys.executable, "-c", SMALLEST, str(point), subtype], stdout=subprocess.PIPE)
    assert daemon.stdout is not None
    with daemon.stdout:
        assert daemon.stdout.readline() == b"ready\n"
    os.stat(point)  # from now on the kernel answers this by itself, with or without a daemon
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()


def test_access_fails_with_enotconn_and_never_shows_an_empty_directory(point: Path) -> None:
    mount_and_kill(point)
    with pytest.raises(OSError) as caught:
        os.listdir(point)
    assert caught.value.errno == errno.ENOTCONN
    assert is_dead(str(point))
    with pytest.raises(DaemonUnreachable, match="its daemon is gone; mount it again"):
        Target(str(point)).client()


def test_next_mount_clears_it(point: Path) -> None:
    mount_and_kill(point)
    assert check_mount_point(str(point), Host()) == str(point)
    assert mounted_at(str(point), read_mounts()) is None


def test_dead_mount_of_another_file_system_is_left_alone(point: Path) -> None:
    mount_and_kill(point, subtype="otherfs")
    with pytest.raises(MountPointError, match=r"s3://lab/run \(fuse.otherfs\) is already mounted here"):
        check_mount_point(str(point), Host())


def test_unmount_of_a_dead_mount_says_what_becomes_of_the_data(point: Path) -> None:
    mount_and_kill(point)
    command = [sys.executable, "-m", "s3lustrefs", "unmount", str(point)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "exported after the next mount" in done.stderr
    assert mounted_at(str(point), read_mounts()) is None
