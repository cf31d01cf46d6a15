"""What must be so of the host and the mount point before anything is started; each failure is one clear error."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from s3lustrefs.errors import FuseUnavailable, MountPointError, UsageError
from s3lustrefs.mountinfo import FS_TYPE, MOUNTINFO, mounted_at, read_mounts

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""mount(8) starts its helpers without PATH."""


def find_program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH") or SYSTEM_PATH)


@dataclass(frozen=True, slots=True)
class Host:
    """Where this host keeps what mounting needs; tests put others in their place."""

    dev_fuse: Path = Path("/dev/fuse")
    fuse_conf: Path = Path("/etc/fuse.conf")
    mountinfo: Path = MOUNTINFO
    euid: int = field(default_factory=os.geteuid)
    fusermount: str | None = field(default_factory=lambda: find_program("fusermount3"))


def check_host(host: Host, *, allow_other: bool) -> None:
    """Raises: FuseUnavailable, UsageError."""
    if not host.dev_fuse.exists():
        raise FuseUnavailable(
            f"{host.dev_fuse} does not exist: load the kernel module with `modprobe fuse`, or give the container "
            "--device /dev/fuse and --cap-add SYS_ADMIN"
        )
    if host.euid == 0:
        return
    if host.fusermount is None:
        raise FuseUnavailable("mounting without being root needs fusermount3: install the package fuse3, or mount as root")
    if allow_other and not _user_allow_other(host.fuse_conf):
        raise UsageError(f"option allow_other without being root needs a line `user_allow_other` in {host.fuse_conf}")


def _user_allow_other(fuse_conf: Path) -> bool:
    try:
        return any(line.strip() == "user_allow_other" for line in fuse_conf.read_text().splitlines())
    except FileNotFoundError:
        return False


def check_mount_point(mount_point: str, host: Host) -> str:
    """The resolved mount point, free to be mounted on; what a dead daemon left there is unmounted first.

    Raises: MountPointError.
    """
    path = os.path.realpath(mount_point)
    _clear_dead_mounts(path, host)
    if entry := mounted_at(path, read_mounts(host.mountinfo)):
        raise MountPointError(f"mount point {path}: {entry.source} ({entry.fs_type}) is already mounted here")
    try:
        names = os.listdir(path)
    except FileNotFoundError as exc:
        raise MountPointError(f"mount point {path}: no such directory; create it with `mkdir -p {path}`") from exc
    except NotADirectoryError as exc:
        raise MountPointError(f"mount point {path}: not a directory") from exc
    except OSError as exc:
        raise MountPointError(f"mount point {path}: {exc.strerror}") from exc
    if names:
        raise MountPointError(f"mount point {path}: not empty (it has {names[0]!r}); mounting would hide what is there")
    return path


def is_dead(path: str) -> bool:
    """Whether the daemon behind this mount point is gone. Asks for what is never cached: attributes outlive the daemon."""
    try:
        os.statvfs(path)
    except OSError as exc:
        return exc.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def _clear_dead_mounts(path: str, host: Host) -> None:
    while (entry := mounted_at(path, read_mounts(host.mountinfo))) and entry.fs_type == FS_TYPE and is_dead(path):
        print(f"{path}: cleared a mount whose daemon is gone", file=sys.stderr)
        detach(path, host, lazy=True)


def detach(path: str, host: Host, *, lazy: bool) -> None:
    """Unmount as whoever we are. Raises: MountPointError with umount's own words."""
    if host.euid == 0:
        command = [find_program("umount") or "umount", *(["-l"] if lazy else []), path]
    elif host.fusermount is not None:
        command = [host.fusermount, "-uz" if lazy else "-u", path]
    else:
        raise FuseUnavailable("unmounting without being root needs fusermount3: install the package fuse3")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().replace("\n", "; ") or f"exit status {done.returncode}"
        raise MountPointError(f"{path} cannot be unmounted: {reason}")
