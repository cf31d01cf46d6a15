"""One endpoint in front of several file systems: whose a request is, joined answers, what happens to those nobody has mounted."""

from __future__ import annotations

import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from s3lustrefs.control import unmounted
from s3lustrefs.meta.state_dir import StateDir
from tests.unit.control.fsx_scene import ONE, REGION
from tests.unit.control.host_scene import CREATE, MODEL, Host, link, serving

MISSING = "fs-00000000000000009"
ARN = f"arn:aws:fsx:{REGION}:000000000000:"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with serving(Host(tmp_path)) as running:
        yield running


async def ids_of(host: Host) -> dict[str, str]:
    """By name of the state directory."""
    owners, silent = await host.owners.all()
    assert not silent
    return {owner.place.state_dir.name: owner.resource_id for owner in owners}


async def pages(host: Host, method: str, members: str, name: str, **request: Any) -> list[str]:
    found: list[str] = []
    while True:
        answer = await host.call(method, **request)
        assert len(answer[members]) <= request.get("MaxResults", 100)
        found += [each[name] for each in answer[members]]
        if "NextToken" not in answer:
            return found
        request["NextToken"] = answer["NextToken"]


async def test_host_without_file_systems_has_none(host: Host) -> None:
    assert await host.call("describe_file_systems") == {"FileSystems": []}
    assert await host.call("describe_data_repository_associations") == {"Associations": []}
    assert (await host.refusal("describe_file_systems", FileSystemIds=[MISSING]))["Code"] == "FileSystemNotFound"


async def test_mounted_and_unmounted_ones_stand_side_by_side(host: Host) -> None:
    made = await host.created()
    async with host.mounted("a"), host.mounted("b"):
        ids = await ids_of(host)
        found = await pages(host, "describe_file_systems", "FileSystems", "FileSystemId", MaxResults=1)
        assert found == sorted(ids.values()) and set(ids) == {"a", "b", made["FileSystemId"]}
        for each in ids.values():
            (one,) = (await host.call("describe_file_systems", FileSystemIds=[each]))["FileSystems"]
            assert one["FileSystemId"] == each and one["Lifecycle"] == "AVAILABLE"
    assert len((await host.call("describe_file_systems"))["FileSystems"]) == 3


async def test_pages_go_through_associations_of_all_of_them(host: Host) -> None:
    async with AsyncExitStack() as stack:
        for number, name in enumerate("abc"):
            engine = await stack.enter_async_context(host.mounted(name))
            await link(engine, 8, first=8 * number)
        async with host.mounted("d") as engine:
            await link(engine, 3, first=40)
        expected = [f"dra-{number:017x}" for number in (*range(24), 40, 41, 42)]
        for size in (1, 5, 25):
            found = await pages(host, "describe_data_repository_associations", "Associations", "AssociationId", MaxResults=size)
            assert found == expected
        assert await pages(host, "describe_data_repository_associations", "Associations", "AssociationId") == expected
        ids = await ids_of(host)
        some = {"Filters": [{"Name": "file-system-id", "Values": [ids["a"], ids["d"]]}]}
        found = await pages(host, "describe_data_repository_associations", "Associations", "AssociationId", MaxResults=4, **some)
        assert found == expected[:8] + expected[24:]
        chosen = [expected[20], expected[3], expected[26]]
        found = await pages(
            host, "describe_data_repository_associations", "Associations", "AssociationId", MaxResults=1, AssociationIds=chosen
        )
        assert found == sorted(chosen)


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("describe_file_systems", {"FileSystemIds": [MISSING]}, "FileSystemNotFound"),
        ("update_file_system", {"FileSystemId": MISSING}, "FileSystemNotFound"),
        ("delete_file_system", {"FileSystemId": MISSING}, "FileSystemNotFound"),
        ("describe_data_repository_associations", {"AssociationIds": [ONE]}, "DataRepositoryAssociationNotFound"),
        (
            "describe_data_repository_associations", {"Filters": [{"Name": "file-system-id", "Values": [MISSING]}]},
            "FileSystemNotFound",
        ),
        ("describe_data_repository_associations", {"Filters": [{"Name": "file-system-id"}]}, "BadRequest"),
        (
            "describe_data_repository_associations", {"Filters": [{"Name": "data-repository-type", "Values": ["x"]}]},
            "InvalidDataRepositoryType",
        ),
        ("update_data_repository_association", {"AssociationId": ONE}, "DataRepositoryAssociationNotFound"),
        ("describe_file_systems", {"NextToken": "bm9uZQ=="}, "BadRequest"),
        ("describe_file_systems", {"MaxResults": 0}, "BadRequest"),
        ("list_tags_for_resource", {"ResourceARN": ARN + f"file-system/{MISSING}"}, "ResourceNotFound"),
        ("list_tags_for_resource", {"ResourceARN": ARN + "volume/fsvol-1"}, "ResourceNotFound"),
        ("list_tags_for_resource", {"ResourceARN": ARN + f"association/{MISSING}/{ONE}"}, "ResourceNotFound"),
        ("create_backup", {"FileSystemId": MISSING}, "UnsupportedOperation"),
    ],
)  # fmt: skip
async def test_what_is_not_there_is_said_in_fsx_words(host: Host, method: str, request_: dict[str, Any], code: str) -> None:
    async with host.mounted("a"):
        assert (await host.refusal(method, **request_))["Code"] == code


