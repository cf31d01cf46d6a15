"""Every error that FSx documents for an operation, and every filter, at the endpoint of a host: for boto3 and for the AWS CLI."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.loaders
import botocore.model
import pytest
from botocore import xform_name

from s3lustrefs.control.host_api import LISTINGS, OF_FILE_SYSTEM, OF_ITEM, OF_RESOURCE
from s3lustrefs.model.task import TaskRecord
from tests.unit.control import aws_cli, fsx_requests
from tests.unit.control.fsx_scene import PAIR, REGION
from tests.unit.control.host_scene import CREATE, MODEL, Host, link, serving

OPERATIONS = {
    *LISTINGS, *OF_FILE_SYSTEM, *OF_ITEM, *OF_RESOURCE,
    "CreateFileSystem", "DeleteFileSystem", "CreateFileCache", "DeleteFileCache",
}  # fmt: skip
SERVICE = botocore.model.ServiceModel(botocore.loaders.create_loader().load_service_model("fsx", "service-2"), "fsx")

FIRST, SECOND = (f"dra-{number:017x}" for number in range(2))
EVICTION, ENDED = "task-" + "1" * 17, "task-" + "2" * 17
NO_DRA, NO_TASK, NO_FS, NO_CACHE = ("dra-" + "f" * 17, "task-" + "f" * 17, "fs-" + "f" * 17, "fc-" + "f" * 17)
TAGS = [{"Key": "k", "Value": "v"}]
IMPORT = {"FileSystemId": "<FS>", "Type": "IMPORT_METADATA_FROM_REPOSITORY", "Report": {"Enabled": False}}
LINK = {"FileSystemId": "<FS>", "FileSystemPath": "/new", "DataRepositoryPath": "s3://bucket/new"}
CACHE: dict[str, Any] = {
    "FileCacheType": "LUSTRE", "FileCacheTypeVersion": "2.12", "StorageCapacity": 1200, "SubnetIds": CREATE["SubnetIds"],
    "LustreConfiguration": {
        "PerUnitStorageThroughput": 1000, "DeploymentType": "CACHE_1", "MetadataConfiguration": {"StorageCapacity": 2400},
    },
}  # fmt: skip
WINDOW = {"LustreConfiguration": {"WeeklyMaintenanceStartTime": "1:05:30"}}
BAD_PAGE = {"NextToken": "bm9uZQ=="}

PROVOKED: dict[str, dict[str, dict[str, Any]]] = {
    "CreateFileSystem": {
        "BadRequest": {**CREATE, "StorageCapacity": 7},
        "IncompatibleParameterError": {**CREATE, "ClientRequestToken": "of-the-host"},
        "InvalidExportPath": {**CREATE, "LustreConfiguration": {"ExportPath": "s3://lab"}},
        "InvalidImportPath": {**CREATE, "LustreConfiguration": {"ImportPath": "lab"}},
        "InvalidPerUnitStorageThroughput": {
            **CREATE, "LustreConfiguration": {"DeploymentType": "PERSISTENT_2", "PerUnitStorageThroughput": 130}
        },
    },
    "DescribeFileSystems": {"BadRequest": BAD_PAGE, "FileSystemNotFound": {"FileSystemIds": [NO_FS]}},
    "UpdateFileSystem": {
        "BadRequest": {"FileSystemId": "<FS>", "LustreConfiguration": {"PerUnitStorageThroughput": 130}},
        "FileSystemNotFound": {"FileSystemId": NO_FS, "NetworkType": "DUAL"},
        "IncompatibleParameterError": {"FileSystemId": "<FS>", "LustreConfiguration": {"AutoImportPolicy": "NEW"}},
        "MissingFileSystemConfiguration": {"FileSystemId": "<FS>"},
        "UnsupportedOperation": {"FileSystemId": "<FS>", "StorageCapacity": 2400},
    },
    "DeleteFileSystem": {
        "BadRequest": {"FileSystemId": "<FS>"},  # it is mounted
        "FileSystemNotFound": {"FileSystemId": NO_FS},
        "IncompatibleParameterError": {"FileSystemId": "<FS>", "ClientRequestToken": "of-the-host"},
    },
    "CreateFileCache": {
        "BadRequest": {**CACHE, "StorageCapacity": 1201},
        "IncompatibleParameterError": {**CACHE, "StorageCapacity": 2400, "ClientRequestToken": "of-the-host"},
        "InvalidPerUnitStorageThroughput": {
            **CACHE, "LustreConfiguration": {**CACHE["LustreConfiguration"], "PerUnitStorageThroughput": 500}
        },
        "MissingFileCacheConfiguration": {key: value for key, value in CACHE.items() if key != "LustreConfiguration"},
    },
    "DescribeFileCaches": {"BadRequest": BAD_PAGE, "FileCacheNotFound": {"FileCacheIds": [NO_CACHE]}},
    "UpdateFileCache": {
        "BadRequest": {"FileCacheId": "<CACHE>", "LustreConfiguration": {"WeeklyMaintenanceStartTime": "9:99:99"}},
        "FileCacheNotFound": {"FileCacheId": NO_CACHE, **WINDOW},
        "IncompatibleParameterError": {"FileCacheId": "<CACHE>", **WINDOW, "ClientRequestToken": "of-the-cache"},
        "MissingFileCacheConfiguration": {"FileCacheId": "<CACHE>"},
    },
    "DeleteFileCache": {
        "BadRequest": {"FileCacheId": "fc-UPPERCASE"},
        "FileCacheNotFound": {"FileCacheId": NO_CACHE},
        "IncompatibleParameterError": {"FileCacheId": "<CACHE>", "ClientRequestToken": "of-the-host"},
    },
    "CreateDataRepositoryAssociation": {
        "BadRequest": {**LINK, "FileSystemPath": "relative"},
        "FileSystemNotFound": {**LINK, "FileSystemId": NO_FS},
        "IncompatibleParameterError": {**LINK, "ClientRequestToken": "of-the-mount"},
    },
    "DescribeDataRepositoryAssociations": {
        "BadRequest": BAD_PAGE,
        "DataRepositoryAssociationNotFound": {"AssociationIds": [FIRST, NO_DRA]},
        "FileSystemNotFound": {"Filters": [{"Name": "file-system-id", "Values": [NO_FS]}]},
        "InvalidDataRepositoryType": {"Filters": [{"Name": "data-repository-type", "Values": ["HDFS"]}]},
    },
    "UpdateDataRepositoryAssociation": {
        "BadRequest": {"AssociationId": FIRST, "ImportedFileChunkSize": 512001},
        "DataRepositoryAssociationNotFound": {"AssociationId": NO_DRA},
        "IncompatibleParameterError": {"AssociationId": FIRST, "ClientRequestToken": "of-the-mount"},
    },
    "DeleteDataRepositoryAssociation": {
        "BadRequest": {"AssociationId": "dra-UPPERCASE"},
        "DataRepositoryAssociationNotFound": {"AssociationId": NO_DRA},
        "IncompatibleParameterError": {"AssociationId": FIRST, "ClientRequestToken": "of-the-mount"},
    },
    "CreateDataRepositoryTask": {
        "BadRequest": {**IMPORT, "Report": {"Enabled": True, "Format": "REPORT_XML"}},
        "DataRepositoryTaskExecuting": IMPORT,
        "FileSystemNotFound": {**IMPORT, "FileSystemId": NO_FS},
        "IncompatibleParameterError": {**IMPORT, "CapacityToRelease": 1},
        "UnsupportedOperation": {**IMPORT, "Type": "EXPORT_TO_REPOSITORY"},  # beside automatic export
    },
    "DescribeDataRepositoryTasks": {
        "BadRequest": {"Filters": [{"Name": "backup-type", "Values": ["x"]}]},
        "DataRepositoryTaskNotFound": {"TaskIds": [NO_TASK]},
        "FileSystemNotFound": {"Filters": [{"Name": "file-system-id", "Values": [NO_FS]}]},
    },
    "CancelDataRepositoryTask": {
        "BadRequest": {"TaskId": "task-UPPERCASE"},
        "DataRepositoryTaskEnded": {"TaskId": ENDED},
        "DataRepositoryTaskNotFound": {"TaskId": NO_TASK},
        "UnsupportedOperation": {"TaskId": EVICTION},
    },
    **{
        operation: {
            "BadRequest": {"ResourceARN": "arn:aws:s3:::bucket", **more},
            "ResourceNotFound": {"ResourceARN": f"<ARN>{'0' * 9}", **more},
        }
        for operation, more in (("TagResource", {"Tags": TAGS}), ("UntagResource", {"TagKeys": ["k"]}), ("ListTagsForResource", {}))
    },
}  # fmt: skip
"""By operation and error, a request that no client refuses itself. Words in angle brackets stand for what `scene` makes."""

NEVER: dict[str | tuple[str, str], str] = {
    "ActiveDirectoryError": "a file system of type WINDOWS is BadRequest",
    "InternalServerError": "no request provokes it: disks and daemons do, in test_fsx_operations and test_host_api",
    "InvalidNetworkSettings": "there is no network to set: any one subnet will do",
    "NotServiceResourceError": "the pattern of ResourceARN lets no other service's pass: BadRequest",
    "ResourceDoesNotSupportTagging": "whatever has an ARN here has tags",
    "ServiceLimitExceeded": "no limit of an account is here; its Limit has no value for associations: the ninth is BadRequest",
    ("CreateDataRepositoryAssociation", "UnsupportedOperation"): "every file system can be linked, whatever was asked for",
    ("CreateFileSystem", "MissingFileSystemConfiguration"): "LustreConfiguration has defaults",
    ("UpdateFileCache", "UnsupportedOperation"): "what can be asked for can be done",
}
"""Documented errors that nobody gets here, and why."""


@dataclass(frozen=True)
class Scene:
    """A mounted file system with two associations, a pending task, one that has ended, and an eviction; and a file cache."""

    host: Host
    names: dict[str, str]
    pending: str

    def placed(self, request: Any) -> Any:
        return fsx_requests.placed(request, self.names)

    async def aws(self, *requests: tuple[str, dict[str, Any]]) -> list[aws_cli.Said]:
        """The AWS CLI's word on each operation and request."""
        lines = [[xform_name(name, "-"), "--cli-input-json", json.dumps(self.placed(given))] for name, given in requests]
        return await aws_cli.run_all(self.host.boto.meta.endpoint_url, PAIR, REGION, lines)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with serving(Host(tmp_path)) as host:
        async with host.mounted("ours") as engine:
            await link(engine, 2)
            eviction = TaskRecord(EVICTION, "AUTO_RELEASE_DATA", 10**18, associations=[SECOND]).step("EXECUTING", 10**18)
            ended = TaskRecord(ENDED, "IMPORT_METADATA_FROM_REPOSITORY", 10**18, associations=[FIRST]).step("EXECUTING", 10**18)
            for record in (eviction, ended.step("SUCCEEDED", 10**18)):
                await engine.create_task(record, {})
        cache = (await host.call("create_file_cache", **CACHE, ClientRequestToken="of-the-host"))["FileCache"]["FileCacheId"]
        other_window = {"LustreConfiguration": {"WeeklyMaintenanceStartTime": "2:05:30"}, "ClientRequestToken": "of-the-cache"}
        await host.call("update_file_cache", FileCacheId=cache, **other_window)
        async with host.mounted("ours") as engine:
            record = engine.file_system()
            assert record is not None
            arn = f"arn:aws:fsx:{REGION}:000000000000:file-system/{record.file_system_id}"
            made = Scene(host, {"<FS>": record.file_system_id, "<CACHE>": cache, "<ARN>": arn}, "")
            change = {"NetworkType": "DUAL", "ClientRequestToken": "of-the-mount"}
            await host.call("update_file_system", FileSystemId=record.file_system_id, **change)
            task = (await host.call("create_data_repository_task", **made.placed(IMPORT)))["DataRepositoryTask"]["TaskId"]
            yield Scene(host, made.names, task)


