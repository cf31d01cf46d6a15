"""FSx's operations on the file system itself, of which there is one: this mount.

What has no meaning on one host (throughput, maintenance and backup windows, compression, log level) is kept and shown as it was
set. What would have one, but cannot be had here or not through the API (capacity, root squash, backups), is refused: an
answer that shows it would be a promise.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from s3lustrefs.control.fsx_request import ACCOUNT, Json, file_system_arn, page, refused
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.file_system import Asked, FileSystemRecord

_MOST_SHOWN = 50
_VERSION = "2.15"
_MOUNT_NAME = "fsx"
_THROUGHPUTS = (125, 250, 500, 1000)
"""MB/s per TiB of SSD in PERSISTENT_2. Source: Amazon FSx API Reference, "CreateFileSystemLustreConfiguration"."""
_IOPS = (1500, 3000, 6000, *range(12000, 192001, 12000))
_OTHER_KINDS = ("WindowsConfiguration", "OntapConfiguration", "OpenZFSConfiguration")
_DEFAULTS: Mapping[str, Any] = {
    "WeeklyMaintenanceStartTime": "7:00:00",
    "PerUnitStorageThroughput": 125,
    "AutomaticBackupRetentionDays": 0,
    "DataCompressionType": "NONE",
    "LogConfiguration": {"Level": "DISABLED"},
}
_FIXED: Mapping[str, Any] = {
    "DeploymentType": "PERSISTENT_2",
    "MountName": _MOUNT_NAME,
    "CopyTagsToBackups": False,
    "EfaEnabled": False,
}


class FileSystems:
    """See the module docstring."""

    def __init__(self, engine: MetadataEngine, capacity_bytes: Callable[[], int]) -> None:
        self._engine = engine
        self._capacity_bytes = capacity_bytes

    async def establish(self, region: str) -> FileSystemRecord:
        """Give this file system its identity at its first mount; `region` counts then only."""
        record = self._engine.file_system()
        if record is None:
            record = FileSystemRecord(f"fs-{secrets.token_hex(9)[:17]}", time.time_ns(), region)
            await self._engine.update_file_system(record)
        return record

    @property
    def record(self) -> FileSystemRecord:
        record = self._engine.file_system()
        assert record is not None, "a mount establishes it before it serves requests"
        return record

    def are_ours(self, ids: Sequence[str]) -> bool:
        """Always true. Raises: ControlFault for an id that is not this file system's."""
        for each in ids:
            if each != self.record.file_system_id:
                raise refused(
                    "FileSystemNotFound", f"there is no file system {each} here; this one is {self.record.file_system_id}"
                )
        return True

    async def describe(self, request: Json) -> Json:
        self.are_ours(request.get("FileSystemIds", ()))
        shown, more = page(request, [self.record], lambda record: record.file_system_id, _MOST_SHOWN)
        return {"FileSystems": [self._described(record) for record in shown], **more}

    async def update(self, request: Json, asked: Asked | None) -> Json:
        self.are_ours([request["FileSystemId"]])
        _refuse_what_is_fixed(request)
        given = request.get("LustreConfiguration", {})
        if not given and "NetworkType" not in request:
            raise refused("BadRequest", "nothing to update: LustreConfiguration is empty")
        settings = dict(self.record.settings)
        settings["LustreConfiguration"] = {**settings.get("LustreConfiguration", {}), **_checked(given)}
        if "NetworkType" in request:
            settings["NetworkType"] = request["NetworkType"]
        await self._engine.update_file_system(replace(self.record, settings=settings), asked)
        return await self.updated(request)

    async def updated(self, request: Json) -> Json:
        """What an update answers that was done before."""
        self.are_ours([request["FileSystemId"]])
        return {"FileSystem": self._described(self.record)}

    def _described(self, record: FileSystemRecord) -> Json:
        tags = self._engine.tags(record.file_system_id)
        return {
            "OwnerId": ACCOUNT,
            "CreationTime": record.created_ns / 1e9,
            "FileSystemId": record.file_system_id,
            "FileSystemType": "LUSTRE",
            "FileSystemTypeVersion": _VERSION,
            "Lifecycle": "AVAILABLE",
            "StorageCapacity": min(self._capacity_bytes() >> 30, 2**31 - 1),
            "StorageType": "SSD",
            "SubnetIds": [],
            "NetworkInterfaceIds": [],
            "NetworkType": record.settings.get("NetworkType", "IPV4"),
            "DNSName": f"{record.file_system_id}.fsx.{record.region}.{socket.gethostname()}",
            "ResourceARN": file_system_arn(record),
            **({"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]} if tags else {}),
            "LustreConfiguration": {**_DEFAULTS, **record.settings.get("LustreConfiguration", {}), **_FIXED},
            "AdministrativeActions": [],
        }


def _refuse_what_is_fixed(request: Json) -> None:
    for kind in _OTHER_KINDS:
        if kind in request:
            raise refused("IncompatibleParameterError", f"{kind} is not for a file system of type LUSTRE", Parameter=kind)
    if "StorageCapacity" in request:
        raise refused(
            "UnsupportedOperation",
            "StorageCapacity is what the disks of this host give: set the mount option cache_size, or add a cache_dir",
        )
    if request.get("StorageType", "SSD") != "SSD":
        raise refused("UnsupportedOperation", "StorageType cannot change: the content lies on the disks of this host")
    if request.get("FileSystemTypeVersion", _VERSION) != _VERSION:
        raise refused("BadRequest", f"FileSystemTypeVersion can only be raised, and {_VERSION} is the newest")


def _checked(given: Json) -> Json:
    """The Lustre settings to keep. Raises: ControlFault."""
    for member in ("ThroughputCapacity", "DataReadCacheConfiguration"):
        if member in given:
            raise refused("IncompatibleParameterError", f"{member} needs StorageType INTELLIGENT_TIERING", Parameter=member)
    if "AutoImportPolicy" in given:
        message = "AutoImportPolicy is for file systems with an ImportPath: use UpdateDataRepositoryAssociation"
        raise refused("IncompatibleParameterError", message, Parameter="AutoImportPolicy")
    if given.get("AutomaticBackupRetentionDays"):
        raise refused("UnsupportedOperation", "there are no backups here: the bucket is where the data is kept")
    if given.get("RootSquashConfiguration", {}).get("RootSquash", "0:0") != "0:0":
        raise refused("UnsupportedOperation", "root squash is not available: mount without allow_other to keep others out")
    if given.get("PerUnitStorageThroughput", _THROUGHPUTS[0]) not in _THROUGHPUTS:
        raise refused("BadRequest", f"PerUnitStorageThroughput must be one of {', '.join(map(str, _THROUGHPUTS))}")
    if metadata := given.get("MetadataConfiguration"):
        given = {**given, "MetadataConfiguration": _metadata(metadata)}
    return given


def _metadata(given: Json) -> Json:
    iops = given.get("Iops")
    mode = given.get("Mode", "USER_PROVISIONED")
    if mode == "AUTOMATIC" and iops is not None:
        raise refused("BadRequest", "MetadataConfiguration.Iops cannot be given with Mode AUTOMATIC")
    if mode == "USER_PROVISIONED" and iops not in _IOPS:
        raise refused(
            "BadRequest", "MetadataConfiguration.Iops must be 1500, 3000, 6000, 12000 or a multiple of 12000 up to 192000"
        )
    return {"Mode": mode, **({"Iops": iops} if iops is not None else {})}
