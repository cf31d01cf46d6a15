"""HsmRestores: whole files that are to be brought back from the bucket before anybody reads them, in the background.

Two queues for each association, so that a bucket that hangs holds up no other: what was ordered by name (`lfs hsm_restore`) goes
before what is preloaded. Both go behind readers. A queue is in memory only: after a restart the file is as released as it was,
and asking again does no harm.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field

import trio

from s3lustrefs import errors
from s3lustrefs.data.residency import BLOCK_BYTES
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import AssocId, Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.repository.retry import backoff_seconds

log = logging.getLogger(__name__)

_FILES_AT_ONCE = 24
_RANGES_AT_ONCE = 24
"""As many as the hydrator has for the background: a reader who wants a range of these never waits for its turn behind others."""
_RANGE_BYTES = 8 * BLOCK_BYTES
_ATTEMPTS = 3
"""Each lasts as long as a reader's patience with a bucket that does not answer."""
_MOST_WAITING = 1_000_000


@dataclass(slots=True)
class Restore:
    """One file. `size` is what it has to have locally in the end, `resident_before` what it had when it was begun."""

    ino: Ino
    assoc: AssocId
    size: int
    is_ordered: bool
    is_running: bool = False
    resident_before: int = 0
    error: errors.S3LustreError | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)


@dataclass(slots=True)
class Lane:
    """What waits for one association, and what is at work on it."""

    ordered: OrderedDict[Ino, Restore] = field(default_factory=OrderedDict)
    preloads: OrderedDict[Ino, Restore] = field(default_factory=OrderedDict)
    running: int = 0
    ranges: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(_RANGES_AT_ONCE))

    def take(self) -> Restore | None:
        queue = self.ordered or self.preloads
        return queue.popitem(last=False)[1] if queue else None


class HsmRestores:
    """See the module docstring. Trio thread only."""

    def __init__(self, engine: MetadataEngine, hydrator: Hydrator) -> None:
        self._engine = engine
        self._hydrator = hydrator
        self._lanes: defaultdict[AssocId, Lane] = defaultdict(Lane)
        self._restores: dict[Ino, Restore] = {}
        """Every one that has not ended."""
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the restores. Ends by cancellation: what was not brought here by then is not."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    # --- asking ----------------------------------------------------------------------------------------------------------

    def ask(self, inode: Inode, *, ordered: bool) -> Restore:
        """Have a released file brought here; one that is asked for already is not asked for twice.

        Raises: QueueFull; RepositoryUnavailable at the end of the mount.
        """
        if self._nursery is None:
            raise errors.RepositoryUnavailable("the file system is shutting down")
        restore = self._restores.get(inode.ino)
        if restore is None:
            if len(self._restores) >= _MOST_WAITING:
                raise errors.QueueFull(f"{len(self._restores)} restores are waiting already")
            restore = Restore(inode.ino, inode.source_assoc, inode.size, ordered)
            self._restores[inode.ino] = restore
            lane = self._lanes[restore.assoc]
            (lane.ordered if ordered else lane.preloads)[inode.ino] = restore
            self._start(lane)
        elif ordered and not restore.is_ordered:
            restore.is_ordered = True
            lane = self._lanes[restore.assoc]
            if lane.preloads.pop(inode.ino, None) is not None:
                lane.ordered[inode.ino] = restore
        return restore

    def find(self, ino: Ino) -> Restore | None:
        """The restore of a file that waits or is under way."""
        return self._restores.get(ino)

    def cancel(self, ino: Ino) -> bool:
        """Give up a restore; what is here of the file stays. Whether there was one."""
        restore = self._restores.get(ino)
        if restore is None:
            return False
        if restore.is_running:
            restore.scope.cancel()
        else:
            lane = self._lanes[restore.assoc]
            lane.ordered.pop(ino, None)
            lane.preloads.pop(ino, None)
            self._end(restore, errors.InUse("the restore was cancelled"))
        return True

    # --- working ---------------------------------------------------------------------------------------------------------

    def _start(self, lane: Lane) -> None:
        while self._nursery is not None and lane.running < _FILES_AT_ONCE and (restore := lane.take()) is not None:
            lane.running += 1
            restore.is_running = True
            self._nursery.start_soon(self._work, lane, restore, name=f"restore {restore.ino}")

    def _end(self, restore: Restore, error: errors.S3LustreError | None) -> None:
        restore.error = error
        del self._restores[restore.ino]
        restore.done.set()

    async def _work(self, lane: Lane, restore: Restore) -> None:
        error: errors.S3LustreError | None = errors.InUse("the restore was cancelled")
        try:
            with restore.scope:
                error = await self._try(lane, restore)
        finally:
            lane.running -= 1
            self._end(restore, error)
            self._start(lane)

    async def _try(self, lane: Lane, restore: Restore) -> errors.S3LustreError | None:
        """Bring a file here; why it could not be."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._bring(lane, restore)
                return None
            except errors.RepositoryUnavailable as exc:
                if attempt == _ATTEMPTS:
                    log.warning("restore failed ino=%d error=%s", restore.ino, exc)
                    return exc
                await trio.sleep(backoff_seconds(attempt))
            except errors.StaleInode as exc:  # deleted, or replaced by a version that nobody has asked for
                log.info("restore ended ino=%d reason=%s", restore.ino, exc)
                return exc
            except errors.S3LustreError as exc:
                log.warning("restore failed ino=%d error=%s", restore.ino, exc)
                return exc
            except Exception:
                # A defect must cost one file its restore, not everybody their mount.
                log.exception("restore failed unexpectedly ino=%d", restore.ino)
                return errors.StorageError("internal error; daemon.log has the traceback")
        return None

    async def _bring(self, lane: Lane, restore: Restore) -> None:
        inode = await self._engine.get(restore.ino)
        restore.size = inode.size
        restore.resident_before = await self._hydrator.resident_bytes(inode)
        first: errors.S3LustreError | None = None

        async def bring(start: int, end: int) -> None:
            nonlocal first
            try:
                await self._hydrator.ensure(inode, start, end, demand=False)
            except errors.S3LustreError as exc:
                first = first or exc
                nursery.cancel_scope.cancel()
            finally:
                lane.ranges.release()

        async with trio.open_nursery() as nursery:
            for start, end in await self._missing(inode):
                await lane.ranges.acquire()
                nursery.start_soon(bring, start, end)
        if first is not None:
            raise first

    async def _missing(self, inode: Inode) -> list[tuple[int, int]]:
        """Ranges `[start, end)` of at most 8 MiB."""
        if inode.is_complete or inode.hsm & Hsm.DIRTY:
            return []
        found = []
        for block, limit in (await self._hydrator.content(inode)).residency.missing(0, inode.size):
            start, end = block * BLOCK_BYTES, min(limit * BLOCK_BYTES, inode.size)
            found += [(at, min(at + _RANGE_BYTES, end)) for at in range(start, end, _RANGE_BYTES)]
        return found
