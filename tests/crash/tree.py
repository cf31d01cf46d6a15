"""What a file system holds, as a dict: the model that crash tests compare mounts and buckets with."""

from __future__ import annotations

import copy
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from tests.crash.workload import content


@dataclass
class File:
    """Shared by all names of a file."""

    data: bytes
    mode: int = 0o644


@dataclass
class Directory:
    mode: int = 0o755


@dataclass
class Symlink:
    target: str
    mode: int = 0o777


Node = File | Directory | Symlink
Snapshot = dict[str, tuple[str, int, bytes]]
"""path -> (kind, permissions, content or target)."""


class Tree:
    """Applies the steps of a workload."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self.nodes = nodes

    def copy(self) -> Tree:
        return Tree(copy.deepcopy(self.nodes))

    def apply(self, verb: str, *arguments: object) -> None:
        getattr(self, f"_{verb}")(*arguments)

    def _file(self, name: str) -> File:
        node = self.nodes[name]
        assert isinstance(node, File)
        return node

    def _mkdir(self, name: str) -> None:
        self.nodes[name] = Directory()

    def _rmdir(self, name: str) -> None:
        del self.nodes[name]

    def _create(self, name: str) -> None:
        self.nodes[name] = File(b"")

    def _nothing(self, *arguments: object) -> None:
        return

    _open_old = _fsync = _sync_directory = _close = _read = _drain = _nothing

    def _write(self, name: str, offset: int, seed: int, length: int) -> None:
        file = self._file(name)
        file.data = file.data[:offset].ljust(offset, b"\0") + content(seed, length) + file.data[offset + length :]

    def _truncate(self, name: str, size: int) -> None:
        file = self._file(name)
        file.data = file.data[:size].ljust(size, b"\0")

    def _rename(self, old: str, new: str) -> None:
        moved = {name: node for name, node in self.nodes.items() if name == old or name.startswith(old + "/")}
        for name in moved:
            del self.nodes[name]
        self.nodes.update({new + name[len(old) :]: node for name, node in moved.items()})

    def _unlink(self, name: str) -> None:
        del self.nodes[name]

    def _link(self, old: str, new: str) -> None:
        self.nodes[new] = self.nodes[old]

    def _symlink(self, target: str, name: str) -> None:
        self.nodes[name] = Symlink(target)

    def _chmod(self, name: str, mode: int) -> None:
        self.nodes[name].mode = mode

    def snapshot(self) -> Snapshot:
        found: Snapshot = {}
        for name, node in self.nodes.items():
            if isinstance(node, File):
                found[name] = ("file", node.mode, node.data)
            elif isinstance(node, Symlink):
                found[name] = ("link", node.mode, node.target.encode())
            else:
                found[name] = ("dir", node.mode, b"")
        return found


def look(root: Path) -> Snapshot:
    """What a mount shows."""
    found: Snapshot = {}
    for directory, names, files in os.walk(root):
        for name in [*names, *files]:
            path = Path(directory, name)
            status = path.lstat()
            mode = stat.S_IMODE(status.st_mode)
            key = str(path.relative_to(root))
            if stat.S_ISLNK(status.st_mode):
                found[key] = ("link", mode, os.readlink(path).encode())
            elif stat.S_ISDIR(status.st_mode):
                found[key] = ("dir", mode, b"")
            else:
                found[key] = ("file", mode, path.read_bytes())
    return found


def differences(found: Snapshot, expected: Snapshot) -> list[str]:
    """One line each, without whole contents."""

    def told(entry: tuple[str, int, bytes] | None) -> str:
        return "absent" if entry is None else f"{entry[0]} {entry[1]:o} {len(entry[2])} bytes {hash(entry[2]) & 0xFFFF:04x}"

    names = sorted(found.keys() | expected.keys())
    return [f"{n}: {told(found.get(n))}, expected {told(expected.get(n))}" for n in names if found.get(n) != expected.get(n)]


def is_between(found: bytes, old: bytes, new: bytes) -> bool:
    """Whether `found` is `old` of which the kernel has replaced some head of the change that leads to `new`."""
    if len(found) not in range(min(len(old), len(new)), max(len(old), len(new)) + 1):
        return False
    return all(b in (old[at : at + 1], new[at : at + 1]) for at, b in enumerate(found[i : i + 1] for i in range(len(found))))
