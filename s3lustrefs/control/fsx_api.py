"""FsxApi: FSx's operations by name. Validates a request, keeps to one change at a time, and answers a repeated request once.

Changes that look at a bucket first have a queue of their own: one that does not answer holds up no other changes.

A request with a ClientRequestToken that was done before, by this daemon or the one before it, is not done again: its
answer is how the resource is now. What another endpoint does, or makes no sense on one host, is refused with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import trio

from s3lustrefs.control.faults import fault_of
from s3lustrefs.control.fsx_associations import Associations, Linking
from s3lustrefs.control.fsx_caches import FileCaches
from s3lustrefs.control.fsx_filesystems import FileSystems
from s3lustrefs.control.fsx_model import FsxModel
from s3lustrefs.control.fsx_request import TOKEN, Json, documented, fingerprints, refuse_another_request, refused, without_nulls
from s3lustrefs.control.fsx_tags import Tags
from s3lustrefs.control.fsx_tasks import TaskOperations
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.file_system import Asked
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.tasks import Tasks

_OF_THE_HOST = frozenset({"CreateFileSystem", "DeleteFileSystem", "CreateFileCache", "DeleteFileCache"})
"""Operations of `control.host_api` alone: no mount makes or removes another."""


_LOOK_AT_BUCKETS = frozenset({"CreateDataRepositoryAssociation", "UpdateDataRepositoryAssociation"})
"""What they found out about associations before they looked, they find out again or cannot have changed meanwhile."""


@dataclass(frozen=True, slots=True)
class Change:
    """An operation that changes something: how it is done, and what it answers when it was done before."""

    make: Callable[[Json, Asked | None], Awaitable[Json]]
    repeat: Callable[[Json], Awaitable[Json]]


class FsxApi:
    """See the module docstring."""

    def __init__(
        self, engine: MetadataEngine, repositories: Repositories, queue: Tasks, *, capacity_bytes: Callable[[], int],
        linking: Linking, read_only: bool = False,
    ) -> None:  # fmt: skip
        self._engine = engine
        self._model = FsxModel()
        self._changing = trio.Lock()
        self._looking = trio.Lock()
        self.file_systems = FileSystems(engine, capacity_bytes, repositories, linking.wake)
        caches = FileCaches(engine)
        associations = Associations(engine, self.file_systems, repositories, linking)
        tasks = TaskOperations(engine, self.file_systems, queue, read_only=read_only)
        tags = Tags(engine, self.file_systems, associations, queue)
        self._queries: Mapping[str, Callable[[Json], Awaitable[Json]]] = {
            "DescribeDataRepositoryAssociations": associations.describe,
            "DescribeDataRepositoryTasks": tasks.describe,
            "DescribeFileCaches": caches.describe,
            "DescribeFileSystems": self.file_systems.describe,
            "ListTagsForResource": tags.list_,
        }
        self._changes = {
            "CreateDataRepositoryAssociation": Change(associations.create, associations.created),
            "DeleteDataRepositoryAssociation": Change(associations.delete, associations.deleted),
            "UpdateDataRepositoryAssociation": Change(associations.update, associations.updated),
            "CreateDataRepositoryTask": Change(tasks.create, tasks.created),
            "CancelDataRepositoryTask": Change(lambda request, _: tasks.cancel(request), tasks.cancel),
            "UpdateFileCache": Change(caches.update, caches.updated),
            "UpdateFileSystem": Change(self.file_systems.update, self.file_systems.updated),
            "TagResource": Change(tags.tag, tags.tagged),
            "UntagResource": Change(tags.untag, tags.tagged),
        }

    async def call(self, name: str, request: Json) -> Json:
        """Raises: ControlFault with a fault that FSx's description has for this operation."""
        operation = await self._model.operation(name)
        if operation is None:
            raise refused("UnknownOperationException", f"FSx has no operation {name!r}")
        if name not in self._queries and name not in self._changes:
            raise refused("UnsupportedOperation", _reason(name))
        if defect := operation.input_defect(request):
            raise refused("BadRequest", defect)
        request = without_nulls(request)
        try:
            if name in self._queries:
                return await self._queries[name](request)
            return await self._change(name, request)
        except Exception as exc:
            fault = fault_of(exc, name)
            raise documented(fault, operation.faults) from exc

    async def _change(self, name: str, request: Json) -> Json:
        change = self._changes[name]
        async with self._looking if name in _LOOK_AT_BUCKETS else self._changing:
            if not request.get(TOKEN):
                return await change.make(request, None)
            asked = Asked(request[TOKEN], name, fingerprints(request), time.time_ns())
            known = self._engine.find_asked(asked.token)
            if known is None:
                return await change.make(request, asked)
            refuse_another_request(known, asked)
            return await change.repeat(request)


def _reason(name: str) -> str:
    if name in _OF_THE_HOST:
        return f"this is the endpoint of one mount; that of the host, `s3lustrefs api`, does {name}"
    return f"{name} has no meaning for an s3lustrefs file system"
