"""Operations on data repository tasks, as boto3 sees them. Nobody executes anything here: see tests/mount/test_tasks.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from s3lustrefs.control.fsx_api import FsxApi
from s3lustrefs.control.fsx_tasks import OlderThan
from s3lustrefs.errors import ControlFault
from s3lustrefs.model import task_rules
from s3lustrefs.model.association import policies_of
from s3lustrefs.model.task import TaskRecord
from tests.unit.control.fsx_scene import MODEL, ONE, REGION, TWO, Api

EXPORT, IMPORT, RELEASE = "EXPORT_TO_REPOSITORY", "IMPORT_METADATA_FROM_REPOSITORY", "RELEASE_DATA_FROM_FILESYSTEM"
UNKNOWN = "task-" + "f" * 17
QUIET: dict[str, Any] = {"Report": {"Enabled": False}}


def request(api: Api, kind: str = IMPORT, **more: Any) -> dict[str, Any]:
    return {"Type": kind, "FileSystemId": api.arn.rpartition("/")[2], **QUIET, **more}


async def create(api: Api, kind: str = IMPORT, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = (await api.call("create_data_repository_task", **request(api, kind, **more)))["DataRepositoryTask"]
    return made


async def refusal(api: Api, kind: str = IMPORT, **more: Any) -> dict[str, Any]:
    return await api.refusal("create_data_repository_task", **request(api, kind, **more))


async def switch_export_off(api: Api) -> None:
    for each in (ONE, TWO):
        await api.call("update_data_repository_association", AssociationId=each, S3={"AutoExportPolicy": {"Events": []}})


async def ids(api: Api, **asked: Any) -> list[str]:
    answer = await api.call("describe_data_repository_tasks", **asked)
    return [each["TaskId"] for each in answer["DataRepositoryTasks"]]


async def test_task_is_described_as_it_was_asked_for(api: Api) -> None:
    report = {
        "Enabled": True, "Path": "s3://bucket/one/reports", "Format": "REPORT_CSV_20191124", "Scope": "FAILED_FILES_ONLY",
    }  # fmt: skip
    tags = [{"Key": "run", "Value": "17"}]
    made = await create(
        api, RELEASE, Paths=["path1", "/path2/"], Report=report, Tags=tags,
        ReleaseConfiguration={"DurationSinceLastAccess": {"Unit": "DAYS", "Value": 9}},
    )  # fmt: skip
    (found,) = (await api.call("describe_data_repository_tasks", TaskIds=[made["TaskId"]]))["DataRepositoryTasks"]
    assert found == made
    assert (made["Lifecycle"], made["Type"], made["Paths"]) == ("PENDING", RELEASE, ["path1", "/path2/"])
    assert made["Report"] == report and made["Tags"] == tags
    assert made["ReleaseConfiguration"] == {"DurationSinceLastAccess": {"Unit": "DAYS", "Value": 9}}
    assert made["ResourceARN"] == f"arn:aws:fsx:{REGION}:000000000000:task/{made['TaskId']}"
    counts = {name: made["Status"][name] for name in ("TotalCount", "SucceededCount", "FailedCount")}
    assert counts == {"TotalCount": 0, "SucceededCount": 0, "FailedCount": 0} and "StartTime" not in made
    answer = await api.fsx.call("DescribeDataRepositoryTasks", {})
    assert MODEL["DescribeDataRepositoryTasks"].output_defect(answer) is None
    for arn in (made["ResourceARN"], made["ResourceARN"].replace("task/", "task:")):  # the guide has both
        assert (await api.call("list_tags_for_resource", ResourceARN=arn))["Tags"] == tags
    assert (await api.refusal("list_tags_for_resource", ResourceARN=made["ResourceARN"] + "0"))["Code"] == "ResourceNotFound"


async def test_report_of_the_guide_without_a_path_is_accepted(api: Api) -> None:
    made = await create(api, Report={"Enabled": True})
    assert made["Report"] == {"Enabled": True, "Format": "REPORT_CSV_20191124", "Scope": "FAILED_FILES_ONLY"}


async def test_filters_and_pages(api: Api) -> None:
    one = (await create(api, Paths=["s3://bucket/one/x"]))["TaskId"]
    both = (await create(api))["TaskId"]
    release = (await create(api, RELEASE, Paths=["two/y"]))["TaskId"]
    everything = sorted([one, both, release])

    def only(name: str, *values: str) -> dict[str, Any]:
        return {"Filters": [{"Name": name, "Values": list(values)}]}

    assert await ids(api) == everything
    assert await ids(api, **only("data-repository-association-id", ONE)) == sorted([one, both])
    assert await ids(api, **only("data-repository-association-id", TWO)) == sorted([both, release])
    assert await ids(api, **only("task-lifecycle", "PENDING", "FAILED")) == everything
    assert await ids(api, **only("task-lifecycle", "EXECUTING")) == []
    assert await ids(api, **only("file-system-id", api.arn.rpartition("/")[2])) == everything
    assert await ids(api, **only("file-cache-id", "fc-0123456789abcdef0")) == []
    wrong = await api.refusal("describe_data_repository_tasks", **only("file-system-id", "fs-0123456789abcdef0"))
    assert wrong["Code"] == "FileSystemNotFound"
    assert (await api.refusal("describe_data_repository_tasks", **only("backup-type", "x")))["Code"] == "BadRequest"
    assert (await api.refusal("describe_data_repository_tasks", TaskIds=[UNKNOWN]))["Code"] == "DataRepositoryTaskNotFound"
    first = await api.call("describe_data_repository_tasks", MaxResults=2)
    rest = await ids(api, MaxResults=2, NextToken=first["NextToken"])
    assert [each["TaskId"] for each in first["DataRepositoryTasks"]] + rest == everything


@pytest.mark.parametrize(
    ("kind", "more", "code", "words"),
    [
        ("AUTO_RELEASE_DATA", {"CapacityToRelease": 1}, "UnsupportedOperation", "makes room by itself"),
        (IMPORT, {"CapacityToRelease": 1}, "IncompatibleParameterError", "AUTO_RELEASE_DATA"),
        (IMPORT, {"ReleaseConfiguration": {}}, "IncompatibleParameterError", "RELEASE_DATA_FROM_FILESYSTEM"),
        (RELEASE, {"ReleaseConfiguration": {"DurationSinceLastAccess": {"Unit": "DAYS"}}}, "BadRequest", "Value is required"),
        (EXPORT, {}, "UnsupportedOperation", "AutoExportPolicy={Events=[]}"),
        (IMPORT, {"FileSystemId": "fs-0123456789abcdef0"}, "FileSystemNotFound", "fs-0123456789abcdef0"),
        (IMPORT, {"Report": {"Enabled": True, "Format": "CSV"}}, "BadRequest", "REPORT_CSV_20191124"),
        (IMPORT, {"Tags": [{"Key": "aws:x", "Value": ""}]}, "BadRequest", "reserved"),
        (IMPORT, {"Paths": ["x\n"]}, "BadRequest", "Paths"),
    ],
)
async def test_what_makes_no_sense_is_refused_at_once(
    api: Api, kind: str, more: dict[str, Any], code: str, words: str
) -> None:  # fmt: skip
    refused = await refusal(api, kind, **more)
    assert refused["Code"] == code and words in refused["Message"], refused
    assert await ids(api) == []


async def test_duplicate_of_a_task_that_has_not_ended_is_refused(api: Api) -> None:
    await switch_export_off(api)
    first = await create(api, EXPORT, Paths=["b", "/a/"])
    again = await refusal(api, EXPORT, Paths=["a", "b"])
    assert again["Code"] == "DataRepositoryTaskExecuting" and first["TaskId"] in again["Message"]
    await create(api, EXPORT, Paths=["a"])
    await create(api, RELEASE, Paths=["a", "b"])


async def test_queue_is_bounded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_rules, "MOST_UNFINISHED", 2)
    for number in range(2):
        await create(api, Paths=[f"s3://bucket/one/{number}"])
    assert (await refusal(api))["Code"] == "DataRepositoryTaskExecuting"


async def test_file_system_without_associations_has_no_tasks(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.engine, "associations", list)
    assert (await refusal(api))["Code"] == "BadRequest"


async def test_repeated_creation_makes_one_task_also_after_a_restart(api: Api) -> None:
    made = await create(api, ClientRequestToken="once", Tags=[{"Key": "a", "Value": "b"}])
    await api.restart()
    assert await create(api, ClientRequestToken="once", Tags=[{"Key": "a", "Value": "b"}]) == made
    assert await ids(api) == [made["TaskId"]]
    other = await refusal(api, RELEASE, ClientRequestToken="once", Tags=[{"Key": "a", "Value": "b"}])
    assert (other["Code"], other["Parameter"]) == ("IncompatibleParameterError", "Type")


async def test_cancel_is_remembered_and_an_ended_task_refuses_it(api: Api) -> None:
    made = await create(api)
    answer = await api.call("cancel_data_repository_task", TaskId=made["TaskId"])
    assert answer == {"Lifecycle": "CANCELING", "TaskId": made["TaskId"]}
    await api.restart()
    assert await api.call("cancel_data_repository_task", TaskId=made["TaskId"]) == answer
    record = api.tasks.find(made["TaskId"])
    assert record is not None
    await api.engine.update_task(record.step("CANCELED", record.created_ns + 1))
    await api.restart()
    assert (await api.refusal("cancel_data_repository_task", TaskId=made["TaskId"]))["Code"] == "DataRepositoryTaskEnded"
    assert (await api.refusal("cancel_data_repository_task", TaskId=UNKNOWN))["Code"] == "DataRepositoryTaskNotFound"


async def test_eviction_of_a_file_cache_is_described_and_cannot_be_canceled(api: Api) -> None:
    cache_id, gib = "fc-0123456789abcdef0", 1 << 30
    fs_id = api.arn.rpartition("/")[2]
    record = api.engine.file_system()
    assert record is not None
    await api.engine.update_file_system(replace(record, file_system_id=cache_id))
    task = TaskRecord("task-" + "1" * 17, "AUTO_RELEASE_DATA", 10**18, associations=[ONE, TWO], wanted_bytes=3 * gib)
    task = task.step("EXECUTING", 10**18 + 1)
    await api.tasks.create(task, {}, None)
    made = (await api.call("describe_data_repository_tasks"))["DataRepositoryTasks"][0]
    assert (made["Lifecycle"], made["CapacityToRelease"], made["Status"]["ReleasedCapacity"]) == ("EXECUTING", 3, 0)
    assert made["FileCacheId"] == cache_id and "FileSystemId" not in made
    assert (await api.refusal("cancel_data_repository_task", TaskId=task.task_id))["Code"] == "UnsupportedOperation"

    await api.tasks.keep(replace(task, total=7, succeeded=7, released_bytes=3 * gib + 1).step("SUCCEEDED", 10**18 + 2))
    made = (await api.call("describe_data_repository_tasks"))["DataRepositoryTasks"][0]
    assert (made["Lifecycle"], made["CapacityToRelease"], made["Status"]["ReleasedCapacity"]) == ("SUCCEEDED", 3, 4)
    assert made["Status"]["TotalCount"] == made["Status"]["SucceededCount"] == 7 and made["EndTime"] >= made["StartTime"]
    answer = await api.fsx.call("DescribeDataRepositoryTasks", {})
    assert MODEL["DescribeDataRepositoryTasks"].output_defect(answer) is None
    for filters, found in (
        ({"Name": "file-cache-id", "Values": [cache_id]}, [task.task_id]),
        ({"Name": "file-cache-id", "Values": [fs_id]}, []),
        ({"Name": "data-repository-association-id", "Values": [TWO]}, [task.task_id]),
        ({"Name": "task-lifecycle", "Values": ["SUCCEEDED"]}, [task.task_id]),
    ):  # fmt: skip
        assert await ids(api, Filters=[filters]) == found, filters
    assert (await api.refusal("cancel_data_repository_task", TaskId=task.task_id))["Code"] == "DataRepositoryTaskEnded"


async def test_eviction_under_way_takes_no_place_in_the_queue(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_rules, "MOST_UNFINISHED", 1)
    eviction = TaskRecord("task-" + "1" * 17, "AUTO_RELEASE_DATA", 10**18).step("EXECUTING", 10**18)
    await api.tasks.create(eviction, {}, None)
    await create(api)


async def test_export_is_refused_only_where_its_paths_reach(api: Api) -> None:
    await api.call("update_data_repository_association", AssociationId=ONE, S3={"AutoExportPolicy": {"Events": []}})
    assert policies_of(api.association(TWO)).auto_export
    await create(api, EXPORT, Paths=["one/x"])
    assert (await refusal(api, EXPORT, Paths=["one/x,two/y"]))["Code"] == "UnsupportedOperation"
    assert (await refusal(api, EXPORT, Paths=["/"]))["Code"] == "UnsupportedOperation"


async def test_seconds_come_by_our_own_door_only(api: Api) -> None:
    own = OlderThan(api.fsx.call)
    made = (await own.create({**request(api, RELEASE), "OlderThanSeconds": 90}))["DataRepositoryTask"]
    record = api.tasks.find(made["TaskId"])
    assert record is not None and record.unused_seconds == 90 and "ReleaseConfiguration" not in made
    with pytest.raises(ControlFault, match="OlderThanSeconds is not a member of this request"):
        await api.fsx.call("CreateDataRepositoryTask", {**request(api, RELEASE), "OlderThanSeconds": 90})
    week = {"DurationSinceLastAccess": {"Unit": "DAYS", "Value": 7}}
    other = api.tasks.find((await create(api, RELEASE, Paths=["one"], ReleaseConfiguration=week))["TaskId"])
    assert other is not None and other.unused_seconds == 7 * 86400


async def test_read_only_mount_refuses_export_tasks_alone(api: Api) -> None:
    await switch_export_off(api)
    fsx = FsxApi(
        api.engine, api.repositories, api.tasks, capacity_bytes=lambda: 5 << 30, linking=api.linking, read_only=True
    )  # fmt: skip
    with pytest.raises(ControlFault, match="this mount is read-only") as caught:
        await fsx.call("CreateDataRepositoryTask", request(api, EXPORT))
    assert caught.value.fault == "UnsupportedOperation"
    await fsx.call("CreateDataRepositoryTask", request(api, IMPORT))
