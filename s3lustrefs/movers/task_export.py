"""ExportJob: brings what differs from the bucket into it, whatever the export policies say; deletes nothing there.

The walk orders what differs (`meta/export_orders`), a page of names at a time and a bounded number ahead of the exporter, which
does the rest as it does any change. What became of an order is read from the journal and the table: the bucket has the file as it
is here, or the record says why it failed. An order that is gone without that is given again.
What the bucket has already costs no request, so a task taken up after a crash finds what it had exported done.

INVARIANT: an order that has ended in a failure, or in the cancellation of its task, is withdrawn: nothing of it is exported later.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.export_orders import Ordered, Standing
from s3lustrefs.meta.schema import Change, JournalState
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.log_events import LogEvent
from s3lustrefs.model.task import TaskFailure
from s3lustrefs.model.task_paths import reached
from s3lustrefs.model.task_rules import automatic_export_defect
from s3lustrefs.movers import event_log
from s3lustrefs.movers.task_progress import Progress
from s3lustrefs.movers.task_roots import Roots
from s3lustrefs.movers.task_walk import Met, Position, TreeWalk

log = logging.getLogger(__name__)

_MOST_ORDERED = 4096
"""Orders under way: enough for every worker of the exporter, and few enough to be looked at several times a second."""
_LOOK_SECONDS = 0.2
_SEEN_AT_ONCE = 1024
"""Of the orders under way, so that looking costs the thread that exports a twentieth of its time."""
_SLICE = 200
_MOST_ATTEMPTS = 8
"""After which a file that could work later has failed all the same: two to four minutes of outage."""
_MOST_OUTSIDE = 100
"""Lines in the log about paths outside of associations."""
_REFUSED = {
    Standing.BUSY: ("ResourceBusy", LogEvent.EXPORT_BUSY),
    Standing.LOST: ("S3ObjectNotFound", LogEvent.EXPORT_NO_SOURCE),
}
"""Code and event of what cannot be ordered."""
_FSX_CODES = frozenset({"PathSizeTooLong", "FileSizeTooLarge", "S3AccessDenied", "S3Error", "S3FileDeleted", "S3ObjectNotFound",
                        "S3ObjectInUnsupportedTier", "ResourceBusy", "InternalError"})  # fmt: skip


@dataclass(slots=True)
class _Order:
    """Of one inode. `number` is that of the first of its names in the order of the walk, which stood at `before` then."""

    number: int
    before: Position
    paths: list[tuple[int, bytes]] = field(default_factory=list)
    given: int = 1
    """How often."""


class ExportJob:
    """One export task. `wake` tells the exporter that something became due."""

    def __init__(self, engine: MetadataEngine, roots: Roots, wake: Callable[[], None]) -> None:
        self._engine = engine
        self._roots = roots
        self._wake = wake
        self._orders: dict[Ino, _Order] = {}
        self._unseen: deque[Ino] = deque()
        """Orders to be looked at before those looked at last."""
        self._looked_at = -1.0

    async def run(self, progress: Progress) -> None:
        """Raises: TaskFailed, StorageError."""
        task = progress.record
        if defect := automatic_export_defect(reached(self._engine.associations(), task.paths)):
            raise errors.TaskFailed(defect)
        inside, outside = self._roots.within_associations(await self._roots.of_paths(task.paths))
        if task.paths:
            for path in outside[:_MOST_OUTSIDE]:
                event_log.note(LogEvent.EXPORT_OUTSIDE, task=task.task_id, path=path)
        walk = TreeWalk(self._engine, [os.fsencode(path) for path in inside], self._engine.order_exports)
        if not task.position or not await walk.resume(Position.of_words(task.position)):
            await progress.restart()
            for path in inside:
                await self._order_root(os.fsencode(path), progress)
        while met := await walk.next():
            await self._take(met, progress)
            await self._look(progress, walk.position, most=_MOST_ORDERED)
        await self._look(progress, walk.position, most=0)

    async def _order_root(self, path: bytes, progress: Progress) -> None:
        """What the walk does not meet: the paths themselves."""
        inode = await self._engine.resolve(path)
        if inode.parent and not any(a.root_ino == inode.ino for a in self._engine.associations()):
            row = await self._engine.order_export(inode.parent, path.rpartition(b"/")[2])
            await self._take([Met(path, row, Position())], progress)

    async def _take(self, met: list[Met[Ordered]], progress: Progress) -> None:
        """Count names, and remember their orders."""
        refused = []
        for each in met:
            standing, ino = each.row.standing, each.row.inode.ino
            if standing in (Standing.LOCAL, Standing.OUTSIDE):
                continue
            progress.met(1)
            if standing is Standing.ORDERED:
                order = self._orders.setdefault(ino, _Order(progress.total, each.before))
                order.paths.append((progress.total, each.path))
                progress.pending += 1
            elif standing in _REFUSED:
                code, event = _REFUSED[standing]
                refused.append((TaskFailure(progress.total, os.fsdecode(each.path), code), event))
        await progress.fail(*(failure for failure, _ in refused))
        for failure, event in refused:
            event_log.note(event, task=progress.record.task_id, path=failure.path)
        failpoint("task.ordered")
        self._wake()

    async def _look(self, progress: Progress, walked: Position, *, most: int) -> None:
        """See what became of the orders, and return once at most so many are under way."""
        while True:
            if trio.current_time() >= self._looked_at + _LOOK_SECONDS:
                await self._look_once(progress)
                self._looked_at = trio.current_time()
            oldest = next(iter(self._orders.values()), None)
            if oldest is None:
                await progress.settled(walked.as_words(), progress.total)
            else:
                await progress.settled(oldest.before.as_words(), oldest.number - 1)
            if len(self._orders) <= most:
                return
            await trio.sleep(_LOOK_SECONDS)

    async def _look_once(self, progress: Progress) -> None:
        if not self._unseen:
            self._unseen = deque(self._orders)
        for count in range(min(_SEEN_AT_ONCE, len(self._unseen))):
            if count % _SLICE == 0:
                await trio.lowlevel.checkpoint()
            ino = self._unseen.popleft()
            order = self._orders[ino]
            outcome = await self._outcome(ino, order)
            if outcome is None:
                continue
            if outcome:
                await self._engine.withdraw_order(ino, Change.TASK_ORDERED)
                await progress.fail(*(TaskFailure(number, os.fsdecode(path), outcome) for number, path in order.paths))
            progress.pending -= len(order.paths)
            progress.met(0)
            del self._orders[ino]

    async def _outcome(self, ino: Ino, order: _Order) -> str | None:
        """Empty: exported, or gone; else the code of its failure. None: not known yet."""
        record = await self._engine.find_journal(ino)
        if record is None or not record.change & Change.TASK_ORDERED:
            return await self._order_again(ino, order)
        if record.state is JournalState.OPEN:
            return "ResourceBusy"
        if record.terminal or record.attempts >= _MOST_ATTEMPTS:
            return record.error_code if record.error_code in _FSX_CODES else "InternalError"
        return None

    async def _order_again(self, ino: Ino, order: _Order) -> str | None:
        """The outcome of an inode whose order is gone: it was exported, if the table says so, else it is ordered again, since it
        changed or an attempt from before its order put it aside."""
        standing = await self._engine.order_again(ino)
        if standing in (Standing.CLEAN, Standing.OUTSIDE):  # deleted, or moved out: there is nothing to export any more
            return ""
        if standing is Standing.LOST:
            return "S3ObjectNotFound"
        order.given += 1
        if standing is not Standing.ORDERED or order.given > _MOST_ATTEMPTS:
            return "ResourceBusy"  # written or marked never_archive meanwhile, or changed again and again
        self._wake()
        return None

    async def withdraw(self, progress: Progress) -> None:
        """Of a task that was canceled or cannot go on: what is not being exported yet is not going to be.

        One export task executes at a time, so every order is of this one, unless it was canceled before its turn came.
        """
        if not progress.record.started_ns:
            return
        after = b""
        while rows := await self._engine.due(after, _SLICE):
            after = rows[-1][0]
            for _, record in rows:
                if record.ino and record.change & Change.TASK_ORDERED:
                    await self._engine.withdraw_order(record.ino, Change.TASK_ORDERED)
            await trio.lowlevel.checkpoint()