def test_no_documented_error_is_left_out() -> None:
    assert PROVOKED.keys() == OPERATIONS
    for name in sorted(OPERATIONS):
        never = {fault for fault in MODEL[name].faults if fault in NEVER or (name, fault) in NEVER}
        assert PROVOKED[name].keys() | never == MODEL[name].faults, name
        assert not PROVOKED[name].keys() & never, name


async def test_every_documented_error_has_its_name_status_and_members(scene: Scene) -> None:
    rows = [(name, fault, request) for name, faults in PROVOKED.items() for fault, request in faults.items()]
    for name, fault, request in rows:
        refused = await scene.host.refusal(xform_name(name), **scene.placed(request))
        assert (refused["Code"], refused["Status"]) == (fault, 400), (name, refused)
        assert 0 < len(refused["Message"]) <= 256
        for member in SERVICE.shape_for(fault).required_members:
            assert refused[member], (name, refused)
    # And the command line, which shows name and message; nothing was done by all of this that would change an answer.
    for (name, fault, _), said in zip(rows, await scene.aws(*[(name, request) for name, _, request in rows]), strict=True):
        assert said.status != 0 and said.out == "", (name, said)
        assert f"An error occurred ({fault}) when calling the {name} operation: " in said.err, (name, fault, said.err)


