"""ChunkStore: read, write, truncate, delete and sync the local bytes of files.

What is here may be the only copy. The store knows no file size and no residency: callers pass extents inside the file and
ask only for resident bytes; whatever no chunk file holds reads as zeros.

Touched from the trio thread only. Short work is done inline, since a hop to a thread costs 75 us here while 128 KiB in the
page cache take 20 us; what may wait for a disk goes to a thread and is never abandoned on cancellation. Writes and
truncates of one content version must not overlap; its readers may see either side of a write.

Crash windows: none is repaired here. The caller syncs before it commits a record that speaks of new bytes, so that a chunk
file without a record (left by a crash between the two) is garbage, to be found with `iter_chunks`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import trio

from s3lustrefs import errors
from s3lustrefs.data import target_identity
from s3lustrefs.data.durability import Durability
from s3lustrefs.data.fence import storage_errors
from s3lustrefs.data.health import READ, WRITE, Health
from s3lustrefs.data.layout import ChunkKey, Layout, split
from s3lustrefs.data.open_chunks import STAT_BLOCK_BYTES, Doomed, Failure, OpenChunk, OpenChunks, remove_all
from s3lustrefs.data.reading import Reading
from s3lustrefs.data.space import Space
from s3lustrefs.data.target_space import TargetSpace, TargetStatus
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

T = TypeVar("T")


class ChunkSlice(NamedTuple):
    """`length` bytes at `offset` of the file at `path`; what lies past that file's end reads as zeros."""

    path: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class ChunkStoreStatistics:
    """Live numbers for status."""

    used_bytes: int
    inline_reads: int
    thread_reads: int


@dataclass(frozen=True, slots=True)
class LostContent:
    """A content version some of whose bytes may never have reached the disk, and why."""

    ino: Ino
    version: ContentVersion
    reason: str


