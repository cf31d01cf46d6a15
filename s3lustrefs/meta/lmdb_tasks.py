"""TaskVerbs: the engine's verbs about data repository tasks, and about the exports they order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from s3lustrefs.meta import control_records, export_orders, task_records
from s3lustrefs.meta.export_orders import Ordered, Standing
from s3lustrefs.meta.lmdb_core import EngineCore
from s3lustrefs.meta.schema import Change
from s3lustrefs.model.file_system import Asked
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.task import TaskFailure, TaskRecord


class TaskVerbs(EngineCore):
    """See `engine_tasks.TaskEngine` for the contract."""

    def tasks(self) -> list[TaskRecord]:
        return task_records.tasks(self._txn())

    async def create_task(self, record: TaskRecord, tags: Mapping[str, str], asked: Asked | None = None) -> list[str]:
        with self._store.begin() as txn:
            task_records.store(txn, record)
            control_records.store_tags(txn, record.task_id, tags)
            control_records.remember(txn, asked)
            gone = task_records.forget_ended(txn)
            for task_id in gone:
                control_records.store_tags(txn, task_id, {})
        return gone

    async def update_task(self, record: TaskRecord, failures: Sequence[TaskFailure] = ()) -> None:
        with self._store.begin() as txn:
            task_records.store(txn, record)
            task_records.note_failures(txn, record.task_id, failures)

    async def note_task_failures(self, task_id: str, failures: Sequence[TaskFailure]) -> None:
        with self._store.begin() as txn:
            task_records.note_failures(txn, task_id, failures)

    async def task_failures(self, task_id: str, after: int, limit: int) -> list[TaskFailure]:
        return task_records.failures(self._txn(), task_id, after, limit)

    async def forget_task_failures(self, task_id: str, after: int, limit: int) -> bool:
        with self._store.begin() as txn:
            return task_records.forget_failures(txn, task_id, after, limit)

    async def order_exports(self, directory: Ino, after: bytes, limit: int) -> list[Ordered]:
        with self._store.begin() as txn:
            return export_orders.order_page(txn, self._locations, directory, after, limit, self._now())

    async def order_export(self, parent: Ino, name: bytes) -> Ordered:
        with self._store.begin() as txn:
            return export_orders.order_name(txn, self._locations, parent, name, self._now())

    async def order_again(self, ino: Ino) -> Standing:
        with self._store.begin() as txn:
            return export_orders.order_inode(txn, self._locations, ino, self._now())

    async def withdraw_order(self, ino: Ino, order: Change = Change.HSM_ORDERED) -> None:
        with self._store.begin() as txn:
            export_orders.withdraw(txn, ino, order)