FILTERS: dict[str, dict[str, list[tuple[list[str], list[str] | str]]]] = {
    "DescribeDataRepositoryAssociations": {
        "file-system-id": [(["<FS>"], [FIRST, SECOND]), ([NO_FS], "FileSystemNotFound")],
        "file-cache-id": [(["<CACHE>"], []), ([NO_CACHE], "FileSystemNotFound")],
        "data-repository-type": [(["S3"], [FIRST, SECOND]), (["NFS"], []), (["NFS", "S3"], [FIRST, SECOND]),
                                 (["HDFS"], "InvalidDataRepositoryType")],
        **{name: [(["x"], "BadRequest")] for name in ("backup-type", "file-system-type", "file-cache-type", "volume-id")},
    },
    "DescribeDataRepositoryTasks": {
        "file-system-id": [(["<FS>"], [EVICTION, ENDED, "PENDING"]), ([NO_FS], "FileSystemNotFound")],
        "file-cache-id": [(["<CACHE>"], []), ([NO_CACHE], "FileSystemNotFound")],
        "task-lifecycle": [(["SUCCEEDED"], [ENDED]), (["EXECUTING", "SUCCEEDED"], [EVICTION, ENDED]), (["FAILED"], [])],
        "data-repository-association-id": [([FIRST], [ENDED, "PENDING"]), ([SECOND], [EVICTION, "PENDING"]), ([NO_DRA], [])],
    },
}  # fmt: skip
"""By operation and name of the filter: values, and what they find or the error. Those of one row are ORed."""
MEMBERS = {"DescribeDataRepositoryAssociations": "Associations", "DescribeDataRepositoryTasks": "DataRepositoryTasks"}