async def test_request_about_one_reaches_that_one(host: Host) -> None:
    async with host.mounted("a") as one, host.mounted("b") as other:
        await link(one, 1, first=1)
        await link(other, 1, first=2)
        ids = await ids_of(host)
        changed = await host.call("update_data_repository_association", AssociationId=f"dra-{2:017x}", ImportedFileChunkSize=7)
        assert changed["Association"]["FileSystemId"] == ids["b"]
        assert [a.imported_file_chunk_size_mib for a in (*one.associations(), *other.associations())] == [1024, 7]
        arn = changed["Association"]["ResourceARN"]
        await host.call("tag_resource", ResourceARN=arn, Tags=[{"Key": "k", "Value": "v"}])
        assert other.tags(f"dra-{2:017x}") == {"k": "v"} and one.tags(f"dra-{2:017x}") == {}
        assert (await host.call("list_tags_for_resource", ResourceARN=arn))["Tags"] == [{"Key": "k", "Value": "v"}]


async def test_change_of_an_unmounted_one_is_there_when_it_is_mounted(host: Host) -> None:
    async with host.mounted("a") as engine:
        await link(engine, 1)
    file_system_id = (await ids_of(host))["a"]
    request = {"FileSystemId": file_system_id, "LustreConfiguration": {"DataCompressionType": "LZ4"}, "ClientRequestToken": "t"}
    await host.call("update_file_system", **request)
    assert (await host.call("update_file_system", **request))["FileSystem"]["LustreConfiguration"]["DataCompressionType"] == "LZ4"
    other = {**request, "LustreConfiguration": {"DataCompressionType": "NONE"}}
    assert (await host.refusal("update_file_system", **other))["Code"] == "IncompatibleParameterError"
    await host.call("update_data_repository_association", AssociationId=f"dra-{0:017x}", ImportedFileChunkSize=9)
    async with host.mounted("a") as engine:
        record = engine.file_system()
        assert record is not None and record.settings["LustreConfiguration"]["DataCompressionType"] == "LZ4"
        assert engine.associations()[0].imported_file_chunk_size_mib == 9
        # The daemon knows the request, too.
        assert (await host.refusal("update_file_system", **other))["Code"] == "IncompatibleParameterError"


