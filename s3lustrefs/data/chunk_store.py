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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio

from s3lustrefs import errors
from s3lustrefs.data.chunk_files import INLINE_DELETE_BYTES, SCAN_CHUNKS, ChunkFiles
from s3lustrefs.data.condemned import Condemned, Sentence
from s3lustrefs.data.fence import storage_errors
from s3lustrefs.data.health import READ, WRITE
from s3lustrefs.data.layout import ChunkKey, split
from s3lustrefs.data.open_chunks import OpenChunk
from s3lustrefs.data.reading import Reading
from s3lustrefs.failpoints import failpoint
from s3lustrefs.model.ids import ContentVersion, Ino

log = logging.getLogger(__name__)

_INLINE_WRITE_BYTES = 256 << 10
"""Largest write done on the trio thread: 42 us into the page cache here, against 75 us for the hop to a thread."""

_REMOVED_PER_TURN = 16


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


class ChunkStore(ChunkFiles):
    """The bytes of all files, over one or several storage targets."""

    def __init__(self, targets: Sequence[Path], *, cache_bytes: int | None = None, open_files: int = 512) -> None:
        super().__init__(targets, cache_bytes, open_files)
        self._refused: dict[tuple[Ino, ContentVersion], str] = {}
        self._condemned = Condemned()
        self._inline_reads = 0
        self._thread_reads = 0

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

        The table's record of the new size is durable before: a power cut must not bring the old size back without its bytes.
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
        removed, failed = await self._remove(ino, version, range(first, -(-old_size // chunk_bytes)), old_size - new_size)
        for key in removed:
            self._durability.removed(key)
        if failed:
            raise failed[0][1]
        if not new_size:
            self._refused.pop((ino, version), None)

    # --- content that is no longer needed --------------------------------------------------------------------------------

    def condemn(self, ino: Ino, version: ContentVersion, chunk_bytes: int, size: int | None) -> None:
        """Nobody will ask for this content version again, says a record the table has. `size` None: unknown.

        Its files are removed once that record is durable: before that, a power cut brings the file back, and its bytes with it.
        """
        self._refused.pop((ino, version), None)
        self._condemned.add(Sentence(ino, version, chunk_bytes, size))
        if size is None or size > SCAN_CHUNKS * chunk_bytes:
            self._durability.forget_version(ino, version)
        else:
            for index in range(-(-size // chunk_bytes)):
                self._durability.forget(ChunkKey(ino, version, index))

    def table_is_durable(self, everything: bool) -> None:
        """What the table said when `sync_dirty` was last called survives a power cut now; `everything`: and what it says now."""
        self._condemned.release(everything=everything)

    @property
    def has_condemned(self) -> bool:
        """Whether a sync of the table would make room."""
        return bool(self._condemned)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Remove condemned content whenever it may go. Ends by cancellation."""
        task_status.started()
        while True:
            await self._condemned.wait()
            await self.remove_condemned()

    async def remove_condemned(self) -> None:
        """Remove what may go by now."""
        while batch := self._condemned.take(_REMOVED_PER_TURN):
            for sentence in batch:
                await self.delete(*sentence)
            await trio.lowlevel.checkpoint()

    async def delete(self, ino: Ino, version: ContentVersion, chunk_bytes: int, size: int | None) -> None:
        """Drop every byte of a content version at once: no durable record speaks of it.

        Nobody asks for these bytes any more, so that a file that cannot be removed is no failure: `remove_leftovers` tries again.
        """
        self._refused.pop((ino, version), None)
        try:
            if size is None:
                _, failed = await self._remove(ino, version, None, INLINE_DELETE_BYTES + 1)
            else:
                _, failed = await self._remove(ino, version, range(-(-size // chunk_bytes)), size)
        except errors.StorageError as exc:  # not even the list could be had: the next start finds what is left
            log.error("deleted content keeps its space for now ino=%d error=%s", ino, exc)
            return
        self._leftovers += (file for file, _ in failed)
        if failed:
            log.error("deleted content keeps its space for now ino=%d error=%s", ino, failed[0][1])

    # --- durability ----------------------------------------------------------------------------------------------------

    async def sync_dirty(self) -> list[LostContent]:
        """Try to bring to disk every byte whose write ended before the call; what of it (and of what earlier calls
        tried) is lost and not settled yet. The rest is on disk, whatever is lost. What is condemned by now may go at the
        next `table_is_durable`."""
        self._condemned.seal()
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
            if dropped > INLINE_DELETE_BYTES:
                await self._in_thread(lambda: os.ftruncate(fd, size))
            elif dropped > 0:
                os.ftruncate(fd, size)
        self._written(chunk)


def _write_all(chunk: OpenChunk, data: memoryview, offset: int) -> None:
    with storage_errors("write", chunk.path):
        while data:
            count = os.pwrite(chunk.fd, data, offset)
            chunk.written_bytes += count
            data, offset = data[count:], offset + count
