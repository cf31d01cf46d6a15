"""Tasks: the queue of data repository tasks, and their lives from PENDING to their end.

One task of each type executes at a time, the others wait in the order in which they were made: an import, an export and a
release do not disturb each other, two of a type would only share the bucket. Each step is durable before the next begins, so a
mount after a crash takes up what was executing, cancels what was being canceled, and goes on with the queue. What a job has
done by then is its own business (`task_progress`).

A report is delivered before its task ends, so that whoever waits for the end finds it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import trio

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine_tasks import TaskEngine
from s3lustrefs.model import task_rules
from s3lustrefs.model.file_system import Asked
from s3lustrefs.model.task import IMPORT, Lifecycle, TaskRecord, TaskType
from s3lustrefs.movers import event_log
from s3lustrefs.movers.task_progress import Progress, forget_failures
from s3lustrefs.movers.task_report import ReportDelivery

log = logging.getLogger(__name__)

_NO_ROOM_SECONDS = 5.0
_DEFECT = "internal error; daemon.log has the traceback"


class Job(Protocol):
    """What does one task."""

    async def run(self, progress: Progress) -> None:
        """Do what `progress.record` asks for, from where it stood. Raises: TaskFailed, RepositoryError, StorageError."""

    async def withdraw(self, progress: Progress) -> None:
        """The task ends without `run` having come to its end: nothing more of it is to happen later."""


@dataclass(slots=True)
class _Running:
    """A task that executes. Cancelling `scope` ends its job."""

    progress: Progress
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class Tasks:
    """`jobs` makes what does a task, by its type. Those of a type that is `resting` wait for another mount."""

    def __init__(
        self,
        engine: TaskEngine,
        jobs: Mapping[TaskType, Callable[[], Job]],
        reports: ReportDelivery,
        *,
        resting: Container[TaskType] = (),
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._engine = engine
        self._jobs = jobs
        self._reports = reports
        self._resting = resting
        self._wall_ns = wall_ns
        self._records = {record.task_id: record for record in engine.tasks()}
        self._running: dict[str, _Running] = {}
        self._stuck: set[str] = set()
        """Ids of those whose end met a defect."""
        self._wake = trio.Event()

    async def recover(self) -> None:
        """To be called before anything is exported: what was being canceled when the last daemon ended is canceled.

        What the state directory does not take now is left to `run`, so that no full disk keeps a mount from coming up.
        """
        self._reports.clear()
        for record in list(self._records.values()):
            if record.lifecycle == "CANCELING":
                progress = Progress(self._engine, record, wall_ns=self._wall_ns)
                try:
                    await progress.resume()
                    await self._jobs[record.type]().withdraw(progress)
                    await self._end(progress, "")
                except errors.StorageError as exc:
                    log.error("task is canceled later task=%s error=%s", record.task_id, exc)
                except Exception:
                    # A defect must cost one task its end, not everybody their mount.
                    log.exception("task is canceled later task=%s", record.task_id)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Execute tasks. Ends by cancellation: the next mount goes on."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            nursery.start_soon(self._tidy)
            for record in self.unfinished():
                if record.type in self._resting:
                    log.info("task waits for another mount task=%s type=%s", record.task_id, record.type)
            while True:
                for record in self._next():
                    running = self._running[record.task_id] = _Running(Progress(self._engine, record, wall_ns=self._wall_ns))
                    nursery.start_soon(self._live, running, name=f"task {record.task_id}")
                await self._wake.wait()
                self._wake = trio.Event()

    async def _tidy(self) -> None:
        """A crash may have come between the end of a task and this."""
        for record in [each for each in self._records.values() if each.is_ended]:
            await self._patiently(partial(forget_failures, self._engine, record.task_id))

    def _next(self) -> list[TaskRecord]:
        """Tasks to take up now: what was begun before what waits."""
        waiting = [each for each in self.unfinished() if each.task_id not in self._running and each.task_id not in self._stuck]
        waiting.sort(key=lambda each: (each.lifecycle == "PENDING", each.created_ns))
        busy = {each.progress.record.type for each in self._running.values()}
        chosen = []
        for each in waiting:
            if each.lifecycle == "CANCELING" or not (each.type in busy or each.type in self._resting):
                chosen.append(each)
                busy.add(each.type)
        return chosen

    async def _live(self, running: _Running) -> None:
        """One task, from where it stands to its end."""
        progress = running.progress
        task_id = progress.record.task_id
        try:
            await self._patiently(progress.resume)
            failure = await self._execute(running)
            if progress.record.lifecycle == "CANCELING":
                await self._withdraw(progress)
            await self._patiently(lambda: self._end(progress, failure))
            failpoint("task.ended")
            await self._patiently(partial(forget_failures, self._engine, task_id))
        except Exception:
            # A defect must cost one task its success, not everybody their mount.
            log.exception("task failed unexpectedly task=%s", task_id)
            await self._give_up(progress)
        finally:
            del self._running[task_id]
            self._wake.set()

    async def _give_up(self, progress: Progress) -> None:
        """After an unexpected error outside of the job: as much of an end as can be had, and no second try in this mount."""
        task_id = progress.record.task_id
        self._stuck.add(task_id)
        try:
            if not progress.record.is_ended:
                await self._patiently(lambda: self._end(progress, _DEFECT))
            await self._withdraw(progress)
        except Exception:
            log.exception("task is left to the next mount task=%s", task_id)

    async def _execute(self, running: _Running) -> str:
        """Why the task failed; empty if it did not."""
        progress = running.progress
        with running.scope:
            if progress.record.lifecycle == "CANCELING":
                return ""
            if progress.record.lifecycle == "PENDING":
                await self._patiently(lambda: self._step(progress, "EXECUTING"))
            log.info("task executing task=%s type=%s", progress.record.task_id, progress.record.type)
            failpoint("task.executing")
            failure = await self._work(progress)
            if failure:
                await self._withdraw(progress)
            await self._reports.deliver(progress.live())
            failpoint("task.reported")
            return failure or _failed_text(progress)
        return ""

    async def _work(self, progress: Progress) -> str:
        while True:
            try:
                return await self._try(progress)
            except errors.StorageError as exc:
                log.error("task waits for the state directory task=%s error=%s", progress.record.task_id, exc)
                await trio.sleep(_NO_ROOM_SECONDS)
                await self._patiently(partial(_rewind, progress))

    async def _try(self, progress: Progress) -> str:
        """Raises: StorageError when the job may go on later from where it stands."""
        try:
            await self._jobs[progress.record.type]().run(progress)
        except errors.TaskFailed as exc:
            return str(exc)
        except errors.S3LustreError as exc:
            if isinstance(exc, errors.StorageError) and not exc.terminal:
                raise
            log.warning("task failed task=%s error=%s", progress.record.task_id, exc)
            if progress.record.type == IMPORT and isinstance(exc, errors.RepositoryError):
                event_log.note(event_log.of_listing(exc), task=progress.record.task_id, reason=exc)
            return str(exc) or type(exc).__name__
        except Exception:
            # A defect must cost one task its success, not everybody their mount.
            log.exception("task failed unexpectedly task=%s", progress.record.task_id)
            return _DEFECT
        return ""

    async def _withdraw(self, progress: Progress) -> None:
        await self._patiently(lambda: self._jobs[progress.record.type]().withdraw(progress))

    async def _end(self, progress: Progress, failure: str) -> None:
        lifecycle: Lifecycle = "FAILED" if failure else "SUCCEEDED"
        if progress.record.lifecycle == "CANCELING":
            lifecycle, failure = "CANCELED", ""
        progress.leave_out_pending()
        await self._step(progress, lifecycle, failure)
        record = progress.record
        log.info(
            "task ended task=%s lifecycle=%s total=%d succeeded=%d failed=%d reason=%s",
            record.task_id, record.lifecycle, record.total, record.succeeded, record.failed, record.failure or "-",
        )  # fmt: skip

    async def _step(self, progress: Progress, lifecycle: Lifecycle, failure: str = "") -> None:
        record = progress.live().step(lifecycle, self._wall_ns(), failure=failure)
        await self._engine.update_task(record)
        self._records[record.task_id] = progress.record = record

    async def _patiently(self, deed: Callable[[], Awaitable[None]]) -> None:
        """A full disk delays a task, it does not end it."""
        while True:
            try:
                return await deed()
            except errors.StorageError as exc:
                log.error("task waits for the state directory error=%s", exc)
                await trio.sleep(_NO_ROOM_SECONDS)

    # --- for others ----------------------------------------------------------------------------------------------------------

    def all(self) -> list[TaskRecord]:
        """Every task that is remembered, with its counts as they are now."""
        return [self._now(record) for record in self._records.values()]

    def find(self, task_id: str) -> TaskRecord | None:
        record = self._records.get(task_id)
        return self._now(record) if record is not None else None

    def unfinished(self) -> list[TaskRecord]:
        return [record for record in self._records.values() if not record.is_ended]

    def obstacle(self, record: TaskRecord) -> str | None:
        """Why this task cannot be created now, though it could later."""
        return task_rules.queue_defect(record, self.unfinished())

    async def create(self, record: TaskRecord, tags: Mapping[str, str], asked: Asked | None) -> None:
        """Raises: StorageError."""
        for gone in await self._engine.create_task(record, tags, asked):
            self._records.pop(gone, None)
        self._records[record.task_id] = record
        failpoint("task.created")
        self._wake.set()

    async def cancel(self, task_id: str) -> TaskRecord:
        """The task as it is then. Raises: ValueError when it has ended; StorageError."""
        record = self._records[task_id]
        if record.lifecycle != "CANCELING":
            record = self._now(record).step("CANCELING", self._wall_ns())
            await self._engine.update_task(record)
            self._records[task_id] = record
            failpoint("task.canceling")
        running = self._running.get(task_id)
        if running is not None:
            running.progress.record = record
            running.scope.cancel()
        self._wake.set()
        return record

    def _now(self, record: TaskRecord) -> TaskRecord:
        running = self._running.get(record.task_id)
        return running.progress.live() if running is not None else record


async def _rewind(progress: Progress) -> None:
    """Forget, as a crash would, what was not settled. A task that is canceled meanwhile ends with all of its failures."""
    with trio.CancelScope(shield=True):
        await progress.resume()


def _failed_text(progress: Progress) -> str:
    first = progress.first_failure
    if not progress.failed or first is None:
        return ""
    return f"{progress.failed} of {progress.total} failed, the first with {first.code}: {first.path.lstrip('/')}"