async def test_reading_an_unmounted_one_changes_nothing(host: Host) -> None:
    await host.created(Tags=[{"Key": "Name", "Value": "quiet"}])
    files = sorted(host.state_dir("quiet").rglob("*"))
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}
    await host.call("describe_file_systems")
    await host.call("describe_data_repository_associations")
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(host.state_dir("quiet").rglob("*"))} == before


async def test_daemon_that_hangs_holds_up_nobody_else_and_is_shown_with_the_reason(tmp_path: Path) -> None:
    async with serving(Host(tmp_path, patience_seconds=3.0)) as host:
        async with host.mounted("good") as engine:
            await link(engine, 1)
            made = await host.created(Tags=[{"Key": "Name", "Value": "hung"}])
            with socket.socket(socket.AF_UNIX) as silent, trio.fail_after(60):
                silent.bind(str(host.state_dir("hung") / "control.sock"))
                silent.listen(1)
                good = (await ids_of(host))["good"]
                (one,) = (await host.call("describe_file_systems", FileSystemIds=[good]))["FileSystems"]
                assert one["Lifecycle"] == "AVAILABLE"
                found = {each["FileSystemId"]: each for each in (await host.call("describe_file_systems"))["FileSystems"]}
                assert found[good]["Lifecycle"] == "AVAILABLE"
                assert found[made["FileSystemId"]]["Lifecycle"] == "MISCONFIGURED_UNAVAILABLE"
                assert "hung has not answered within" in found[made["FileSystemId"]]["FailureDetails"]["Message"]
                assert found[made["FileSystemId"]]["StorageCapacity"] == 1200
                # What would be left out otherwise is refused.
                refused = await host.refusal("describe_data_repository_associations")
                assert (refused["Code"], refused["Status"]) == (
                    "InternalServerError",
                    500,
                ) and "hung has not answered within" in refused["Message"]
                mine = await host.call(
                    "describe_data_repository_associations", Filters=[{"Name": "file-system-id", "Values": [good]}]
                )
                assert len(mine["Associations"]) == 1
                await host.call("update_data_repository_association", AssociationId=f"dra-{0:017x}", ImportedFileChunkSize=9)
                refused = await host.refusal("update_file_system", FileSystemId=made["FileSystemId"], NetworkType="DUAL")
                assert refused["Code"] == "InternalServerError" and "has not answered within" in refused["Message"]


async def test_one_that_is_being_mounted_is_waited_for(host: Host) -> None:
    await host.created(Tags=[{"Key": "Name", "Value": "slow"}])
    (owner,) = (await host.owners.all())[0]
    answers: list[dict[str, Any]] = []

    async def ask() -> None:
        answers.append(await host.owners.ask(owner, "DescribeFileSystems", {}, is_change=False))

    async with trio.open_nursery() as asking:
        with StateDir(host.state_dir("slow")):
            asking.start_soon(ask)
            await trio.sleep(0.4)
            assert answers == []
    assert answers[0]["FileSystems"][0]["Lifecycle"] == "AVAILABLE"


