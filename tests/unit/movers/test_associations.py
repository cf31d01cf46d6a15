"""How an association lives, changes and ends, without a network; the clock does not run by itself."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.errors import ControlFault
from s3lustrefs.meta.attributes import AttributeChange
from s3lustrefs.meta.check import check_engine
from s3lustrefs.meta.schema import ObjectRecord
from s3lustrefs.model.ids import ROOT_INO, Ino
from s3lustrefs.model.inode import Inode, InodeFlag
from tests.unit.movers.associations_scene import Scene

DENIED = errors.RepositoryDenied("no permission to list")
NO_BUCKET = errors.BucketNotFound("there is no such bucket")
EXPORT = {"AutoExportPolicy": {"Events": ["NEW", "CHANGED", "DELETED"]}}


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    chunks = ChunkStore([tmp_path / "data"])
    chunks.open_()
    made = Scene(tmp_path, chunks)
    yield made
    assert check_engine(made.store) == []
    await made.store.close()
    chunks.close()


async def file(scene: Scene, parent: Ino, name: bytes, size: int = 3) -> Inode:
    made = await scene.engine.create(parent, name, stat.S_IFREG | 0o644, 0, 0)
    await scene.engine.begin_write(made.ino)
    await scene.engine.end_write(made.ino, size)
    await scene.engine.make_due(made.ino)
    return await scene.engine.get(made.ino)


async def export(scene: Scene, inode: Inode) -> None:
    """As if the exporter had done it."""
    view = await scene.engine.export_view(inode.ino)
    assert view is not None
    for target in view.targets:
        sent = ObjectRecord(target.association.assoc_id, target.key, inode.ino, "etag", inode.size)
        await scene.engine.settle_object(inode.ino, sent, content=True, version=view.inode.content_version)
    record = await scene.engine.find_journal(inode.ino)
    assert record is not None and await scene.engine.finish(record)


async def test_answer_comes_before_the_work_and_one_is_worked_on_after_the_other(scene: Scene) -> None:
    ids = [await scene.create(f"/d{n}", f"s3://bucket/{n}") for n in range(3)]
    assert [each["Lifecycle"] for each in (await scene.described()).values()] == ["CREATING"] * 3
    assert await scene.engine.readdir(ROOT_INO, b"", 10) == []
    await scene.work()
    assert {each["Lifecycle"] for each in (await scene.described()).values()} == {"AVAILABLE"}
    assert [name for name, _ in await scene.engine.readdir(ROOT_INO, b"", 10)] == [b"d0", b"d1", b"d2"]
    await scene.call("DeleteDataRepositoryAssociation", AssociationId=ids[1])
    await scene.call("UpdateDataRepositoryAssociation", AssociationId=ids[0], ImportedFileChunkSize=5)
    found = await scene.described()
    assert (found[ids[0]]["Lifecycle"], found[ids[1]]["Lifecycle"]) == ("UPDATING", "DELETING")
    with pytest.raises(ControlFault, match="is DELETING and cannot be updated"):
        await scene.call("UpdateDataRepositoryAssociation", AssociationId=ids[1])
    scene.start()
    await scene.work()
    found = await scene.described()
    assert sorted(found) == sorted([ids[0], ids[2]]) and found[ids[0]]["ImportedFileChunkSize"] == 5


async def test_deletion_overtakes_a_creation_that_was_not_begun(scene: Scene) -> None:
    made = await scene.create("/work", "s3://bucket/p")
    answer = await scene.call("DeleteDataRepositoryAssociation", AssociationId=made)
    assert answer == {"AssociationId": made, "Lifecycle": "DELETING", "DeleteDataInFileSystem": False}
    await scene.work()
    assert await scene.described() == {} and await scene.engine.readdir(ROOT_INO, b"", 10) == []


async def test_directory_that_became_a_file_meanwhile_fails_the_creation(scene: Scene) -> None:
    made = await scene.create("/work", "s3://bucket/p")
    await file(scene, ROOT_INO, b"work")
    await scene.work()
    found = (await scene.described())[made]
    assert found["Lifecycle"] == "FAILED" and "is not a directory" in found["FailureDetails"]["Message"]
    with pytest.raises(ControlFault, match="FAILED and cannot be updated"):
        await scene.call("UpdateDataRepositoryAssociation", AssociationId=made)
    await scene.call("DeleteDataRepositoryAssociation", AssociationId=made)
    await scene.work()
    assert await scene.described() == {}


@pytest.mark.parametrize("cause", [DENIED, NO_BUCKET, errors.RepositoryRejected("another Region")])
async def test_cause_is_found_told_kept_over_a_restart_and_its_end_noticed_within_a_minute(
    scene: Scene, autojump_clock: MockClock, cause: Any
) -> None:
    made = await scene.create("/work", "s3://bucket/p", S3=EXPORT)
    await scene.work()
    async with trio.open_nursery() as nursery:
        await nursery.start(scene.watch.run)
        scene.faults["bucket"] = cause
        await trio.sleep(60)
        found = (await scene.described())[made]
        assert (found["Lifecycle"], found["FailureDetails"]["Message"]) == ("MISCONFIGURED", str(cause))
        with pytest.raises(type(cause), match=str(cause)):
            scene.repositories.to_write(scene.engine.all_associations()[0].assoc_id)
        assert scene.engine.all_associations()[0].import_events == frozenset()
        scene.start()
        assert (await scene.described())[made]["Lifecycle"] == "MISCONFIGURED"
        nursery.cancel_scope.cancel()
    scene.faults.clear()
    async with trio.open_nursery() as nursery:
        await nursery.start(scene.watch.run)
        await trio.sleep(60)
        found = (await scene.described())[made]
        assert found["Lifecycle"] == "AVAILABLE" and "FailureDetails" not in found and scene.recovered == 1
        scene.repositories.to_write(scene.engine.all_associations()[0].assoc_id)
        nursery.cancel_scope.cancel()


async def test_bucket_that_does_not_answer_is_no_cause(scene: Scene, autojump_clock: MockClock) -> None:
    made = await scene.create("/work", "s3://bucket/p")
    await scene.work()
    scene.faults["bucket"] = errors.RepositoryUnavailable("503")
    async with trio.open_nursery() as nursery:
        await nursery.start(scene.watch.run)
        await trio.sleep(600)
        nursery.cancel_scope.cancel()
    assert (await scene.described())[made]["Lifecycle"] == "AVAILABLE"


async def test_update_mends_at_once_what_is_mended(scene: Scene) -> None:
    made = await scene.create("/work", "s3://bucket/p")
    await scene.work()
    scene.faults["bucket"] = DENIED
    await scene.call("UpdateDataRepositoryAssociation", AssociationId=made)
    await scene.work()
    assert (await scene.described())[made]["Lifecycle"] == "MISCONFIGURED"
    await scene.call("UpdateDataRepositoryAssociation", AssociationId=made)
    await scene.work()
    assert (await scene.described())[made]["Lifecycle"] == "MISCONFIGURED"
    scene.faults.clear()
    await scene.call("UpdateDataRepositoryAssociation", AssociationId=made)
    await scene.work()
    assert (await scene.described())[made]["Lifecycle"] == "AVAILABLE" and scene.recovered == 1


async def test_refused_export_has_the_permission_to_write_looked_at(scene: Scene, autojump_clock: MockClock) -> None:
    made = await scene.create("/work", "s3://bucket/p", S3=EXPORT)
    await scene.work()
    scene.faults["bucket:write"] = errors.RepositoryDenied("no permission to write objects")
    root = (await scene.engine.resolve(b"/work")).ino
    async with trio.open_nursery() as nursery:
        await nursery.start(scene.watch.run)
        await trio.sleep(60)
        assert (await scene.described())[made]["Lifecycle"] == "AVAILABLE"
        refused = await file(scene, root, b"refused")
        record = await scene.engine.find_journal(refused.ino)
        assert record is not None
        await scene.engine.postpone(record, 1e6, code="S3AccessDenied", text="denied", terminal=True)
        await trio.sleep(60)
        assert "write objects" in (await scene.described())[made]["FailureDetails"]["Message"]
        scene.faults.clear()
        await trio.sleep(60)
        assert (await scene.described())[made]["Lifecycle"] == "AVAILABLE"
        nursery.cancel_scope.cancel()


async def test_deletion_tells_how_many_changes_it_abandons(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    made = await scene.create("/work", "s3://bucket/p", S3=EXPORT)
    await scene.work()
    root = (await scene.engine.resolve(b"/work")).ino
    old = await file(scene, root, b"old")
    await export(scene, old)
    await file(scene, root, b"new")
    await scene.engine.set_attributes(old.ino, AttributeChange(mode=0o600))
    await scene.engine.unlink(root, b"old")
    await file(scene, ROOT_INO, b"elsewhere")
    await scene.call("DeleteDataRepositoryAssociation", AssociationId=made)
    assert (await scene.described())[made]["FailureDetails"]["Message"].startswith("2 changes were not exported")
    assert "changes=2" in caplog.text
    await scene.work()
    assert await scene.engine.due(b"", 10) == [] and [n for n, _ in await scene.engine.readdir(root, b"", 9)] == [b"new"]


async def test_files_keep_what_they_have_and_lose_what_only_the_bucket_had(scene: Scene) -> None:
    one = await scene.create("/one", "s3://bucket/one", S3=EXPORT)
    await scene.create("/two", "s3://bucket/two", S3=EXPORT)
    await scene.work()
    first, second = [(await scene.engine.resolve(path)).ino for path in (b"/one", b"/two")]
    here, cold, moved = [await file(scene, first, name) for name in (b"here", b"cold", b"moved")]
    for inode in (here, cold, moved):
        await export(scene, inode)
    await scene.engine.release_content(cold.ino)
    await scene.engine.rename(first, b"moved", second, b"moved")
    await scene.call("DeleteDataRepositoryAssociation", AssociationId=one)
    await scene.work()
    assert check_engine(scene.store) == []
    assert int((await scene.engine.get(here.ino)).hsm_state()) == 0
    left = await scene.engine.get(cold.ino)
    assert left.is_left_behind and not left.is_dirty and left.source_key == b"s3://bucket/one/cold"
    record = await scene.engine.find_journal(moved.ino)
    assert record is not None and not (await scene.engine.get(moved.ino)).source_assoc  # it goes to the other bucket from here

    # The bucket still has it: an association that imports it makes the file whole again.
    again = scene.engine.all_associations()[-1]
    seen = ObjectRecord(again.assoc_id, b"two/cold", Ino(0), "etag", 3)
    replaced = await scene.engine.replace_content(cold.ino, seen)
    assert replaced is not None and not replaced.is_left_behind and replaced.flags & InodeFlag.PARTIAL


async def test_answers_that_come_late_change_nothing_of_a_deleted_association(scene: Scene) -> None:
    made = await scene.create("/work", "s3://bucket/p", S3=EXPORT)
    await scene.work()
    association = scene.engine.all_associations()[0]
    inode = await file(scene, Ino(association.root_ino), b"x")
    await scene.call("DeleteDataRepositoryAssociation", AssociationId=made)
    sent = ObjectRecord(association.assoc_id, b"p/x", inode.ino, "etag", 3)
    assert await scene.engine.settle_object(inode.ino, sent, content=True, version=inode.content_version)
    await scene.engine.observe_object(sent)
    assert await scene.engine.replace_content(inode.ino, sent) is None
    with pytest.raises(errors.NotInRepository):
        await scene.engine.update_association(association)
    await scene.work()
    assert await scene.engine.find_object(association.assoc_id, b"p/x") is None
    with pytest.raises(errors.AssociationGone):  # who still has its number does not wait for it
        scene.repositories.of(association.assoc_id)
    assert await scene.engine.move_association(association.assoc_id, "AVAILABLE") is None
