"""Transaction functions of data repository tasks: their records, and what they failed at.

JSON in the table SUPER, like everything that the FSx API alone knows.

| key                              | value                              |
|----------------------------------|------------------------------------|
| `fsx/task/` id                   | TaskRecord, without its id         |
| `fsx/failed/` id `/` order (u64) | TaskFailure, without its order     |

Failures go page by page once the task has ended, since its report is delivered by then. Of ended tasks the newest stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

from s3lustrefs.meta import schema
from s3lustrefs.meta.schema import Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.task import AUTO_RELEASE, TaskFailure, TaskRecord, TaskReport

_TASK = b"fsx/task/"
_FAILED = b"fsx/failed/"
MOST_ENDED = 500
"""Ended tasks remembered at most; more than FSx's own clients ever show."""
MOST_EVICTIONS = 100
"""Of those that nobody asked for, so that a cache that is always full pushes no others out."""


def tasks(txn: Txn) -> list[TaskRecord]:
    return [_decode(key, raw) for key, raw in txn.scan(Table.SUPER, _TASK)]


def _decode(key: bytes, raw: bytes) -> TaskRecord:
    fields = json.loads(raw)
    report = fields.pop("report")
    return TaskRecord(key.removeprefix(_TASK).decode(), report=TaskReport(**report) if report else None, **fields)


def store(txn: Txn, record: TaskRecord) -> None:
    fields = asdict(record)
    txn.put(Table.SUPER, _TASK + fields.pop("task_id").encode(), json.dumps(fields).encode())


def forget_ended(txn: Txn) -> list[str]:
    """Drop the oldest ended tasks beyond those remembered; their ids."""
    ended = sorted((task for task in tasks(txn) if task.is_ended), key=lambda task: task.created_ns)
    asked = [task.task_id for task in ended if task.type != AUTO_RELEASE]
    evictions = [task.task_id for task in ended if task.type == AUTO_RELEASE]
    gone = asked[:-MOST_ENDED] + evictions[:-MOST_EVICTIONS]
    for task_id in gone:
        txn.delete(Table.SUPER, _TASK + task_id.encode())
    return gone


def note_failures(txn: Txn, task_id: str, failures: Iterable[TaskFailure]) -> None:
    for failure in failures:
        value = json.dumps([failure.path, failure.code, failure.status]).encode()
        txn.put(Table.SUPER, _failures(task_id) + schema.pack_u64(failure.order), value)


def failures(txn: Txn, task_id: str, after: int, limit: int) -> list[TaskFailure]:
    prefix = _failures(task_id)
    found = txn.scan(Table.SUPER, prefix, after=prefix + schema.pack_u64(after), limit=limit)
    return [TaskFailure(schema.decode_u64(key.removeprefix(prefix)), *json.loads(raw)) for key, raw in found]


def forget_failures(txn: Txn, task_id: str, after: int, limit: int) -> bool:
    """Drop up to `limit` failures whose order is above `after`; whether there were as many."""
    prefix = _failures(task_id)
    found = txn.scan(Table.SUPER, prefix, after=prefix + schema.pack_u64(after), limit=limit)
    for key, _ in found:
        txn.delete(Table.SUPER, key)
    return len(found) == limit


def _failures(task_id: str) -> bytes:
    return _FAILED + task_id.encode() + b"/"