async def test_configuration_that_cannot_be_read_hides_no_other(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    made = await host.created()
    (host.places.config_dir / "broken.toml").write_text("state_dir = [")
    (host.places.config_dir / "mountpoint-decides.toml").write_text("")
    (found,) = (await host.call("describe_file_systems"))["FileSystems"]
    assert found["FileSystemId"] == made["FileSystemId"]
    assert [record.levelname for record in caplog.records if "broken.toml" in record.getMessage()] == ["WARNING"]
    caplog.clear()


async def test_every_answer_is_as_the_model_describes_it(host: Host) -> None:
    made = await host.service("CreateFileSystem", {**CREATE, "Tags": [{"Key": "a", "Value": "b"}]})
    assert MODEL["CreateFileSystem"].output_defect(made) is None
    file_system_id = made["FileSystem"]["FileSystemId"]
    await host.available(file_system_id)
    for name, request in (
        ("DescribeFileSystems", {}), ("DescribeDataRepositoryAssociations", {}),
        ("UpdateFileSystem", {"FileSystemId": file_system_id, "NetworkType": "DUAL"}),
        ("ListTagsForResource", {"ResourceARN": made["FileSystem"]["ResourceARN"]}),
        ("DeleteFileSystem", {"FileSystemId": file_system_id}),
    ):  # fmt: skip
        assert MODEL[name].output_defect(await host.service(name, request)) is None


TASK: dict[str, Any] = {"Type": "RELEASE_DATA_FROM_FILESYSTEM", "Report": {"Enabled": False}}


async def test_tasks_of_all_are_listed_found_and_queued_also_where_nobody_is_mounted(host: Host) -> None:
    async with host.mounted("a") as engine:
        await link(engine, 1)
        ids = await ids_of(host)
        first = (await host.call("create_data_repository_task", FileSystemId=ids["a"], **TASK))["DataRepositoryTask"]
    async with host.mounted("b") as engine:
        await link(engine, 1, first=1)
    ids = await ids_of(host)
    second = (await host.call("create_data_repository_task", FileSystemId=ids["b"], **TASK))["DataRepositoryTask"]
    assert second["Lifecycle"] == "PENDING"
    both = sorted([first["TaskId"], second["TaskId"]])
    assert await pages(host, "describe_data_repository_tasks", "DataRepositoryTasks", "TaskId", MaxResults=1) == both
    for each in (first, second):
        (found,) = (await host.call("describe_data_repository_tasks", TaskIds=[each["TaskId"]]))["DataRepositoryTasks"]
        assert found["FileSystemId"] == each["FileSystemId"]
        await host.call("tag_resource", ResourceARN=each["ResourceARN"], Tags=[{"Key": "k", "Value": each["TaskId"]}])
    refused = await host.refusal("delete_file_system", FileSystemId=ids["b"])
    assert refused["Code"] == "BadRequest" and f"{second['TaskId']} of {ids['b']} is PENDING" in refused["Message"]
    assert (await host.call("cancel_data_repository_task", TaskId=second["TaskId"]))["Lifecycle"] == "CANCELING"
    assert (await host.refusal("cancel_data_repository_task", TaskId="task-00000000000000009"))[
        "Code"
    ] == "DataRepositoryTaskNotFound"
    async with host.mounted("b") as engine:
        (record,) = engine.tasks()
        assert record.lifecycle == "CANCELING" and engine.tags(record.task_id) == {"k": record.task_id}


async def test_file_that_comes_or_is_renamed_is_of_the_same_file_system(host: Host) -> None:
    made = await host.created(Tags=[{"Key": "Name", "Value": "first"}])
    path = host.places.config_dir / "first.toml"
    for name in ("second", "third"):
        path = path.rename(path.with_stem(name))
        with StateDir(host.state_dir("first")), trio.fail_after(5):  # nobody answers, but nobody has to
            ((owner,), silent) = await host.owners.all()
        assert (owner.resource_id, owner.place.name, silent) == (made["FileSystemId"], name, [])


async def test_one_that_is_removed_while_others_are_asked_is_just_gone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await host.created(Tags=[{"Key": "Name", "Value": "going"}])
    async with host.mounted("stays") as engine:
        await link(engine, 1)
        await host.call("describe_data_repository_associations")
        look = unmounted.question

        async def remove_then_look(state_dir: Path, operation: str, request: dict[str, Any]) -> dict[str, Any]:
            shutil.rmtree(state_dir)
            return await look(state_dir, operation, request)

        monkeypatch.setattr(unmounted, "question", remove_then_look)
        assert len((await host.call("describe_data_repository_associations"))["Associations"]) == 1
    monkeypatch.undo()
    assert (await host.refusal("update_file_system", FileSystemId=made["FileSystemId"]))["Code"] == "FileSystemNotFound"
    assert len((await host.call("describe_file_systems"))["FileSystems"]) == 1
