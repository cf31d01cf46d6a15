"""A file system's names and attributes as plain dicts: what the engine is compared with."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field

from s3lustrefs import errors
from s3lustrefs.meta.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE

ROOT = 1


@dataclass
class Node:
    mode: int
    gid: int = 0
    size: int = 0
    target: bytes = b""
    children: dict[bytes, int] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Model:
    """Inode numbers are the engine's: `create` is told which one it gave. Raises what the engine must raise."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {ROOT: Node(stat.S_IFDIR | 0o755)}

    def directories(self) -> list[int]:
        return [ino for ino, node in self.nodes.items() if node.is_dir]

    def child(self, parent: int, name: bytes) -> int:
        found = self.nodes[parent].children.get(name)
        if found is None:
            raise errors.NotFound("")
        return found

    def nlink(self, ino: int) -> int:
        node = self.nodes[ino]
        if node.is_dir:
            return 2 + sum(self.nodes[c].is_dir for c in node.children.values())
        return sum(ino == c for n in self.nodes.values() for c in n.children.values())

    def check_free(self, parent: int, name: bytes) -> None:
        if name in self.nodes[parent].children:
            raise errors.AlreadyExists("")

    def create(self, parent: int, name: bytes, ino: int, mode: int, target: bytes) -> None:
        above = self.nodes[parent]
        node = Node(mode, size=len(target), target=target)
        if above.mode & stat.S_ISGID:
            node.gid = above.gid
            node.mode |= stat.S_ISGID if node.is_dir else 0
        self.nodes[ino] = node
        above.children[name] = ino

    def link(self, ino: int, parent: int, name: bytes) -> None:
        if self.nodes[ino].is_dir:
            raise errors.NotPermitted("")
        self.check_free(parent, name)
        self.nodes[parent].children[name] = ino

    def unlink(self, parent: int, name: bytes) -> None:
        ino = self.child(parent, name)
        if self.nodes[ino].is_dir:
            raise errors.IsADirectory("")
        self._drop(parent, name)

    def rmdir(self, parent: int, name: bytes) -> None:
        self._check_removable(self.child(parent, name))
        self._drop(parent, name)

    def _check_removable(self, ino: int) -> None:
        if not self.nodes[ino].is_dir:
            raise errors.NotADirectory("")
        if self.nodes[ino].children:
            raise errors.NotEmpty("")

    def _drop(self, parent: int, name: bytes) -> None:
        ino = self.nodes[parent].children.pop(name)
        if self.nodes[ino].is_dir or not self.nlink(ino):
            del self.nodes[ino]

    def is_below(self, ino: int, above: int) -> bool:
        """Whether `ino` is `above` or somewhere below it."""
        return ino == above or any(self.is_below(ino, c) for c in self.nodes[above].children.values() if self.nodes[c].is_dir)

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        ino = self.child(parent, name)
        if self.nodes[ino].is_dir and self.is_below(new_parent, ino):
            raise errors.InvalidArgument("")
        victim = self.nodes[new_parent].children.get(new_name)
        if victim is not None and flags & RENAME_NOREPLACE:
            raise errors.AlreadyExists("")
        if victim == ino:
            return
        if flags & RENAME_EXCHANGE:
            self._exchange(parent, name, ino, new_parent, new_name, victim)
            return
        if victim is not None:
            if self.nodes[ino].is_dir:
                self._check_removable(victim)
            elif self.nodes[victim].is_dir:
                raise errors.IsADirectory("")
            self._drop(new_parent, new_name)
        del self.nodes[parent].children[name]
        self.nodes[new_parent].children[new_name] = ino

    def _exchange(self, parent: int, name: bytes, ino: int, new_parent: int, new_name: bytes, other: int | None) -> None:
        if other is None:
            raise errors.NotFound("")
        if self.nodes[other].is_dir and self.is_below(parent, other):
            raise errors.InvalidArgument("")
        self.nodes[parent].children[name] = other
        self.nodes[new_parent].children[new_name] = ino
