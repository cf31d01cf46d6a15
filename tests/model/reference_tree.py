"""The nodes of the reference file system, and how a path leads to one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_MAX_SYMLINKS = 40


class Refused(Exception):
    """The name of the errno a system call must fail with."""


@dataclass(eq=False)
class Inode:
    """A file, directory, symlink or FIFO. Equality is identity: hard links share one."""

    kind: str
    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    nlink: int = 1
    data: bytearray = field(default_factory=bytearray)
    target: str = ""
    children: dict[str, Inode] = field(default_factory=dict)
    xattrs: dict[str, bytes] = field(default_factory=dict)
    association: str = ""
    """The prefix this directory is linked with."""
    header_mtimes: set[int] = field(default_factory=set)
    """What its object may say about the time: changes of times alone are not exported, they ride along."""
    has_marker: bool = True
    """A directory that others only implied need not have an object of its own."""
    is_bare: bool = False
    """Nothing has been exported since it came from an object without our headers."""
    foreign: dict[str, Any] = field(default_factory=dict)
    """What the object carries beside our own headers, until the file is moved or linked."""

    @property
    def is_dir(self) -> bool:
        return self.kind == "dir"

    @property
    def size(self) -> int:
        return len(self.target.encode()) if self.kind == "link" else len(self.data)

    def told(self) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "kind": self.kind, "mode": self.mode, "uid": self.uid, "gid": self.gid,
            "nlink": self.nlink, "mtime_ns": self.mtime_ns,
        }  # fmt: skip
        if not self.is_dir:
            entry["size"] = self.size
        return entry

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Inode]]:
        """Everything below, as (path, inode), a directory before what it holds."""
        for name, child in self.children.items():
            yield prefix + name, child
            if child.is_dir:
                yield from child.walk(f"{prefix}{name}/")

    def holds(self, other: Inode) -> bool:
        return self is other or any(child is other for _, child in self.walk())


@dataclass(frozen=True)
class Place:
    """A name in a directory, and what it stands for now, if anything."""

    parent: Inode
    name: str
    inode: Inode | None

    def existing(self) -> Inode:
        """Raises: Refused."""
        if self.inode is None:
            raise Refused("ENOENT")
        return self.inode


def find(root: Inode, path: str, *, follow: bool) -> Place:
    """Where a path leads; `follow`: through a symlink at its end too. Raises: Refused."""
    parts = path.split("/")
    current, followed = root, 0
    while True:
        name = parts.pop(0)
        if not current.is_dir:
            raise Refused("ENOTDIR")
        inode = current.children.get(name)
        if inode is not None and inode.kind == "link" and (parts or follow):
            followed += 1
            if followed > _MAX_SYMLINKS:
                raise Refused("ELOOP")
            parts = inode.target.split("/") + parts
        elif not parts:
            return Place(current, name, inode)
        elif inode is None:
            raise Refused("ENOENT")
        else:
            current = inode
