"""File systems made and removed through the endpoint: what comes of it, what is refused, and what a death in between leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from s3lustrefs.config import load
from s3lustrefs.control import host_births, host_records
from s3lustrefs.control.host_records import HostRecords, Work
from s3lustrefs.errors import StateDirError
from s3lustrefs.failpoints import VARIABLE
from s3lustrefs.meta.unmounted_store import reading
from s3lustrefs.model.file_system import Asked, FileSystemRecord
from s3lustrefs.model.ids import ROOT_INO
from tests.unit.control.fsx_scene import REGION
from tests.unit.control.host_scene import CREATE, Host, serving

NAMED: dict[str, Any] = {**CREATE, "Tags": [{"Key": "Name", "Value": "scratch"}, {"Key": "team", "Value": "genomics"}]}


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with serving(Host(tmp_path, defaults={"endpoint_url": "https://s3.example.org", "addressing_style": "path"})) as running:
        yield running


async def test_file_system_is_creating_then_available_and_can_be_mounted_by_name(host: Host) -> None:
    made = (await host.call("create_file_system", **NAMED))["FileSystem"]
    assert made["Lifecycle"] == "CREATING"
    found = await host.available(made["FileSystemId"])
    assert {**found, "Lifecycle": "CREATING"} == made
    assert {tag["Key"]: tag["Value"] for tag in found["Tags"]} == {"Name": "scratch", "team": "genomics"}
    config = load("scratch", "", mountpoint="/mnt", config_dir=host.places.config_dir)
    assert config.state_dir == host.state_dir("scratch") and config.cache_bytes == 1200 << 30 and config.dras == ()
    assert 'endpoint_url = "https://s3.example.org"' in (host.places.config_dir / "scratch.toml").read_text()
    assert host.state_dir("scratch").stat().st_mode & 0o777 == 0o700
    async with host.mounted("scratch") as engine:
        record = engine.file_system()
        assert record is not None and record.file_system_id == made["FileSystemId"]
        again = (await host.call("describe_file_systems"))["FileSystems"]
    assert again == [found]


async def test_one_that_is_made_while_others_are_asked_is_shown(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    made = (await host.call("create_file_system", **CREATE))["FileSystem"]
    answers = host.api._answers

    async def once_it_is_born(*arguments: Any) -> Any:
        await host.lives.wait_born(made["FileSystemId"])
        return await answers(*arguments)

    monkeypatch.setattr(host.api, "_answers", once_it_is_born)
    (found,) = (await host.call("describe_file_systems", FileSystemIds=[made["FileSystemId"]]))["FileSystems"]
    assert found["FileSystemId"] == made["FileSystemId"]


@pytest.mark.parametrize("name", ["a/b", "..", ".x", "api", "fs-0123456789abcdef0", "x.toml", "", "ä", "a b", "x" * 65])
async def test_tag_that_cannot_name_a_file_names_none(host: Host, name: str) -> None:
    made = await host.created(Tags=[{"Key": "Name", "Value": name}])
    assert [path.name for path in host.places.config_dir.iterdir()] == [f"{made['FileSystemId']}.toml"]


async def test_name_in_use_is_never_overwritten(host: Host) -> None:
    host.places.config_dir.mkdir()
    (host.places.config_dir / "scratch.toml").write_text("# mine\n")
    made = await host.created(Tags=NAMED["Tags"])
    assert (host.places.config_dir / "scratch.toml").read_text() == "# mine\n"
    assert (host.places.config_dir / f"{made['FileSystemId']}.toml").exists()


async def test_two_of_one_name_at_once_are_two(host: Host) -> None:
    first, second = [(await host.call("create_file_system", **NAMED))["FileSystem"]["FileSystemId"] for _ in range(2)]
    await host.available(first)
    await host.available(second)
    assert sorted(path.stem for path in host.places.config_dir.iterdir()) == sorted([second, "scratch"])


async def test_repeated_request_makes_one_also_after_a_restart(host: Host, tmp_path: Path) -> None:
    once = {**NAMED, "ClientRequestToken": "once"}
    first = (await host.call("create_file_system", **once))["FileSystem"]
    second = (await host.call("create_file_system", **once))["FileSystem"]
    await host.available(first["FileSystemId"])
    assert second["FileSystemId"] == first["FileSystemId"]
    async with serving(Host(tmp_path)) as again:
        third = (await again.call("create_file_system", **once))["FileSystem"]
        assert third == {**first, "Lifecycle": "AVAILABLE"}
        refused = await again.refusal("create_file_system", **{**once, "StorageCapacity": 2400})
        assert (refused["Code"], refused["Parameter"]) == ("IncompatibleParameterError", "StorageCapacity")
        refused = await again.refusal("delete_file_system", FileSystemId=first["FileSystemId"], ClientRequestToken="once")
        assert (refused["Code"], refused["Parameter"]) == ("IncompatibleParameterError", "ClientRequestToken")
        assert len((await again.call("describe_file_systems"))["FileSystems"]) == 1


async def test_request_that_is_refused_makes_nothing_and_keeps_its_token_free(host: Host) -> None:
    refused = await host.refusal("create_file_system", **{**NAMED, "StorageCapacity": 7, "ClientRequestToken": "t"})
    assert refused["Code"] == "BadRequest"
    assert list(host.state_dir("").iterdir()) == [host.state_dir("api")]
    await host.call("create_file_system", **{**NAMED, "ClientRequestToken": "t"})


async def test_one_that_cannot_be_made_says_why_and_can_be_deleted(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.places.config_dir.write_text("a file where a directory should be")
    made = (await host.call("create_file_system", **NAMED))["FileSystem"]
    while True:
        (found,) = (await host.call("describe_file_systems"))["FileSystems"]
        if found["Lifecycle"] != "CREATING":
            break
    assert found["Lifecycle"] == "FAILED" and "conf" in found["FailureDetails"]["Message"]
    assert "FAILED" in (await host.refusal("update_file_system", FileSystemId=made["FileSystemId"], NetworkType="DUAL"))["Message"]
    await host.call("delete_file_system", FileSystemId=made["FileSystemId"])
    await host.gone(made["FileSystemId"])
    assert list(host.state_dir("").iterdir()) == [host.state_dir("api")]
    assert host.places.config_dir.read_text() == "a file where a directory should be"
    caplog.clear()


# --- deletion ----------------------------------------------------------------------------------------------------------------


async def test_delete_leaves_nothing_and_is_answered_again_when_repeated(host: Host) -> None:
    file_system_id = (await host.created(Tags=NAMED["Tags"]))["FileSystemId"]
    gone = {"FileSystemId": file_system_id, "ClientRequestToken": "gone"}
    assert await host.call("delete_file_system", **gone) == {"FileSystemId": file_system_id, "Lifecycle": "DELETING"}
    await host.gone(file_system_id)
    assert list(host.state_dir("").iterdir()) == [host.state_dir("api")] and list(host.places.config_dir.iterdir()) == []
    assert (await host.call("delete_file_system", **gone))["Lifecycle"] == "DELETING"
    assert (await host.refusal("delete_file_system", FileSystemId=file_system_id))["Code"] == "FileSystemNotFound"
    assert (await host.refusal("describe_file_systems", FileSystemIds=[file_system_id]))["Code"] == "FileSystemNotFound"


async def test_delete_is_refused_while_mounted(host: Host) -> None:
    file_system_id = (await host.created(Tags=NAMED["Tags"]))["FileSystemId"]
    async with host.mounted("scratch"):
        refused = await host.refusal("delete_file_system", FileSystemId=file_system_id)
    assert refused["Code"] == "BadRequest" and "unmount it first" in refused["Message"]
    assert (await host.call("describe_file_systems"))["FileSystems"][0]["Lifecycle"] == "AVAILABLE"


async def test_delete_is_refused_while_something_is_only_here(host: Host) -> None:
    file_system_id = (await host.created(Tags=NAMED["Tags"]))["FileSystemId"]
    async with host.mounted("scratch") as engine:
        folder = await engine.create(ROOT_INO, b"d", 0o40755, 0, 0)
        for name in (b"one", b"two"):
            await engine.create(folder.ino, name, 0o100644, 0, 0)
    refused = await host.refusal("delete_file_system", FileSystemId=file_system_id)
    assert refused["Code"] == "BadRequest"
    assert (
        "2 files (such as /d/one) are in no bucket" in refused["Message"] and str(host.state_dir("scratch")) in refused["Message"]
    )
    async with host.mounted("scratch") as engine:
        for name in (b"one", b"two"):
            await engine.unlink(folder.ino, name)
        for orphan in await engine.orphans():
            await engine.purge_orphan(orphan.ino)
    await host.call("delete_file_system", FileSystemId=file_system_id)
    await host.gone(file_system_id)


async def test_final_backup_is_refused(host: Host) -> None:
    file_system_id = (await host.created())["FileSystemId"]
    for lustre in ({"SkipFinalBackup": False}, {"FinalBackupTags": [{"Key": "a", "Value": "b"}]}):
        refused = await host.refusal("delete_file_system", FileSystemId=file_system_id, LustreConfiguration=lustre)
        assert refused["Code"] == "BadRequest" and "no backups" in refused["Message"]
    await host.call("delete_file_system", FileSystemId=file_system_id, LustreConfiguration={"SkipFinalBackup": True})
    await host.gone(file_system_id)


# --- deaths ------------------------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
from s3lustrefs.control import host_births, host_records
from s3lustrefs.control.host_records import HostRecords
records = HostRecords(Path(sys.argv[1]))
(work,) = records.works.values()
(host_births.make if work.kind == "create" else host_births.remove)(work)
records.finish(work.resource_id)
"""


