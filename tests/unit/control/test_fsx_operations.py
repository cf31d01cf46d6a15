"""Every operation there is, as boto3 sees it."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import pytest
import trio

from s3lustrefs import errors
from s3lustrefs.control import fsx_associations
from s3lustrefs.repository.object_store import Capabilities
from tests.unit.control.fsx_scene import MODEL, ONE, REGION, TWO, Api

UNKNOWN = "dra-0000000000000000f"
ALL = ["NEW", "CHANGED", "DELETED"]


async def ids(api: Api, **request: Any) -> list[str]:
    answer = await api.call("describe_data_repository_associations", **request)
    return [association["AssociationId"] for association in answer["Associations"]]


# --- describe ----------------------------------------------------------------------------------------------------------------


async def test_association_is_described_in_full_and_its_paths_as_they_were_given(api: Api) -> None:
    (found,) = (await api.call("describe_data_repository_associations", AssociationIds=[ONE]))["Associations"]
    file_system_id = api.arn.rpartition("/")[2]
    assert found == {
        "AssociationId": ONE,
        "ResourceARN": f"arn:aws:fsx:{REGION}:000000000000:association/{file_system_id}/{ONE}",
        "FileSystemId": file_system_id,
        "Lifecycle": "AVAILABLE",
        "FileSystemPath": "/one/",
        "DataRepositoryPath": "s3://bucket/one",
        "BatchImportMetaDataOnCreate": True,
        "ImportedFileChunkSize": 1024,
        "S3": {"AutoImportPolicy": {"Events": ALL}, "AutoExportPolicy": {"Events": ALL}},
        "CreationTime": datetime.datetime.fromtimestamp(10**9, tz=datetime.UTC),
    }


async def test_association_that_cannot_be_reached_is_misconfigured_and_says_why(api: Api) -> None:
    api.repositories.fail(api.association(ONE).assoc_id, errors.RepositoryDenied("no credentials found" + "!" * 500))
    first, second = (await api.call("describe_data_repository_associations"))["Associations"]
    assert (first["Lifecycle"], second["Lifecycle"]) == ("MISCONFIGURED", "AVAILABLE")
    assert first["FailureDetails"]["Message"].startswith("no credentials found!") and "FailureDetails" not in second


async def test_every_answer_is_as_the_model_describes_it(api: Api) -> None:
    record = api.engine.file_system()
    assert record is not None
    for name, request in {
        "DescribeDataRepositoryAssociations": {"MaxResults": 1},
        "DescribeFileSystems": {},
        "UpdateFileSystem": {"FileSystemId": record.file_system_id, "LustreConfiguration": {"DataCompressionType": "LZ4"}},
        "UpdateDataRepositoryAssociation": {"AssociationId": ONE},
        "TagResource": {"ResourceARN": api.arn, "Tags": [{"Key": "k", "Value": ""}]},
        "ListTagsForResource": {"ResourceARN": api.arn},
        "UntagResource": {"ResourceARN": api.arn, "TagKeys": ["k"]},
    }.items():
        assert MODEL[name].output_defect(await api.fsx.call(name, request)) is None


async def test_file_system_is_described_and_keeps_its_identity(api: Api) -> None:
    (before,) = (await api.call("describe_file_systems"))["FileSystems"]
    assert (before["FileSystemType"], before["Lifecycle"], before["StorageCapacity"]) == ("LUSTRE", "AVAILABLE", 5)
    assert before["ResourceARN"] == api.arn and before["LustreConfiguration"]["MountName"] == "fsx"
    await api.restart()
    await api.fsx.file_systems.establish("us-west-2")
    assert (await api.call("describe_file_systems", FileSystemIds=[before["FileSystemId"]]))["FileSystems"] == [before]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([{"Name": "file-system-id", "Values": ["OURS"]}], [ONE, TWO]),
        ([{"Name": "data-repository-type", "Values": ["S3"]}], [ONE, TWO]),
        ([{"Name": "data-repository-type", "Values": ["NFS", "S3"]}], [ONE, TWO]),
        ([{"Name": "data-repository-type", "Values": ["NFS"]}], []),
        ([{"Name": "file-cache-id", "Values": ["fc-0123456789abcdef0"]}], []),
        ([{"Name": "file-system-id", "Values": ["OURS"]}, {"Name": "data-repository-type", "Values": ["NFS"]}], []),
    ],
)
async def test_filters_are_anded_and_their_values_ored(api: Api, filters: list[dict[str, Any]], expected: list[str]) -> None:
    ours = api.arn.rpartition("/")[2]
    given = [{**each, "Values": [value.replace("OURS", ours) for value in each["Values"]]} for each in filters]
    assert await ids(api, Filters=given) == expected
    assert await ids(api, Filters=given, AssociationIds=[TWO]) == [each for each in expected if each == TWO]


@pytest.mark.parametrize(
    ("filters", "code"),
    [
        ([{"Name": "file-system-id", "Values": ["fs-0123456789abcdef0"]}], "FileSystemNotFound"),
        ([{"Name": "data-repository-type", "Values": ["HDFS"]}], "InvalidDataRepositoryType"),
        ([{"Name": "backup-type", "Values": ["AWS_BACKUP"]}], "BadRequest"),
        ([{"Name": "colour", "Values": ["red"]}], "BadRequest"),
        ([{"Name": "file-system-id", "Values": ["*" * 129]}], "BadRequest"),
        ([{"Name": "file-system-id"}], "BadRequest"),
        ([{"Values": ["x"]}], "BadRequest"),
        # A wrong one is told although an earlier one leaves nothing.
        (
            [{"Name": "file-cache-id", "Values": ["fc-1"]}, {"Name": "data-repository-type", "Values": ["x"]}],
            "InvalidDataRepositoryType",
        ),
    ],
)
async def test_wrong_filter_is_refused(api: Api, filters: list[dict[str, Any]], code: str) -> None:
    assert (await api.refusal("describe_data_repository_associations", Filters=filters))["Code"] == code


async def test_pages_follow_each_other_whatever_goes_on_meanwhile(api: Api) -> None:
    first = await api.call("describe_data_repository_associations", MaxResults=1)
    assert [each["AssociationId"] for each in first["Associations"]] == [ONE]
    await api.restart()
    second = await api.call("describe_data_repository_associations", MaxResults=25, NextToken=first["NextToken"])
    assert [each["AssociationId"] for each in second["Associations"]] == [TWO] and "NextToken" not in second
    other = {"NextToken": first["NextToken"], "AssociationIds": [ONE]}
    for request in ({"NextToken": "Zm9v"}, other, {"NextToken": "not base64!"}, {"NextToken": "/w=="}):
        assert (await api.refusal("describe_data_repository_associations", **request))["Code"] == "BadRequest"


async def test_what_is_not_there_is_not_found(api: Api) -> None:
    refusal = await api.refusal("describe_data_repository_associations", AssociationIds=[ONE, UNKNOWN])
    assert (refusal["Code"], refusal["Status"]) == ("DataRepositoryAssociationNotFound", 400) and UNKNOWN in refusal["Message"]
    refusal = await api.refusal("update_data_repository_association", AssociationId=UNKNOWN)
    assert refusal["Code"] == "DataRepositoryAssociationNotFound"
    missing = "fs-00000000000000000"
    assert (await api.refusal("describe_file_systems", FileSystemIds=[missing]))["Code"] == "FileSystemNotFound"
    refusal = await api.refusal("update_file_system", FileSystemId=missing, NetworkType="IPV4")
    assert refusal["Code"] == "FileSystemNotFound"


# --- update -------------------------------------------------------------------------------------------------------------------


async def test_policies_change_one_by_one_and_at_once(api: Api) -> None:
    answer = await api.call(
        "update_data_repository_association",
        AssociationId=ONE, ImportedFileChunkSize=64, S3={"AutoExportPolicy": {"Events": ["DELETED", "NEW"]}},
    )  # fmt: skip
    assert answer["Association"]["S3"] == {"AutoImportPolicy": {"Events": ALL}, "AutoExportPolicy": {"Events": ["NEW", "DELETED"]}}
    changed = api.association(ONE)
    assert (changed.auto_export, changed.imported_file_chunk_size_mib) == ({"NEW", "DELETED"}, 64)
    await api.call("update_data_repository_association", AssociationId=ONE, S3={"AutoImportPolicy": {"Events": []}})
    await api.call("update_data_repository_association", AssociationId=ONE, S3={"AutoExportPolicy": {}})
    assert (api.association(ONE).auto_import, api.association(ONE).auto_export) == (set(), {"NEW", "DELETED"})
    assert api.association(TWO).auto_import == set(ALL)
    await api.restart()
    assert (api.association(ONE).auto_import, api.association(ONE).imported_file_chunk_size_mib) == (set(), 64)


async def test_export_is_switched_on_only_when_the_bucket_can_be_written(api: Api) -> None:
    off, on = ({"AutoExportPolicy": {"Events": events}} for events in ([], ["NEW"]))
    await api.call("update_data_repository_association", AssociationId=ONE, S3=off)
    api.probe = errors.RepositoryDenied("no permission to write objects; Allow s3:PutObject on arn:aws:s3:::bucket/one/*")
    refusal = await api.refusal("update_data_repository_association", AssociationId=ONE, S3=on)
    assert refusal["Code"] == "BadRequest" and "Allow s3:PutObject" in refusal["Message"]
    assert not api.association(ONE).auto_export
    api.probe = Capabilities()
    await api.call("update_data_repository_association", AssociationId=ONE, S3=on)
    assert api.association(ONE).auto_export == {"NEW"} and (api.association(ONE).capabilities or {})["put_if_match"] is True


async def test_file_system_settings_are_kept_and_shown(api: Api) -> None:
    own = api.arn.rpartition("/")[2]
    given = {
        "WeeklyMaintenanceStartTime": "2:20:30",
        "DataCompressionType": "LZ4",
        "PerUnitStorageThroughput": 500,
        "LogConfiguration": {"Level": "WARN_ERROR", "Destination": f"arn:aws:logs:{REGION}:000000000000:log-group:/aws/fsx/lustre"},
        "MetadataConfiguration": {"Mode": "USER_PROVISIONED", "Iops": 24000},
        "RootSquashConfiguration": {"RootSquash": "0:0", "NoSquashNids": []},
    }
    await api.call("update_file_system", FileSystemId=own, LustreConfiguration=given, NetworkType="DUAL")
    await api.call("update_file_system", FileSystemId=own, LustreConfiguration={"DataCompressionType": "NONE"})
    await api.restart()
    (found,) = (await api.call("describe_file_systems"))["FileSystems"]
    assert found["NetworkType"] == "DUAL"
    assert {key: found["LustreConfiguration"][key] for key in given} == {**given, "DataCompressionType": "NONE"}


@pytest.mark.parametrize(
    ("request_", "code", "parameter"),
    [
        ({"StorageCapacity": 2400}, "UnsupportedOperation", None),
        ({"StorageType": "HDD"}, "UnsupportedOperation", None),
        ({"FileSystemTypeVersion": "2.12"}, "BadRequest", None),
        ({"WindowsConfiguration": {"ThroughputCapacity": 8}}, "IncompatibleParameterError", "WindowsConfiguration"),
        ({"LustreConfiguration": {"AutoImportPolicy": "NEW"}}, "IncompatibleParameterError", "AutoImportPolicy"),
        ({"LustreConfiguration": {"ThroughputCapacity": 4000}}, "IncompatibleParameterError", "ThroughputCapacity"),
        ({"LustreConfiguration": {"AutomaticBackupRetentionDays": 7}}, "UnsupportedOperation", None),
        ({"LustreConfiguration": {"RootSquashConfiguration": {"RootSquash": "65534:65534"}}}, "UnsupportedOperation", None),
        ({"LustreConfiguration": {"PerUnitStorageThroughput": 130}}, "BadRequest", None),
        ({"LustreConfiguration": {"MetadataConfiguration": {"Mode": "AUTOMATIC", "Iops": 1500}}}, "BadRequest", None),
        ({"LustreConfiguration": {"MetadataConfiguration": {"Iops": 1501}}}, "BadRequest", None),
        ({"LustreConfiguration": {}}, "MissingFileSystemConfiguration", None),
        ({}, "MissingFileSystemConfiguration", None),
    ],
)
async def test_file_system_update_that_cannot_be_done_changes_nothing(
    api: Api, request_: dict[str, Any], code: str, parameter: str | None
) -> None:
    refusal = await api.refusal("update_file_system", FileSystemId=api.arn.rpartition("/")[2], **request_)
    assert (refusal["Code"], refusal.get("Parameter")) == (code, parameter)
    record = api.engine.file_system()
    assert record is not None and not record.settings


@pytest.fixture
async def legacy(api: Api) -> Api:
    """As if it had been linked by its ImportPath, with the first association alone."""
    record = api.engine.file_system()
    assert record is not None
    link = {
        "ImportPath": "s3://bucket/one",
        "ExportPath": "s3://bucket/one",
        "ImportedFileChunkSize": 1024,
        "AutoImportPolicy": "NEW",
    }
    await api.engine.update_file_system(replace(record, settings={"DataRepositoryConfiguration": link}))
    second = api.association(TWO)
    await api.engine.move_association(second.assoc_id, "DELETING")
    assert await api.engine.forget_association(api.association(TWO))
    return api


async def linked(api: Api) -> dict[str, Any]:
    (found,) = (await api.call("describe_file_systems"))["FileSystems"]
    return found["LustreConfiguration"]["DataRepositoryConfiguration"]  # type: ignore[no-any-return]


async def test_policy_that_is_sent_again_has_a_misconfigured_link_looked_at(legacy: Api) -> None:
    await legacy.engine.move_association(legacy.association(ONE).assoc_id, "MISCONFIGURED", "the queue is gone")
    for _ in range(2):
        about = await linked(legacy)
        assert (about["Lifecycle"], about["FailureDetails"]["Message"]) == ("MISCONFIGURED", "the queue is gone")
        await legacy.restart()  # and a daemon that has not looked itself says the same
    request = {"FileSystemId": legacy.arn.rpartition("/")[2], "LustreConfiguration": {"AutoImportPolicy": "NEW"}}
    answer = await legacy.call("update_file_system", **request)
    about = answer["FileSystem"]["LustreConfiguration"]["DataRepositoryConfiguration"]
    assert (about["Lifecycle"], about["AutoImportPolicy"]) == ("UPDATING", "NEW") and legacy.wakes == 1
    await legacy.work(ONE)
    about = await linked(legacy)
    assert (about["Lifecycle"], about["AutoImportPolicy"]) == ("AVAILABLE", "NEW") and "FailureDetails" not in about


async def test_link_that_failed_has_no_policy_any_more(legacy: Api) -> None:
    await legacy.engine.move_association(legacy.association(ONE).assoc_id, "FAILED", "its directory is gone")
    assert (await linked(legacy))["Lifecycle"] == "FAILED"
    request = {"FileSystemId": legacy.arn.rpartition("/")[2], "LustreConfiguration": {"AutoImportPolicy": "NEW"}}
    refusal = await legacy.refusal("update_file_system", **request)
    assert refusal["Code"] == "BadRequest" and "is FAILED" in refusal["Message"]


# --- repeated requests ----------------------------------------------------------------------------------------------------------


async def test_repeated_request_is_answered_but_not_done_again(api: Api) -> None:
    first = {"AssociationId": ONE, "ClientRequestToken": "t-1", "ImportedFileChunkSize": 7}
    answer = await api.call("update_data_repository_association", **first)
    assert await api.call("update_data_repository_association", **first) == answer
    await api.call("update_data_repository_association", AssociationId=ONE, ClientRequestToken="t-2", ImportedFileChunkSize=8)
    await api.restart()
    again = await api.call("update_data_repository_association", **first)
    assert again["Association"]["ImportedFileChunkSize"] == 8 == api.association(ONE).imported_file_chunk_size_mib


@pytest.mark.parametrize(
    ("change", "parameter"),
    [
        ({"ImportedFileChunkSize": 9}, "ImportedFileChunkSize"),
        ({"AssociationId": TWO}, "AssociationId"),
        ({"S3": {"AutoImportPolicy": {"Events": ["NEW"]}}}, "S3"),
    ],
)
async def test_token_of_another_request_is_refused_by_the_parameter_that_differs(
    api: Api, change: dict[str, Any], parameter: str
) -> None:
    first = {"AssociationId": ONE, "ClientRequestToken": "t-1", "ImportedFileChunkSize": 7}
    await api.call("update_data_repository_association", **first)
    await api.restart()
    refusal = await api.refusal("update_data_repository_association", **{**first, **change})
    assert (refusal["Code"], refusal["Parameter"]) == ("IncompatibleParameterError", parameter)
    refusal = await api.refusal(
        "update_file_system", FileSystemId=api.arn.rpartition("/")[2], ClientRequestToken="t-1", NetworkType="DUAL"
    )
    assert (refusal["Code"], refusal["Parameter"]) == ("IncompatibleParameterError", "ClientRequestToken")


async def test_refused_request_does_not_use_up_its_token(api: Api) -> None:
    request = {"FileSystemId": api.arn.rpartition("/")[2], "ClientRequestToken": "t-1"}
    await api.refusal("update_file_system", **request, LustreConfiguration={"PerUnitStorageThroughput": 130})
    await api.call("update_file_system", **request, LustreConfiguration={"PerUnitStorageThroughput": 250})


# --- tags ------------------------------------------------------------------------------------------------------------------------


async def test_tags_are_set_shown_and_taken_away(api: Api) -> None:
    (described,) = (await api.call("describe_data_repository_associations", AssociationIds=[ONE]))["Associations"]
    for arn in (api.arn, described["ResourceARN"]):
        tags = [{"Key": "Stage", "Value": "Prüfung 1"}, {"Key": "a/b:c", "Value": ""}]
        await api.call("tag_resource", ResourceARN=arn, Tags=tags)
        await api.call("tag_resource", ResourceARN=arn, Tags=[{"Key": "Stage", "Value": "2"}])
        await api.restart()
        expected = [{"Key": "Stage", "Value": "2"}, {"Key": "a/b:c", "Value": ""}]
        assert (await api.call("list_tags_for_resource", ResourceARN=arn))["Tags"] == expected
    (file_system,) = (await api.call("describe_file_systems"))["FileSystems"]
    (described,) = (await api.call("describe_data_repository_associations", AssociationIds=[ONE]))["Associations"]
    assert file_system["Tags"] == described["Tags"] == expected
    await api.call("untag_resource", ResourceARN=api.arn, TagKeys=["Stage", "absent"])
    assert (await api.call("list_tags_for_resource", ResourceARN=api.arn))["Tags"] == expected[1:]


async def test_tags_come_in_pages(api: Api) -> None:
    keys = [f"k{number:02}" * 40 for number in range(50)]
    await api.call("tag_resource", ResourceARN=api.arn, Tags=[{"Key": key, "Value": "v"} for key in keys])
    shown = await _tag_pages(api)
    assert [len(page) for page in shown] == [20, 20, 10]
    assert [tag["Key"] for page in shown for tag in page] == keys


async def _tag_pages(api: Api) -> list[list[dict[str, str]]]:
    pages, more = [], {}
    while True:
        answer = await api.call("list_tags_for_resource", ResourceARN=api.arn, MaxResults=20, **more)
        pages.append(answer["Tags"])
        if "NextToken" not in answer:
            return pages
        more = {"NextToken": answer["NextToken"]}


@pytest.mark.parametrize(
    "tags",
    [
        [],
        [{"Key": "aws:own", "Value": "x"}],
        [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}],
        [{"Key": "a\n", "Value": "1"}],
        [{"Key": "a", "Value": "tab\there"}],
        [{"Key": "a", "Value": "x" * 257}],
        [{"Key": "", "Value": "x"}],
        [{"Key": "a"}],
    ],
)
async def test_wrong_tags_are_refused(api: Api, tags: list[dict[str, str]]) -> None:
    assert (await api.refusal("tag_resource", ResourceARN=api.arn, Tags=tags))["Code"] == "BadRequest"
    assert api.engine.tags(api.arn.rpartition("/")[2]) == {}


async def test_a_resource_has_at_most_fifty_tags(api: Api) -> None:
    await api.call("tag_resource", ResourceARN=api.arn, Tags=[{"Key": f"k{n}", "Value": ""} for n in range(50)])
    refusal = await api.refusal("tag_resource", ResourceARN=api.arn, Tags=[{"Key": "one more", "Value": ""}])
    assert refusal["Code"] == "BadRequest" and "at most 50" in refusal["Message"]


async def test_resource_of_others_is_not_found_and_named(api: Api) -> None:
    association = api.arn.replace("file-system/", "association/") + "/" + ONE
    for arn in (api.arn + "0", api.arn.replace(REGION, "us-east-1"), association + "1", api.arn.replace("file-system", "volume")):
        for method, more in (("tag_resource", {"Tags": [{"Key": "a", "Value": "b"}]}), ("list_tags_for_resource", {})):
            refusal = await api.refusal(method, ResourceARN=arn, **more)
            assert (refusal["Code"], refusal["ResourceARN"]) == ("ResourceNotFound", arn)
    assert (await api.refusal("list_tags_for_resource", ResourceARN="arn:aws:s3:::bucket"))["Code"] == "BadRequest"


# --- create and delete ----------------------------------------------------------------------------------------------------------


async def made(api: Api, path: str, url: str, **more: Any) -> dict[str, Any]:
    file_system = api.arn.rpartition("/")[2]
    request = {"FileSystemId": file_system, "FileSystemPath": path, "DataRepositoryPath": url, **more}
    answer = await api.call("create_data_repository_association", **request)
    return answer["Association"]  # type: ignore[no-any-return]


async def test_association_is_made_with_the_defaults_of_fsx(api: Api) -> None:
    found = await made(api, "/three/", "s3://other/x", Tags=[{"Key": "team", "Value": "a"}])
    assert found["Lifecycle"] == "CREATING" and not found["BatchImportMetaDataOnCreate"] and found["ImportedFileChunkSize"] == 1024
    assert found["S3"] == {"AutoImportPolicy": {"Events": []}, "AutoExportPolicy": {"Events": []}}
    assert (found["FileSystemPath"], found["DataRepositoryPath"]) == ("/three/", "s3://other/x")
    assert found["Tags"] == [{"Key": "team", "Value": "a"}]
    tags = await api.call("list_tags_for_resource", ResourceARN=found["ResourceARN"])
    assert tags["Tags"] == found["Tags"]
    await api.restart()
    (again,) = (await api.call("describe_data_repository_associations", AssociationIds=[found["AssociationId"]]))["Associations"]
    assert again == found


async def test_bucket_that_cannot_be_used_refuses_an_association(api: Api) -> None:
    api.probe = errors.RepositoryDenied("no permission to list the bucket. Allow s3:ListBucket on arn:aws:s3:::other")
    file_system = api.arn.rpartition("/")[2]
    request = {"FileSystemId": file_system, "FileSystemPath": "/three", "DataRepositoryPath": "s3://other/x"}
    refusal = await api.refusal("create_data_repository_association", **request)
    assert (refusal["Code"], refusal["Status"]) == ("BadRequest", 400)
    assert (
        "cannot validate access to the bucket" in refusal["Message"] and "s3:Get*, s3:List* and s3:PutObject" in refusal["Message"]
    )
    assert "no permission to list" in refusal["Message"] and len(await ids(api)) == 2


async def test_bucket_that_hangs_holds_up_no_other_change(api: Api, nursery: trio.Nursery) -> None:
    api.probe = answers = trio.Event()
    created: list[dict[str, Any]] = []

    async def create() -> None:
        created.append(await made(api, "/three", "s3://other/x"))

    nursery.start_soon(create)
    with trio.fail_after(20):
        while not answers.statistics().tasks_waiting:  # noqa: ASYNC110
            await trio.sleep(0.01)
    with trio.fail_after(15):  # sooner than the look at the bucket is given up
        await api.call("tag_resource", ResourceARN=api.arn, Tags=[{"Key": "a", "Value": "b"}])
        await api.call("update_file_system", FileSystemId=api.arn.rpartition("/")[2], NetworkType="DUAL")
        await api.call("delete_data_repository_association", AssociationId=ONE)
    assert created == [] and await ids(api) == [ONE, TWO]
    answers.set()
    with trio.fail_after(20):
        while not created:  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert len(await ids(api)) == 3


async def test_bucket_that_says_nothing_is_told_in_time(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    off, on = ({"AutoExportPolicy": {"Events": events}} for events in ([], ["NEW"]))
    await api.call("update_data_repository_association", AssociationId=TWO, S3=off)
    monkeypatch.setattr(fsx_associations, "_PROBE_SECONDS", 0.5)
    api.probe = trio.Event()
    request = {"FileSystemId": api.arn.rpartition("/")[2], "FileSystemPath": "/three", "DataRepositoryPath": "s3://other/x"}
    for refusal in (
        await api.refusal("create_data_repository_association", **request),
        await api.refusal("update_data_repository_association", AssociationId=TWO, S3=on),
    ):
        assert refusal["Code"] == "BadRequest" and "it has not answered within" in refusal["Message"]
    assert await ids(api) == [ONE, TWO] and not api.association(TWO).auto_export


async def test_repeated_creation_and_deletion_are_done_once(api: Api) -> None:
    first = await made(api, "/three", "s3://other/x", ClientRequestToken="a")
    await api.restart()
    assert await made(api, "/three", "s3://other/x", ClientRequestToken="a") == first
    assert len(await ids(api)) == 3
    delete = {"AssociationId": ONE, "DeleteDataInFileSystem": True, "ClientRequestToken": "b"}
    answer = await api.call("delete_data_repository_association", **delete)
    assert answer == {"AssociationId": ONE, "Lifecycle": "DELETING", "DeleteDataInFileSystem": True}
    association = api.association(ONE)
    assert association.lifecycle == "DELETING" and association.delete_data
    assert await api.engine.forget_association(association)
    assert await api.call("delete_data_repository_association", **delete) == answer
    refusal = await api.refusal("delete_data_repository_association", AssociationId=ONE)
    assert refusal["Code"] == "DataRepositoryAssociationNotFound"


async def test_repeated_creation_is_never_answered_with_what_another_request_made(api: Api) -> None:
    first = await made(api, "/three", "s3://other/x", ClientRequestToken="a")
    await api.call("delete_data_repository_association", AssociationId=first["AssociationId"])
    assert await api.engine.forget_association(api.association(first["AssociationId"]))
    again = await made(api, "/three", "s3://other/y", ClientRequestToken="b")
    await api.restart()
    request = {"FileSystemId": api.arn.rpartition("/")[2], "FileSystemPath": "/three", "DataRepositoryPath": "s3://other/x"}
    refusal = await api.refusal("create_data_repository_association", ClientRequestToken="a", **request)
    assert refusal["Code"] == "BadRequest" and "was deleted: use another ClientRequestToken" in refusal["Message"]
    assert await made(api, "/three", "s3://other/y", ClientRequestToken="b") == again


async def test_deletion_says_how_much_was_not_exported(api: Api) -> None:
    api.unexported = 7
    await api.call("delete_data_repository_association", AssociationId=ONE)
    (shown,) = (await api.call("describe_data_repository_associations", AssociationIds=[ONE]))["Associations"]
    assert (shown["Lifecycle"], shown["FailureDetails"]["Message"][:27]) == ("DELETING", "7 changes were not exported")


# --- what is not there ------------------------------------------------------------------------------------------------------------

IMPLEMENTED = {
    "DescribeDataRepositoryAssociations", "UpdateDataRepositoryAssociation", "DescribeFileSystems", "UpdateFileSystem",
    "CreateDataRepositoryAssociation", "DeleteDataRepositoryAssociation",
    "TagResource", "UntagResource", "ListTagsForResource", "DescribeFileCaches", "UpdateFileCache",
    "CreateDataRepositoryTask", "DescribeDataRepositoryTasks", "CancelDataRepositoryTask",
}  # fmt: skip
OF_THE_HOST = {"CreateFileSystem", "DeleteFileSystem", "CreateFileCache", "DeleteFileCache"}


async def test_operation_of_the_host_is_refused_with_where_it_is_done(api: Api) -> None:
    for name in OF_THE_HOST:
        with pytest.raises(errors.ControlFault, match=f"that of the host, `s3lustrefs api`, does {name}$") as caught:
            await api.fsx.call(name, {})
        assert caught.value.fault == "UnsupportedOperation"


async def test_every_other_operation_says_why_not(api: Api) -> None:
    for name in MODEL.keys() - IMPLEMENTED - OF_THE_HOST:
        with pytest.raises(errors.ControlFault, match=f"{name} has no meaning") as caught:
            await api.fsx.call(name, {})
        assert caught.value.fault == "UnsupportedOperation"


async def test_operation_that_fsx_has_not_is_unknown(api: Api) -> None:
    with pytest.raises(errors.ControlFault) as caught:
        await api.fsx.call("MakeCoffee", {})
    assert caught.value.fault == "UnknownOperationException"


async def test_disk_that_is_full_is_the_services_error(api: Api, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def full(changes: object) -> None:
        raise errors.OutOfSpace("the log cannot be written")

    monkeypatch.setattr(api.store, "append", full)
    refusal = await api.refusal("tag_resource", ResourceARN=api.arn, Tags=[{"Key": "a", "Value": "b"}])
    assert (refusal["Code"], refusal["Status"]) == ("InternalServerError", 500) and "log cannot" in refusal["Message"]
    monkeypatch.undo()
    assert api.engine.tags(api.arn.rpartition("/")[2]) == {}
