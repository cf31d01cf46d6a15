"""FSx's operations on the file system itself, of which there is one: this mount.

What has no meaning on one host (throughput, maintenance and backup windows, compression) is kept and shown as it was set; the log
level is what `movers/event_log` goes by. What would have a meaning, but cannot be had here or not through the API (capacity, root
squash, backups), is refused: an answer that shows it would be a promise.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from s3lustrefs.control import fsx_legacy
from s3lustrefs.control.fsx_request import ACCOUNT, MESSAGE_CHARACTERS, Json, file_system_arn, page, refused
from s3lustrefs.control.fsx_settings import OTHER_KINDS, checked_settings, throughputs_of
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.association import Association, Lifecycle, policies_of
from s3lustrefs.model.association_lifecycle import may_follow, moved
from s3lustrefs.model.file_system import MOUNT_NAME, Asked, FileSystemRecord
from s3lustrefs.movers.repositories import Repositories

_MOST_SHOWN = 50
VERSIONS = ("2.10", "2.12", "2.15")
_VERSION = VERSIONS[-1]
_DEFAULTS: Mapping[str, Any] = {
    "WeeklyMaintenanceStartTime": "7:00:00",
    "AutomaticBackupRetentionDays": 0,
    "CopyTagsToBackups": False,
    "DataCompressionType": "NONE",
    "EfaEnabled": False,
    "LogConfiguration": {"Level": "DISABLED"},
}
_MOUNTED_DEFAULTS: Mapping[str, Any] = {"DeploymentType": "PERSISTENT_2", "PerUnitStorageThroughput": 125}
"""Of a file system that was made by mounting it."""


class FileSystems:
    """See the module docstring."""

    def __init__(
        self, engine: MetadataEngine, capacity_bytes: Callable[[], int], repositories: Repositories, wake: Callable[[], None]
    ) -> None:  # fmt: skip
        """`wake`: something was asked for that is worked on in the background."""
        self._engine = engine
        self._capacity_bytes = capacity_bytes
        self._repositories = repositories
        self._wake = wake

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
        if request.get("FileSystemIds"):
            self.are_ours(request["FileSystemIds"])
        shown, more = page(
            request, [] if self.record.is_cache else [self.record], lambda record: record.file_system_id, _MOST_SHOWN
        )
        return {"FileSystems": [self._described(record) for record in shown], **more}

    async def update(self, request: Json, asked: Asked | None) -> Json:
        self.are_ours([request["FileSystemId"]])
        _refuse_what_is_fixed(request, self.record.settings)
        given = request.get("LustreConfiguration", {})
        named: Json = {key: request[key] for key in ("NetworkType", "FileSystemTypeVersion") if key in request}
        if not given and not named:
            raise refused("MissingFileSystemConfiguration", "nothing to update: LustreConfiguration is empty")
        settings = {**self.record.settings, **named}
        checked = _checked(given, settings)
        settings["LustreConfiguration"] = {**settings.get("LustreConfiguration", {}), **checked}
        if "AutoImportPolicy" in given:
            await self._change_policy(settings["LustreConfiguration"].pop("AutoImportPolicy"))
        await self._engine.update_file_system(replace(self.record, settings=settings), asked)
        return await self.updated(request)

    async def updated(self, request: Json) -> Json:
        """What an update answers that was done before."""
        self.are_ours([request["FileSystemId"]])
        return {"FileSystem": self._described(self.record)}

    async def _change_policy(self, policy: str) -> None:
        """Of a file system that was linked at its creation. A crash before the rest of the update leaves this done.

        As with an update of an association, what it is MISCONFIGURED for is looked at again, and made anew where it can be; also if
        the policy is the same. Raises: ControlFault. Source: FSx for Lustre User Guide, "Older deployment types".
        """
        for association in self._engine.all_associations():
            if not may_follow(association.lifecycle, "UPDATING"):
                raise refused(
                    "BadRequest", f"AutoImportPolicy: the data repository is {association.lifecycle}: it cannot be updated"
                )
            policies = replace(policies_of(association), auto_import=frozenset(fsx_legacy.EVENTS[policy]))
            changed = moved(association.with_policies(policies), "UPDATING")
            await self._engine.update_association(replace(changed, asked_ns=time.time_ns()))
        self._wake()

    def _described(self, record: FileSystemRecord) -> Json:
        tags = self._engine.tags(record.file_system_id)
        about = described(record, tags, capacity_gib=min(self._capacity_bytes() >> 30, 2**31 - 1))
        if record.is_legacy:
            for association in self._engine.all_associations():
                lifecycle, failure = standing(association, self._repositories)
                about["LustreConfiguration"]["DataRepositoryConfiguration"] = fsx_legacy.described(
                    record.settings["DataRepositoryConfiguration"], lifecycle=lifecycle,
                    events=association.auto_import, failure=failure,
                )  # fmt: skip
        return about


def standing(association: Association, repositories: Repositories) -> tuple[Lifecycle, str]:
    """How an association is shown, and why: one whose bucket cannot be used is MISCONFIGURED before anybody has recorded it."""
    in_use = repositories.failure(association.assoc_id) if association.lifecycle == "AVAILABLE" else None
    if in_use is not None:
        return "MISCONFIGURED", association.failure or str(in_use)
    return association.lifecycle, association.failure


def dns_name(record: FileSystemRecord) -> str:
    return f"{record.file_system_id}.fsx.{record.region}.{socket.gethostname()}"


def described(
    record: FileSystemRecord, tags: Mapping[str, str], *, capacity_gib: int, lifecycle: str = "AVAILABLE", failure: str = ""
) -> Json:
    """FSx's FileSystem. `capacity_gib` counts where no capacity was asked for."""
    kept = record.settings
    given = kept.get("LustreConfiguration", {})
    was_mounted = {} if "DeploymentType" in given else _MOUNTED_DEFAULTS
    is_tiered = kept.get("StorageType") == "INTELLIGENT_TIERING"
    return {
        "OwnerId": ACCOUNT,
        "CreationTime": record.created_ns / 1e9,
        "FileSystemId": record.file_system_id,
        "FileSystemType": "LUSTRE",
        "FileSystemTypeVersion": kept.get("FileSystemTypeVersion", _VERSION),
        "Lifecycle": lifecycle,
        **({"FailureDetails": {"Message": failure[:MESSAGE_CHARACTERS]}} if failure else {}),
        **({} if is_tiered else {"StorageCapacity": kept.get("StorageCapacity", capacity_gib)}),
        "StorageType": kept.get("StorageType", "SSD"),
        "SubnetIds": kept.get("SubnetIds", []),
        **({"KmsKeyId": kept["KmsKeyId"]} if "KmsKeyId" in kept else {}),
        "NetworkInterfaceIds": [],
        "NetworkType": kept.get("NetworkType", "IPV4"),
        "DNSName": dns_name(record),
        "ResourceARN": file_system_arn(record),
        **({"Tags": [{"Key": key, "Value": value} for key, value in sorted(tags.items())]} if tags else {}),
        "LustreConfiguration": {**_DEFAULTS, **was_mounted, **given, **_legacy(record, lifecycle), "MountName": MOUNT_NAME},
        "AdministrativeActions": [],
    }


