"""ChunkStore: read, write, truncate, delete and sync the local bytes of files.

What is here may be the only copy. The store knows no file size and no residency: callers pass extents inside the file and
ask only for resident bytes; whatever no chunk file holds reads as zeros.

Touched from the trio thread only. Short work is done inline, since a hop to a thread costs 75 us here while 128 KiB in the
page cache take 20 us; what may wait for a disk goes to a thread and is never abandoned on cancellation. Writes and
truncates of one content version must not overlap; its readers may see either side of a write.

Crash windows: none is repaired here. The caller syncs before it commits a record that speaks of new bytes, so that a chunk
file without a record (left by a crash between the two) is garbage, to be found with `chunk_files`. Bytes go the other way round: a
power cut brings back whatever the table's last durable state speaks of, so a content version nobody needs any more is condemned,
and its files are removed once the record that dropped it is durable.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import trio

from s3lustrefs import errors
from s3lustrefs.data.durability import Durability
from s3lustrefs.data.fence import storage_errors
from s3lustrefs.data.layout import ChunkKey, Layout, split
from s3lustrefs.data.open_chunks import STAT_BLOCK_BYTES, Doomed, OpenChunk, OpenChunks
from s3lustrefs.data.reading import Reading
from s3lustrefs.data.space import Space
from s3lustrefs.failpoints import failpoint
from s3lustrefs.model.ids import ContentVersion, Ino

log = logging.getLogger(__name__)

_INLINE_WRITE_BYTES = 256 << 10
"""Largest write done on the trio thread: 42 us into the page cache here, against 75 us for the hop to a thread."""

_INLINE_DELETES = 8
"""Most chunk files unlinked on the trio thread in one call, some 20 us each while they are small."""

_INLINE_DELETE_BYTES = 64 << 20
"""Freeing the blocks of larger chunk files takes the file system milliseconds."""

_SCAN_CHUNKS = 1000
"""With more chunks than this, a delete looks for the chunk files there are instead of trying every index."""

_THREADS = 8

_REMOVED_PER_TURN = 16

T = TypeVar("T")


class ChunkSlice(NamedTuple):
    """`length` bytes at `offset` of the file at `path`; what lies past that file's end reads as zeros."""

    path: str
    offset: int
    length: int


class Condemned(NamedTuple):
    """A content version to be removed; `size` None: unknown, so look for its chunk files."""

    ino: Ino
    version: ContentVersion
    chunk_bytes: int
    size: int | None


class ChunkFile(NamedTuple):
    """One chunk file as it was found on a target; `length` in bytes."""

    key: ChunkKey
    length: int
    path: str


@dataclass(frozen=True, slots=True)
class ChunkStoreStatistics:
    """Live numbers for status."""

    used_bytes: int
    inline_reads: int
    thread_reads: int


