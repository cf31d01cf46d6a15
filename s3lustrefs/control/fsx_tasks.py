"""FSx's operations on data repository tasks.

What can be seen to be wrong at once is refused at once; whether the paths exist is seen when the task executes, and it fails
then, as in FSx. A report without Path is accepted, since FSx's own guide asks for reports that way; there is no place to deliver
it to then, which the event log says. Age in seconds is an extension for our own command, which comes by the control socket only
(`OlderThan`): FSx's description has no member for it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from s3lustrefs.control.fsx_filesystems import FileSystems
from s3lustrefs.control.fsx_request import TOKEN, Json, page, refused, task_arn, wanted_tags
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model import task as tasks
from s3lustrefs.model.association import Association
from s3lustrefs.model.file_system import Asked
from s3lustrefs.model.task import TaskRecord, TaskReport
from s3lustrefs.model.task_paths import reached, spans, split_urls
from s3lustrefs.model.task_rules import automatic_export_defect
from s3lustrefs.movers.tasks import Tasks

_MOST_SHOWN = 50
_unused_seconds: ContextVar[int | None] = ContextVar("s3lustrefs_unused_seconds", default=None)


class OlderThan:
    """`CreateReleaseTask` of the control socket: a release task about files that were not used for so many seconds.

    The request is FSx's, with OlderThanSeconds beside its members.
    """

    def __init__(self, call: Callable[[str, Json], Awaitable[Json]]) -> None:
        self._call = call

    async def create(self, request: Json) -> Json:
        """Raises: ControlFault."""
        seconds = request.pop("OlderThanSeconds", None)
        if not isinstance(seconds, int) or isinstance(seconds, bool) or seconds < 0:
            raise refused("BadRequest", "OlderThanSeconds must be a number of seconds, 0 or more")
        token = _unused_seconds.set(seconds)
        try:
            return await self._call("CreateDataRepositoryTask", {**request, "Type": tasks.RELEASE})
        finally:
            _unused_seconds.reset(token)


class TaskOperations:
    """See the module docstring."""

    def __init__(self, engine: MetadataEngine, file_systems: FileSystems, queue: Tasks, *, read_only: bool) -> None:
        self._engine = engine
        self._file_systems = file_systems
        self._queue = queue
        self._read_only = read_only

    # --- create ------------------------------------------------------------------------------------------------------------

    async def create(self, request: Json, asked: Asked | None) -> Json:
        self._file_systems.are_ours([request["FileSystemId"]])
        record = self._wanted(request)
        tags = wanted_tags(request.get("Tags", ()))
        if obstacle := self._queue.obstacle(record):
            raise refused("DataRepositoryTaskExecuting", obstacle)
        await self._queue.create(record, tags, asked)
        return {"DataRepositoryTask": self._described(self.find(record.task_id))}

    async def created(self, request: Json) -> Json:
        """What a creation answers that was done before."""
        for record in self._queue.all():
            if record.token == request[TOKEN]:
                return {"DataRepositoryTask": self._described(record)}
        raise refused("BadRequest", f"{TOKEN}: the task that was created with it has ended, and is not remembered any more")

    def _wanted(self, request: Json) -> TaskRecord:
        """Raises: ControlFault."""
        associations = self._engine.associations()
        if not associations:
            raise refused("BadRequest", "no data repository is linked to this file system: there is nothing a task could do")
        if request["Type"] == tasks.AUTO_RELEASE:
            raise refused(
                "UnsupportedOperation",
                "AUTO_RELEASE_DATA cannot be asked for: when the cache fills, content that the bucket has makes room by itself; "
                "RELEASE_DATA_FROM_FILESYSTEM releases it now",
            )
        if "CapacityToRelease" in request:
            message = "CapacityToRelease is for tasks of type AUTO_RELEASE_DATA, which cannot be asked for"
            raise refused("IncompatibleParameterError", message, Parameter="CapacityToRelease")
        paths = list(request.get("Paths", ()))
        touched = _touched(request["Type"], associations, paths)
        if request["Type"] == tasks.EXPORT:
            self._check_export(touched)
        days = self._days(request)
        seconds = _unused_seconds.get()
        return TaskRecord(
            f"task-{secrets.token_hex(9)[:17]}", request["Type"], time.time_ns(), paths, _report(request["Report"]),
            (days or 0) * tasks.DAY_SECONDS if seconds is None else seconds, days,
            [each.association_id for each in touched], request.get(TOKEN, ""),
        )  # fmt: skip

    def _check_export(self, touched: list[Association]) -> None:
        if self._read_only:
            raise refused("UnsupportedOperation", "this mount is read-only: nothing is exported; mount without the option ro")
        if defect := automatic_export_defect(touched):
            raise refused("UnsupportedOperation", defect)

    def _days(self, request: Json) -> int | None:
        if "ReleaseConfiguration" not in request:
            return None
        if request["Type"] != tasks.RELEASE:
            message = "ReleaseConfiguration is for tasks of type RELEASE_DATA_FROM_FILESYSTEM"
            raise refused("IncompatibleParameterError", message, Parameter="ReleaseConfiguration")
        duration = request["ReleaseConfiguration"].get("DurationSinceLastAccess")
        if duration is None:
            return None
        for member in ("Unit", "Value"):
            if member not in duration:
                raise refused("BadRequest", f"ReleaseConfiguration.DurationSinceLastAccess.{member} is required")
        days: int = duration["Value"]
        return days

    # --- describe, cancel -----------------------------------------------------------------------------------------------------

    async def describe(self, request: Json) -> Json:
        chosen = [self.find(each) for each in dict.fromkeys(request.get("TaskIds", ()))] or self._queue.all()
        for condition in request.get("Filters", ()):
            name, values = condition.get("Name"), condition.get("Values")
            if not name or not values:
                raise refused("BadRequest", "Filters: each needs a Name and Values")
            if name == "file-system-id":
                self._file_systems.are_ours(values)
            elif name == "file-cache-id":
                cache = self._file_systems.record
                chosen = chosen if cache.is_cache and cache.file_system_id in values else []
            else:
                chosen = [each for each in chosen if _matches(each, name, values)]
        shown, more = page(request, chosen, lambda record: record.task_id, _MOST_SHOWN)
        return {"DataRepositoryTasks": [self._described(record) for record in shown], **more}

    async def cancel(self, request: Json) -> Json:
        record = self.find(request["TaskId"])
        if record.is_ended:
            raise refused("DataRepositoryTaskEnded", f"{record.task_id} has ended: it is {record.lifecycle}")
        if record.type == tasks.AUTO_RELEASE:
            raise refused("UnsupportedOperation", f"{record.task_id} makes room in a full cache, which cannot wait")
        record = await self._queue.cancel(record.task_id)
        return {"Lifecycle": record.lifecycle, "TaskId": record.task_id}

    def find(self, task_id: str) -> TaskRecord:
        """Raises: ControlFault."""
        record = self._queue.find(task_id)
        if record is None:
            raise refused("DataRepositoryTaskNotFound", f"there is no data repository task {task_id}")
        return record

    def _described(self, record: TaskRecord) -> Json:
        file_system = self._file_systems.record
        id_member = "FileCacheId" if file_system.is_cache else "FileSystemId"
        tags = self._engine.tags(record.task_id)
        times = {"StartTime": record.started_ns, "EndTime": record.ended_ns}
        return {
            "TaskId": record.task_id,
            "Lifecycle": record.lifecycle,
            "Type": record.type,
            "CreationTime": record.created_ns / 1e9,
            **{name: time_ns / 1e9 for name, time_ns in times.items() if time_ns},
            "ResourceARN": task_arn(file_system, record.task_id),
            id_member: file_system.file_system_id,
            "Paths": list(record.paths),
            **({"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]} if tags else {}),
            **({"FailureDetails": {"Message": record.failure}} if record.failure else {}),
            "Status": {
                "TotalCount": record.total,
                "SucceededCount": record.succeeded,
                "FailedCount": record.failed,
                "LastUpdatedTime": (record.counted_ns or record.created_ns) / 1e9,
                **({"ReleasedCapacity": _gib(record.released_bytes)} if record.type == tasks.AUTO_RELEASE else {}),
            },
            "Report": _described_report(record.report),
            **_described_release(record),
        }


def _matches(record: TaskRecord, name: str, values: list[str]) -> bool:
    if name == "task-lifecycle":
        return record.lifecycle in values
    return name == "data-repository-association-id" and any(each in values for each in record.associations)


def _touched(kind: str, associations: list[Association], paths: list[str]) -> list[Association]:
    """The associations that a task has to do with; none where its paths make no sense, which is found out later."""
    if kind != tasks.IMPORT:
        return reached(associations, paths)
    urls = [each for path in paths or ["/"] for each in split_urls(path)]
    meant = {span.association.assoc_id for url in urls for span in spans(associations, url)}
    return [each for each in associations if each.assoc_id in meant]


def _report(given: Json) -> TaskReport | None:
    if not given["Enabled"]:
        return None
    return TaskReport(given.get("Path", ""))  # of format and scope there is one each


def _described_report(report: TaskReport | None) -> Json:
    if report is None:
        return {"Enabled": False}
    shown: dict[str, Any] = {"Enabled": True, "Format": report.format, "Scope": report.scope}
    return {**shown, "Path": report.path} if report.path else shown


def _described_release(record: TaskRecord) -> Json:
    if record.type == tasks.AUTO_RELEASE:
        return {"CapacityToRelease": max(1, _gib(record.wanted_bytes))}
    if record.release_days is None:
        return {}
    return {"ReleaseConfiguration": {"DurationSinceLastAccess": {"Unit": "DAYS", "Value": record.release_days}}}


def _gib(size: int) -> int:
    """Rounded up, so that who released as many bytes as were wanted shows at least as many GiB."""
    return -(-size // (1 << 30))
