"""What CreateFileSystem takes, and what it refuses in which words, as FSx documents it."""

from __future__ import annotations

from typing import Any

import pytest

from s3lustrefs.control.fsx_creation import settings_of
from tests.unit.control.host_scene import MODEL

SUBNETS = ["subnet-0123456789abcdef0"]


def request_of(capacity: int | None, storage: str | None = None, version: str | None = None, **lustre: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"FileSystemType": "LUSTRE", "SubnetIds": SUBNETS, "LustreConfiguration": lustre}
    more = {"StorageCapacity": capacity, "StorageType": storage, "FileSystemTypeVersion": version}
    return {**made, **{key: value for key, value in more.items() if value is not None}}


METADATA: dict[str, Any] = {"Mode": "USER_PROVISIONED", "Iops": 6000}
TIERED: dict[str, Any] = {
    "DeploymentType": "PERSISTENT_2", "ThroughputCapacity": 8000, "DataReadCacheConfiguration": {"SizingMode": "NO_CACHE"},
    "MetadataConfiguration": METADATA,
}  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "version"),
    [
        ({"FileSystemType": "LUSTRE", "SubnetIds": SUBNETS, "StorageCapacity": 1200}, "2.10"),
        (request_of(3600, DeploymentType="SCRATCH_1"), "2.10"),
        (request_of(7200, version="2.12"), "2.12"),
        (request_of(2400, DeploymentType="SCRATCH_2"), "2.10"),
        (request_of(4800, version="2.15", DeploymentType="SCRATCH_2", DataCompressionType="LZ4"), "2.15"),
        (request_of(1200, DeploymentType="PERSISTENT_1", PerUnitStorageThroughput=50), "2.10"),
        (request_of(6000, "HDD", DeploymentType="PERSISTENT_1", PerUnitStorageThroughput=12, DriveCacheType="NONE"), "2.10"),
        (request_of(1800, "HDD", DeploymentType="PERSISTENT_1", PerUnitStorageThroughput=40, DriveCacheType="READ"), "2.10"),
        (request_of(1200, DeploymentType="PERSISTENT_2", PerUnitStorageThroughput=125), "2.12"),
        (request_of(2400, DeploymentType="PERSISTENT_2", PerUnitStorageThroughput=1000, MetadataConfiguration=METADATA), "2.15"),
        (request_of(None, "INTELLIGENT_TIERING", **TIERED), "2.15"),
        (
            request_of(
                1200, DeploymentType="PERSISTENT_2", PerUnitStorageThroughput=250, WeeklyMaintenanceStartTime="1:05:30",
                AutomaticBackupRetentionDays=0, LogConfiguration={"Level": "WARN_ERROR"}, EfaEnabled=True,
                RootSquashConfiguration={"RootSquash": "0:0"},
            ),
            "2.12",
        ),
    ],
)  # fmt: skip
def test_what_fsx_takes_is_kept_to_be_shown(request_: dict[str, Any], version: str) -> None:
    assert MODEL["CreateFileSystem"].input_defect(request_) is None
    settings = settings_of(request_)
    assert settings["FileSystemTypeVersion"] == version
    assert settings["LustreConfiguration"] == {"DeploymentType": "SCRATCH_1", **request_.get("LustreConfiguration", {})}
    for member in ("StorageCapacity", "SubnetIds"):
        assert settings.get(member) == request_.get(member)
    assert settings["StorageType"] == request_.get("StorageType", "SSD")


SCRATCH: dict[str, Any] = {"DeploymentType": "SCRATCH_2"}
PERSISTENT: dict[str, Any] = {"DeploymentType": "PERSISTENT_2", "PerUnitStorageThroughput": 125}