def test_no_filter_is_left_out() -> None:
    for operation, shape in (
        ("DescribeDataRepositoryAssociations", "FilterName"), ("DescribeDataRepositoryTasks", "DataRepositoryTaskFilterName")
    ):  # fmt: skip
        assert FILTERS[operation].keys() == set(SERVICE.shape_for(shape).metadata["enum"])


async def test_every_filter_finds_what_it_says(scene: Scene) -> None:
    rows = [
        (operation, {"Filters": [{"Name": name, "Values": values}]}, expected)
        for operation, filters in FILTERS.items()
        for name, cases in filters.items()
        for values, expected in cases
    ]
    # Several are ANDed.
    both = [{"Name": "task-lifecycle", "Values": ["SUCCEEDED", "EXECUTING"]}]
    both.append({"Name": "data-repository-association-id", "Values": [SECOND]})
    rows.append(("DescribeDataRepositoryTasks", {"Filters": both}, [EVICTION]))
    said = await scene.aws(*[(operation, request) for operation, request, _ in rows])
    for (operation, request, expected), words in zip(rows, said, strict=True):
        member, method = MEMBERS[operation], xform_name(operation)
        if isinstance(expected, str):
            assert (await scene.host.refusal(method, **scene.placed(request)))["Code"] == expected, request
            assert f"({expected})" in words.err and words.status != 0, (request, words)
            continue
        wanted = sorted(scene.pending if each == "PENDING" else each for each in expected)
        for answer in (await scene.host.call(method, **scene.placed(request)), json.loads(words.out)):
            found = [each.get("TaskId") or each["AssociationId"] for each in answer[member]]
            assert found == wanted, (request, found)
