"""Losses: what becomes of content that a failing storage target lost.

Archived and clean: the local bytes are dropped, and the next reader fetches them from the bucket. Anything else existed only
here: the file is marked, and none of its bytes is served or exported any more, since nobody can tell the good ones from the lost
ones, until it is emptied or deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore, LostContent
from s3lustrefs.meta.damage import Damage
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.events import InodeInvalidation, Invalidation
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.hydrator import Hydrator

log = logging.getLogger(__name__)


class Losses:
    """`cancel_export` stops an upload of an inode that is under way."""

    def __init__(
        self,
        engine: MetadataEngine,
        chunks: ChunkStore,
        damage: Damage,
        hydrator: Hydrator,
        cancel_export: Callable[[Ino], None],
        notify: Callable[[Invalidation], None],
    ) -> None:
        self._engine = engine
        self._chunks = chunks
        self._damage = damage
        self._hydrator = hydrator
        self._cancel_export = cancel_export
        self._notify = notify

    async def sync_content(self) -> None:
        """All content is on disk, or what is not is noted as lost in the same commit. Raises: OutOfSpace, StorageError."""
        for lost in await self._chunks.sync_dirty():
            self._damage.note(lost.ino, lost.version, lost.reason)
            await self._take(lost)
            self._chunks.settle_lost(lost.ino, lost.version)
            self._notify(InodeInvalidation(lost.ino, content=True))

    async def resume(self) -> None:
        """At start: what was noted before is still lost."""
        for ino, version, reason in self._damage.noted():
            await self._take(LostContent(ino, version, reason))

    async def _take(self, lost: LostContent) -> None:
        self._chunks.refuse(lost.ino, lost.version, lost.reason)
        try:
            inode = await self._engine.get(lost.ino)
        except errors.StaleInode:
            return
        if inode.content_version != lost.version:
            return
        self._cancel_export(inode.ino)
        path = await self._path(inode.ino)
        if await self._drop(inode):
            log.warning("local copy lost, the bucket has another ino=%d path=%s error=%s", inode.ino, path, lost.reason)
        else:
            log.error("content lost ino=%d path=%s error=%s", inode.ino, path, lost.reason)

    async def _drop(self, inode: Inode) -> bool:
        """Give up the local copy if the bucket has another: whether it has."""
        if inode.is_dirty or await self._engine.source_of(inode) is None:
            return False
        try:
            await self._engine.release_content(inode.ino, even_pinned=True)
        except errors.NotPermitted:  # its object is gone
            return False
        self._hydrator.forget(inode.ino)
        self._chunks.condemn(inode.ino, inode.content_version, inode.chunk_bytes, inode.size)
        self._damage.clear(inode.ino)
        return True

    async def _path(self, ino: Ino) -> str:
        try:
            return (await self._engine.path_of(ino)).decode(errors="replace")
        except errors.NotFound:
            return "(unlinked)"
