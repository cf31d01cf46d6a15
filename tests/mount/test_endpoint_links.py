"""File systems and caches that are linked with buckets when they are created."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from tests.mount.conftest import fresh_bucket
from tests.mount.endpoint import AWS, Endpoint, sweeping_endpoint
from tests.mount.file_cache import REQUEST as CACHE
from tests.mount.site import S3LUSTREFS, WAIT_SECONDS
from tests.servers import S3Server

needs_aws = pytest.mark.skipif(AWS is None, reason="needs the AWS command line: pip install awscli")

SUBNETS = ["subnet-0123456789abcdef0"]


@pytest.fixture
def host(moto_server: S3Server) -> Iterator[Endpoint]:
    with sweeping_endpoint(moto_server) as running:
        yield running


@pytest.fixture
def bucket(moto_server: S3Server) -> str:
    name = fresh_bucket(moto_server)
    client = moto_server.client()
    for key in ("in/a", "in/d/b", "other/c"):
        client.put_object(Bucket=name, Key=key, Body=key.encode())
    client.close()
    return name


def until(path: Path, body: bytes) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, os.listdir(path.parent)
        time.sleep(0.05)
    assert path.read_bytes() == body


def test_linked_file_system_imports_by_its_policy_and_exports_nothing_by_itself(host: Endpoint, bucket: str) -> None:
    with host.boto() as fsx:
        made = fsx.create_file_system(
            FileSystemType="LUSTRE", SubnetIds=SUBNETS, StorageCapacity=1200, Tags=[{"Key": "Name", "Value": "legacy"}],
            LustreConfiguration={"DeploymentType": "SCRATCH_2", "ImportPath": f"s3://{bucket}/in", "ExportPath": f"s3://{bucket}"},
        )["FileSystem"]  # fmt: skip
        link = made["LustreConfiguration"]["DataRepositoryConfiguration"]
        assert link == {
            "ImportPath": f"s3://{bucket}/in", "ExportPath": f"s3://{bucket}", "ImportedFileChunkSize": 1024,
            "AutoImportPolicy": "NONE", "Lifecycle": "CREATING",
        }  # fmt: skip
        while made["Lifecycle"] == "CREATING":
            (made,) = fsx.describe_file_systems()["FileSystems"]
        assert made["LustreConfiguration"]["DataRepositoryConfiguration"] == {**link, "Lifecycle": "AVAILABLE"}

        point = host.mount("legacy")
        until(point / "d" / "b", b"in/d/b")
        (point / "ours").write_text("ours")
        host.run(S3LUSTREFS, "drain", point)
        s3 = host.server.client()
        assert sorted(each["Key"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"]) == ["in/a", "in/d/b", "other/c"]

        # The policy is changed while mounted, and while not.
        wanted = {"FileSystemId": made["FileSystemId"], "LustreConfiguration": {"AutoImportPolicy": "NEW"}}
        about = fsx.update_file_system(**wanted)["FileSystem"]["LustreConfiguration"]["DataRepositoryConfiguration"]
        assert about["AutoImportPolicy"] == "NEW"
        s3.put_object(Bucket=bucket, Key="in/theirs", Body=b"theirs")
        until(point / "theirs", b"theirs")
        host.run(S3LUSTREFS, "unmount", "--no-drain", point)
        wanted["LustreConfiguration"] = {"AutoImportPolicy": "NEW_CHANGED_DELETED"}
        fsx.update_file_system(**wanted)
        point = host.mount("legacy")
        s3.delete_object(Bucket=bucket, Key="in/theirs")
        deadline = time.monotonic() + WAIT_SECONDS
        while (point / "theirs").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        host.run(S3LUSTREFS, "unmount", "--no-drain", point)
        # What was written here is in no bucket, until a task exports it: one that was asked for while nobody was mounted.
        with pytest.raises(fsx.exceptions.BadRequest, match="1 files .such as /ours. are in no bucket"):
            fsx.delete_file_system(FileSystemId=made["FileSystemId"])
        task = fsx.create_data_repository_task(
            FileSystemId=made["FileSystemId"], Type="EXPORT_TO_REPOSITORY", Report={"Enabled": False}
        )["DataRepositoryTask"]
        with pytest.raises(fsx.exceptions.BadRequest, match=f"{task['TaskId']} of {made['FileSystemId']} is PENDING"):
            fsx.delete_file_system(FileSystemId=made["FileSystemId"])
        point = host.mount("legacy")
        while task["Lifecycle"] in ("PENDING", "EXECUTING"):
            (task,) = fsx.describe_data_repository_tasks(TaskIds=[task["TaskId"]])["DataRepositoryTasks"]
        assert task["Lifecycle"] == "SUCCEEDED", task
        assert s3.get_object(Bucket=bucket, Key="in/ours")["Body"].read() == b"ours"
        s3.close()
        host.unmount(point)
        fsx.delete_file_system(FileSystemId=made["FileSystemId"])
        while fsx.describe_file_systems()["FileSystems"]:
            continue
    assert [path.name for path in host.state_dir.iterdir()] == ["api"]


@pytest.mark.parametrize("given", [None, "out"])
def test_linked_file_system_exports_by_tasks_below_its_export_path(host: Endpoint, bucket: str, given: str | None) -> None:
    """Whether it is given, or FSx's default: below the prefix that is imported, here."""
    path = {"ExportPath": f"s3://{bucket}/{given}"} if given else {}
    s3 = host.server.client()
    s3.put_object(Bucket=bucket, Key="other/kept", Body=b"kept")
    with host.boto() as fsx:
        fsx.create_file_system(
            FileSystemType="LUSTRE", SubnetIds=SUBNETS, StorageCapacity=1200, Tags=[{"Key": "Name", "Value": "legacy"}],
            LustreConfiguration={"DeploymentType": "SCRATCH_2", "ImportPath": f"s3://{bucket}", **path},
        )  # fmt: skip
        (made,) = fsx.describe_file_systems()["FileSystems"]
        while made["Lifecycle"] == "CREATING":
            (made,) = fsx.describe_file_systems()["FileSystems"]
        export = made["LustreConfiguration"]["DataRepositoryConfiguration"]["ExportPath"]
        created = made["CreationTime"].astimezone(UTC).strftime("%Y%m%dT%H%M")
        assert export == path.get("ExportPath", export) and (given or export.startswith(f"s3://{bucket}/FSxLustre{created}"))
        prefix = export.removeprefix(f"s3://{bucket}/") + "/"
        assert re.fullmatch(r"FSxLustre\d{8}T\d{6}Z/|out/", prefix)

        point = host.mount("legacy")
        until(point / "in" / "a", b"in/a")
        (point / "in" / "a").write_bytes(b"changed here")
        (point / "in" / "d").rename(point / "in" / "moved")
        (point / "other" / "c").unlink()
        (point / "ours").write_bytes(b"ours")
        host.run(S3LUSTREFS, "drain", point)

        def exported() -> dict[str, bytes]:
            keys = [each["Key"] for each in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])]
            return {key.removeprefix(prefix): s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

        def run(kind: str, report: str, *paths: str) -> dict[str, Any]:
            task = fsx.create_data_repository_task(
                FileSystemId=made["FileSystemId"], Type=kind, **({"Paths": list(paths)} if paths else {}),
                Report={"Enabled": True, "Path": report, "Format": "REPORT_CSV_20191124", "Scope": "FAILED_FILES_ONLY"},
            )["DataRepositoryTask"]  # fmt: skip
            while task["Lifecycle"] in ("PENDING", "EXECUTING"):
                (task,) = fsx.describe_data_repository_tasks(TaskIds=[task["TaskId"]])["DataRepositoryTasks"]
            assert task["Lifecycle"] == "SUCCEEDED", task
            return dict(task)

        assert exported() == {}
        task = run("EXPORT_TO_REPOSITORY", f"{export}/reports")
        changed = {"in/a": b"changed here", "in/moved/": b"", "in/moved/b": b"in/d/b", "ours": b"ours"}
        assert exported() == {**changed, f"reports/{task['TaskId']}/failures.csv": b""}
        assert (task["Status"]["TotalCount"], task["Status"]["FailedCount"]) == (7, 0)
        run("EXPORT_TO_REPOSITORY", f"s3://{bucket}/elsewhere")  # nothing differs any more, and its report has no place
        run("IMPORT_METADATA_FROM_REPOSITORY", f"s3://{bucket}/elsewhere")
        assert set(exported()) == {*changed, f"reports/{task['TaskId']}/failures.csv"}
        keys = {each["Key"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"] if not each["Key"].startswith(prefix)}
        assert (
            keys == {"in/a", "in/d/b", "other/c", "other/kept"}
            and s3.get_object(Bucket=bucket, Key="in/a")["Body"].read() == b"in/a"
        )
        assert sorted(path.name for path in point.iterdir()) == ["in", "other", "ours"]
        assert [path.name for path in (point / "other").iterdir()] == ["kept"]
        assert sorted(path.name for path in (point / "in").iterdir()) == ["a", "moved"]

        # Everything that is only here is in the bucket: it may go.
        host.unmount(point)
        fsx.delete_file_system(FileSystemId=made["FileSystemId"])
        while fsx.describe_file_systems()["FileSystems"]:
            continue
    s3.close()


def test_bucket_that_cannot_be_reached_makes_nothing(host: Endpoint) -> None:
    with host.boto() as fsx:
        with pytest.raises(fsx.exceptions.InvalidImportPath, match="cannot validate access to the bucket of s3://no-such-bucket"):
            fsx.create_file_system(
                FileSystemType="LUSTRE", SubnetIds=SUBNETS, StorageCapacity=1200,
                LustreConfiguration={"ImportPath": "s3://no-such-bucket", "ExportPath": "s3://no-such-bucket"},
            )  # fmt: skip
        assert fsx.describe_file_systems()["FileSystems"] == []


def test_file_cache_lives_with_its_links_as_they_were_given(host: Endpoint, bucket: str) -> None:
    links = [
        {"FileCachePath": "/one/", "DataRepositoryPath": f"s3://{bucket}/in"},
        {"FileCachePath": "/two", "DataRepositoryPath": f"s3://{bucket}/other/"},
    ]
    request = {**CACHE, "DataRepositoryAssociations": links, "Tags": [{"Key": "Name", "Value": "cache"}]}
    with host.boto() as fsx:
        made = fsx.create_file_cache(**request, ClientRequestToken="t")["FileCache"]
        assert (
            made["Lifecycle"] == "CREATING" and made["Tags"] == request["Tags"] and len(made["DataRepositoryAssociationIds"]) == 2
        )
        cache_id = made["FileCacheId"]
        while True:
            (found,) = fsx.describe_file_caches(FileCacheIds=[cache_id])["FileCaches"]
            if found["Lifecycle"] != "CREATING":
                break
        assert found["Lifecycle"] == "AVAILABLE"
        assert found["DataRepositoryAssociationIds"] == made["DataRepositoryAssociationIds"]
        assert fsx.create_file_cache(**request, ClientRequestToken="t")["FileCache"]["FileCacheId"] == cache_id
        assert fsx.describe_file_systems()["FileSystems"] == []
        point = host.mount("cache")
        until(point / "one" / "d" / "b", b"in/d/b")
        until(point / "two" / "c", b"other/c")
        about = fsx.update_file_cache(FileCacheId=cache_id, LustreConfiguration={"WeeklyMaintenanceStartTime": "1:05:30"})
        assert about["FileCache"]["LustreConfiguration"]["WeeklyMaintenanceStartTime"] == "1:05:30"
        with pytest.raises(fsx.exceptions.BadRequest, match="mounted"):
            fsx.delete_file_cache(FileCacheId=cache_id)
        host.unmount(point)
        point = host.mount(f"{made['DNSName']}@tcp:/fsx")
        host.unmount(point)
        with pytest.raises(fsx.exceptions.FileCacheNotFound):
            fsx.describe_file_caches(FileCacheIds=["fc-00000000000000009"])
        assert fsx.delete_file_cache(FileCacheId=cache_id)["Lifecycle"] == "DELETING"
        while fsx.describe_file_caches()["FileCaches"]:
            continue
    assert [path.name for path in host.state_dir.iterdir()] == ["api"]


def test_cache_of_an_nfs_server_is_refused_clearly(host: Endpoint) -> None:
    with host.boto() as fsx, pytest.raises(fsx.exceptions.BadRequest, match="NFS repositories are not available here"):
        links = [{"FileCachePath": "/a", "DataRepositoryPath": "nfs://filer/export", "NFS": {"Version": "NFS3"}}]
        fsx.create_file_cache(**CACHE, DataRepositoryAssociations=links)


@needs_aws
def test_association_asked_for_while_nothing_is_mounted_is_made_by_the_next_mount(host: Endpoint, bucket: str) -> None:
    made = json.loads(
        host.aws(
            "create-file-system", "--file-system-type", "LUSTRE", "--storage-capacity", "1200", "--subnet-ids", *SUBNETS,
            "--file-system-type-version", "2.15", "--lustre-configuration", "DeploymentType=SCRATCH_2",
            "--tags", "Key=Name,Value=later",
        ).stdout
    )["FileSystem"]  # fmt: skip
    for directory, prefix in (("/one", "in"), ("/two", "other/")):
        # At once: it waits until the file system is there.
        asked = json.loads(
            host.aws(
                "create-data-repository-association", "--file-system-id", made["FileSystemId"], "--file-system-path", directory,
                "--data-repository-path", f"s3://{bucket}/{prefix}", "--batch-import-meta-data-on-create",
                "--s3", "AutoImportPolicy={Events=[NEW]},AutoExportPolicy={Events=[NEW]}",
            ).stdout
        )["Association"]  # fmt: skip
        assert asked["Lifecycle"] == "CREATING"
    assert host.stop() == 0
    host.start()

    def lifecycles() -> dict[str, str]:
        found = json.loads(host.aws("describe-data-repository-associations").stdout)["Associations"]
        return {each["FileSystemPath"]: each["Lifecycle"] for each in found}

    assert lifecycles() == {"/one": "CREATING", "/two": "CREATING"}
    point = host.mount("later")
    deadline = time.monotonic() + WAIT_SECONDS
    while lifecycles() != {"/one": "AVAILABLE", "/two": "AVAILABLE"}:
        assert time.monotonic() < deadline, lifecycles()
    until(point / "one" / "d" / "b", b"in/d/b")
    until(point / "two" / "c", b"other/c")
    host.unmount(point)

    (gone,) = [
        each["AssociationId"]
        for each in json.loads(host.aws("describe-data-repository-associations").stdout)["Associations"]
        if each["FileSystemPath"] == "/two"
    ]
    host.aws("delete-data-repository-association", "--association-id", gone, "--delete-data-in-file-system")
    assert lifecycles() == {"/one": "AVAILABLE", "/two": "DELETING"}
    point = host.mount("later")
    deadline = time.monotonic() + WAIT_SECONDS
    while lifecycles() != {"/one": "AVAILABLE"}:
        assert time.monotonic() < deadline, lifecycles()
    assert not (point / "two" / "c").exists() and (point / "one" / "a").read_bytes() == b"in/a"
    host.unmount(point)


def test_what_was_settled_at_the_creation_takes_no_other_association(host: Endpoint, bucket: str) -> None:
    links = [{"FileCachePath": "/one", "DataRepositoryPath": f"s3://{bucket}/in"}]
    with host.boto() as fsx:
        cache = fsx.create_file_cache(**CACHE, DataRepositoryAssociations=links)["FileCache"]
        legacy = fsx.create_file_system(
            FileSystemType="LUSTRE", SubnetIds=SUBNETS, StorageCapacity=1200,
            LustreConfiguration={"ImportPath": f"s3://{bucket}/in", "ExportPath": f"s3://{bucket}"},
        )["FileSystem"]  # fmt: skip
        with pytest.raises(fsx.exceptions.BadRequest, match="linked by its ImportPath"):
            fsx.create_data_repository_association(
                FileSystemId=legacy["FileSystemId"], FileSystemPath="/x", DataRepositoryPath=f"s3://{bucket}/other"
            )
        found = fsx.describe_data_repository_associations()["Associations"]
        (mine,) = found
        assert (mine["FileCacheId"], mine["FileCachePath"]) == (cache["FileCacheId"], "/one") and "FileSystemId" not in mine
        by_id = fsx.describe_data_repository_associations(Filters=[{"Name": "file-cache-id", "Values": [cache["FileCacheId"]]}])
        assert by_id["Associations"] == found
        for change in (fsx.update_data_repository_association, fsx.delete_data_repository_association):
            with pytest.raises(fsx.exceptions.BadRequest, match="cannot be changed"):
                change(AssociationId=mine["AssociationId"])
