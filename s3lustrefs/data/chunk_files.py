"""ChunkFiles: the files under the chunk store: where they are, how much they take, and removing them.

Touched from the trio thread only; what may wait for a disk goes to a thread and is never abandoned on cancellation.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import trio

from s3lustrefs import errors
from s3lustrefs.data.durability import Durability
from s3lustrefs.data.health import WRITE, Health
from s3lustrefs.data.layout import ChunkKey, Layout
from s3lustrefs.data.open_chunks import STAT_BLOCK_BYTES, Doomed, Failure, OpenChunks, remove_all
from s3lustrefs.data.space import Space
from s3lustrefs.data.target_space import TargetSpace, TargetStatus
from s3lustrefs.model.ids import ContentVersion, Ino

_INLINE_DELETES = 8
"""Most chunk files unlinked on the trio thread in one call, some 20 us each while they are small."""

INLINE_DELETE_BYTES = 64 << 20
"""Freeing the blocks of larger chunk files takes the file system milliseconds."""

SCAN_CHUNKS = 1000
"""With more chunks than this, a delete looks for the chunk files there are instead of trying every index."""

_THREADS = 8

T = TypeVar("T")


class ChunkFile(NamedTuple):
    """One chunk file as it was found on a target; `length` in bytes."""

    key: ChunkKey
    length: int
    path: str


class ChunkFiles:
    """See the module docstring."""

    def __init__(self, targets: Sequence[Path], cache_bytes: int | None, open_files: int) -> None:
        self._layout = Layout(targets)
        self._cache_bytes = cache_bytes
        self._health = Health(self._layout.targets)
        self._target_space = TargetSpace(self._layout, self._health)
        self._durability = Durability(self._layout, self._health)
        self._chunks = OpenChunks(self._layout, open_files, on_create=self._durability.created, keep=self._durability.keep)
        self._leftovers: list[Doomed] = []
        self._limiter = trio.CapacityLimiter(_THREADS)

    def open_(self) -> None:
        """Create what is missing on the targets and check that they can be written. Raises: StateDirError."""
        self._layout.prepare()

    def close(self) -> None:
        """Close every file; writes need no sync for this, only for power loss."""
        self._chunks.close()
        self._durability.close()
        self._layout.close()

    def used_bytes(self) -> int:
        """Bytes the chunk files occupy, holes not counted; right only once `measure_used` has run."""
        return max(0, self._chunks.used_bytes)

    async def measure_used(self) -> None:
        """Count what the chunk files occupied at the call. Call once, before the first write. Raises: StorageError."""
        self._chunks.used_bytes = await self._in_thread(lambda: sum(map(_allocated, self._layout.entries())))

    def space(self) -> Space:
        """Capacity, use and room, in bytes; targets on one file system count once."""
        capacity, available = self._target_space.capacity_and_room()
        used = self.used_bytes()
        if self._cache_bytes is not None:
            capacity = self._cache_bytes
            available = max(0, min(available, capacity - used))
        return Space(capacity, used, available)

    def targets(self) -> list[TargetStatus]:
        """How each target is, for people."""
        return self._target_space.statuses()

    def full_targets(self) -> set[int]:
        """The targets whose last write found no room."""
        return self._health.full(WRITE)

    def chunk_files(self) -> Iterator[ChunkFile]:
        """Every chunk file, in no order. Slow: for threads and fsck. Raises: StorageError."""
        for target in range(len(self._layout.targets)):
            yield from self._files_of(target)

    def _files_of(self, target: int) -> Iterator[ChunkFile]:
        for key, entry in self._layout.entries_of(target):
            try:
                yield ChunkFile(key, entry.stat(follow_symlinks=False).st_size, self._layout.path(key))
            except FileNotFoundError:
                continue

    async def chunk_batches(self, size: int, targets: Collection[int] = ()) -> AsyncIterator[list[ChunkFile]]:
        """Every chunk file of these targets (none given: of all), a batch at a time, looked up in a thread. A target that
        cannot be listed is left out: nobody may take its files for gone."""
        for target in targets or range(len(self._layout.targets)):
            files = self._files_of(target)
            while True:
                try:
                    batch = await self._in_thread(lambda: list(islice(files, size)))  # noqa: B023  # awaited within the turn
                except errors.StorageError as exc:
                    self._health.failed(target, "list", exc)
                    break
                if batch:
                    yield batch
                if len(batch) < size:
                    self._health.works(target, "list")
                    break

    async def remove_leftovers(self) -> None:
        """Remove what could not be removed before."""
        if self._leftovers:
            doomed, self._leftovers = self._leftovers, []
            _, failed = await self._remove_files(doomed, in_thread=True)
            self._leftovers += (file for file, _ in failed)

    async def _remove(
        self, ino: Ino, version: ContentVersion, indices: range | None, size: int
    ) -> tuple[list[ChunkKey], list[Failure]]:
        """Remove the chunk files of these indices (None: all), which hold at most `size` bytes: the keys that may have had
        one, and what could not be removed."""
        if indices is None or len(indices) > SCAN_CHUNKS:
            found = await self._in_thread(lambda: self._layout.keys_of(ino, version))
            keys = [key for key in found if indices is None or key.chunk_index in indices]
        else:
            keys = [ChunkKey(ino, version, index) for index in indices]
        doomed = [self._chunks.take_out(key) for key in keys]
        for key in keys:
            self._durability.forget(key)
        in_thread = size > INLINE_DELETE_BYTES or len(doomed) > _INLINE_DELETES
        freed, failed = await self._remove_files(doomed, in_thread=in_thread)
        return keys if freed else [], failed

    async def _remove_files(self, doomed: list[Doomed], *, in_thread: bool) -> tuple[int, list[Failure]]:
        freed, failed = await self._in_thread(partial(remove_all, doomed)) if in_thread else remove_all(doomed)
        self._chunks.used_bytes -= freed
        return freed, failed

    async def _in_thread(self, deed: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(deed, limiter=self._limiter)


def _allocated(entry: tuple[ChunkKey, os.DirEntry[str]]) -> int:
    try:
        return entry[1].stat(follow_symlinks=False).st_blocks * STAT_BLOCK_BYTES
    except FileNotFoundError:
        return 0
