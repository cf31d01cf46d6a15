"""FsxApi: FSx's operations by name. Validates a request, keeps to one change at a time, and answers a repeated request once.

A request with a ClientRequestToken that was done before, by this daemon or the one before it, is not done again: its
answer is how the resource is now. What is not there yet, or makes no sense on one host, is refused with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import trio

from s3lustrefs.control.faults import Fault, fault_of
from s3lustrefs.control.fsx_associations import Associations, Linking
from s3lustrefs.control.fsx_filesystems import FileSystems
from s3lustrefs.control.fsx_model import FsxModel
from s3lustrefs.control.fsx_request import MESSAGE_CHARACTERS, TOKEN, Json, fingerprints, refused
from s3lustrefs.control.fsx_tags import Tags
from s3lustrefs.errors import ControlFault
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.file_system import Asked
from s3lustrefs.movers.repositories import Repositories

_TASK = "until then `s3lustrefs drain` exports and `s3lustrefs refresh` imports"
_FILE_SYSTEM = "a file system is made by mounting it, and ends with its state directory"
_CACHE = "only file systems are there"
_NOT_YET: Mapping[str, str] = {
    "CreateDataRepositoryTask": _TASK,
    "DescribeDataRepositoryTasks": _TASK,
    "CancelDataRepositoryTask": _TASK,
    "CreateFileSystem": _FILE_SYSTEM,
    "DeleteFileSystem": _FILE_SYSTEM,
    "CreateFileCache": _CACHE,
    "DescribeFileCaches": _CACHE,
    "UpdateFileCache": _CACHE,
    "DeleteFileCache": _CACHE,
}
"""Operations that make sense on one host, with what holds as long as they are not there."""
_ALWAYS_POSSIBLE = frozenset({"UnsupportedOperation", "InternalServerError"})
"""Faults that every operation may answer, whether or not FSx's description lists them for it."""


@dataclass(frozen=True, slots=True)
class Change:
    """An operation that changes something: how it is done, and what it answers when it was done before."""

    make: Callable[[Json, Asked | None], Awaitable[Json]]
    repeat: Callable[[Json], Awaitable[Json]]


class FsxApi:
    """See the module docstring."""

    def __init__(
        self, engine: MetadataEngine, repositories: Repositories, *, capacity_bytes: Callable[[], int], linking: Linking
    ) -> None:
        self._engine = engine
        self._model = FsxModel()
        self._changing = trio.Lock()
        self.file_systems = FileSystems(engine, capacity_bytes)
        associations = Associations(engine, self.file_systems, repositories, linking)
        tags = Tags(engine, self.file_systems, associations)
        self._queries: Mapping[str, Callable[[Json], Awaitable[Json]]] = {
            "DescribeDataRepositoryAssociations": associations.describe,
            "DescribeFileSystems": self.file_systems.describe,
            "ListTagsForResource": tags.list_,
        }
        self._changes = {
            "CreateDataRepositoryAssociation": Change(associations.create, associations.created),
            "DeleteDataRepositoryAssociation": Change(associations.delete, associations.deleted),
            "UpdateDataRepositoryAssociation": Change(associations.update, associations.updated),
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
        request = _without_nulls(request)
        try:
            if name in self._queries:
                return await self._queries[name](request)
            return await self._change(name, request)
        except Exception as exc:
            fault = fault_of(exc, name)
            raise _documented(fault, operation.faults) from exc

    async def _change(self, name: str, request: Json) -> Json:
        change = self._changes[name]
        async with self._changing:
            if not request.get(TOKEN):
                return await change.make(request, None)
            asked = Asked(request[TOKEN], name, fingerprints(request), time.time_ns())
            known = self._engine.find_asked(asked.token)
            if known is None:
                return await change.make(request, asked)
            _refuse_another_request(known, asked)
            return await change.repeat(request)


def _without_nulls(value: Any) -> Any:
    """A member that is null counts as absent."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _refuse_another_request(known: Asked, asked: Asked) -> None:
    if known.operation != asked.operation:
        message = f"{TOKEN} was used for {known.operation}"
        raise refused("IncompatibleParameterError", message, Parameter=TOKEN)
    for name in sorted(known.parameters.keys() | asked.parameters.keys()):
        if known.parameters.get(name) != asked.parameters.get(name):
            message = f"{TOKEN} was used for a request with another {name}"
            raise refused("IncompatibleParameterError", message, Parameter=name)


def _documented(fault: Fault, faults: frozenset[str]) -> ControlFault:
    """The same fault, under a name that clients of this operation know."""
    known = faults | _ALWAYS_POSSIBLE
    name = fault.name if fault.name in known else "BadRequest" if fault.status < 500 else "InternalServerError"
    return ControlFault(fault.message[:MESSAGE_CHARACTERS], fault=name, members=fault.members)


def _reason(name: str) -> str:
    if name in _NOT_YET:
        return f"{name} is not available yet: {_NOT_YET[name]}"
    return f"{name} has no meaning for an s3lustrefs file system"
