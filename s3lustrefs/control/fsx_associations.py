"""FSx's operations on data repository associations.

What is asked for is validated while the client waits, access to the bucket included, then recorded and answered; the work is
that of `movers.association_requests`.

Neither path of an association can be changed, as in FSx; its policies can, and hold from the next decision on, since importers,
sweepers and the exporter look the association up at each use. A policy that is absent from an update stays as it is, an
empty list of events switches it off; one that is absent from a creation is off.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import trio

from s3lustrefs import errors
from s3lustrefs.control.fsx_filesystems import FileSystems, standing
from s3lustrefs.control.fsx_request import MESSAGE_CHARACTERS, TOKEN, Json, association_arn, page, refused, wanted_tags
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.location import LOST_FOUND
from s3lustrefs.model import association_rules as rules
from s3lustrefs.model.association import EVENTS, Association, AssociationSettings, Policies, policies_of
from s3lustrefs.model.association_lifecycle import may_follow, moved
from s3lustrefs.model.file_system import Asked
from s3lustrefs.movers.configured_links import new_association_id
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.repository.object_store import Capabilities

log = logging.getLogger(__name__)

_MOST_SHOWN = 25
_REPOSITORY_TYPES = ("S3", "NFS")
_CHUNK_MIB = 1024
_PROBE_SECONDS = 20.0
"""For a bucket to show that it can be used. AWS's clients wait for 60 s."""
_NEEDED = "FSx needs s3:Get*, s3:List* and s3:PutObject on it"
"""Source: FSx for Lustre User Guide, "Unable to validate access to an S3 bucket"."""

Found = TypeVar("Found")

Probe = Callable[[AssociationSettings], Awaitable[Capabilities | None]]
"""Whether and how a bucket can be used, and be written if anything is exported there; None: the next mount finds out.

Raises: RepositoryError with the remedy.
"""
ProbeExport = Callable[[Association], Awaitable[Capabilities]]
"""Whether and how an association's bucket can be written. Raises: RepositoryError with the remedy."""


@dataclass(frozen=True, slots=True)
class Linking:
    """What it takes to make, change and delete associations, beside the table. `defaults`: what a request cannot say; `unexported`:
    how many changes are not in the bucket yet (True: at least); `wake`: something was asked for."""

    defaults: AssociationSettings
    probe: Probe
    probe_export: ProbeExport
    unexported: Callable[[Association], Awaitable[tuple[int, bool]]]
    wake: Callable[[], None]


