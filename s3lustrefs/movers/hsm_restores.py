"""HsmRestores: whole files that are to be brought back from the bucket before anybody reads them, in the background.

Each association has two queues of its own, so that a bucket that hangs holds up no other, and so that what was ordered by name
(`lfs hsm_restore`) never waits for the end of a file that is preloaded. Both go behind readers. A queue is in memory only: after a
restart the file is as released as it was, and asking again does no harm.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import trio

from s3lustrefs import errors
from s3lustrefs.data.residency import BLOCK_BYTES
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import AssocId, Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers import event_log
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.repository.retry import backoff_seconds

log = logging.getLogger(__name__)

_FILES_AT_ONCE = 32
"""Of each queue: files of one range each keep all ranges busy."""
_RANGES_AT_ONCE = 32
"""Fewer than the hydrator has for the background: the rest is for the readahead of those who read."""
_RANGE_BYTES = 8 * BLOCK_BYTES
_ATTEMPTS = 3
"""Each lasts as long as a reader's patience with a bucket that does not answer."""
_MOST_ORDERED = 100_000
"""Anybody may ask for a restore by name: those that wait are not to cost more memory than this (about 35 MB, and a third of a
second at the end of the mount). Preloads ask for a few at a time."""


@dataclass(slots=True)
class Queue:
    """What waits, and how many files of it are at work."""

    waiting: OrderedDict[Ino, Restore] = field(default_factory=OrderedDict)
    running: int = 0


@dataclass(slots=True)
class Lane:
    """The queues of one association, and the ranges that both of them share."""

    ordered: Queue = field(default_factory=Queue)
    preloads: Queue = field(default_factory=Queue)
    ranges: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(_RANGES_AT_ONCE))


@dataclass(slots=True)
class Restore:
    """One file. `size` is what it has to have locally in the end, `resident_before` what it had when it was begun.

    Very many may wait: what only a few need is made when they need it.
    """

    ino: Ino
    size: int
    lane: Lane
    queue: Queue
    is_ordered: bool
    preloads: int = 0
    """How many wait for it beside who ordered it by name."""
    resident_before: int = 0
    error: errors.S3LustreError | None = None
    scope: trio.CancelScope | None = None
    has_ended: bool = False
    _done: trio.Event | None = None

    @property
    def is_running(self) -> bool:
        return self.scope is not None

    @property
    def done(self) -> trio.Event:
        if self._done is None:
            self._done = trio.Event()
            if self.has_ended:
                self._done.set()
        return self._done

    def end(self, error: errors.S3LustreError | None) -> None:
        self.error, self.has_ended = error, True
        if self._done is not None:
            self._done.set()


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
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self._nursery = None  # of many that wait none is begun any more
        finally:
            for restore in self._restores.values():
                restore.end(_shutting_down())
            self._restores.clear()
            self._lanes.clear()

    # --- asking ----------------------------------------------------------------------------------------------------------

    def ask(self, inode: Inode, *, ordered: bool) -> Restore:
        """Have a released file brought here; one that is asked for already is not asked for twice. `ordered`: by name; anybody else
        is to `leave` it.

        Raises: QueueFull; RepositoryUnavailable at the end of the mount.
        """
        if self._nursery is None:
            raise _shutting_down()
        restore = self._restores.get(inode.ino)
        if restore is None:
            if ordered and len(self._restores) >= _MOST_ORDERED:
                raise errors.QueueFull(f"{len(self._restores)} restores are waiting already")
            lane = self._lanes[inode.source_assoc]
            restore = Restore(inode.ino, inode.size, lane, lane.ordered if ordered else lane.preloads, ordered)
            self._restores[inode.ino] = restore
            restore.queue.waiting[inode.ino] = restore
            self._start(restore.queue)
        elif ordered and not restore.is_ordered and restore.queue.waiting.pop(inode.ino, None) is not None:
            restore.queue = restore.lane.ordered
            restore.queue.waiting[inode.ino] = restore
            self._start(restore.queue)
        restore.is_ordered |= ordered
        restore.preloads += not ordered
        return restore

    def leave(self, restore: Restore) -> None:
        """One preload waits for it no more: given up with the last of them, unless it was ordered by name."""
        restore.preloads -= 1
        if not restore.preloads and not restore.is_ordered and self._restores.get(restore.ino) is restore:
            self.cancel(restore.ino)

    @property
    def waiting(self) -> int:
        """Files that are to be brought here, and are not yet."""
        return len(self._restores)

    def find(self, ino: Ino) -> Restore | None:
        """The restore of a file that waits or is under way."""
        return self._restores.get(ino)

    def cancel(self, ino: Ino) -> bool:
        """Give up a restore, whoever waits for it; what is here of the file stays. Whether there was one. Who asks from now on gets
        a new one."""
        restore = self._restores.pop(ino, None)
        if restore is None:
            return False
        if restore.scope is not None:
            restore.scope.cancel()
        else:
            del restore.queue.waiting[ino]
            self._end(restore, errors.InUse("the restore was cancelled"))
        return True

    # --- working ---------------------------------------------------------------------------------------------------------

    def _start(self, queue: Queue) -> None:
        while self._nursery is not None and queue.running < _FILES_AT_ONCE and queue.waiting:
            _, restore = queue.waiting.popitem(last=False)
            queue.running += 1
            restore.scope = trio.CancelScope()
            self._nursery.start_soon(self._work, restore, name=f"restore {restore.ino}")

    def _end(self, restore: Restore, error: errors.S3LustreError | None) -> None:
        if self._restores.get(restore.ino) is restore:
            del self._restores[restore.ino]
        restore.end(error)

    async def _work(self, restore: Restore) -> None:
        assert restore.scope is not None  # made when it was begun
        error: errors.S3LustreError | None = errors.InUse("the restore was cancelled")
        try:
            with restore.scope:
                error = await self._try(restore)
        finally:
            restore.queue.running -= 1
            self._end(restore, error)
            self._start(restore.queue)

    async def _try(self, restore: Restore) -> errors.S3LustreError | None:
        """Bring a file here; why it could not be."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._bring(restore)
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
                event_log.note_restore(restore.ino, exc)
                return exc
            except Exception:
                # A defect must cost one file its restore, not everybody their mount.
                log.exception("restore failed unexpectedly ino=%d", restore.ino)
                return errors.StorageError("internal error; daemon.log has the traceback")
        return None

    async def _bring(self, restore: Restore) -> None:
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
                restore.lane.ranges.release()

        async with trio.open_nursery() as nursery:
            for start, end in await self._missing(inode):
                await restore.lane.ranges.acquire()
                nursery.start_soon(bring, start, end)
        if first is not None:
            raise first

    async def _missing(self, inode: Inode) -> Iterator[tuple[int, int]]:
        """Ranges `[start, end)` of at most 8 MiB."""
        if inode.is_complete or inode.hsm & Hsm.DIRTY:
            return iter(())
        return _ranges((await self._hydrator.content(inode)).residency.missing(0, inode.size), inode.size)


def _shutting_down() -> errors.RepositoryUnavailable:
    return errors.RepositoryUnavailable("the file system is shutting down")


def _ranges(blocks: list[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """Of a huge file there are very many: they are made as they are used."""
    for block, limit in blocks:
        end = min(limit * BLOCK_BYTES, size)
        for start in range(block * BLOCK_BYTES, end, _RANGE_BYTES):
            yield start, min(start + _RANGE_BYTES, end)
