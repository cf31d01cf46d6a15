"""FileIO: open, read, write, truncate, sync and close of files over the chunk store and the inode table.

Crash windows: `begin_write` is logged before the first byte changes, so that a dirty file is never taken for a clean one;
bytes are in the chunk store before the record that speaks of them; a truncate's record is durable before its bytes go, and
start-up cuts what a crash left behind past the end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.data.residency import BLOCK_BYTES, blocks_of
from s3lustrefs.failpoints import failpoint
from s3lustrefs.fs.handles import FileHandle, Handles
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import FileHandleId, Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.exporter import Exporter
from s3lustrefs.movers.hydrator import Hydrator

_RELATIME_NS = 24 * 3600 * 10**9
MAX_FILE_BYTES = (1 << 63) - 1


class FileIO:
    """See the module docstring."""

    def __init__(
        self,
        engine: MetadataEngine,
        chunks: ChunkStore,
        hydrator: Hydrator,
        exporter: Exporter,
        handles: Handles,
        ensure_room: Callable[[int], Awaitable[None]],
        *,
        noatime: bool,
    ) -> None:
        self._engine = engine
        self._chunks = chunks
        self._hydrator = hydrator
        self._exporter = exporter
        self._handles = handles
        self._ensure_room = ensure_room
        self._noatime = noatime

    async def open(self, inode: Inode, flags: int) -> FileHandle:
        """Raises: whatever `truncate` raises, for O_TRUNC."""
        handle = self._handles.open_file(inode.ino, inode.content_version)
        handle.leaves_atime = self._noatime or bool(flags & os.O_NOATIME)
        if flags & os.O_TRUNC:  # even with O_RDONLY; the kernel has asked for write permission
            try:
                await self.truncate(inode.ino, 0, handle)
            except BaseException:
                await self.close(handle.fh)
                raise
        return handle

    def opened_new(self, inode: Inode) -> FileHandle:
        """A handle of a file that was just created: it counts as written, since the new name is to be exported."""
        handle = self._handles.open_file(inode.ino, inode.content_version)
        handle.leaves_atime = self._noatime
        self._count_writer(handle)
        return handle

    async def read(self, fh: FileHandleId, offset: int, size: int) -> bytes | bytearray:
        """Raises: StaleInode when the content is no longer what was opened; whatever `Hydrator.ensure` raises."""
        handle = self._handles.file(fh)
        inode = await self._current(handle)
        end = min(offset + size, inode.size)
        if offset >= end:
            return b""
        if not handle.leaves_atime:
            await self.touch_atime(inode)
        if not inode.is_complete:
            await self._hydrator.ensure(inode, offset, end, handle.window)
            inode = await self._current(handle)
        data = await self._chunks.read(inode.ino, inode.content_version, inode.chunk_bytes, offset, end)
        # The read may have waited for the disk, and the content may have been replaced meanwhile.
        await self._current(handle)
        return data

    async def _current(self, handle: FileHandle) -> Inode:
        inode = await self._engine.get(handle.inode.ino)
        if inode.content_version != handle.version:
            raise errors.StaleInode(f"inode {inode.ino} has new content since it was opened; open it again")
        return inode

    async def write(self, fh: FileHandleId, offset: int, data: bytes) -> int:
        handle = self._handles.file(fh)
        end = offset + len(data)
        async with handle.inode.lock:
            inode, was_clean = await self._begin_change(handle.inode.ino, handle)
            if was_clean:
                # Overwriting archived bytes in place: after a power cut they must not pass for the archived ones.
                await self._engine.sync()
            extents = None
            if not inode.is_complete:
                await self._hydrator.ensure(inode, offset, end)
                inode = await self._current(handle)
                extents = await self._grown(inode, end)
            await self._ensure_room(len(data))
            await self._chunks.write(inode.ino, inode.content_version, inode.chunk_bytes, offset, data)
            await self._engine.end_write(inode.ino, end, extents, start=offset)
        return len(data)

    async def _begin_change(self, ino: Ino, handle: FileHandle | None) -> tuple[Inode, bool]:
        """Make it safe to change bytes: no upload reads them, and the table says dirty. True: it said clean before, and must be
        synced before a byte changes."""
        if self._exporter.is_uploading(ino):
            await self._exporter.interrupt(ino)
        inode = await self._engine.get(ino)
        if handle is not None and inode.content_version != handle.version:
            raise errors.StaleInode(f"inode {ino} has new content since it was opened; open it again")
        if handle is not None and handle.has_written:
            return inode, False
        was_clean = bool(inode.hsm & Hsm.EXISTS) and not inode.hsm & Hsm.DIRTY
        inode = await self._engine.begin_write(ino)
        if handle is not None:
            self._count_writer(handle)
        return inode, was_clean

    def _count_writer(self, handle: FileHandle) -> None:
        if not handle.has_written:
            handle.has_written = True
            handle.inode.writers += 1

    async def _grown(self, inode: Inode, end: int) -> bytes | None:
        """Residency of a partial file that grows to `end`: whole blocks past the old end are local by definition."""
        if end <= inode.size:
            return None
        residency = (await self._hydrator.content(inode)).residency
        residency.add(blocks_of(inode.size), blocks_of(end))
        return residency.encode()

    async def truncate(self, ino: Ino, size: int, handle: FileHandle | None = None) -> Inode:
        """Set the size; only the block the new end falls into is fetched when it is missing."""
        if size > MAX_FILE_BYTES:
            raise errors.InvalidArgument(f"size {size} is too large")
        shared = handle.inode if handle is not None else self._handles.shared(ino)
        async with shared.lock:
            inode, was_clean = await self._begin_change(ino, handle)
            extents = None
            if not inode.is_complete:
                inode, extents = await self._resize_partial(inode, size)
            changed = await self._engine.set_size(ino, size, extents, still_open=shared.writers > 0)
            failpoint("truncate.recorded")
            if size == 0:
                self._hydrator.forget(ino)
            try:
                if was_clean or size < inode.size:
                    await self._engine.sync()
            finally:
                await self._chunks.truncate(ino, inode.content_version, inode.chunk_bytes, inode.size, size)
        if not shared.writers:
            self._exporter.wake()
        return changed

    async def _resize_partial(self, inode: Inode, size: int) -> tuple[Inode, bytes | None]:
        if 0 < size < inode.size and size % BLOCK_BYTES:
            await self._hydrator.ensure(inode, size - 1, size)
        await self._hydrator.quiesce(inode)
        inode = await self._engine.get(inode.ino)
        if inode.is_complete:
            return inode, None
        if size > inode.size:
            return inode, await self._grown(inode, size)
        residency = (await self._hydrator.content(inode)).residency
        residency.truncate(size)
        return inode, residency.encode()

    async def fsync(self, fh: FileHandleId) -> None:
        """Data and metadata of everything acknowledged so far survive a power cut when this returns."""
        self._handles.file(fh)
        await self._engine.sync()

    async def close(self, fh: FileHandleId) -> None:
        """The last writer's close makes the file due; the last close of an unlinked file is its end."""
        handle = self._handles.close_file(fh)
        shared = handle.inode
        if handle.has_written:
            shared.writers -= 1
            if not shared.writers and await self._engine.make_due(shared.ino):
                self._exporter.wake()
        if not shared.handles and self._handles.ended(shared.ino):
            await self.bury(shared.ino)

    async def touch_atime(self, inode: Inode) -> None:
        """An inode of any kind was read. As relatime: once a day, or after a change. Source: mount(8), "relatime"."""
        if self._noatime:
            return
        if inode.atime_ns <= max(inode.mtime_ns, inode.ctime_ns) or time.time_ns() - inode.atime_ns > _RELATIME_NS:
            await self._engine.touch_atime(inode.ino)

    async def bury(self, ino: Ino) -> None:
        """Remove an orphan nobody has any use for."""
        gone = await self._engine.purge_orphan(ino)
        if gone is not None:
            await self.drop_content(gone)
            self._exporter.wake()

    async def drop_content(self, inode: Inode) -> None:
        """Delete the bytes of an inode that is gone from the table."""
        if inode.is_file:
            await self._exporter.interrupt(inode.ino)
            self._hydrator.forget(inode.ino)
            failpoint("delete.recorded")
            self._chunks.condemn(inode.ino, inode.content_version, inode.chunk_bytes, inode.size)
