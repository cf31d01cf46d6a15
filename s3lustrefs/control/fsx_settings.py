"""What can be set of a Lustre file system without a meaning on one host, as pure functions: checked, to be kept and shown."""

from __future__ import annotations

from collections.abc import Mapping

from s3lustrefs.control.fsx_request import Json, refused

OTHER_KINDS = ("WindowsConfiguration", "OntapConfiguration", "OpenZFSConfiguration")
_THROUGHPUTS: Mapping[tuple[str, str], tuple[int, ...]] = {
    ("PERSISTENT_1", "SSD"): (50, 100, 200), ("PERSISTENT_1", "HDD"): (12, 40), ("PERSISTENT_2", "SSD"): (125, 250, 500, 1000),
}  # fmt: skip
"""MB/s per TiB of storage."""
_IOPS = (1500, 3000, 6000, *range(12000, 192001, 12000))


def throughputs_of(deployment: str, storage: str) -> tuple[int, ...]:
    """What PerUnitStorageThroughput can be; empty: there is no such setting."""
    return _THROUGHPUTS.get((deployment, storage), ())


def checked_settings(given: Json) -> Json:
    """The settings of LustreConfiguration that hold for every file system of type LUSTRE. Raises: ControlFault."""
    for member in ("ThroughputCapacity", "DataReadCacheConfiguration"):
        if member in given:
            raise refused("IncompatibleParameterError", f"{member} needs StorageType INTELLIGENT_TIERING", Parameter=member)
    if given.get("AutomaticBackupRetentionDays"):
        raise refused("UnsupportedOperation", "there are no backups here: the bucket is where the data is kept")
    if given.get("RootSquashConfiguration", {}).get("RootSquash", "0:0") != "0:0":
        raise refused("UnsupportedOperation", "root squash is not available: mount without allow_other to keep others out")
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
