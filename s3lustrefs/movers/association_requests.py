"""AssociationRequests: what was asked for about associations is worked on here, one request at a time, in the order of asking.

The queue is in the table (`model.association_lifecycle`), so that it survives whatever happens to this process: a request is
done when its association has left the state that stands for it, and each step before can be repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace

import trio

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.schema import JournalRecord
from s3lustrefs.model import association_lifecycle as life
from s3lustrefs.model.association import Association, AssociationSettings
from s3lustrefs.model.ids import Ino
from s3lustrefs.movers import event_plan
from s3lustrefs.movers.association_watch import AssociationWatch
from s3lustrefs.movers.links import Links
from s3lustrefs.movers.unlinker import Unlinker
from s3lustrefs.repository.object_store import Capabilities
from s3lustrefs.repository.retry import backoff_seconds

log = logging.getLogger(__name__)

_PAGE = 500
_QUEUE_SECONDS = 30.0
_MOST_COUNTED = 50_000
"""Journal records looked at to tell how many changes a deletion abandons: a tenth of a second."""


class AssociationRequests:
    """See the module docstring. `probe` makes sure that a bucket can be used, where nobody could when it was asked for."""

    def __init__(
        self,
        engine: MetadataEngine,
        links: Links,
        unlinker: Unlinker,
        watch: AssociationWatch,
        probe: Callable[[AssociationSettings], Awaitable[Capabilities | None]],
    ) -> None:
        self._engine = engine
        self._links = links
        self._unlinker = unlinker
        self._watch = watch
        self._probe = probe
        self._wake = trio.Event()

    def wake(self) -> None:
        """Something was asked for."""
        self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work on one request after the other, those that an earlier daemon left first. Ends by cancellation."""
        task_status.started()
        failures = 0
        while True:
            self._wake = trio.Event()
            association = life.next_asked(self._engine.all_associations())
            if association is None:
                await self._wake.wait()
                continue
            try:
                await self._work_on(association)
                failures = 0
            except errors.S3LustreError as exc:
                failures += 1
                log.warning(
                    "request not done, trying again association=%s lifecycle=%s error=%s",
                    association.association_id, association.lifecycle, exc,
                )  # fmt: skip
            except Exception:
                # A defect must cost one association its change, not everybody their mount.
                failures += 1
                log.exception("request not done association=%s lifecycle=%s", association.association_id, association.lifecycle)
            if failures:
                with trio.move_on_after(backoff_seconds(failures)):
                    await self._wake.wait()

    async def _work_on(self, association: Association) -> None:
        if association.lifecycle == "CREATING":
            await self._create(association)
        elif association.lifecycle == "UPDATING":
            await self._watch.renew(association)
        else:
            await self._links.disconnect(association.assoc_id)
            await self._remove_queue(association)
            await self._unlinker.unlink(association)

    async def _remove_queue(self, association: Association) -> None:
        """Nobody would ever empty it. What stands in the way is told, and no reason to keep the association."""
        if not self._links.has_own_queue(association):
            return
        try:
            with trio.fail_after(_QUEUE_SECONDS):
                await event_plan.remove_own_queue(association)
        except (errors.RepositoryError, trio.TooSlowError) as exc:
            log.warning("event queue stays queue=s3lustrefs-%s reason=%s", association.association_id, exc or "no answer")

    # --- creating --------------------------------------------------------------------------------------------------------

    async def _create(self, association: Association) -> None:
        try:
            association = await self._looked_at(association)
            if not association.root_ino:
                association = await self._engine.link_association(association)
            failpoint("create.linked")
            await self.keep_local(association)
            failpoint("create.kept")
            if self._engine.association(association.assoc_id) is None:
                return  # its deletion was asked for
            if self._links.find(association.assoc_id) is None:
                self._links.connect(association)
        except errors.NotInRepository:
            return  # its deletion was asked for
        except (errors.ConfigError, errors.RepositoryError) as exc:
            if isinstance(exc, errors.RepositoryUnavailable):
                raise
            log.error("association cannot be made association=%s error=%s", association.association_id, exc)
            await self._engine.move_association(association.assoc_id, "FAILED", str(exc))
            return
        await self._engine.move_association(association.assoc_id, "AVAILABLE")
        failpoint("create.available")
        log.info("association made association=%s directory=%s", association.association_id, association.file_system_path)

    async def _looked_at(self, association: Association) -> Association:
        """One that was asked for while nothing was mounted has not been looked at. Raises: RepositoryError."""
        if association.capabilities is not None:
            return association
        able = await self._probe(association)
        if able is not None:
            association = replace(association, capabilities=asdict(able))
            await self._engine.update_association(association)
        return association

    async def keep_local(self, association: Association) -> None:
        """Nothing that was in a directory before it was linked is exported for that. Raises: NotInRepository, StorageError."""
        directories = [Ino(association.root_ino)]
        while directories:
            directory = directories.pop()
            after: bytes | None = b""
            while after is not None:
                if self._engine.association(association.assoc_id) is None:
                    raise errors.NotInRepository(f"association {association.association_id} is being deleted")
                after, below = await self._engine.keep_local(directory, after, _PAGE)
                directories += below
                await self._engine.wait_room()
                await trio.lowlevel.checkpoint()


async def unexported(engine: MetadataEngine, association: Association) -> tuple[int, bool]:
    """How many changes below an association are not in the bucket yet; True: and perhaps more."""
    found, seen, after = 0, 0, b""
    while seen < _MOST_COUNTED:
        rows = await engine.due(after, _PAGE)
        for _, record in rows:
            found += await _is_of(engine, association, record)
        seen += len(rows)
        if len(rows) < _PAGE:
            return found, False
        after = rows[-1][0]
        await trio.lowlevel.checkpoint()
    return found, True


async def _is_of(engine: MetadataEngine, association: Association, record: JournalRecord) -> bool:
    if not record.ino:
        return record.assoc == association.assoc_id
    try:
        inode = await engine.get(record.ino)
        location = await engine.locate(inode)
    except (errors.StaleInode, errors.NotFound):
        return False
    is_source = not inode.is_complete and inode.source_assoc == association.assoc_id
    return is_source or (location is not None and location.association.assoc_id == association.assoc_id)
