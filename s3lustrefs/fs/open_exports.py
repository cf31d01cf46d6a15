"""OpenExports: files held open for writing longer than `export_open_after` are exported as they are at one moment.

Writers wait while the content is copied beside (`data/snapshot`), not while it goes up. The file stays dirty, and its journal
record open, unless nothing was written meanwhile: then it is as clean as after a close, and the next write a first one again. So
a death at any point finds a dirty file, whose next export meets an object that is known, or noted, as our own.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.data.snapshot import Snapshots
from s3lustrefs.failpoints import failpoint
from s3lustrefs.fs.handles import Handles, OpenInode
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.schema import JournalRecord
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.exporter import Exporter
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.movers.room import Room

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_AT_ONCE = 2


class OpenExports:
    """See the module docstring."""

    def __init__(
        self,
        engine: MetadataEngine,
        chunks: ChunkStore,
        snapshots: Snapshots,
        hydrator: Hydrator,
        exporter: Exporter,
        handles: Handles,
        room: Room,
    ) -> None:
        self._engine = engine
        self._chunks = chunks
        self._snapshots = snapshots
        self._hydrator = hydrator
        self._exporter = exporter
        self._handles = handles
        self._room = room
        self._limit = trio.Semaphore(_AT_ONCE)
        self._under_way: set[Ino] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look for files that have been open long enough. Ends by cancellation."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(_LOOK_SECONDS)
                if any(association.export_open_after_seconds for association in self._engine.associations()):
                    for shared in self._handles.written():
                        if shared.ino not in self._under_way and await self._is_late(shared):
                            shared.written_since = trio.current_time()
                            self._under_way.add(shared.ino)
                            nursery.start_soon(self._export, shared)

    async def _is_late(self, shared: OpenInode) -> bool:
        try:
            location = await self._engine.locate(await self._engine.get(shared.ino))
        except errors.StaleInode:
            return False
        patience = location.association.export_open_after_seconds if location else 0.0
        return bool(patience) and trio.current_time() - shared.written_since >= patience

    async def _export(self, shared: OpenInode) -> None:
        try:
            async with self._limit:
                frozen, record, changes = await self._freeze(shared)
                try:
                    failpoint("snapshot.taken")
                    await self._exporter.export_snapshot(frozen, record, lambda: self._as_it_was(shared, changes))
                finally:
                    self._chunks.condemn(frozen.ino, frozen.content_version, frozen.chunk_bytes, frozen.size)
        except errors.S3LustreError as exc:
            # Nothing is lost: it is tried again after as long again, and exported at its close in any case.
            log.warning("open file not exported ino=%d error=%s", shared.ino, exc)
        except Exception:
            # A defect must cost one file this export, not everybody their mount.
            log.exception("open file not exported ino=%d", shared.ino)
        finally:
            self._under_way.remove(shared.ino)

    async def _freeze(self, shared: OpenInode) -> tuple[Inode, JournalRecord | None, int]:
        """The inode as of a moment with a copy of its content, under a version of its own; its journal record, and which change of
        its content was the last."""
        inode = await self._engine.get(shared.ino)
        await self._hydrator.ensure(inode, 0, inode.size)
        await self._room.ensure(inode.size)
        async with shared.lock:
            inode = await self._engine.get(shared.ino)
            await self._hydrator.ensure(inode, 0, inode.size)
            # The record first, and both before the copy: what changes meanwhile makes another record of it, which stays.
            record = await self._engine.find_journal(shared.ino)
            inode = await self._engine.get(shared.ino)
            frozen = replace(inode, content_version=self._snapshots.new_version())
            await self._snapshots.take(inode, frozen.content_version)
            return frozen, record, shared.changes

    @asynccontextmanager
    async def _as_it_was(self, shared: OpenInode, changes: int) -> AsyncIterator[bool]:
        """Whether nothing was written since; nothing is, either, while this is held."""
        async with shared.lock:
            is_unchanged = shared.changes == changes and bool(shared.writers)
            yield is_unchanged
            if is_unchanged:
                self._handles.forget_writes(shared)
