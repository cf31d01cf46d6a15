"""DeleteExport: an object whose name is gone, and whether and when it may go too."""

from __future__ import annotations

import logging
import math

import trio

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.schema import Change, JournalRecord, ObjectRecord
from s3lustrefs.model.ids import NO_INO, AssocId
from s3lustrefs.movers.delete_batches import DeleteBatches
from s3lustrefs.movers.disputes import Disputes
from s3lustrefs.movers.export_order import ExportOrder, HoldKey, LeftBehind, NotYet, sync_together
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.sent_objects import SentObjects
from s3lustrefs.repository.object_store import Condition, ObjectStore

log = logging.getLogger(__name__)

_LATE_SECONDS = 3.0
"""How long after a request was given up, or its daemon died, its object is still looked for."""


class DeleteExport:
    """Exports one lost-key record."""

    def __init__(self, engine: MetadataEngine, hydrator: Hydrator, repositories: Repositories, disputes: Disputes) -> None:
        self._engine = engine
        self._order = ExportOrder(engine, hydrator, disputes.vanished)
        self._repositories = repositories
        self._disputes = disputes
        self._sent = SentObjects(engine)
        self._batches: dict[AssocId, DeleteBatches] = {}
        self._looked_since: dict[tuple[AssocId, bytes], float] = {}
        self.deleted_objects = 0

    async def export(self, record: JournalRecord, hold: HoldKey) -> None:
        """One that was ordered is deleted although a file has its name. Raises: NotYet, RepositoryError, StorageError."""
        association = self._engine.association(record.assoc)
        place = (record.assoc, record.key)
        is_ordered = bool(record.change & Change.ORDERED)
        is_wanted = is_ordered or (association is not None and "DELETED" in association.auto_export)
        if association is None or not (is_wanted and association.is_written(record.key)):
            self._looked_since.pop(place, None)
            await self._engine.finish(record)
            return
        async with hold(*place):
            if await self._engine.holder(*place) is None or (is_ordered and await self._is_nobodys(*place)):
                await self._clear(*place)
            self._looked_since.pop(place, None)  # when the name is lost another time, that begins anew
            await self._engine.finish(record)

    async def _is_nobodys(self, assoc: AssocId, key: bytes) -> bool:
        known = await self._engine.find_object(assoc, key)
        return known is not None and known.ino == NO_INO

    async def follow(self, left: LeftBehind, hold: HoldKey) -> None:
        """Delete what a file was copied from, if nobody has that name any more: it need not be looked at again so soon.

        Whatever stands in the way is left to the record of the lost name, or of the directory it was lost with.
        """
        assoc, key = left.known.assoc, left.known.key
        association = self._engine.association(assoc)
        if association is None or "DELETED" not in association.auto_export or not association.is_written(key):
            return
        async with hold(assoc, key):
            known = await self._engine.find_object(assoc, key)
            if known is None or known.etag != left.known.etag or await self._engine.holder(assoc, key) is not None:
                return
            if await self._engine.noted_writes(assoc, key):
                return
            try:
                await self._order.before_delete(known)
                if not await self._delete(self._repositories.to_write(assoc), known, left.looked_at):
                    return
            except (NotYet, errors.S3LustreError) as reason:
                log.debug("delete left to its own record key=%r reason=%s", key, reason)
                return
            self._looked_since.pop((assoc, key), None)
            await self._engine.forget_object(assoc, key, with_writes=True)
            record = await self._engine.find_lost_key(assoc, key)
            if record is not None and not record.change & Change.SUBTREE:
                await self._engine.finish(record)

    async def _clear(self, assoc: AssocId, key: bytes) -> None:
        """Nothing of ours stays under the key: neither the object the table knows nor what an unanswered request left."""
        store = self._repositories.to_write(assoc)
        await self._sent.drop_uploads(store, assoc, key)
        known = await self._engine.find_object(assoc, key)
        if known is not None and key.endswith(b"/") and known.size:
            return  # others keep content in a directory's object, which nobody here has seen
        if known is not None:
            await self._order.before_delete(known)
        noted = await self._engine.noted_writes(assoc, key)
        gone = bool(noted) and await self._delete_sent(store, assoc, key)
        if known is not None and not gone and not await self._delete(store, known):
            return
        if noted and not gone and self._may_still_come(assoc, key):
            await self._engine.forget_object(assoc, key)
            raise NotYet(0.5)
        await self._engine.forget_object(assoc, key, with_writes=True)

    def _may_still_come(self, assoc: AssocId, key: bytes) -> bool:
        """A request given up may be carried out a little later, since not every endpoint looks at its condition."""
        since = self._looked_since.setdefault((assoc, key), trio.current_time())
        return trio.current_time() - since < _LATE_SECONDS

    async def _delete_sent(self, store: ObjectStore, assoc: AssocId, key: bytes) -> bool:
        """Whether the object was one of ours, and is gone now."""
        try:
            head = await store.head(key)
        except errors.ObjectNotFound:
            return False
        if not await self._sent.wrote(assoc, key, head):
            return False
        await sync_together(self._engine)
        await store.delete(key, Condition(head.version.etag))
        self.deleted_objects += 1
        return True

    def _batch(self, store: ObjectStore, assoc: AssocId) -> DeleteBatches:
        if assoc not in self._batches:
            self._batches[assoc] = DeleteBatches(store)
        return self._batches[assoc]

    async def _delete(self, store: ObjectStore, known: ObjectRecord, looked_at: float = -math.inf) -> bool:
        """Whether the object is gone; if somebody has changed it, it is a file here again. Raises: RepositoryError; ObjectNotFound
        when somebody else was faster, which the next attempt finds out; NotYet."""
        try:
            # A power cut must not bring a name back whose object is gone, nor forget bytes that were fetched because it goes.
            await sync_together(self._engine)
            failpoint("delete.before")
            await self._batch(store, known.assoc).delete(known.key, known.etag, looked_at)
            failpoint("delete.answered")
        except errors.ObjectChanged as exc:
            head = await store.head(known.key)
            if head.version.etag == known.etag:
                raise errors.RepositoryUnavailable(f"{exc}; but it is as it was") from exc
            if await self._sent.wrote(known.assoc, known.key, head):
                raise NotYet(0.0) from exc  # a request given up was carried out just now
            log.warning("delete given up, the object changed in the bucket key=%r", known.key)
            await self._disputes.bring_back(known.assoc, known.key, head)
            return False
        self.deleted_objects += 1
        return True
