"""Which mount a command means, and how to reach its daemon: by --mount, by the path it is given, or by being the only one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from s3lustrefs.cli.control_client import ANSWER_SECONDS, NATIVE_PREFIX, ControlClient
from s3lustrefs.cli.mount_checks import is_dead
from s3lustrefs.errors import DaemonUnreachable, MountPointError
from s3lustrefs.mountinfo import MOUNTINFO, MountEntry, holding, mounted_at, read_mounts

CONTROL_XATTR = "user.s3lustrefs.control"
"""Virtual attribute of a mount's root directory: the path of its control socket."""


@dataclass(frozen=True, slots=True)
class Target:
    """One mount of ours."""

    mount_point: str

    def client(self, *, timeout: float | None = ANSWER_SECONDS, prefix: str = NATIVE_PREFIX) -> ControlClient:
        """`timeout` None: for operations that take as long as they take. Raises: DaemonUnreachable."""
        if is_dead(self.mount_point):
            raise DaemonUnreachable(
                f"{self.mount_point}: its daemon is gone; mount it again (what was not exported is exported then), "
                f"or clear it with `umount -l {self.mount_point}`"
            )
        try:
            socket_path = os.fsdecode(os.getxattr(self.mount_point, CONTROL_XATTR))
        except OSError as exc:
            raise DaemonUnreachable(f"{self.mount_point}: the mount does not name its control socket: {exc.strerror}") from exc
        return ControlClient(socket_path, prefix=prefix, timeout=timeout)

    def inside(self, path: str) -> str:
        """An absolute path on this host as the path below the mount: `/` for the mount point itself."""
        return "/" + path.removeprefix(self.mount_point.rstrip("/")).strip("/")


def resolve(path: str) -> str:
    """The path with symlinks resolved, save for the last component: a command about a symlink means the link."""
    absolute = os.path.join(os.getcwd(), path) if not os.path.isabs(path) else path
    head, name = os.path.split(absolute.rstrip("/") or "/")
    return os.path.realpath(absolute) if name in ("", ".", "..") else os.path.join(os.path.realpath(head), name)


def _resolved_inside(given: str, mounts: list[MountEntry]) -> str:
    """A symlink outside our mounts that points into one means what it points to."""
    path = resolve(given)
    entry = holding(path, mounts)
    return path if entry is not None and entry.is_ours else os.path.realpath(given)


def _only_one(ours: Sequence[MountEntry]) -> Target:
    if len(ours) == 1:
        return Target(ours[0].mount_point)
    if not ours:
        raise MountPointError("nothing is mounted here by s3lustrefs")
    places = ", ".join(entry.mount_point for entry in ours)
    raise MountPointError(f"several file systems are mounted ({places}): name one with --mount")


def find(mount: str | None, paths: Sequence[str] = (), mountinfo: Path = MOUNTINFO) -> tuple[Target, list[str]]:
    """The mount meant, and the given paths as seen inside it. Raises: MountPointError."""
    mounts = read_mounts(mountinfo)
    resolved = [_resolved_inside(path, mounts) for path in paths]
    if mount is not None:
        entry = mounted_at(os.path.realpath(mount), mounts)
        if entry is None or not entry.is_ours:
            raise MountPointError(f"{mount}: s3lustrefs has nothing mounted there")
        target = Target(entry.mount_point)
    elif resolved:
        target = Target(_holder(paths[0], resolved[0], mounts).mount_point)
    else:
        # A mount that another one hides cannot be reached by its path.
        target = _only_one([entry for entry in mounts if entry.is_ours and mounted_at(entry.mount_point, mounts) is entry])
    for given, path in zip(paths, resolved, strict=True):
        if _holder(given, path, mounts).mount_point != target.mount_point:
            raise MountPointError(f"{given}: not in the file system mounted at {target.mount_point}")
    return target, [target.inside(path) for path in resolved]


def _holder(given: str, path: str, mounts: list[MountEntry]) -> MountEntry:
    entry = holding(path, mounts)
    if entry is None or not entry.is_ours:
        raise MountPointError(f"{given}: not in a file system mounted by s3lustrefs")
    return entry
