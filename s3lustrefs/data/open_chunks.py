"""Chunk files kept open, least recently used first, with pins for users outside the trio thread, and their block accounting.

Touched from the trio thread only; threads and native clients get a file descriptor whose chunk is pinned.
INVARIANT 1: a pinned descriptor stays open until its last pin is gone, whatever is evicted or deleted meanwhile.
INVARIANT 2: `used_bytes` counts for an open chunk what that chunk's `accounted_bytes` says.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from s3lustrefs import errors
from s3lustrefs.data.fence import storage_errors
from s3lustrefs.data.layout import ChunkKey, Layout

STAT_BLOCK_BYTES = 512
"""Unit of st_blocks. Source: man 2 stat."""


class OpenChunk:
    """One open chunk file."""

    __slots__ = ("accounted_bytes", "deleted", "fd", "in_memory", "key", "path", "pins", "read_position", "written_bytes")

    def __init__(self, key: ChunkKey, path: str, fd: int, *, in_memory: bool) -> None:
        self.in_memory = in_memory
        self.key = key
        self.path = path
        self.fd = fd
        self.pins = 0
        self.deleted = False
        self.accounted_bytes = 0
        self.written_bytes = 0
        """Since it was opened; only ever compared with an earlier value."""
        self.read_position: int | None = None


@dataclass(frozen=True, slots=True)
class Doomed:
    """A chunk file taken out of the cache, to be removed; safe to use in a thread."""

    path: str
    """For people; `place` is where it is."""
    place: str
    accounted_bytes: int | None
    fd: int | None
    """To be closed after the unlink; None: not open, or still pinned and closed by its last user."""

    def closed(self) -> Doomed:
        """The same once its descriptor is closed."""
        return replace(self, fd=None)

    def remove(self) -> int:
        """Unlink and close; how many bytes this frees. No file is fine. Raises: ReadOnlyStorage, StorageError."""
        with storage_errors("delete", self.path):
            try:
                known = self.accounted_bytes
                freed = os.stat(self.place).st_blocks * STAT_BLOCK_BYTES if known is None else known
                os.unlink(self.place)
            except FileNotFoundError:
                freed = 0
            finally:
                if self.fd is not None:
                    os.close(self.fd)
        return freed


Failure = tuple[Doomed, errors.StorageError]


def remove_all(doomed: Sequence[Doomed]) -> tuple[int, list[Failure]]:
    """Bytes freed, and what could not be removed; every descriptor is closed."""
    freed, failed = 0, []
    for file in doomed:
        try:
            freed += file.remove()
        except errors.StorageError as exc:
            failed.append((file.closed(), exc))
    return freed, failed


class OpenChunks:
    """The cache of open chunk files. `keep(key, fd)` may take over a descriptor of a chunk that still exists from here."""

    def __init__(
        self, layout: Layout, limit: int, on_create: Callable[[ChunkKey], None], keep: Callable[[ChunkKey, int], bool]
    ) -> None:
        self._layout = layout
        self._limit = limit
        self._on_create = on_create
        self._keep = keep
        self._open: OrderedDict[ChunkKey, OpenChunk] = OrderedDict()
        self.used_bytes = 0

    def find(self, key: ChunkKey) -> OpenChunk | None:
        """The open chunk, opening its file if there is one; None: no such file. Raises: StorageError."""
        chunk = self._open.get(key)
        if chunk is not None:
            self._open.move_to_end(key)
            return chunk
        path = self._layout.path(key)
        with storage_errors("open", path):
            try:
                fd = _open(self._layout.place(key), 0)
            except FileNotFoundError:
                # A hole, if its directory is there: otherwise nobody knows what it holds.
                os.stat(self._layout.directory_place(key))
                return None
            return self._insert(key, path, fd)

    def find_or_create(self, key: ChunkKey) -> OpenChunk:
        """The same, with an empty file created where there is none. Raises: OutOfSpace, ReadOnlyStorage, StorageError."""
        if key in self._open:
            return self.find(key) or self.find_or_create(key)
        path = self._layout.path(key)
        with storage_errors("create", path):
            try:
                # New files are the common case, and a look before would double their cost.
                chunk = self._insert(key, path, _open(self._layout.place(key), os.O_CREAT | os.O_EXCL), accounted_bytes=0)
            except FileExistsError:
                return self._insert(key, path, _open(self._layout.place(key), 0))
        self._on_create(key)
        return chunk

    def peek(self, key: ChunkKey) -> OpenChunk | None:
        """The chunk if it is open now; neither opens nor counts as use."""
        return self._open.get(key)

    @contextmanager
    def pinned(self, chunk: OpenChunk) -> Iterator[int]:
        """Hold the descriptor open while something other than the trio thread uses it."""
        chunk.pins += 1
        try:
            yield chunk.fd
        finally:
            chunk.pins -= 1
            if chunk.deleted and not chunk.pins:
                os.close(chunk.fd)

    def account(self, chunk: OpenChunk) -> None:
        """Take note of how many bytes the file occupies now."""
        if not chunk.deleted:
            allocated = os.fstat(chunk.fd).st_blocks * STAT_BLOCK_BYTES
            self.used_bytes += allocated - chunk.accounted_bytes
            chunk.accounted_bytes = allocated

    def take_out(self, key: ChunkKey) -> Doomed:
        """Forget a chunk that is to be removed; whoever has it pinned keeps its bytes until the pin is gone."""
        path, place = self._layout.path(key), self._layout.place(key)
        chunk = self._open.pop(key, None)
        if chunk is None:
            return Doomed(path, place, None, None)
        chunk.deleted = True
        return Doomed(path, place, chunk.accounted_bytes, None if chunk.pins else chunk.fd)

    def close(self) -> None:
        """Close every descriptor; nothing may be pinned any more."""
        while self._open:
            os.close(self._open.popitem()[1].fd)

    def _insert(self, key: ChunkKey, path: str, fd: int, *, accounted_bytes: int | None = None) -> OpenChunk:
        chunk = self._open[key] = OpenChunk(key, path, fd, in_memory=self._layout.in_memory(key))
        chunk.accounted_bytes = os.fstat(fd).st_blocks * STAT_BLOCK_BYTES if accounted_bytes is None else accounted_bytes
        if len(self._open) > self._limit:
            self._evict()
        return chunk

    def _evict(self) -> None:
        # The newest entry is about to be used by the caller, so it is never the victim even when all others are pinned.
        newest = next(reversed(self._open))
        victim = next((chunk for chunk in self._open.values() if not chunk.pins and chunk.key != newest), None)
        if victim:
            del self._open[victim.key]
            if not self._keep(victim.key, victim.fd):
                os.close(victim.fd)


def _open(path: str, extra_flags: int) -> int:
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOATIME | extra_flags, 0o600)