class ChunkStore:
    """The bytes of all files, over one or several storage targets."""

    def __init__(self, targets: Sequence[Path], *, cache_bytes: int | None = None, open_files: int = 512) -> None:
        self._layout = Layout(targets)
        self._cache_bytes = cache_bytes
        self._durability = Durability(self._layout)
        self._chunks = OpenChunks(self._layout, open_files, on_create=self._durability.created, on_close=self._durability.closed)
        self._limiter = trio.CapacityLimiter(_THREADS)
        self._inline_reads = 0
        self._thread_reads = 0
        self._condemned: list[Condemned] = []
        self._sealed: list[Condemned] = []
        self._removable: deque[Condemned] = deque()
        self._may_remove = trio.Event()

    def open_(self) -> None:
        """Create what is missing on the targets and check that they can be written. Raises: StateDirError."""
        self._layout.prepare()
        self._durability.open_()

    def close(self) -> None:
        """Close every file; writes need no sync for this, only for power loss."""
        self._chunks.close()
        self._durability.close()

    def statistics(self) -> ChunkStoreStatistics:
        return ChunkStoreStatistics(self._chunks.used_bytes, self._inline_reads, self._thread_reads)

    # --- bytes ---------------------------------------------------------------------------------------------------------

    def read_nowait(self, ino: Ino, version: ContentVersion, chunk_bytes: int, start: int, end: int) -> bytearray | None:
        """Bytes `[start, end)` if all of them are in the page cache, else None. Raises: StorageError."""
        buffer = bytearray(end - start)
        for reading in self._readings(ino, version, chunk_bytes, start, end, buffer):
            if not reading.fill_nowait():
                return None
        self._inline_reads += 1
        return buffer

    async def read(self, ino: Ino, version: ContentVersion, chunk_bytes: int, start: int, end: int) -> bytearray:
        """Bytes `[start, end)`, from a thread as soon as the disk is needed. Raises: StorageError."""
        buffer = bytearray(end - start)
        cold = []
        with ExitStack() as pins:
            for reading in self._readings(ino, version, chunk_bytes, start, end, buffer):
                if not reading.fill_nowait():
                    # Pinned at once: opening the next chunk may close this one.
                    pins.enter_context(self._chunks.pinned(reading.chunk))
                    cold.append(reading)
            if cold:
                self._thread_reads += 1
                await self._in_thread(partial(_fill_all, cold))
            else:
                self._inline_reads += 1
        return buffer

    async def write(
        self, ino: Ino, version: ContentVersion, chunk_bytes: int, offset: int, data: bytes | bytearray | memoryview
    ) -> None:
        """Write `data` at `offset`. On an error some of it may be written. Raises: OutOfSpace, ReadOnlyStorage, StorageError."""
        failpoint("chunk.write.before")
        view = memoryview(data)
        inline = len(view) <= _INLINE_WRITE_BYTES
        for index, chunk_offset, length in split(chunk_bytes, offset, offset + len(view)):
            chunk = self._chunks.find_or_create(ChunkKey(ino, version, index))
            part, view = view[:length], view[length:]
            try:
                if inline:
                    _write_all(chunk, part, chunk_offset)
                else:
                    with self._chunks.pinned(chunk):
                        await self._in_thread(partial(_write_all, chunk, part, chunk_offset))
            finally:
                self._written(chunk)
        failpoint("chunk.write.after")

    @contextmanager
    def pinned(self, ino: Ino, version: ContentVersion, chunk_bytes: int, start: int) -> Iterator[tuple[int, int]]:
        """Descriptor and offset in it for writing content from byte `start` on, at most to the end of that chunk.

        For native threads that write fetched bytes: the descriptor stays open inside the block, and the chunk counts as
        written afterwards. Raises: OutOfSpace, ReadOnlyStorage, StorageError.
        """
        index, offset = divmod(start, chunk_bytes)
        chunk = self._chunks.find_or_create(ChunkKey(ino, version, index))
        with self._chunks.pinned(chunk) as fd:
            try:
                yield fd, offset
            finally:
                self._written(chunk)

    def slices(self, ino: Ino, version: ContentVersion, chunk_bytes: int, start: int, end: int) -> list[ChunkSlice]:
        """The files that hold bytes `[start, end)`, ascending, for uploads; files of holes are created. Raises: StorageError."""
        found = []
        for index, offset, length in split(chunk_bytes, start, end):
            chunk = self._chunks.find_or_create(ChunkKey(ino, version, index))
            found.append(ChunkSlice(chunk.path, offset, length))
        return found

    async def truncate(self, ino: Ino, version: ContentVersion, chunk_bytes: int, old_size: int, new_size: int) -> None:
        """Drop bytes `[new_size, old_size)`, so that they read as zeros from now on; growing is free. Raises: StorageError.

        The table's record of the new size is durable before: a power cut must not bring the old size back without its bytes.
        """
        if new_size >= old_size:
            return
        boundary, offset = divmod(new_size, chunk_bytes)
        if offset:
            await self._cut(ChunkKey(ino, version, boundary), offset)
        first = boundary + 1 if offset else boundary
        for key in await self._remove(ino, version, range(first, -(-old_size // chunk_bytes)), old_size - new_size):
            self._durability.removed(key)

    # --- content that is no longer needed --------------------------------------------------------------------------------

    def condemn(self, ino: Ino, version: ContentVersion, chunk_bytes: int, size: int | None) -> None:
        """Nobody will ask for this content version again, says a record the table has. `size` None: unknown.

        Its files are removed once that record is durable: before that, a power cut brings the file back, and its bytes with it.
        """
        self._condemned.append(Condemned(ino, version, chunk_bytes, size))
        if size is None or size > _SCAN_CHUNKS * chunk_bytes:
            self._durability.forget_version(ino, version)
        else:
            for index in range(-(-size // chunk_bytes)):
                self._durability.forget(ChunkKey(ino, version, index))

    def table_is_durable(self, everything: bool) -> None:
        """What the table said when `sync_dirty` was last called survives a power cut now; `everything`: and what it says now."""
        self._removable += self._sealed
        self._sealed = []
        if everything:
            self._removable += self._condemned
            self._condemned = []
        if self._removable:
            self._may_remove.set()

    @property
    def has_condemned(self) -> bool:
        """Whether a sync of the table would make room."""
        return bool(self._condemned or self._sealed or self._removable)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Remove condemned content whenever it may go. Ends by cancellation."""
        task_status.started()
        while True:
            await self._may_remove.wait()
            try:
                await self.remove_condemned()
            except errors.StorageError as exc:
                log.error("condemned content not removed error=%s", exc)

    async def remove_condemned(self) -> None:
        """Remove what may go by now; what fails is left to the garbage collection of the next start. Raises: StorageError."""
        self._may_remove = trio.Event()
        while self._removable:
            for _ in range(min(_REMOVED_PER_TURN, len(self._removable))):
                await self.delete(*self._removable.popleft())
            await trio.lowlevel.checkpoint()

    async def delete(self, ino: Ino, version: ContentVersion, chunk_bytes: int, size: int | None) -> None:
        """Drop every byte of a content version at once: no durable record speaks of it. Raises: StorageError."""
        if size is None:
            await self._remove(ino, version, None, _INLINE_DELETE_BYTES + 1)
        else:
            await self._remove(ino, version, range(-(-size // chunk_bytes)), size)

    # --- durability ----------------------------------------------------------------------------------------------------

    async def sync_dirty(self) -> None:
        """Bring to disk every byte whose write ended before the call. Raises: StorageError.

        A chunk that could not be synced fails this and every later call until it is deleted. What is condemned by now may go
        at the next `table_is_durable`.
        """
        self._sealed += self._condemned
        self._condemned = []
        await self._durability.sync(self._chunks, self._limiter)

    # --- space and inventory -------------------------------------------------------------------------------------------

    def used_bytes(self) -> int:
        """Bytes the chunk files occupy, holes not counted; right only once `measure_used` has run."""
        return max(0, self._chunks.used_bytes)

    async def measure_used(self) -> None:
        """Count what the chunk files occupied at the call. Call once, before the first write. Raises: StorageError."""
        self._chunks.used_bytes = await self._in_thread(lambda: sum(map(_allocated, self._layout.entries())))

    def space(self) -> Space:
        """Capacity, use and room, in bytes; targets on one file system count once. Raises: StorageError."""
        capacity = available = 0
        seen = set()
        for target in self._layout.targets:
            with storage_errors("ask for the free space of", str(target)):
                device, status = os.stat(target).st_dev, os.statvfs(target)
            if device not in seen:
                seen.add(device)
                capacity += status.f_blocks * status.f_frsize
                available += status.f_bavail * status.f_frsize
        used = self.used_bytes()
        if self._cache_bytes is not None:
            capacity = self._cache_bytes
            available = max(0, min(available, capacity - used))
        return Space(capacity, used, available)

    def chunk_files(self) -> Iterator[ChunkFile]:
        """Every chunk file, in no order. Slow: for threads and fsck. Raises: StorageError."""
        for key, entry in self._layout.entries():
            try:
                yield ChunkFile(key, entry.stat(follow_symlinks=False).st_size, entry.path)
            except FileNotFoundError:
                continue

    async def chunk_batches(self, size: int) -> AsyncIterator[list[ChunkFile]]:
        """Every chunk file, a batch at a time, looked up in a thread. Raises: StorageError."""
        files = self.chunk_files()
        while True:
            batch = await self._in_thread(lambda: list(islice(files, size)))
            if batch:
                yield batch
            if len(batch) < size:
                return

    # --- inside --------------------------------------------------------------------------------------------------------

    def _readings(
        self, ino: Ino, version: ContentVersion, chunk_bytes: int, start: int, end: int, buffer: bytearray
    ) -> Iterator[Reading]:
        view = memoryview(buffer)
        for piece in split(chunk_bytes, start, end):
            part, view = view[: piece.length], view[piece.length :]
            chunk = self._chunks.find(ChunkKey(ino, version, piece.chunk_index))
            if chunk:
                yield Reading(chunk, piece, part)

    def _written(self, chunk: OpenChunk) -> None:
        if not chunk.deleted:
            self._durability.mark(chunk.key)
            self._chunks.account(chunk)

    async def _cut(self, key: ChunkKey, size: int) -> None:
        chunk = self._chunks.find(key)
        if chunk is None:
            return
        with self._chunks.pinned(chunk) as fd, storage_errors("truncate", chunk.path):
            dropped = os.fstat(fd).st_size - size
            if dropped > _INLINE_DELETE_BYTES:
                await self._in_thread(lambda: os.ftruncate(fd, size))
            elif dropped > 0:
                os.ftruncate(fd, size)
        self._written(chunk)

    async def _remove(self, ino: Ino, version: ContentVersion, indices: range | None, size: int) -> list[ChunkKey]:
        """Remove the chunk files of these indices (None: all), which hold at most `size` bytes; keys that may have had one."""
        if indices is None or len(indices) > _SCAN_CHUNKS:
            found = await self._in_thread(lambda: self._layout.keys_of(ino, version))
            keys = [key for key in found if indices is None or key.chunk_index in indices]
        else:
            keys = [ChunkKey(ino, version, index) for index in indices]
        doomed = [self._chunks.take_out(key) for key in keys]
        for key in keys:
            self._durability.forget(key)
        if size > _INLINE_DELETE_BYTES or len(doomed) > _INLINE_DELETES:
            freed = await self._in_thread(partial(_remove_all, doomed))
        else:
            freed = _remove_all(doomed)
        self._chunks.used_bytes -= freed
        return keys if freed else []

    async def _in_thread(self, deed: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(deed, limiter=self._limiter)


def _fill_all(readings: Sequence[Reading]) -> None:
    for reading in readings:
        reading.fill()


def _write_all(chunk: OpenChunk, data: memoryview, offset: int) -> None:
    with storage_errors("write", chunk.path):
        while data:
            count = os.pwrite(chunk.fd, data, offset)
            data, offset = data[count:], offset + count


def _remove_all(doomed: Sequence[Doomed]) -> int:
    """Remove all, whatever fails, then raise the first failure: no descriptor may leak."""
    freed, failures = 0, []
    for file in doomed:
        try:
            freed += file.remove()
        except errors.StorageError as exc:
            failures.append(exc)
    if failures:
        raise failures[0]
    return freed


def _allocated(entry: tuple[ChunkKey, os.DirEntry[str]]) -> int:
    try:
        return entry[1].stat(follow_symlinks=False).st_blocks * STAT_BLOCK_BYTES
    except FileNotFoundError:
        return 0
