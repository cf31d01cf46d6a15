"""What CreateFileSystem takes, and what it refuses in which words, as FSx documents it."""

from __future__ import annotations

from typing import Any

import pytest

from s3lustrefs.control.fsx_creation import settings_of, tags_of
from s3lustrefs.errors import ControlFault
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


@pytest.mark.parametrize(
    ("request_", "fault", "words"),
    [
        ({"FileSystemType": "WINDOWS", "SubnetIds": SUBNETS}, "BadRequest", "only LUSTRE"),
        ({**request_of(1200), "WindowsConfiguration": {"ThroughputCapacity": 8}}, "IncompatibleParameterError", "Windows"),
        ({**request_of(1200), "SubnetIds": SUBNETS * 2}, "BadRequest", "exactly one"),
        (request_of(None, **SCRATCH), "BadRequest", "StorageCapacity of a SCRATCH_2"),
        (request_of(1201, **SCRATCH), "BadRequest", "multiple of 2400"),
        (request_of(0, **SCRATCH), "BadRequest", "multiple of 2400"),
        (request_of(4800), "BadRequest", "multiple of 3600"),
        (request_of(1200, "HDD", **SCRATCH), "BadRequest", "must be SSD"),
        (request_of(1200, "INTELLIGENT_TIERING", DeploymentType="PERSISTENT_1"), "BadRequest", "must be SSD or HDD"),
        (request_of(1200, DeploymentType="PERSISTENT_2"), "InvalidPerUnitStorageThroughput", "125, 250, 500, 1000"),
        (request_of(1200, DeploymentType="PERSISTENT_1", PerUnitStorageThroughput=125), "InvalidPerUnitStorageThroughput", "50"),
        (request_of(1200, DeploymentType="SCRATCH_2", PerUnitStorageThroughput=200), "InvalidPerUnitStorageThroughput", "not for"),
        (
            request_of(2400, "HDD", DeploymentType="PERSISTENT_1", PerUnitStorageThroughput=12, DriveCacheType="NONE"),
            "BadRequest", "multiple of 6000",
        ),
        (
            request_of(6000, "HDD", DeploymentType="PERSISTENT_1", PerUnitStorageThroughput=12),
            "BadRequest", "DriveCacheType is required",
        ),
        (request_of(1200, DriveCacheType="READ", **PERSISTENT), "IncompatibleParameterError", "DriveCacheType needs"),
        (request_of(1200, version="2.10", **PERSISTENT), "BadRequest", "2.12 or 2.15"),
        (request_of(1200, version="2.11", **PERSISTENT), "BadRequest", "one of 2.10"),
        (request_of(1200, version="2.12", MetadataConfiguration=METADATA, **PERSISTENT), "IncompatibleParameterError", "2.15"),
        (request_of(1200, version="2.15", MetadataConfiguration=METADATA, **SCRATCH), "IncompatibleParameterError", "PERSISTENT_2"),
        (request_of(1200, MetadataConfiguration={"Mode": "AUTOMATIC", "Iops": 1500}, **PERSISTENT), "BadRequest", "AUTOMATIC"),
        (request_of(1200, MetadataConfiguration={"Mode": "USER_PROVISIONED", "Iops": 1501}, **PERSISTENT), "BadRequest", "Iops"),
        (request_of(1200, "INTELLIGENT_TIERING", **TIERED), "IncompatibleParameterError", "grows by itself"),
        (request_of(None, "INTELLIGENT_TIERING", **{**TIERED, "ThroughputCapacity": 4001}), "BadRequest", "4000"),
        (request_of(1200, ThroughputCapacity=4000, **PERSISTENT), "IncompatibleParameterError", "ThroughputCapacity needs"),
        (request_of(1200, AutomaticBackupRetentionDays=1, **PERSISTENT), "UnsupportedOperation", "no backups"),
        (request_of(1200, CopyTagsToBackups=True, **SCRATCH), "IncompatibleParameterError", "PERSISTENT"),
        (request_of(1200, RootSquashConfiguration={"RootSquash": "1:1"}, **PERSISTENT), "UnsupportedOperation", "root squash"),
        (request_of(1200, EfaEnabled=True, **SCRATCH), "IncompatibleParameterError", "EfaEnabled needs"),
        ({**request_of(1200, **SCRATCH), "KmsKeyId": "key"}, "IncompatibleParameterError", "KmsKeyId needs"),
    ],
)  # fmt: skip
def test_what_fsx_refuses_is_refused_by_its_fault(request_: dict[str, Any], fault: str, words: str) -> None:
    assert MODEL["CreateFileSystem"].input_defect(request_) is None
    with pytest.raises(ControlFault, match=words) as caught:
        settings_of(request_)
    assert caught.value.fault == fault
    assert fault == "UnsupportedOperation" or fault in MODEL["CreateFileSystem"].faults


@pytest.mark.parametrize(
    "tags", [[("a", "1"), ("a", "2")], [("AWS:x", "1")], [(f"k{number}", "") for number in range(51)]], ids=["twice", "aws", "many"]
)
def test_wrong_tags_are_refused(tags: list[tuple[str, str]]) -> None:
    with pytest.raises(ControlFault, match="Tags: "):
        tags_of({"Tags": [{"Key": key, "Value": value} for key, value in tags]})
