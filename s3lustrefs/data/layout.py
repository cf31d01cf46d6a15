"""Where the bytes of a file lie: chunk keys, chunk files, storage targets.

Chunk `i` of content version `v` of inode `ino` is the sparse file
`<target>/chunks/<(ino >> 12) & 0xff>/<ino>.<v>.<i>` (all hexadecimal) on target `(ino + i) mod targets`, so that the first
chunks of small files spread over the targets as well as the chunks of one large file do. A chunk file may be shorter
than its chunk, or absent: the bytes that are not there are zeros.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from s3lustrefs import errors
from s3lustrefs.data.fence import storage_errors
from s3lustrefs.model.ids import ContentVersion, Ino

_CHUNKS = "chunks"
_DIRECTORIES = 256
_WITHOUT_DISK = frozenset({"tmpfs", "ramfs"})
_NEIGHBOURS_BITS = 12
"""Files made one after another share a directory: on ext4 creating them costs 18 us each that way and 100 to 700 us when
they alternate between directories, each of which has an inode table of its own to update."""
_CHUNK_NAME = re.compile(r"([0-9a-f]+)\.([0-9a-f]+)\.([0-9a-f]+)")


class ChunkKey(NamedTuple):
    """Names one chunk file."""

    ino: Ino
    version: ContentVersion
    chunk_index: int


class Piece(NamedTuple):
    """The part of an extent that lies in one chunk: `[offset, offset + length)` of chunk `chunk_index`, in bytes."""

    chunk_index: int
    offset: int
    length: int


def split(chunk_bytes: int, start: int, end: int) -> list[Piece]:
    """Cut the extent `[start, end)` of a file at its chunk boundaries, in ascending order."""
    pieces = []
    while start < end:
        index, offset = divmod(start, chunk_bytes)
        length = min(chunk_bytes - offset, end - start)
        pieces.append(Piece(index, offset, length))
        start += length
    return pieces


class Layout:
    """Maps chunk keys to files. Knows no open file and no state beyond the list of targets, whose order must not change."""

    def __init__(self, targets: Sequence[Path]) -> None:
        if not targets:
            raise errors.StateDirError("no storage target: cache_dir is empty")
        self.targets = tuple(targets)
        self._roots = [os.path.join(target, _CHUNKS) for target in targets]
        self._fds: list[int] = []
        self._in_memory: list[bool] = []

    def prepare(self) -> None:
        """Create the directories and prove that every target takes new files. Raises: StateDirError."""
        for target, root in zip(self.targets, self._roots, strict=True):
            try:
                os.makedirs(root, mode=0o700, exist_ok=True)
                present = set(os.listdir(root))
                for name in (f"{number:02x}" for number in range(_DIRECTORIES)):
                    if name not in present:
                        os.mkdir(f"{root}/{name}", mode=0o700)
                probe = f"{root}/.probe"
                os.close(os.open(probe, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                os.unlink(probe)
            except OSError as exc:
                raise errors.StateDirError(f"storage target {target} cannot be written: {exc.strerror}") from exc
        self._open_targets()

    def _open_targets(self) -> None:
        if self._fds:
            return
        for target in self.targets:
            try:
                self._fds.append(os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            except OSError as exc:
                raise errors.StateDirError(f"storage target {target} cannot be opened: {exc.strerror}") from exc

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def target_fd(self, target: int) -> int:
        """The target's directory, open since the start: its file system stays ours, whatever is mounted there meanwhile."""
        if not self._fds:
            self._open_targets()
        return self._fds[target]

    def in_memory(self, key: ChunkKey) -> bool:
        """Whether the chunk's file is on a file system without a disk, so that reading it never waits."""
        if not self._in_memory:
            kinds = _file_system_kinds()
            devices = [os.fstat(self.target_fd(number)).st_dev for number in range(len(self.targets))]
            self._in_memory = [kinds.get(device) in _WITHOUT_DISK for device in devices]
        return self._in_memory[self.target_of(key)]

    def target_of(self, key: ChunkKey) -> int:
        return (key.ino + key.chunk_index) % len(self._roots)

    def directory(self, key: ChunkKey) -> str:
        return f"{self._roots[self.target_of(key)]}/{_bucket(key.ino)}"

    def path(self, key: ChunkKey) -> str:
        """For people."""
        return f"{self.directory(key)}/{_name(key)}"

    def directory_place(self, key: ChunkKey) -> str:
        """Where `directory` is really to be opened: by way of the target's descriptor.

        An unmounted target would otherwise be an empty directory, and every chunk on it a hole.
        """
        return f"/proc/self/fd/{self.target_fd(self.target_of(key))}/{_CHUNKS}/{_bucket(key.ino)}"

    def place(self, key: ChunkKey) -> str:
        """The same for a chunk file."""
        return f"{self.directory_place(key)}/{_name(key)}"

    def entries(self) -> Iterator[tuple[ChunkKey, os.DirEntry[str]]]:
        """Every chunk file of every target, in no order. Slow: for a thread. Raises: StorageError."""
        for target in range(len(self.targets)):
            yield from self.entries_of(target)

    def entries_of(self, target: int) -> Iterator[tuple[ChunkKey, os.DirEntry[str]]]:
        """The same for one target."""
        for number in range(_DIRECTORIES):
            yield from self._scan(target, f"{number:02x}")

    def keys_of(self, ino: Ino, version: ContentVersion) -> list[ChunkKey]:
        """The chunk files of one content version, found by scanning one directory per target. Raises: StorageError."""
        found = [key for target in range(len(self.targets)) for key, _ in self._scan(target, _bucket(ino))]
        return [key for key in found if key.ino == ino and key.version == version]

    def _scan(self, target: int, bucket: str) -> Iterator[tuple[ChunkKey, os.DirEntry[str]]]:
        with (
            storage_errors("list", f"{self._roots[target]}/{bucket}"),
            os.scandir(f"/proc/self/fd/{self.target_fd(target)}/{_CHUNKS}/{bucket}") as entries,
        ):
            for entry in entries:
                match = _CHUNK_NAME.fullmatch(entry.name)
                if match:
                    ino, version, index = (int(part, 16) for part in match.groups())
                    yield ChunkKey(Ino(ino), ContentVersion(version), index), entry


def _file_system_kinds() -> dict[int, str]:
    """st_dev -> type of every mounted file system. Source: proc_pid_mountinfo(5)."""
    kinds = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            major, minor = before.split()[2].split(":")
            kinds[os.makedev(int(major), int(minor))] = after.split()[0]
    return kinds


def _name(key: ChunkKey) -> str:
    return f"{key.ino:x}.{key.version:x}.{key.chunk_index:x}"


def _bucket(ino: Ino) -> str:
    return f"{ino >> _NEIGHBOURS_BITS & 0xFF:02x}"