class Associations:
    """See the module docstring."""

    def __init__(self, engine: MetadataEngine, file_systems: FileSystems, repositories: Repositories, linking: Linking) -> None:
        self._engine = engine
        self._file_systems = file_systems
        self._repositories = repositories
        self._linking = linking

    # --- create ----------------------------------------------------------------------------------------------------------

    async def create(self, request: Json, asked: Asked | None) -> Json:
        self._file_systems.are_ours([request["FileSystemId"]])
        self._refuse_settled()
        settings, tags = self._asked_for(request), wanted_tags(request.get("Tags", ()))
        if defect := rules.addition_defect(settings, self._engine.all_associations()) or await self._place_defect(settings):
            raise refused("BadRequest", defect)
        try:
            able = await _in_time(lambda: self._linking.probe(settings))
        except errors.RepositoryError as exc:
            where = settings.data_repository_path_given
            raise refused("BadRequest", f"cannot validate access to the bucket of {where} ({_NEEDED}): {exc}") from exc
        now = time.time_ns()
        association = Association(
            **{name: getattr(settings, name) for name in AssociationSettings.__dataclass_fields__},
            association_id=new_association_id(), created_ns=now, asked_ns=now, lifecycle="CREATING",
            capabilities=asdict(able) if able is not None else None, token=request.get(TOKEN, ""),
        )  # fmt: skip
        if not request.get("BatchImportMetaDataOnCreate", False):
            association = replace(association, import_state="DONE", new_since_ns=now)
        added = await self._engine.add_association(association, asked, tags)
        self._linking.wake()
        return {"Association": self._described(added)}

    async def created(self, request: Json) -> Json:
        """What a creation answers that was done before."""
        for association in self._engine.all_associations():
            if association.token == request[TOKEN]:
                return {"Association": self._described(association)}
        raise refused("BadRequest", "the association that this request made was deleted: use another ClientRequestToken")

    def _asked_for(self, request: Json) -> AssociationSettings:
        """Raises: ControlFault for paths that cannot be linked."""
        path, url = request.get("FileSystemPath"), request["DataRepositoryPath"]
        if path is None:
            raise refused("BadRequest", "FileSystemPath is missing: which directory is to be linked?")
        split = rules.split_repository_path(url)
        if isinstance(split, str):
            raise refused("BadRequest", f"DataRepositoryPath: {split}")
        if defect := rules.file_system_path_defect(path):
            raise refused("BadRequest", f"FileSystemPath: {defect}")
        given = request.get("S3", {})
        return replace(
            self._linking.defaults,
            file_system_path=rules.normalise_file_system_path(path), bucket=split[0], prefix=split[1],
            file_system_path_given=path, data_repository_path_given=url,
            auto_import=frozenset(given.get("AutoImportPolicy", {}).get("Events", ())),
            auto_export=frozenset(given.get("AutoExportPolicy", {}).get("Events", ())),
            imported_file_chunk_size_mib=request.get("ImportedFileChunkSize", _CHUNK_MIB),
        )  # fmt: skip

    async def _place_defect(self, settings: AssociationSettings) -> str | None:
        """Why the directory cannot be linked as things are now, or None."""
        parts = settings.file_system_path.encode().split(b"/")[1:]
        if parts[0] == LOST_FOUND:
            return f"{settings.file_system_path} holds the losers of conflicts and cannot be linked"
        path = b""
        for part in filter(None, parts):
            path += b"/" + part
            try:
                inode = await self._engine.resolve(path)
            except errors.NotFound:
                return None
            if not inode.is_dir:
                return f"{path.decode()} exists and is not a directory"
        return None

    # --- describe --------------------------------------------------------------------------------------------------------

    async def describe(self, request: Json) -> Json:
        chosen = [self.find(each) for each in dict.fromkeys(request.get("AssociationIds", ()))] or self._all()
        meets = [self._matches(each) for each in request.get("Filters", ())]  # each is looked at, for what is wrong with it
        if not all(meets):
            chosen = []
        shown, more = page(request, chosen, lambda association: association.association_id, _MOST_SHOWN)
        return {"Associations": [self._described(association) for association in shown], **more}

    # --- update ----------------------------------------------------------------------------------------------------------

    async def update(self, request: Json, asked: Asked | None) -> Json:
        self._refuse_settled()
        association = self._changeable(request)
        policies = _wanted(association, request)
        found: dict[str, Any] = {}
        if policies.auto_export and not association.auto_export:
            # Nobody has looked yet, or not lately, whether this bucket can be written.
            try:
                found = {"capabilities": asdict(await _in_time(lambda: self._linking.probe_export(association)))}
            except errors.RepositoryError as exc:
                raise refused("BadRequest", f"AutoExportPolicy: cannot validate access to the bucket: {exc}") from exc
            association = self._changeable(request)
        changed = replace(moved(association.with_policies(policies), "UPDATING"), asked_ns=time.time_ns(), **found)
        await self._engine.update_association(changed, asked)
        self._linking.wake()
        return await self.updated(request)

    def _changeable(self, request: Json) -> Association:
        association = self.find(request["AssociationId"])
        if not may_follow(association.lifecycle, "UPDATING"):
            raise refused("BadRequest", f"{association.association_id} is {association.lifecycle} and cannot be updated")
        return association

    async def updated(self, request: Json) -> Json:
        """What an update answers that was done before."""
        return {"Association": self._described(self.find(request["AssociationId"]))}

    # --- delete ----------------------------------------------------------------------------------------------------------

    async def delete(self, request: Json, asked: Asked | None) -> Json:
        association = self.find(request["AssociationId"])
        self._refuse_settled()
        if association.lifecycle == "DELETING":
            return _deleting(association)
        count, is_more = await self._linking.unexported(association)
        abandoned = ""
        if count:
            abandoned = f"{'at least ' if is_more else ''}{count} changes were not exported, and are not going to be"
            log.warning(
                "association deleted with changes not exported association=%s directory=%s changes=%d",
                association.association_id, association.file_system_path, count,
            )  # fmt: skip
        changed = replace(
            moved(self.find(association.association_id), "DELETING", abandoned),
            delete_data=request.get("DeleteDataInFileSystem", False), asked_ns=time.time_ns(),
        )  # fmt: skip
        await self._engine.update_association(changed, asked)
        self._linking.wake()
        return _deleting(changed)

    async def deleted(self, request: Json) -> Json:
        """What a deletion answers that was done before."""
        data = request.get("DeleteDataInFileSystem", False)
        return {"AssociationId": request["AssociationId"], "Lifecycle": "DELETING", "DeleteDataInFileSystem": data}

    # --- what they share -------------------------------------------------------------------------------------------------

    def _all(self) -> list[Association]:
        """That of a file system that was linked at its creation is FSx's DataRepositoryConfiguration, not one of these."""
        return [] if self._file_systems.record.is_legacy else self._engine.all_associations()

    def _refuse_settled(self) -> None:
        """Raises: ControlFault where the links were settled at the creation, and are not to change."""
        if self._file_systems.record.is_cache:
            raise refused("BadRequest", "the associations of a file cache are given at its creation and cannot be changed")
        if self._file_systems.record.is_legacy:
            raise refused("BadRequest", "this file system is linked by its ImportPath: it cannot have associations as well")

    def find(self, association_id: str) -> Association:
        for association in self._all():
            if association.association_id == association_id:
                return association
        raise refused("DataRepositoryAssociationNotFound", f"there is no data repository association {association_id}")

    def _described(self, association: Association) -> Json:
        record = self._file_systems.record
        lifecycle, failure = standing(association, self._repositories)
        tags = self._engine.tags(association.association_id)
        id_member, path_member = ("FileCacheId", "FileCachePath") if record.is_cache else ("FileSystemId", "FileSystemPath")
        return {
            "AssociationId": association.association_id,
            "ResourceARN": association_arn(record, association.association_id),
            id_member: record.file_system_id,
            "Lifecycle": lifecycle,
            **({"FailureDetails": {"Message": failure[:MESSAGE_CHARACTERS]}} if failure else {}),
            path_member: association.file_system_path_given or association.file_system_path,
            "DataRepositoryPath": association.data_repository_path_given or association.data_repository_path,
            "BatchImportMetaDataOnCreate": not (association.new_since_ns or association.is_lazy),
            "ImportedFileChunkSize": association.imported_file_chunk_size_mib,
            "S3": {
                "AutoImportPolicy": {"Events": _ordered(association.auto_import)},
                "AutoExportPolicy": {"Events": _ordered(association.auto_export)},
            },
            **({"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]} if tags else {}),
            "CreationTime": (association.created_ns or record.created_ns) / 1e9,
        }

    def _matches(self, condition: Json) -> bool:
        """Whether the associations of this file system meet one filter: what can be asked is the same for all of them."""
        name, values = condition.get("Name"), condition.get("Values")
        if not name or not values:
            raise refused("BadRequest", "Filters: each needs a Name and Values")
        if name == "file-system-id":
            return self._file_systems.are_ours(values)
        if name == "data-repository-type":
            for value in values:
                if value not in _REPOSITORY_TYPES:
                    raise refused("InvalidDataRepositoryType", f"data-repository-type {value!r} is not S3 or NFS")
            return "S3" in values
        if name == "file-cache-id":
            return self._file_systems.record.is_cache and self._file_systems.record.file_system_id in values
        raise refused("BadRequest", f"Filters: {name} says nothing about data repository associations")


async def _in_time(look: Callable[[], Awaitable[Found]]) -> Found:
    """Raises: RepositoryUnavailable when a bucket says nothing for so long that the client would go away; what `look` raises."""
    with trio.move_on_after(_PROBE_SECONDS):
        return await look()
    raise errors.RepositoryUnavailable(f"it has not answered within {_PROBE_SECONDS:.0f} s")


def _deleting(association: Association) -> Json:
    return {
        "AssociationId": association.association_id,
        "Lifecycle": "DELETING",
        "DeleteDataInFileSystem": association.delete_data,
    }


def _wanted(association: Association, request: Json) -> Policies:
    given, now = request.get("S3", {}), policies_of(association)
    return Policies(
        frozenset(given.get("AutoImportPolicy", {}).get("Events", now.auto_import)),
        frozenset(given.get("AutoExportPolicy", {}).get("Events", now.auto_export)),
        request.get("ImportedFileChunkSize", now.imported_file_chunk_size_mib),
    )


def _ordered(events: frozenset[str]) -> list[str]:
    return [event for event in EVENTS if event in events]
