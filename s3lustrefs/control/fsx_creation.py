"""What FSx takes in CreateFileSystem, as pure functions: the settings to keep of a request, or the refusal.

What has no meaning on one host (subnets, throughput, windows, keys) is checked as FSx does, kept, and shown. What would have one,
but cannot be had here (backups, root squash, other kinds of file systems), is refused: an answer that shows it would be a promise.
Source: Amazon FSx API Reference, "CreateFileSystem", "CreateFileSystemLustreConfiguration"; fsx-spec section 12.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s3lustrefs.control import fsx_legacy
from s3lustrefs.control.fsx_filesystems import VERSIONS
from s3lustrefs.control.fsx_request import Json, refused
from s3lustrefs.control.fsx_settings import OTHER_KINDS, checked_settings, throughputs_of

_STEP_GIB: Mapping[tuple[str, str], int] = {
    ("SCRATCH_1", "SSD"): 3600, ("SCRATCH_2", "SSD"): 2400, ("PERSISTENT_1", "SSD"): 2400, ("PERSISTENT_2", "SSD"): 2400,
}  # fmt: skip
_HDD_STEP_GIB = {12: 6000, 40: 1800}
"""By throughput."""
_STORAGE_TYPES: Mapping[str, tuple[str, ...]] = {
    "SCRATCH_1": ("SSD",), "SCRATCH_2": ("SSD",), "PERSISTENT_1": ("SSD", "HDD"), "PERSISTENT_2": ("SSD", "INTELLIGENT_TIERING"),
}  # fmt: skip
_TIERED = ("ThroughputCapacity", "DataReadCacheConfiguration")


def settings_of(request: Json) -> Json:
    """The members of FSx's FileSystem that a request settles, legacy links left out. Raises: ControlFault."""
    _check_kind(request)
    lustre: Json = {key: value for key, value in request.get("LustreConfiguration", {}).items() if key not in fsx_legacy.MEMBERS}
    deployment = lustre.get("DeploymentType", "SCRATCH_1")
    storage = request.get("StorageType", "SSD")
    if storage not in _STORAGE_TYPES[deployment]:
        allowed = " or ".join(_STORAGE_TYPES[deployment])
        raise refused("BadRequest", f"StorageType of a {deployment} file system must be {allowed}")
    version = _version(request, lustre, deployment)
    _check_throughput(lustre, deployment, storage)
    _check_capacity(request, lustre, deployment, storage)
    _check_what_depends(request, lustre, deployment, storage)
    checked = checked_settings({key: value for key, value in lustre.items() if key not in _TIERED})
    kept: Json = {key: request[key] for key in ("StorageCapacity", "SubnetIds", "KmsKeyId", "NetworkType") if key in request}
    tiered = {key: lustre[key] for key in _TIERED if key in lustre}
    return {
        **kept,
        "StorageType": storage,
        "FileSystemTypeVersion": version,
        "LustreConfiguration": {**checked, **tiered, "DeploymentType": deployment},
    }


def _check_kind(request: Json) -> None:
    if request["FileSystemType"] != "LUSTRE":
        raise refused("BadRequest", f"FileSystemType {request['FileSystemType']} is not available here: only LUSTRE is")
    for kind in OTHER_KINDS:
        if kind in request:
            raise refused("IncompatibleParameterError", f"{kind} is not for a file system of type LUSTRE", Parameter=kind)
    if len(request["SubnetIds"]) != 1:
        raise refused("BadRequest", "SubnetIds: a file system of type LUSTRE has exactly one subnet; any id will do here")


def _version(request: Json, lustre: Json, deployment: str) -> str:
    has_metadata = "MetadataConfiguration" in lustre
    default = "2.10" if deployment != "PERSISTENT_2" else "2.15" if has_metadata else "2.12"
    version: str = request.get("FileSystemTypeVersion", default)
    if version not in VERSIONS:
        raise refused("BadRequest", f"FileSystemTypeVersion must be one of {', '.join(VERSIONS)}")
    if deployment == "PERSISTENT_2" and version == "2.10":
        raise refused("BadRequest", "FileSystemTypeVersion of a PERSISTENT_2 file system must be 2.12 or 2.15")
    if has_metadata and (deployment != "PERSISTENT_2" or version != "2.15"):
        message = "MetadataConfiguration needs DeploymentType PERSISTENT_2 and FileSystemTypeVersion 2.15"
        raise refused("IncompatibleParameterError", message, Parameter="MetadataConfiguration")
    return version


def _check_throughput(lustre: Json, deployment: str, storage: str) -> None:
    allowed = throughputs_of(deployment, storage)
    given = lustre.get("PerUnitStorageThroughput")
    if not allowed:
        if given is not None:
            message = f"PerUnitStorageThroughput is not for a {deployment} file system with storage of type {storage}"
            raise refused("InvalidPerUnitStorageThroughput", message)
    elif given not in allowed:
        words = ", ".join(map(str, allowed))
        raise refused(
            "InvalidPerUnitStorageThroughput",
            f"PerUnitStorageThroughput of a {deployment} file system on {storage} must be one of {words}",
        )


def _check_capacity(request: Json, lustre: Json, deployment: str, storage: str) -> None:
    given = request.get("StorageCapacity")
    if storage == "INTELLIGENT_TIERING":
        if given is not None:
            message = "StorageCapacity is not for storage of type INTELLIGENT_TIERING, which grows by itself"
            raise refused("IncompatibleParameterError", message, Parameter="StorageCapacity")
        return
    step = _HDD_STEP_GIB[lustre["PerUnitStorageThroughput"]] if storage == "HDD" else _STEP_GIB[deployment, storage]
    small = () if storage == "HDD" else (1200, 2400)
    if given is None or (given not in small and (given < step or given % step)):
        words = f"{', '.join(map(str, small))} or a multiple of {step}" if small else f"a multiple of {step}"
        raise refused("BadRequest", f"StorageCapacity of a {deployment} file system on {storage} must be {words} (GiB)")


def _check_what_depends(request: Json, lustre: Json, deployment: str, storage: str) -> None:
    is_persistent, is_tiered = deployment.startswith("PERSISTENT"), storage == "INTELLIGENT_TIERING"
    _needs(lustre, "DriveCacheType", storage == "HDD", "StorageType HDD", required=True)
    _needs(lustre, "ThroughputCapacity", is_tiered, "StorageType INTELLIGENT_TIERING", required=True)
    _needs(lustre, "DataReadCacheConfiguration", is_tiered, "StorageType INTELLIGENT_TIERING", required=True)
    _needs(request, "KmsKeyId", is_persistent, "a PERSISTENT deployment type")
    _needs(lustre, "EfaEnabled", deployment == "PERSISTENT_2" or not lustre.get("EfaEnabled"), "DeploymentType PERSISTENT_2")
    for member in ("DailyAutomaticBackupStartTime", "CopyTagsToBackups"):
        _needs(lustre, member, is_persistent, "a PERSISTENT deployment type")
    if is_tiered and lustre["ThroughputCapacity"] % 4000:
        raise refused("BadRequest", "ThroughputCapacity must be a multiple of 4000 (MB/s)")
    if is_tiered and "MetadataConfiguration" not in lustre:
        raise refused("BadRequest", "MetadataConfiguration is required with StorageType INTELLIGENT_TIERING")


def _needs(given: Mapping[str, Any], member: str, is_possible: bool, what: str, *, required: bool = False) -> None:
    if member in given and not is_possible:
        raise refused("IncompatibleParameterError", f"{member} needs {what}", Parameter=member)
    if required and is_possible and member not in given:
        raise refused("BadRequest", f"{member} is required with {what}")