def run_works(records: Path, failpoint: str = "") -> int:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(records)], env={**os.environ, VARIABLE: failpoint}, check=False, capture_output=True
    ).returncode


def new_work(tmp_path: Path) -> Work:
    record = FileSystemRecord("fs-0123456789abcdef0", 10**18, REGION, {"StorageCapacity": 1200})
    return Work("create", record, str(tmp_path / "x"), str(tmp_path / "conf" / "x.toml"), "# text\n", {"a": "b"})


def begun(tmp_path: Path, work: Work) -> Path:
    records = HostRecords(tmp_path / "records.json")
    records.begin(work, Asked("t", "CreateFileSystem", {}, 1))
    return tmp_path / "records.json"


@pytest.mark.parametrize("failpoint", ["host.create.table", "host.create.state_dir", "host.create.config"])
def test_death_while_making_one_is_made_good_at_the_next_start(tmp_path: Path, failpoint: str) -> None:
    path = begun(tmp_path, new_work(tmp_path))
    assert run_works(path, failpoint) == -9
    assert set(HostRecords(path).works) == {"fs-0123456789abcdef0"}
    assert run_works(path) == 0
    assert HostRecords(path).works == {}
    done = HostRecords(path).find_done("t")
    assert done is not None and done.resource_id == "fs-0123456789abcdef0"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["conf", "records.json", "x"]
    assert [each.name for each in (tmp_path / "conf").iterdir()] == ["x.toml"]
    assert (tmp_path / "conf" / "x.toml").read_text() == "# text\n"
    with reading(tmp_path / "x") as engine:
        record = engine.file_system()
        assert record is not None and record.file_system_id == "fs-0123456789abcdef0"
        assert engine.tags(record.file_system_id) == {"a": "b"}


