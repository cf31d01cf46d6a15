"""The queue of tasks on a table that outlives it, with jobs that do nothing but count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from s3lustrefs import errors
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.model import task as tasks
from s3lustrefs.model.task import TaskFailure, TaskRecord, TaskType
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.task_progress import Progress
from s3lustrefs.movers.task_report import ReportDelivery
from s3lustrefs.movers.tasks import Tasks


@dataclass
class Counting:
    """A job of ten entries, a second each, that settles every one."""

    log: list[str] = field(default_factory=list)
    fails_at: tuple[int, ...] = ()
    ends_with: Exception | None = None
    is_full_at: list[int] = field(default_factory=list)
    """Entries before which the state directory has no room, once each."""
    withdrawing: Exception | None = None

    async def run(self, progress: Progress) -> None:
        begin = int(progress.record.position.get("at", "0"))
        self.log.append(f"run {progress.record.task_id} from {begin}")
        for at in range(begin + 1, 11):
            await trio.sleep(1)
            if at in self.is_full_at:
                self.is_full_at.remove(at)
                raise errors.OutOfSpace("the log cannot be written")
            progress.met(1)
            if at in self.fails_at:
                await progress.fail(TaskFailure(at, f"/{at}", "S3Error"))
            await progress.settled({"at": str(at)}, progress.total)
        if self.ends_with is not None:
            raise self.ends_with

    async def withdraw(self, progress: Progress) -> None:
        self.log.append(f"withdraw {progress.record.task_id}")
        if self.withdrawing is not None:
            raise self.withdrawing


class Daemons:
    """Work on a queue of tasks, one after the other."""

    queue: Tasks

    def open(self) -> None:
        """The next daemon makes its queue, on the same table."""
        raise NotImplementedError

    def state(self, task_id: str) -> tuple[str, int, int, int]:
        record = self.queue.find(task_id)
        assert record is not None
        return record.lifecycle, record.total, record.succeeded, record.failed

    async def work(self, seconds: float) -> None:
        """As one daemon does for so long; then it dies."""
        with trio.move_on_after(seconds):
            await self.queue.recover()
            await self.queue.run()
        self.open()


@dataclass
class Office(Daemons):
    """A queue on a table that outlives it."""

    engine: LmdbEngine
    directory: Path
    job: Counting = field(default_factory=Counting)

    def __post_init__(self) -> None:
        self.open()

    def open(self, **more: Any) -> None:
        jobs: dict[TaskType, Callable[[], Counting]] = {
            kind: lambda: self.job for kind in (tasks.IMPORT, tasks.EXPORT, tasks.RELEASE)
        }
        self.queue = Tasks(self.engine, jobs, ReportDelivery(self.engine, Repositories(), self.directory), **more)

    async def create(self, number: int, kind: TaskType = tasks.IMPORT, **more: Any) -> str:
        record = TaskRecord(f"task-{number:017x}", kind, number, [f"path{number}"], **more)
        await self.queue.create(record, {}, None)
        return record.task_id

    async def finish(self) -> None:
        await self.work(1000)
