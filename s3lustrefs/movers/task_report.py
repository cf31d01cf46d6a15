"""ReportDelivery: writes the completion report of a task into its bucket. Whatever comes of that, the task ends as it ends."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from s3lustrefs import errors
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model import task_report
from s3lustrefs.model.association import Association
from s3lustrefs.model.log_events import LogEvent
from s3lustrefs.model.task import TaskRecord
from s3lustrefs.movers import event_log
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.repository import posix_headers
from s3lustrefs.repository.object_store import Condition, FileSlice, ObjectStore, PutHeaders
from s3lustrefs.repository.retry import backoff_seconds

log = logging.getLogger(__name__)

_NAME = "report-"
_PAGE = 500
_ATTEMPTS = 5


class ReportDelivery:
    """`scratch` is a directory for reports that are being written."""

    def __init__(self, engine: MetadataEngine, repositories: Repositories, scratch: Path) -> None:
        self._engine = engine
        self._repositories = repositories
        self._scratch = scratch

    def clear(self) -> None:
        """Remove what a daemon that died was writing."""
        for path in self._scratch.glob(f"{_NAME}*"):
            _remove(path)

    async def deliver(self, task: TaskRecord) -> None:
        """Returns once the report is in the bucket, or the event log says why it is not. Repeating it replaces the report."""
        if task.report is None:
            return
        try:
            place = task_report.place(task, self._engine.associations())
            if isinstance(place, str):
                event_log.note(LogEvent.REPORT_INVALID, task=task.task_id, reason=place)
                log.info("no report task=%s reason=%s", task.task_id, place)
            else:
                await self._deliver(task, *place)
        except (errors.S3LustreError, OSError) as exc:
            event_log.note(LogEvent.REPORT_UPLOAD, task=task.task_id, path=task.report.path, reason=exc)
            log.warning("report not delivered task=%s error=%s", task.task_id, exc)
        except Exception as exc:
            # A defect must cost one task its report, not its end.
            event_log.note(LogEvent.REPORT_UPLOAD, task=task.task_id, path=task.report.path, reason=exc)
            log.exception("report not delivered task=%s", task.task_id)

    async def _deliver(self, task: TaskRecord, association: Association, key: bytes) -> None:
        path = self._scratch / f"{_NAME}{task.task_id}"
        try:
            await self._write(path, task)
            await self._send(path, task, association, key)
        finally:
            _remove(path)

    async def _write(self, path: Path, task: TaskRecord) -> None:
        after = 0
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            while rows := await self._engine.task_failures(task.task_id, after, _PAGE):
                text = "".join(map(task_report.row, rows)).encode(errors="surrogateescape")
                while text:
                    text = text[os.write(fd, text) :]
                after = rows[-1].order
                await trio.lowlevel.checkpoint()
        finally:
            os.close(fd)

    async def _send(self, path: Path, task: TaskRecord, association: Association, key: bytes) -> None:
        store = self._repositories.of(association.assoc_id)
        size, now_ns = path.stat().st_size, time.time_ns()
        body = FileSlice(str(path), 0, size) if size else b""
        metadata = posix_headers.encode(
            stat.S_IFREG | association.file_mode & 0o666, association.uid, association.gid, now_ns, now_ns
        )
        headers = PutHeaders(metadata, {"content-type": "text/csv"})
        await _patiently(lambda: _put(store, key, body, headers))
        log.info("report delivered task=%s bucket=%s key=%r bytes=%d", task.task_id, store.bucket, key, size)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        log.warning("draft of a report is left path=%s error=%s", path, exc)


async def _put(store: ObjectStore, key: bytes, body: FileSlice | bytes, headers: PutHeaders) -> None:
    """The key has the id of the task in it: whatever is there is a report of the same task, from before a crash."""
    try:
        await store.put(key, body, headers, Condition())
    except errors.ObjectChanged:
        head = await store.head(key)
        await store.put(key, body, headers, Condition(head.version.etag))


async def _patiently(deed: Callable[[], Awaitable[None]]) -> None:
    """Raises: RepositoryError once waiting is of no use."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return await deed()
        except errors.RepositoryError as exc:
            if exc.terminal:
                raise
            log.debug("report waits attempt=%d error=%s", attempt, exc)
            await trio.sleep(backoff_seconds(attempt))
    return await deed()
