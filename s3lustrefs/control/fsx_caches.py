"""FSx's operations on file caches: a file cache is a file system whose associations are given when it is created, and never change.

Nothing is imported or exported by itself. Names come when somebody looks into their directory (`movers.directory_importer`),
content when it is read, and goes when room is needed (`movers.evictions`).
Source: Amazon File Cache API Reference, "CreateFileCache"; fsx-spec section 14.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from s3lustrefs.control.fsx_filesystems import dns_name
from s3lustrefs.control.fsx_request import ACCOUNT, MESSAGE_CHARACTERS, Json, file_system_arn, page, refused
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.file_system import MOUNT_NAME, Asked, FileSystemRecord

_MOST_SHOWN = 50
_MOST_LINKS = 8
_STEP_GIB = 2400
_VERSION = "2.12"
_THROUGHPUT = 1000
_METADATA_GIB = 2400


class FileCaches:
    """The one file cache of a mount, if it is one."""

    def __init__(self, engine: MetadataEngine) -> None:
        self._engine = engine

    def _record(self) -> FileSystemRecord | None:
        record = self._engine.file_system()
        return record if record is not None and record.is_cache else None

    def _find(self, cache_id: str) -> FileSystemRecord:
        record = self._record()
        if record is None or record.file_system_id != cache_id:
            raise refused("FileCacheNotFound", f"there is no file cache {cache_id} here")
        return record

    async def describe(self, request: Json) -> Json:
        for each in request.get("FileCacheIds", ()):
            self._find(each)
        record = self._record()
        shown, more = page(request, [record] if record else [], lambda each: each.file_system_id, _MOST_SHOWN)
        return {"FileCaches": [self._described(each) for each in shown], **more}

    async def update(self, request: Json, asked: Asked | None) -> Json:
        record = self._find(request["FileCacheId"])
        if not request.get("LustreConfiguration"):
            raise refused("MissingFileCacheConfiguration", "nothing to update: LustreConfiguration is empty")
        lustre = {**record.settings.get("LustreConfiguration", {}), **request["LustreConfiguration"]}
        await self._engine.update_file_system(replace(record, settings={**record.settings, "LustreConfiguration": lustre}), asked)
        return await self.updated(request)

    async def updated(self, request: Json) -> Json:
        """What an update answers that was done before."""
        return {"FileCache": self._described(self._find(request["FileCacheId"]))}

    def _described(self, record: FileSystemRecord) -> Json:
        return described(record, [association.association_id for association in self._engine.associations()])


def described(record: FileSystemRecord, links: Sequence[str], *, lifecycle: str = "AVAILABLE", failure: str = "") -> Json:
    """FSx's FileCache. `links`: ids of its associations."""
    kept = record.settings
    return {
        "OwnerId": ACCOUNT,
        "CreationTime": record.created_ns / 1e9,
        "FileCacheId": record.file_system_id,
        "FileCacheType": "LUSTRE",
        "FileCacheTypeVersion": _VERSION,
        "Lifecycle": lifecycle,
        **({"FailureDetails": {"Message": failure[:MESSAGE_CHARACTERS]}} if failure else {}),
        "StorageCapacity": kept["StorageCapacity"],
        "SubnetIds": kept["SubnetIds"],
        "NetworkInterfaceIds": [],
        "DNSName": dns_name(record),
        **({"KmsKeyId": kept["KmsKeyId"]} if "KmsKeyId" in kept else {}),
        "ResourceARN": file_system_arn(record),
        "LustreConfiguration": {
            "WeeklyMaintenanceStartTime": "7:00:00",
            **kept["LustreConfiguration"],
            "MountName": MOUNT_NAME,
            "LogConfiguration": {"Level": record.log_level},
        },
        "DataRepositoryAssociationIds": list(links),
    }


# --- what a creation asks for, as pure functions -------------------------------------------------------------------------------


def settings_of(request: Json) -> Json:
    """The members to keep. Raises: ControlFault."""
    lustre = request.get("LustreConfiguration")
    if lustre is None:
        raise refused("MissingFileCacheConfiguration", "LustreConfiguration is required")
    if request["FileCacheTypeVersion"] != _VERSION:
        raise refused("BadRequest", f"FileCacheTypeVersion must be {_VERSION}")
    if len(request["SubnetIds"]) != 1:
        raise refused("BadRequest", "SubnetIds: a file cache has exactly one subnet; any id will do here")
    if lustre["PerUnitStorageThroughput"] != _THROUGHPUT:
        raise refused("InvalidPerUnitStorageThroughput", f"PerUnitStorageThroughput of a file cache must be {_THROUGHPUT}")
    if lustre["MetadataConfiguration"]["StorageCapacity"] != _METADATA_GIB:
        raise refused("BadRequest", f"MetadataConfiguration.StorageCapacity of a file cache must be {_METADATA_GIB} (GiB)")
    capacity = request["StorageCapacity"]
    if capacity != 1200 and (capacity < _STEP_GIB or capacity % _STEP_GIB):
        raise refused("BadRequest", f"StorageCapacity of a file cache must be 1200 or a multiple of {_STEP_GIB} (GiB)")
    return {
        **{key: request[key] for key in ("StorageCapacity", "SubnetIds", "KmsKeyId") if key in request},
        "CopyTagsToDataRepositoryAssociations": request.get("CopyTagsToDataRepositoryAssociations", False),
        "LustreConfiguration": lustre,
    }


def links_of(request: Json) -> list[dict[str, Any]]:
    """The keys of its [[dra]]s. Raises: ControlFault."""
    given = request.get("DataRepositoryAssociations", [])
    if len(given) > _MOST_LINKS:
        raise refused("BadRequest", f"DataRepositoryAssociations: at most {_MOST_LINKS}")
    for each in given:
        if "NFS" in each or each["DataRepositoryPath"].startswith("nfs:"):
            raise refused("BadRequest", "NFS repositories are not available here: a file cache is linked with S3 only")
        if each.get("DataRepositorySubdirectories"):
            raise refused("BadRequest", "DataRepositorySubdirectories is for NFS repositories")
        if not each["FileCachePath"].strip("/"):
            raise refused("BadRequest", "FileCachePath / is for NFS repositories: name a directory, such as /data")
    return [
        {
            "file_system_path": each["FileCachePath"],
            "data_repository_path": each["DataRepositoryPath"],
            "auto_import": [],
            "auto_export": [],
        }
        for each in given
    ]