@pytest.mark.parametrize("failpoint", ["host.delete.config", "host.delete.state_dir"])
def test_death_while_removing_one_is_made_good_at_the_next_start(tmp_path: Path, failpoint: str) -> None:
    work = new_work(tmp_path)
    host_births.make(work)
    path = begun(tmp_path, Work("delete", work.record, work.state_dir, work.config_path))
    assert run_works(path, failpoint) == -9
    assert run_works(path) == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["conf", "records.json"]
    assert list((tmp_path / "conf").iterdir()) == []


def test_what_belongs_to_others_is_left_alone(tmp_path: Path) -> None:
    work = new_work(tmp_path)
    host_births.make(work)
    other = FileSystemRecord("fs-00000000000000001", 1, REGION)
    for deed, kind in ((host_births.make, "create"), (host_births.remove, "delete")):
        with pytest.raises(StateDirError, match="another file system"):
            deed(Work(kind, other, work.state_dir, work.config_path, "# other\n"))  # type: ignore[arg-type]
    (tmp_path / "conf" / "x.toml").write_text("# edited\n")
    with pytest.raises(StateDirError, match="is there already"):
        host_births.make(work)
    assert (tmp_path / "conf" / "x.toml").read_text() == "# edited\n"
    assert (tmp_path / "x" / "meta" / "data.mdb").exists()


def test_one_that_got_something_before_its_removal_stays(tmp_path: Path) -> None:
    work = new_work(tmp_path)
    host_births.make(work)
    _make_file(tmp_path / "x")
    with pytest.raises(StateDirError, match="1 files"):
        host_births.remove(work)
    assert (tmp_path / "conf" / "x.toml").exists() and (tmp_path / "x").exists()


def _make_file(state_dir: Path) -> None:
    import trio

    from s3lustrefs.meta.lmdb_engine import LmdbEngine
    from s3lustrefs.meta.redo_log import current_boot_id
    from s3lustrefs.meta.store import Store

    async def make() -> None:
        store = Store(state_dir / "meta", boot_id=current_boot_id())
        await LmdbEngine(store).create(ROOT_INO, b"f", 0o100644, 0, 0)
        await store.close()

    trio.run(make)


def test_records_that_cannot_be_read_are_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    for text in ("{", "[]", json.dumps({"works": [{"kind": "create"}]})):
        path.write_text(text)
        with pytest.raises(StateDirError, match="cannot be read"):
            HostRecords(path)


def test_of_many_requests_the_oldest_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_records, "_MOST_ASKED", 10)
    records = HostRecords(tmp_path / "records.json")
    work = new_work(tmp_path)
    for number in range(11):
        records.begin(work, Asked(f"t{number}", "CreateFileSystem", {}, number))
    assert records.find_done("t0") is None and records.find_done("t10") is not None
