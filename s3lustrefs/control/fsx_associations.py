"""FSx's operations on data repository associations.

Neither path of an association can be changed, as in FSx; its policies can, and hold from the next decision on, since importers,
sweepers and the exporter look the association up at each use. A policy that is absent from an update stays as it is, an
empty list of events switches it off.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import Any

from s3lustrefs import errors
from s3lustrefs.control.fsx_filesystems import FileSystems
from s3lustrefs.control.fsx_request import MESSAGE_CHARACTERS, Json, association_arn, page, refused
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.association import EVENTS, Association, Policies, policies_of
from s3lustrefs.model.file_system import Asked
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.repository.object_store import Capabilities

_MOST_SHOWN = 25
_REPOSITORY_TYPES = ("S3", "NFS")

ProbeExport = Callable[[Association], Awaitable[Capabilities]]
"""Whether and how an association's bucket can be written. Raises: RepositoryError with the remedy."""


class Associations:
    """See the module docstring."""

    def __init__(
        self, engine: MetadataEngine, file_systems: FileSystems, repositories: Repositories, probe_export: ProbeExport
    ) -> None:
        self._engine = engine
        self._file_systems = file_systems
        self._repositories = repositories
        self._probe_export = probe_export

    async def describe(self, request: Json) -> Json:
        chosen = [self.find(each) for each in dict.fromkeys(request.get("AssociationIds", ()))] or self._all()
        meets = [self._matches(each) for each in request.get("Filters", ())]  # each is looked at, for what is wrong with it
        if not all(meets):
            chosen = []
        shown, more = page(request, chosen, lambda association: association.association_id, _MOST_SHOWN)
        return {"Associations": [self._described(association) for association in shown], **more}

    async def update(self, request: Json, asked: Asked | None) -> Json:
        association = self.find(request["AssociationId"])
        self._refuse_settled()
        policies = _wanted(association, request)
        found: dict[str, Any] = {}
        if policies.auto_export and not association.auto_export:
            # Nobody has looked yet, or not lately, whether this bucket can be written.
            try:
                found = {"capabilities": asdict(await self._probe_export(association))}
            except errors.RepositoryError as exc:
                raise refused("BadRequest", f"AutoExportPolicy: cannot validate access to the bucket: {exc}") from exc
            association = self.find(request["AssociationId"])
        await self._engine.update_association(replace(association.with_policies(policies), **found), asked)
        return await self.updated(request)

    async def updated(self, request: Json) -> Json:
        """What an update answers that was done before."""
        return {"Association": self._described(self.find(request["AssociationId"]))}

    def _all(self) -> list[Association]:
        """That of a file system that was linked at its creation is FSx's DataRepositoryConfiguration, not one of these."""
        return [] if self._file_systems.record.is_legacy else self._engine.associations()

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
        failure = self._repositories.failure(association.assoc_id)
        tags = self._engine.tags(association.association_id)
        id_member, path_member = ("FileCacheId", "FileCachePath") if record.is_cache else ("FileSystemId", "FileSystemPath")
        return {
            "AssociationId": association.association_id,
            "ResourceARN": association_arn(record, association.association_id),
            id_member: record.file_system_id,
            "Lifecycle": "MISCONFIGURED" if failure else "AVAILABLE",
            **({"FailureDetails": {"Message": str(failure)[:MESSAGE_CHARACTERS]}} if failure else {}),
            path_member: association.file_system_path_given or association.file_system_path,
            "DataRepositoryPath": association.data_repository_path_given or association.data_repository_path,
            "BatchImportMetaDataOnCreate": True,
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


def _wanted(association: Association, request: Json) -> Policies:
    given, now = request.get("S3", {}), policies_of(association)
    return Policies(
        frozenset(given.get("AutoImportPolicy", {}).get("Events", now.auto_import)),
        frozenset(given.get("AutoExportPolicy", {}).get("Events", now.auto_export)),
        request.get("ImportedFileChunkSize", now.imported_file_chunk_size_mib),
    )


def _ordered(events: frozenset[str]) -> list[str]:
    return [event for event in EVENTS if event in events]
