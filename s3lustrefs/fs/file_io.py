"""FileIO: open, read, write, truncate, sync and close of files over the chunk store and the inode table.

Crash windows: `begin_write` is logged before the first byte changes, so that a dirty file is never taken for a clean one;
bytes are in the chunk store before the record that speaks of them; a truncate's record is durable before its bytes go, and
start-up cuts what a crash left behind past the end.

Full and failing disks: a change that fails leaves the table as it was. Bytes it may have left behind past the end of the
file are cut before the file may grow over them (`_tails`); what a close could not record is tried again (`run`), since
nobody hears of an error then.
"""

from __future__ import annotations

import logging
import os
import time

import trio

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.data.residency import BLOCK_BYTES, Residency, blocks_of
from s3lustrefs.failpoints import failpoint
from s3lustrefs.fs.handles import FileHandle, Handles
from s3lustrefs.meta.damage import Damage
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import FileHandleId, Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.exporter import Exporter
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.movers.room import Room

log = logging.getLogger(__name__)

_RELATIME_NS = 24 * 3600 * 10**9
_RETRY_SECONDS = 1.0
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
        damage: Damage,
        room: Room,
        *,
        noatime: bool,
    ) -> None:
        self._engine = engine
        self._chunks = chunks
        self._hydrator = hydrator
        self._exporter = exporter
        self._handles = handles
        self._damage = damage
        self._room = room
        self._noatime = noatime
        self._tails: dict[Ino, int] = {}
        self._unsynced: set[Ino] = set()
        self._unclosed: set[Ino] = set()
        self._unclosed_changed = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Record again what closes could not: a file not marked as due would never be exported. Ends by cancellation."""
        task_status.started()
        while True:
            await self._unclosed_changed.wait()
            self._unclosed_changed = trio.Event()
            while self._unclosed:
                await trio.sleep(_RETRY_SECONDS)
                for ino in list(self._unclosed):
                    try:
                        await self._close_again(ino)
                    except errors.StorageError as exc:
                        log.debug("close still not recorded ino=%d error=%s", ino, exc)
                        break
                    self._unclosed.discard(ino)

    async def open(self, inode: Inode, flags: int) -> FileHandle:
        """Raises: whatever `truncate` raises, for O_TRUNC."""
        renewed = not self._handles.is_open(inode.ino) and await self._hydrator.renew(inode.ino)
        if renewed:
            inode = await self._engine.get(inode.ino)
        handle = self._handles.open_file(inode.ino, inode.content_version)
        handle.is_renewed = handle.is_renewed or renewed
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
            if not handle.has_written:
                await self._fetch(await self._current(handle), offset, end)
            inode = await self._begin_change(handle.inode.ino, handle)
            await self._sync_if_clean_before(inode.ino)
            await self._cut_tail(inode)
            extents = None
            if not inode.is_complete:
                await self._hydrator.ensure(inode, offset, end)
                inode = await self._current(handle)
                extents = await self._grown(inode, end)
            try:
                await self._write_where_room_is(inode, offset, data)
                await self._engine.end_write(inode.ino, end, extents, start=offset)
            except errors.StorageError:
                if end > inode.size:
                    self._tails[inode.ino] = max(end, self._tails.get(inode.ino, 0))
                raise
        return len(data)

    async def _write_where_room_is(self, inode: Inode, offset: int, data: bytes) -> None:
        await self._room.ensure(len(data))
        patience = self._room.patience()
        while True:
            try:
                await self._chunks.write(inode.ino, inode.content_version, inode.chunk_bytes, offset, data)
                return
            except errors.OutOfSpace:
                # One target is full while there is room in all.
                if not await patience.make_way():
                    raise

    async def _cut_tail(self, inode: Inode) -> None:
        """Bytes past the end that a failed change may have left: they must not show when the file grows. Raises: StorageError."""
        tail = self._tails.get(inode.ino)
        if tail is not None:
            await self._chunks.truncate(inode.ino, inode.content_version, inode.chunk_bytes, tail, inode.size)
            self._tail_is_cut(inode)

    def _tail_is_cut(self, inode: Inode) -> None:
        self._tails.pop(inode.ino, None)
        if not inode.size:
            self._damage.clear(inode.ino)

    async def _sync_if_clean_before(self, ino: Ino) -> None:
        """Overwriting archived bytes in place: after a power cut they must not pass for the archived ones."""
        if ino in self._unsynced:
            await self._engine.sync()
            self._unsynced.discard(ino)

    async def _fetch(self, inode: Inode, start: int, end: int) -> None:
        """Bring here what a change needs of the old content. Before the change begins, since it may fail: then nothing changed."""
        if not inode.is_complete and start < end:
            await self._hydrator.ensure(inode, start, end)

    async def _begin_change(self, ino: Ino, handle: FileHandle | None) -> Inode:
        """Make it safe to change bytes: no upload reads them, and the table says dirty; on disk it may still say clean
        (`_unsynced`)."""
        self._handles.shared(ino).changes += 1
        if self._exporter.is_uploading(ino):
            await self._exporter.interrupt(ino)
        inode = await self._engine.get(ino)
        if handle is not None and inode.content_version != handle.version:
            raise errors.StaleInode(f"inode {ino} has new content since it was opened; open it again")
        if handle is None or not handle.has_written:
            if inode.hsm & Hsm.EXISTS and not inode.hsm & Hsm.DIRTY:
                self._unsynced.add(ino)
            inode = await self._engine.begin_write(ino)
            if handle is not None:
                self._count_writer(handle)
        return inode

    def _count_writer(self, handle: FileHandle) -> None:
        if not handle.has_written:
            handle.has_written = True
            if not handle.inode.writers:
                handle.inode.written_since = trio.current_time()
            handle.inode.writers += 1

    async def _grown(self, inode: Inode, end: int) -> bytes | None:
        """Residency of a partial file that grows to `end`: whole blocks past the old end are local by definition."""
        if end <= inode.size:
            return None
        residency = (await self._hydrator.content(inode)).residency
        residency.add(blocks_of(inode.size), blocks_of(end))  # harmless beyond the end, should the change fail
        return residency.encode()

    async def truncate(self, ino: Ino, size: int, handle: FileHandle | None = None) -> Inode:
        """Set the size; only the block the new end falls into is fetched when it is missing."""
        if size > MAX_FILE_BYTES:
            raise errors.InvalidArgument(f"size {size} is too large")
        shared = handle.inode if handle is not None else self._handles.shared(ino)
        async with shared.lock:
            inode = await self._engine.get(ino)
            loss = self._chunks.loss_of(ino, inode.content_version)
            if loss is not None and size:
                raise errors.ContentLost(f"content of inode {ino} was lost ({loss}): write the file anew, or delete it")
            await self._fetch(inode, *_cut_through(inode, size))
            inode = await self._begin_change(ino, handle)
            try:
                changed = await self._resize(inode, size, still_open=shared.writers > 0)
            except BaseException:
                if not shared.writers:
                    self._close_later(ino)  # no close will follow that makes it due
                raise
        if not shared.writers:
            self._exporter.wake()
        return changed

    async def _resize(self, inode: Inode, size: int, *, still_open: bool) -> Inode:
        ino = inode.ino
        if size > inode.size:
            await self._cut_tail(inode)
        residency = None
        if not inode.is_complete:
            inode, residency = await self._resize_partial(inode, size)
        extents = residency.encode() if residency is not None else None
        changed = await self._engine.set_size(ino, size, extents, still_open=still_open)
        failpoint("truncate.recorded")
        if changed.content_version != inode.content_version:
            self._start_anew(inode, changed)
            return changed
        if residency is not None:
            (await self._hydrator.content(changed)).residency = residency
        try:
            if ino in self._unsynced or size < inode.size:
                await self._engine.sync()
                self._unsynced.discard(ino)
        finally:
            await self._drop_tail(changed, inode.size)
        return changed

    def _start_anew(self, old: Inode, emptied: Inode) -> None:
        """The file has no bytes any more; all its handles go on with the new content version."""
        self._handles.renew(emptied.ino, old.content_version, emptied.content_version)
        self._hydrator.forget(emptied.ino)
        self._unsynced.discard(emptied.ino)
        end = max(old.size, self._tails.get(emptied.ino, 0))
        self._chunks.condemn(old.ino, old.content_version, old.chunk_bytes, end)
        self._tail_is_cut(emptied)

    async def _drop_tail(self, inode: Inode, old_size: int) -> None:
        """The table has the new size; its bytes follow, at once or, on a disk that fails, before the file grows again."""
        end = max(old_size, self._tails.get(inode.ino, 0))
        try:
            await self._chunks.truncate(inode.ino, inode.content_version, inode.chunk_bytes, end, inode.size)
        except errors.StorageError as exc:
            log.error("truncated bytes keep their space for now ino=%d error=%s", inode.ino, exc)
            self._tails[inode.ino] = end
            return
        self._tail_is_cut(inode)

    async def _resize_partial(self, inode: Inode, size: int) -> tuple[Inode, Residency | None]:
        """The inode as it is then, and what will be resident of it; nothing is changed yet."""
        await self._fetch(inode, *_cut_through(inode, size))  # it may have been released since
        await self._hydrator.quiesce(inode)
        inode = await self._engine.get(inode.ino)
        if inode.is_complete:
            return inode, None
        residency = (await self._hydrator.content(inode)).residency.copy()
        if size > inode.size:
            residency.add(blocks_of(inode.size), blocks_of(size))
        else:
            residency.truncate(size)
        return inode, residency

    async def fsync(self, fh: FileHandleId) -> None:
        """Data and metadata of everything acknowledged so far survive a power cut when this returns.

        Raises: ContentLost when that cannot be said of this file; what other files lost is theirs.
        """
        handle = self._handles.file(fh)
        await self._engine.sync()
        loss = self._chunks.loss_of(handle.inode.ino, handle.version)
        if loss is not None:
            raise errors.ContentLost(f"content of inode {handle.inode.ino} was lost: {loss}")

    async def close(self, fh: FileHandleId) -> None:
        """The last writer's close makes the file due; the last close of an unlinked file is its end."""
        handle = self._handles.close_file(fh)
        shared = handle.inode
        if handle.has_written:
            shared.writers -= 1
        try:
            if handle.has_written and not shared.writers:
                await self._make_due(shared.ino)
            if not shared.handles and self._handles.ended(shared.ino):
                await self.bury(shared.ino)
        except errors.StorageError as exc:
            log.error("close not recorded yet, trying again ino=%d error=%s", shared.ino, exc)
            self._close_later(shared.ino)

    def _close_later(self, ino: Ino) -> None:
        self._unclosed.add(ino)
        self._unclosed_changed.set()

    async def _make_due(self, ino: Ino) -> None:
        if await self._engine.make_due(ino):
            self._exporter.wake()

    async def _close_again(self, ino: Ino) -> None:
        if not self._handles.writers(ino):
            await self._make_due(ino)
        if not self._handles.is_open(ino):
            await self.bury(ino)

    async def touch_atime(self, inode: Inode) -> None:
        """An inode of any kind was read. As relatime: once a day, or after a change. Source: mount(8), "relatime"."""
        if self._noatime:
            return
        if inode.atime_ns <= max(inode.mtime_ns, inode.ctime_ns) or time.time_ns() - inode.atime_ns > _RELATIME_NS:
            try:
                await self._engine.touch_atime(inode.ino)
            except errors.StorageError as exc:  # no reason not to read
                log.debug("access time not recorded ino=%d error=%s", inode.ino, exc)

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
            self._tails.pop(inode.ino, None)
            failpoint("delete.recorded")
            self._chunks.condemn(inode.ino, inode.content_version, inode.chunk_bytes, inode.size)


def _cut_through(inode: Inode, size: int) -> tuple[int, int]:
    """Of the block that a new end falls into, a byte before that: `[start, end)`, empty where no block is cut."""
    return (size - 1, size) if 0 < size < inode.size and size % BLOCK_BYTES else (0, 0)