class ChunkStore:
    """The bytes of all files, over one or several storage targets."""

    def __init__(self, targets: Sequence[Path], *, cache_bytes: int | None = None, open_files: int = 512) -> None:
        self._layout = Layout(targets)
        self._cache_bytes = cache_bytes
        self._health = Health(self._layout.targets)
        self._target_space = TargetSpace(self._layout, self._health)
        self._durability = Durability(self._layout, self._health)
        self._chunks = OpenChunks(self._layout, open_files, on_create=self._durability.created, keep=self._durability.keep)
        self._leftovers: list[Doomed] = []
        self._refused: dict[tuple[Ino, ContentVersion], str] = {}
        self._limiter = trio.CapacityLimiter(_THREADS)
        self._inline_reads = 0
        self._thread_reads = 0

    def open_(self, record: Path | None = None) -> None:
        """Create what is missing on the targets and check that they can be written, and that they are those that `record`, a
        file of the state directory, knows. Raises: StateDirError."""
        self._layout.prepare()
        if record is not None:
            target_identity.prove(self._layout.targets, record)

    def close(self) -> None:
        """Close every file; writes need no sync for this, only for power loss."""
        self._chunks.close()
        self._durability.close()
        self._layout.close()

    def statistics(self) -> ChunkStoreStatistics:
        return ChunkStoreStatistics(self._chunks.used_bytes, self._inline_reads, self._thread_reads)

    # --- bytes ---------------------------------------------------------------------------------------------------------

    def read_nowait(self, ino: Ino, version: ContentVersion, chunk_bytes: int, start: int, end: int) -> bytearray | None:
        """Bytes `[start, end)` if all of them are in the page cache, else None. Raises: ContentLost, StorageError."""
        self._check_whole(ino, version)
        buffer = bytearray(end - start)
        for reading in self._readings(ino, version, chunk_bytes, start, end, buffer):
            if not self._try(reading):
                return None
        self._inline_reads += 1
        return buffer

    async def read(self, ino: Ino, version: ContentVersion, chunk_bytes: int, start: int, end: int) -> bytearray:
        """Bytes `[start, end)`, from a thread as soon as the disk is needed. Raises: ContentLost, StorageError."""
        self._check_whole(ino, version)
        buffer = bytearray(end - start)
        cold = []
        with ExitStack() as pins:
            for reading in self._readings(ino, version, chunk_bytes, start, end, buffer):
                if not self._try(reading):
                    # Pinned at once: opening the next chunk may close this one.
                    pins.enter_context(self._chunks.pinned(reading.chunk))
                    cold.append(reading)
            if cold:
                self._thread_reads += 1
                for reading in cold:
                    await self._fill(reading)
            else:
                self._inline_reads += 1
        return buffer

    async def write(
        self, ino: Ino, version: ContentVersion, chunk_bytes: int, offset: int, data: bytes | bytearray | memoryview
    ) -> None:
        """Write `data` at `offset`. On an error some of it may be written.

        Raises: OutOfSpace, ReadOnlyStorage, ContentLost, StorageError.
        """
        self._check_whole(ino, version)
        failpoint("chunk.write.before")
        view = memoryview(data)
        inline = len(view) <= _INLINE_WRITE_BYTES
        for index, chunk_offset, length in split(chunk_bytes, offset, offset + len(view)):
            chunk = self._find_or_create(ChunkKey(ino, version, index))
            part, view = view[:length], view[length:]
            before = chunk.written_bytes
            try:
                if inline:
                    _write_all(chunk, part, chunk_offset)
                else:
                    with self._chunks.pinned(chunk):
                        await self._in_thread(partial(_write_all, chunk, part, chunk_offset))
                self._health.works(self._layout.target_of(chunk.key), WRITE)
            except errors.StorageError as exc:
                self._health.failed(self._layout.target_of(chunk.key), WRITE, exc)
                raise
            finally:
                # What could not even begin to be written is not lost when a sync fails as well.
                if chunk.written_bytes != before:
                    self._written(chunk)
        failpoint("chunk.write.after")

    @contextmanager
    def pinned(self, ino: Ino, version: ContentVersion, chunk_bytes: int, start: int) -> Iterator[tuple[int, int]]:
        """Descriptor and offset in it for writing content from byte `start` on, at most to the end of that chunk.

        For native threads that write fetched bytes: the descriptor stays open inside the block, and the chunk counts as
        written afterwards. Raises: OutOfSpace, ReadOnlyStorage, ContentLost, StorageError.
        """
        self._check_whole(ino, version)
        index, offset = divmod(start, chunk_bytes)
        chunk = self._find_or_create(ChunkKey(ino, version, index))
        with self._chunks.pinned(chunk) as fd:
            try:
                yield fd, offset
                self._health.works(self._layout.target_of(chunk.key), WRITE)
            except errors.StorageError as exc:
                self._health.failed(self._layout.target_of(chunk.key), WRITE, exc)
                raise
            finally:
                self._written(chunk)

    def slices(self, ino: Ino, version: ContentVersion, chunk_bytes: int, start: int, end: int) -> list[ChunkSlice]:
        """The files that hold bytes `[start, end)`, ascending, for uploads; that of a hole is empty.

        Raises: ContentLost, StorageError.
        """
        self._check_whole(ino, version)
        found = []
        for index, offset, length in split(chunk_bytes, start, end):
            key = ChunkKey(ino, version, index)
            path = self._layout.place(key) if self._chunks.find(key) else os.devnull
            found.append(ChunkSlice(path, offset, length))
        return found

    async def truncate(self, ino: Ino, version: ContentVersion, chunk_bytes: int, old_size: int, new_size: int) -> None:
        """Drop bytes `[new_size, old_size)`, so that they read as zeros from now on; growing is free.

        Raises: StorageError; ContentLost, but emptying makes lost content whole.
        """
        if new_size:
            self._check_whole(ino, version)
        if new_size >= old_size:
            return
        boundary, offset = divmod(new_size, chunk_bytes)
        if offset:
            await self._cut(ChunkKey(ino, version, boundary), offset)
        first = boundary + 1 if offset else boundary
        failed = await self._remove(ino, version, range(first, -(-old_size // chunk_bytes)), old_size - new_size)
        if failed:
            raise failed[0][1]
        if not new_size:
            self._refused.pop((ino, version), None)

    async def delete(self, ino: Ino, version: ContentVersion, chunk_bytes: int, size: int | None) -> None:
        """Drop every byte of a content version; `size` None: unknown, so look for its chunk files.

        Nobody asks for these bytes any more, so that a file that cannot be removed is no failure: `sweep` tries again.
        """
        self._refused.pop((ino, version), None)
        try:
            if size is None:
                failed = await self._remove(ino, version, None, _INLINE_DELETE_BYTES + 1)
            else:
                failed = await self._remove(ino, version, range(-(-size // chunk_bytes)), size)
        except errors.StorageError as exc:  # not even the list could be had: the next start finds what is left
            log.error("deleted content keeps its space for now ino=%d error=%s", ino, exc)
            return
        self._leftovers += (file for file, _ in failed)
        if failed:
            log.error("deleted content keeps its space for now ino=%d error=%s", ino, failed[0][1])

    async def sweep(self) -> None:
        """Remove what could not be removed before."""
        if self._leftovers:
            doomed, self._leftovers = self._leftovers, []
            failed = await self._remove_files(doomed, in_thread=True)
            self._leftovers += (file for file, _ in failed)

    # --- durability ----------------------------------------------------------------------------------------------------

    async def sync_dirty(self) -> list[LostContent]:
        """Try to bring to disk every byte whose write ended before the call; what of it (and of what earlier calls
        tried) is lost and not settled yet. The rest is on disk, whatever is lost."""
        await self._durability.sync(self._chunks, self._limiter)
        return [LostContent(key.ino, key.version, str(error)) for key, error in self._durability.lost().items()]

    def settle_lost(self, ino: Ino, version: ContentVersion) -> None:
        """Whoever asks for this content is told that it is lost: later syncs need not say so."""
        for key in self._durability.lost():
            if (key.ino, key.version) == (ino, version):
                self._durability.settle(key)

    def refuse(self, ino: Ino, version: ContentVersion, reason: str) -> None:
        """Bytes of this content are lost: from now on it can only be deleted, or truncated to nothing."""
        self._refused[ino, version] = reason

    def loss_of(self, ino: Ino, version: ContentVersion) -> str | None:
        """Why this content is refused, if it is."""
        return self._refused.get((ino, version)) if self._refused else None

    def _check_whole(self, ino: Ino, version: ContentVersion) -> None:
        if self._refused and (ino, version) in self._refused:
            raise errors.ContentLost(
                f"content of inode {ino} was lost ({self._refused[ino, version]}): write the file anew, or delete it"
            )

    # --- space and inventory -------------------------------------------------------------------------------------------

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

    def iter_chunks(self) -> Iterator[tuple[Ino, ContentVersion, int, str]]:
        """(ino, content version, chunk index, path) of every chunk file, in no order. Slow: for fsck. Raises: StorageError."""
        for key, _ in self._layout.entries():
            yield *key, self._layout.path(key)

    async def chunk_batches(self, size: int, targets: Collection[int] = ()) -> AsyncIterator[list[tuple[Ino, ContentVersion]]]:
        """(ino, content version) of every chunk file of these targets (none given: of all), a batch at a time, looked up in
        a thread. A target that cannot be listed is left out: nobody may take its files for gone."""
        for target in targets or range(len(self._layout.targets)):
            files = self._layout.entries_of(target)
            while True:
                try:
                    batch = await self._in_thread(partial(_identities, files, size))
                except errors.StorageError as exc:
                    self._health.failed(target, "list", exc)
                    break
                if batch:
                    yield batch
                if len(batch) < size:
                    self._health.works(target, "list")
                    break

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

    def _find_or_create(self, key: ChunkKey) -> OpenChunk:
        try:
            return self._chunks.find_or_create(key)
        except errors.StorageError as exc:
            self._health.failed(self._layout.target_of(key), WRITE, exc)
            raise

    def _try(self, reading: Reading) -> bool:
        try:
            return reading.fill_nowait()
        except errors.StorageError as exc:
            self._health.failed(self._layout.target_of(reading.chunk.key), READ, exc)
            raise

    async def _fill(self, reading: Reading) -> None:
        target = self._layout.target_of(reading.chunk.key)
        try:
            await self._in_thread(reading.fill)
        except errors.StorageError as exc:
            self._health.failed(target, READ, exc)
            raise
        self._health.works(target, READ)

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

    async def _remove(self, ino: Ino, version: ContentVersion, indices: range | None, size: int) -> list[Failure]:
        """Remove the chunk files of these indices (None: all), which hold at most `size` bytes; what could not be removed."""
        if indices is None or len(indices) > _SCAN_CHUNKS:
            found = await self._in_thread(lambda: self._layout.keys_of(ino, version))
            keys = [key for key in found if indices is None or key.chunk_index in indices]
        else:
            keys = [ChunkKey(ino, version, index) for index in indices]
        doomed = [self._chunks.take_out(key) for key in keys]
        for key in keys:
            self._durability.forget(key)
        return await self._remove_files(doomed, in_thread=size > _INLINE_DELETE_BYTES or len(doomed) > _INLINE_DELETES)

    async def _remove_files(self, doomed: list[Doomed], *, in_thread: bool) -> list[Failure]:
        freed, failed = await self._in_thread(partial(remove_all, doomed)) if in_thread else remove_all(doomed)
        self._chunks.used_bytes -= freed
        return failed

    async def _in_thread(self, deed: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(deed, limiter=self._limiter)


def _write_all(chunk: OpenChunk, data: memoryview, offset: int) -> None:
    with storage_errors("write", chunk.path):
        while data:
            count = os.pwrite(chunk.fd, data, offset)
            chunk.written_bytes += count
            data, offset = data[count:], offset + count


def _identities(files: Iterator[tuple[ChunkKey, os.DirEntry[str]]], size: int) -> list[tuple[Ino, ContentVersion]]:
    return [(key.ino, key.version) for key, _ in islice(files, size)]


def _allocated(entry: tuple[ChunkKey, os.DirEntry[str]]) -> int:
    try:
        return entry[1].stat(follow_symlinks=False).st_blocks * STAT_BLOCK_BYTES
    except FileNotFoundError:
        return 0
