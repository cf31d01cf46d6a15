"""What is mounted where, from the kernel's own list. Source: man 5 proc, "/proc/pid/mountinfo"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FS_TYPE = "fuse.s3lustrefs"
MOUNTINFO = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One mount. `root` is the directory of the file system that shows at `mount_point`: `/` save for bind mounts."""

    mount_point: str
    root: str
    fs_type: str
    source: str
    number: str = ""
    """Of this mount, among those there are now, and of its device."""

    @property
    def is_ours(self) -> bool:
        return self.fs_type == FS_TYPE and self.root == "/"


def _unescape(field: str) -> str:
    raw = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field.encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "surrogateescape")


def read_mounts(mountinfo: Path = MOUNTINFO) -> list[MountEntry]:
    """Every mount, oldest first; of several on one mount point the last one shows."""
    entries = []
    for line in mountinfo.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        fields, about = left.split(" "), right.split(" ")
        point, root, kind, source = (_unescape(text) for text in (fields[4], fields[3], about[0], about[1]))
        entries.append(MountEntry(point, root, kind, source, f"{fields[0]} {fields[2]}"))
    return entries


def mounted_at(mount_point: str, mounts: list[MountEntry]) -> MountEntry | None:
    """The mount that shows at exactly this (resolved) path."""
    return next((entry for entry in reversed(mounts) if entry.mount_point == mount_point), None)


def holding(path: str, mounts: list[MountEntry]) -> MountEntry | None:
    """The mount that a (resolved) path lies in."""
    best: MountEntry | None = None
    for entry in mounts:
        inside = entry.mount_point == "/" or f"{path}/".startswith(f"{entry.mount_point}/")
        if inside and (best is None or len(entry.mount_point) >= len(best.mount_point)):
            best = entry
    return best
