"""Progress: what one task has done so far, for those who ask and for whoever takes it up after a crash.

Counts change in memory with every file. At bounded intervals they are made durable together with the place the walk stands at
(`settled`). Failures are durable at once: the completion report needs each of them. What was done beyond the last settled place
is done again after a crash, which finds it done, and the failures from there are forgotten first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import trio

from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine_tasks import TaskEngine
from s3lustrefs.model.task import TaskFailure, TaskRecord

_SAVE_SECONDS = 2.0
_PAGE = 500


class Progress:
    """Of one executing task. `record` is the task as it was saved last."""

    def __init__(self, engine: TaskEngine, record: TaskRecord, *, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._engine = engine
        self._wall_ns = wall_ns
        self._saved_at = trio.current_time()
        self.record = record
        self.total = record.total
        self.failed = 0
        self.warned = 0
        self.pending = 0
        """Of the total: what has neither succeeded nor failed yet."""
        self.found: Callable[[], int] = lambda: 0
        """What a listing under way has found, beyond `total`; all of it succeeded as far as it is known."""
        self.released_bytes = record.released_bytes
        self.first_failure: TaskFailure | None = None
        self._changed_ns = record.counted_ns or wall_ns()

    async def restart(self) -> None:
        """Begin anew: nothing has been done."""
        self.total = self.failed = self.warned = self.released_bytes = 0
        self.first_failure = None
        await forget_failures(self._engine, self.record.task_id)

    async def resume(self) -> None:
        """Take up what was settled last, and forget what failed beyond that. Raises: StorageError."""
        task_id = self.record.task_id
        # A canceled task may have been saved with what was still pending.
        self.total = min(self.record.total, self.record.succeeded + self.record.failed)
        self.released_bytes = self.record.released_bytes
        self.failed = self.warned = self.pending = 0
        self.first_failure, self.found = None, lambda: 0
        await forget_failures(self._engine, task_id, after=self.record.total)
        after = 0
        while rows := await self._engine.task_failures(task_id, after, _PAGE):
            self._count(rows)
            after = rows[-1].order
            await trio.lowlevel.checkpoint()

    def _count(self, rows: Sequence[TaskFailure]) -> None:
        for row in rows:
            if row.status == "failed":
                self.failed += 1
                self.first_failure = self.first_failure or row
            else:
                self.warned += 1

    def met(self, entries: int) -> None:
        """So many more are the task's business."""
        self.total += entries
        self._changed_ns = self._wall_ns()

    async def fail(self, *failures: TaskFailure) -> None:
        """What cannot be done; it must have been `met`. Returns once that is in the log. Raises: StorageError."""
        if failures:
            await self._engine.note_task_failures(self.record.task_id, failures)
            self._count(failures)
            self._changed_ns = self._wall_ns()
            failpoint("task.failure")

    def leave_out_pending(self) -> None:
        """The task ends: what it never came to is not its business any more."""
        self.total -= self.pending
        self.pending, self.found = 0, lambda: 0

    async def settled(self, position: Mapping[str, str], total: int, *, now: bool = False) -> None:
        """Everything of the first `total` entries is done with, and `position` is behind them; saved if that is due or `now`."""
        if now or trio.current_time() - self._saved_at >= _SAVE_SECONDS:
            succeeded = max(0, total - self.failed)
            self.record = replace(self.live(), total=total, succeeded=succeeded, position=dict(position))
            await self._engine.update_task(self.record)
            self._saved_at = trio.current_time()
            failpoint("task.settled")

    def live(self) -> TaskRecord:
        """The task with its counts as they are now."""
        total = self.total + self.found()
        return replace(
            self.record,
            total=total,
            succeeded=max(0, total - self.failed - self.pending),
            failed=self.failed,
            released_bytes=self.released_bytes,
            counted_ns=self._wall_ns() if self.found() else self._changed_ns,
        )


async def forget_failures(engine: TaskEngine, task_id: str, *, after: int = 0) -> None:
    """Drop what a task failed at beyond so many entries. Raises: StorageError."""
    while await engine.forget_task_failures(task_id, after, _PAGE):
        await trio.lowlevel.checkpoint()
