"""AssociationWatch: finds out that an association cannot do its work any more, and that it can again.

MISCONFIGURED is entered when the bucket is gone, when a permission is missing, when the bucket no longer sends its events to the
queue that was made for it, or when that queue is further behind than it keeps messages; and left when that is over. A bucket
that does not answer is no cause: that passes. Meanwhile nothing is imported or exported by itself; what is to be exported is
recorded, and sent afterwards. A queue that is too far behind is listened to again with the next look, since nothing else brings it
forward: its association may be MISCONFIGURED several times until it has caught up.

Source: FSx for Lustre User Guide, "Data repository association lifecycle"; fsx-spec section 2.3.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import trio

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.schema import JournalRecord
from s3lustrefs.model.association import Association
from s3lustrefs.model.ids import AssocId, Ino
from s3lustrefs.movers import event_plan
from s3lustrefs.movers.links import Link, Links
from s3lustrefs.movers.repositories import Repositories

log = logging.getLogger(__name__)

_PERIOD_SECONDS = 30.0
_PERIOD_WHILE_FAILED_SECONDS = 10.0
_LOOK_SECONDS = 25.0
"""A look that takes longer says nothing."""
_DOUBT_SECONDS = 1.0
"""Endpoints refuse a request now and then for no reason: one refusal does not make an association that works MISCONFIGURED."""
_PAGE = 500
_PAGES = 4
_BACKLOG_SECONDS = 14 * 86400 - 3600
"""SQS keeps messages for 14 days; what is older is lost."""
_DIRECTORY_GONE = "its directory is gone from the file system; delete the association"

Reach = Callable[[Association, bool], Awaitable[None]]
"""Looks at the bucket, with a write if the flag is set. Raises: RepositoryError."""


class AssociationWatch:
    """`reach` looks at a bucket, `on_recovered` has the exporter try again what failed."""

    def __init__(
        self, engine: MetadataEngine, repositories: Repositories, links: Links, reach: Reach, on_recovered: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._repositories = repositories
        self._links = links
        self._reach = reach
        self._on_recovered = on_recovered
        self._denied: set[AssocId] = set()
        """Whose exports were refused: then a look includes a write."""
        self._after = b""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look after every association that is not being worked on. Ends by cancellation."""
        task_status.started()
        await self.look_again()
        until = trio.current_time() + _PERIOD_SECONDS
        while True:
            await trio.sleep(_PERIOD_WHILE_FAILED_SECONDS)
            await self._look_for_denied()
            await self._note_queues()
            everyone = trio.current_time() >= until
            if everyone:
                until = trio.current_time() + _PERIOD_SECONDS
            await self._look_at_all("AVAILABLE", "MISCONFIGURED") if everyone else await self.look_again()

    async def look_again(self) -> None:
        """Look at once whether what is MISCONFIGURED still has to be."""
        await self._look_at_all("MISCONFIGURED")

    async def _look_at_all(self, *lifecycles: str) -> None:
        async with trio.open_nursery() as nursery:
            for association in self._engine.all_associations():
                if association.lifecycle in lifecycles or association.assoc_id in self._denied:
                    nursery.start_soon(self._look_at, association)

    async def _look_at(self, association: Association) -> None:
        try:
            with trio.move_on_after(_LOOK_SECONDS):
                await self._settle(association, await self._cause(association))
        except errors.S3LustreError as exc:
            log.info("association not looked at association=%s reason=%s", association.association_id, exc)
        except Exception:
            # A defect must leave the association as it is, and not end the mount.
            log.exception("association not looked at association=%s", association.association_id)

    async def renew(self, association: Association) -> None:
        """Work on an update: make the event queue's configuration anew if need be, and find out how the association is now.

        Raises: StorageError.
        """
        if association.has_event_queue:
            association = replace(association, has_event_queue=False)
            await self._engine.update_association(association)
        self._links.listen_again(association.assoc_id)
        cause: errors.RepositoryError | None = None
        with trio.move_on_after(_LOOK_SECONDS):
            try:
                cause = await self._cause(association)
            except errors.RepositoryError as exc:
                log.info("updated association not looked at association=%s reason=%s", association.association_id, exc)
        failpoint("update.looked")
        await self._settle(association, cause)

    # --- causes ----------------------------------------------------------------------------------------------------------

    async def _cause(self, association: Association) -> errors.RepositoryError | None:
        """Why it cannot do its work, or None. Raises: RepositoryUnavailable when nobody knows."""
        cause = await self._defect(association)
        if cause is not None and association.lifecycle == "AVAILABLE":
            await trio.sleep(_DOUBT_SECONDS)
            cause = await self._defect(association)
        return cause

    async def _defect(self, association: Association) -> errors.RepositoryError | None:
        link = self._links.find(association.assoc_id)
        if link is None:
            return None
        writable = bool(association.auto_export) and (
            association.assoc_id in self._denied or association.lifecycle == "MISCONFIGURED"
        )
        try:
            await self._reach(association, writable)
            await self._check_events(association, link)
        except errors.RepositoryUnavailable:
            raise
        except errors.RepositoryError as exc:
            return exc
        self._denied.discard(association.assoc_id)
        return None

    async def _check_events(self, association: Association, link: Link) -> None:
        """Raises: RepositoryRejected for a configuration that was removed, or a backlog; RepositoryUnavailable."""
        listener = self._links.listener_of(association.assoc_id)
        if listener is None or not association.auto_import:
            return
        told = listener.statistics()
        if told.oldest_queued_seconds is not None and told.oldest_queued_seconds > _BACKLOG_SECONDS:
            raise errors.RepositoryRejected(
                f"changes in the bucket wait in queue {told.queue} for more than 14 days: some were lost; update the association"
            )
        if association.has_event_queue:
            await event_plan.check_own_queue(association, link.credentials)

    async def _note_queues(self) -> None:
        """Who listens to a queue made here has been sent there by the bucket."""
        for association in self._engine.associations():
            listener = self._links.listener_of(association.assoc_id)
            if listener is None or association.has_event_queue or not event_plan.has_own_queue(association):
                continue
            if listener.statistics().state == "LISTENING":
                await self._engine.update_association(replace(association, has_event_queue=True))

    async def _look_for_denied(self) -> None:
        """Exports that were refused for want of a permission, a few thousand records at a time."""
        for _ in range(_PAGES):
            rows = await self._engine.due(self._after, _PAGE)
            for _, record in rows:
                if record.error_code == errors.RepositoryDenied.code:
                    self._denied |= {assoc for assoc in [await self._association_of(record)] if assoc}
            self._after = rows[-1][0] if len(rows) == _PAGE else b""
            if not self._after:
                return
            await trio.lowlevel.checkpoint()

    async def _association_of(self, record: JournalRecord) -> AssocId:
        if not record.ino:
            return record.assoc
        try:
            location = await self._engine.locate(await self._engine.get(record.ino))
        except (errors.StaleInode, errors.NotFound):
            return record.assoc
        return location.association.assoc_id if location is not None else record.assoc

    # --- consequences ----------------------------------------------------------------------------------------------------

    async def _settle(self, association: Association, cause: errors.RepositoryError | None) -> None:
        assoc = association.assoc_id
        before = self._engine.association(assoc)
        if before is None or before.lifecycle not in ("AVAILABLE", "MISCONFIGURED", "UPDATING"):
            return
        if not await self._has_directory(before):
            await self._engine.move_association(assoc, "FAILED", _DIRECTORY_GONE)
            await self._links.disconnect(assoc)
            log.error("association failed association=%s error=%s", association.association_id, _DIRECTORY_GONE)
            return
        if cause is None:
            if before.lifecycle == "AVAILABLE":
                return
            await self._engine.move_association(assoc, "AVAILABLE")
            self._repositories.recover(assoc)
            self._on_recovered()
            log.info("association available association=%s", association.association_id)
            return
        self._repositories.fail(assoc, cause)
        if before.lifecycle != "MISCONFIGURED" or before.failure != str(cause):
            await self._engine.move_association(assoc, "MISCONFIGURED", str(cause))
        if not before.failure:
            log.error("association misconfigured association=%s error=%s", association.association_id, cause)

    async def _has_directory(self, association: Association) -> bool:
        try:
            return (await self._engine.get(Ino(association.root_ino))).is_dir
        except errors.StaleInode:
            return False
