"""Which operation comes next: random, but likely to meet something, and small enough in numbers that names collide."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.model.operations import Operation
from tests.model.reference import RENAME_EXCHANGE, RENAME_NOREPLACE, Reference
from tests.model.reference_tree import Inode

_NAMES = ["a", "b", "c", "d.txt", "e e", "f+%", "ü"]
_MOST_NODES = 45
_FILE_MODES = [0o644, 0o600, 0o755, 0o440]
_DIR_MODES = [0o755, 0o700, 0o2775, 0o1777]
_XATTRS = ["user.x", "user.long name"]
_FLAGS = [
    os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_EXCL,
    os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.O_RDWR | os.O_APPEND | os.O_CREAT, os.O_RDWR | os.O_TRUNC,
]  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """Of one life: lengths written now and then, and when there is enough."""

    slots: int = 5
    usual: tuple[int, ...] = (1, 10, 100, 4096, 5000, 70_000, 300_000)
    large: tuple[int, ...] = (1_200_000, 2_500_000)
    most_bytes: int = 24 << 20
    most_local_bytes: int = 24 << 20
    """Outside the associations, where nothing can be released."""


class Chooser:
    """Depends on nothing but the seed and the reference, so that a seed is a trace."""

    def __init__(self, rng: random.Random, reference: Reference, sizes: Sizes = Sizes()) -> None:
        self._rng = rng
        self._reference = reference
        self._sizes = sizes
        self._kinds: list[tuple[Callable[[], Operation], int]] = [
            (self._open, 14), (self._close, 7), (self._write, 14), (self._read, 6), (self._resize_open, 3), (self._sync, 2),
            (self._map, 4), (self._copy_range, 2), (self._mkdir, 5), (self._symlink, 2), (self._fifo, 1), (self._link, 4),
            (self._remove, 7), (self._rename, 14), (self._attributes, 8), (self._xattr, 4), (self._look, 8),
            (self._hsm, 5),
        ]  # fmt: skip

    def next(self) -> Operation:
        if room := self._make_room():
            return room
        makers, weights = zip(*self._kinds, strict=True)
        maker: Callable[[], Operation] = self._rng.choices(makers, weights)[0]
        return maker()

    def _make_room(self) -> Operation | None:
        """Remove something where there is too much."""
        nodes = list(self._reference.root.walk())
        local = [(path, inode) for path, inode in nodes if path.startswith("local/")]
        if sum(inode.size for _, inode in local) > self._sizes.most_local_bytes:
            nodes = local
        elif len(nodes) <= _MOST_NODES and sum(inode.size for _, inode in nodes) <= self._sizes.most_bytes:
            return None
        path = self._rng.choice([path for path, inode in nodes if not inode.children and not inode.association])
        return ["rmdir" if self._is_dir(path) else "unlink", path]

    # --- paths -----------------------------------------------------------------------------------------------------------

    def _existing(self) -> dict[str, Inode]:
        return dict(self._reference.root.walk())

    def _is_dir(self, path: str) -> bool:
        inode = self._existing().get(path)
        return inode is not None and inode.is_dir

    def _old(self) -> str:
        """Mostly a path that exists."""
        if self._rng.random() < 0.1:
            return self._any()
        return self._rng.choice([path for path, _ in self._reference.root.walk()])

    def _file(self) -> str:
        files = [path for path, inode in self._reference.root.walk() if inode.kind == "file"]
        return self._rng.choice(files) if files and self._rng.random() < 0.8 else self._old()

    def _any(self) -> str:
        """A name in some directory, there or not."""
        directories = [path for path, inode in self._reference.root.walk() if inode.is_dir and path.count("/") < 4]
        if self._rng.random() < 0.05:
            directories = [path for path, inode in self._reference.root.walk() if not inode.is_dir] or directories
        return f"{self._rng.choice(directories)}/{self._rng.choice(_NAMES)}"

    def _slot(self) -> int:
        used = list(self._reference.slots)
        return self._rng.choice(used) if used and self._rng.random() < 0.95 else self._rng.randrange(self._sizes.slots)

    def _seed(self) -> int:
        return self._rng.randrange(1 << 30)

    def _length(self) -> int:
        return self._rng.choice(self._sizes.large if self._rng.random() < 0.04 else self._sizes.usual)

    def _offset(self, size: int) -> int:
        return self._rng.choice([0, size, size // 2, max(size - 5, 0), size + 10, 4096, 1 << 20])

    def _size_in(self, slot: int) -> int:
        file = self._reference.slots.get(slot)
        return file.inode.size if file else 0

    # --- open files ------------------------------------------------------------------------------------------------------

    def _open(self) -> Operation:
        flags = self._rng.choice(_FLAGS)
        path = self._any() if flags & os.O_CREAT and self._rng.random() < 0.6 else self._file()
        return ["open", self._rng.randrange(self._sizes.slots), path, flags, self._rng.choice(_FILE_MODES)]

    def _close(self) -> Operation:
        return ["close", self._slot()]

    def _write(self) -> Operation:
        slot = self._slot()
        return ["write", slot, self._offset(self._size_in(slot)), self._seed(), self._length()]

    def _read(self) -> Operation:
        slot = self._slot()
        return ["read", slot, self._offset(self._size_in(slot)), self._length()]

    def _resize_open(self) -> Operation:
        slot = self._slot()
        return ["ftruncate", slot, self._offset(self._size_in(slot))]

    def _sync(self) -> Operation:
        return ["fsync", self._slot()]

    def _map(self) -> Operation:
        slot = self._slot()
        size = self._size_in(slot)
        start = self._rng.randrange(max(size, 1))
        length = self._rng.randint(1, max(1, min(size - start, 100_000)))
        if self._rng.random() < 0.5:
            return ["map_read", slot, start, length]
        return ["map_write", slot, start, self._seed(), length]

    def _copy_range(self) -> Operation:
        source, target = self._slot(), self._slot()
        return ["copy_range", source, target, self._offset(0), self._offset(self._size_in(target)), self._length()]

    # --- names -----------------------------------------------------------------------------------------------------------

    def _mkdir(self) -> Operation:
        return ["mkdir", self._any(), self._rng.choice(_DIR_MODES)]

    def _fifo(self) -> Operation:
        return ["mkfifo", self._any(), 0o600]

    def _symlink(self) -> Operation:
        target = self._rng.choice([self._rng.choice(_NAMES), "a/b", "nowhere"])
        return ["symlink", target, self._any()]

    def _link(self) -> Operation:
        return ["link", self._file(), self._any()]

    def _remove(self) -> Operation:
        path = self._old()
        is_dir = self._rng.random() < 0.1 or self._is_dir(path)
        return ["rmdir" if is_dir else "unlink", path]

    def _rename(self) -> Operation:
        target = self._old() if self._rng.random() < 0.4 else self._any()
        flags = self._rng.choice([0, 0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE])
        if flags == RENAME_EXCHANGE:
            target = self._old()
        return ["rename", self._old(), target, flags]

    # --- attributes ------------------------------------------------------------------------------------------------------

    def _attributes(self) -> Operation:
        path = self._old()
        is_dir = self._is_dir(path)
        choice = self._rng.randrange(4)
        if choice == 0:
            return ["chmod", path, self._rng.choice(_DIR_MODES if is_dir else _FILE_MODES)]
        if choice == 1:
            return ["chown", path, self._rng.choice([0, 1000, 65534]), self._rng.choice([0, 100, 4_000_000_000])]
        if choice == 2:
            return ["utimens", path, self._rng.randrange(10**18), self._rng.randrange(2 * 10**18)]
        return ["truncate", self._file(), self._rng.choice([0, 1, 4096, 100_000, (1 << 20) + 1])]

    def _xattr(self) -> Operation:
        path, name = self._old(), self._rng.choice(_XATTRS)
        choice = self._rng.randrange(4)
        if choice == 0:
            return ["removexattr", path, name]
        if choice == 1:
            return ["getxattr", path, name]
        return ["setxattr", path, name, self._seed(), self._rng.choice([0, 5, 200]), self._rng.choice([0, 0, 1, 2])]

    def _hsm(self) -> Operation:
        return ["hsm", self._file(), self._rng.choice(["release", "release", "release", "restore", "archive", "cancel"])]

    def _look(self) -> Operation:
        verb = self._rng.choice(["stat", "stat", "readdir", "readlink", "read_file", "read_file", "fstat"])
        return ["fstat", self._slot()] if verb == "fstat" else [verb, self._old()]