def _legacy(record: FileSystemRecord, lifecycle: str) -> Json:
    if not record.is_legacy:
        return {}
    link, state = record.settings["DataRepositoryConfiguration"], "AVAILABLE" if lifecycle == "AVAILABLE" else "CREATING"
    return {"DataRepositoryConfiguration": fsx_legacy.described(link, lifecycle=state, events=None, failure="")}


def _refuse_what_is_fixed(request: Json, kept: Mapping[str, Any]) -> None:
    for kind in OTHER_KINDS:
        if kind in request:
            raise refused("IncompatibleParameterError", f"{kind} is not for a file system of type LUSTRE", Parameter=kind)
    if "StorageCapacity" in request:
        raise refused(
            "UnsupportedOperation",
            "StorageCapacity is what the disks of this host give: set the mount option cache_size, or add a cache_dir",
        )
    if "StorageType" in request and request["StorageType"] != kept.get("StorageType", "SSD"):
        raise refused("UnsupportedOperation", "StorageType cannot change: the content lies on the disks of this host")
    now = kept.get("FileSystemTypeVersion", _VERSION)
    if request.get("FileSystemTypeVersion", now) not in VERSIONS[VERSIONS.index(now) :]:
        raise refused("BadRequest", f"FileSystemTypeVersion is {now} and can only be raised, up to {_VERSION}")


def _checked(given: Json, kept: Json) -> Json:
    """The Lustre settings to keep. Raises: ControlFault."""
    if "AutoImportPolicy" in given and "DataRepositoryConfiguration" not in kept:
        message = "AutoImportPolicy is for file systems with an ImportPath: use UpdateDataRepositoryAssociation"
        raise refused("IncompatibleParameterError", message, Parameter="AutoImportPolicy")
    lustre = {**_MOUNTED_DEFAULTS, **kept.get("LustreConfiguration", {})}
    allowed = throughputs_of(lustre["DeploymentType"], kept.get("StorageType", "SSD"))
    if "PerUnitStorageThroughput" in given and given["PerUnitStorageThroughput"] not in allowed:
        raise refused("BadRequest", f"PerUnitStorageThroughput must be one of {', '.join(map(str, allowed)) or 'none'}")
    return checked_settings(given)
