"""DeleteExport: an object whose name is gone, and whether and when it may go too."""

from __future__ import annotations

import logging

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.schema import JournalRecord, ObjectRecord
from s3lustrefs.model.ids import NO_INO
from s3lustrefs.movers.export_files import HoldKey, NotYet
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.repository.object_store import Condition

log = logging.getLogger(__name__)


class DeleteExport:
    """Exports one lost-key record."""

    def __init__(self, engine: MetadataEngine, hydrator: Hydrator, repositories: Repositories) -> None:
        self._engine = engine
        self._hydrator = hydrator
        self._repositories = repositories
        self.deleted_objects = 0

    async def export(self, record: JournalRecord, hold: HoldKey) -> None:
        """Raises: NotYet, RepositoryError."""
        association = self._engine.association(record.assoc)
        if association is None or "DELETED" not in association.auto_export:
            await self._engine.finish(record)
            return
        async with hold(record.assoc, record.key):
            known = await self._engine.find_object(record.assoc, record.key)
            if known is not None and await self._engine.holder(record.assoc, record.key) is None:
                await self._wait_for_dependant(known)
                await self._delete(known)
            await self._engine.finish(record)

    async def _wait_for_dependant(self, known: ObjectRecord) -> None:
        """A renamed file is copied from this object first; a file that nobody exports any more gets its bytes."""
        view = await self._engine.export_view(known.ino) if known.ino else None
        if view is None or view.source is None or (view.source.assoc, view.source.key) != (known.assoc, known.key):
            return
        inode = view.inode
        if not inode.nlink and not inode.is_complete:
            raise NotYet(1.0)  # unlinked but open: until it is closed
        if view.targets and await self._engine.find_journal(inode.ino) is not None:
            raise NotYet(0.1)
        current = await self._engine.dependant(known, NO_INO)
        if current is not None:
            await self._hydrator.ensure(current, 0, current.size)

    async def _delete(self, known: ObjectRecord) -> None:
        store = self._repositories.of(known.assoc)
        try:
            failpoint("delete.before")
            await store.delete(known.key, Condition(known.etag))
            failpoint("delete.answered")
        except errors.ObjectChanged:
            log.warning("delete given up, the object changed in the bucket key=%r", known.key)
        else:
            self.deleted_objects += 1
        await self._engine.forget_object(known.assoc, known.key)
