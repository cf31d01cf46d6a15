"""TaskEngine: what data repository tasks may ask of the inode table: their records, and the exports that they order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from s3lustrefs.meta.export_orders import Ordered, Standing
from s3lustrefs.meta.schema import Change
from s3lustrefs.model.file_system import Asked
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.task import TaskFailure, TaskRecord


class TaskEngine(Protocol):
    """See `engine` for what all verbs have in common."""

    def tasks(self) -> list[TaskRecord]:
        """All that are remembered: those that have not ended, and the newest of the others."""

    async def create_task(self, record: TaskRecord, tags: Mapping[str, str], asked: Asked | None = None) -> list[str]:
        """Store a new task; `asked`: the request that made it. Ids of old tasks that are forgotten for it."""

    async def update_task(self, record: TaskRecord, failures: Sequence[TaskFailure] = ()) -> None:
        """Replace a task, and add to what it failed at."""

    async def note_task_failures(self, task_id: str, failures: Sequence[TaskFailure]) -> None:
        """What a task failed at; one of the same order is replaced."""

    async def task_failures(self, task_id: str, after: int, limit: int) -> list[TaskFailure]:
        """Up to `limit` of them, by their order, which is above `after`."""

    async def forget_task_failures(self, task_id: str, after: int, limit: int) -> bool:
        """Drop up to `limit` whose order is above `after`; whether there may be more."""

    async def order_exports(self, directory: Ino, after: bytes, limit: int) -> list[Ordered]:
        """Have what differs from the bucket exported, whatever the policy: up to `limit` names that sort after `after`."""

    async def order_export(self, parent: Ino, name: bytes) -> Ordered:
        """The same for one name. Raises: NotFound."""

    async def order_again(self, ino: Ino) -> Standing:
        """The same for all names of an inode; OUTSIDE when it is gone."""

    async def withdraw_order(self, ino: Ino, order: Change = Change.HSM_ORDERED) -> None:
        """Take one of the orders back: without any, the policy counts for what is not being exported yet. No order is fine."""
