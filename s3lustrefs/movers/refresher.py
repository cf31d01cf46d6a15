"""Refresher: what to do when an object turns out to be another version than the table says."""

from __future__ import annotations

import logging
from collections.abc import Callable

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.events import DentryInvalidation, InodeInvalidation, Invalidation
from s3lustrefs.model.ids import AssocId, Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.object_versions import record_of
from s3lustrefs.movers.repositories import Repositories

log = logging.getLogger(__name__)


class Refresher:
    """Re-imports single objects."""

    def __init__(
        self, engine: MetadataEngine, chunks: ChunkStore, repositories: Repositories, notify: Callable[[Invalidation], None]
    ) -> None:
        self._engine = engine
        self._chunks = chunks
        self._repositories = repositories
        self._notify = notify

    async def refresh(self, ino: Ino, place: tuple[AssocId, bytes] | None = None, *, always: bool = False) -> bool:
        """Import the present version of a clean file's object; new opens see it. A file with local changes is left alone.

        True when the object is the version known: whoever said otherwise was wrong. `always`: import it then, too, since
        metadata can change and leave the ETag as it is. `place`: the object of one of several names; that which has the file's
        content, if none is given.

        Raises: RepositoryError when the bucket does not say what it has.
        """
        inode = await self._engine.get(ino)
        source = await self._engine.source_of(inode)
        known = await self._engine.find_object(*place) if place is not None else None
        known = known if known is not None and known.ino == ino else source
        if known is None:
            return False
        try:
            head = await self._repositories.of(known.assoc).head(known.key)
        except errors.ObjectNotFound:
            if known == source:
                await self._engine.object_vanished(ino)
                self._notify(InodeInvalidation(ino, content=True))
            return False
        if head.version.etag == known.etag and not always:
            return True
        replaced = await self._engine.replace_content(ino, record_of(known.assoc, known.key, head.version))
        if replaced is not None:
            failpoint("refresh.recorded")
            self._follow(inode, replaced)
            log.info("object re-imported ino=%d key=%r", replaced.ino, known.key)
        return False

    def _follow(self, before: Inode, replaced: Inode) -> None:
        if replaced.ino == before.ino:
            self._chunks.condemn(before.ino, before.content_version, before.chunk_bytes, before.size)
            self._notify(InodeInvalidation(before.ino, content=True))
        else:  # a name that left the file
            self._notify(DentryInvalidation(replaced.parent, replaced.name))
            self._notify(InodeInvalidation(before.ino, content=False))
