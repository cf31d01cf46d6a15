"""The suite for every metadata engine, second part: tasks, and the exports they order. The table is checked after each test."""

from __future__ import annotations

import stat

import pytest

from s3lustrefs import errors
from s3lustrefs.meta.attributes import AttributeChange
from s3lustrefs.meta.export_orders import Standing
from s3lustrefs.meta.schema import Change, JournalState
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import ROOT_INO, Ino
from s3lustrefs.model.inode import Inode, InodeFlag
from s3lustrefs.model.task import IMPORT, TaskFailure, TaskRecord, TaskReport
from tests.contract.test_engine import DIR, FILE, GONE, LINK, Scene, scene

__all__ = ["scene"]


async def order(scene: Scene, directory: Ino | None = None) -> dict[bytes, Standing]:
    rows = await scene.engine.order_exports(directory or scene.root, b"", 100)
    return {row.name: row.standing for row in rows}


async def exclude(scene: Scene, inode: Inode) -> None:
    """What the exporter does with a record that the policy keeps local."""
    record = await scene.engine.find_journal(inode.ino)
    assert record is not None
    await scene.engine.exclude(record)


# --- orders -----------------------------------------------------------------------------------------------------------------


async def test_what_the_bucket_has_is_not_ordered(scene: Scene) -> None:
    await scene.import_(b"file", b"implied/below", markers=[b"marked"])
    for name, mode in ((b"made", FILE), (b"dir", DIR)):
        await scene.export(await scene.make(name, mode=mode))
    await scene.export(await scene.make(b"link", mode=LINK, target=b"made"))
    names = [b"dir", b"file", b"implied", b"link", b"made", b"marked"]
    assert await order(scene) == dict.fromkeys(names, Standing.CLEAN)
    assert await scene.engine.due(b"", 10) == []


async def test_what_the_policy_kept_local_is_ordered_and_no_longer_put_aside(scene: Scene) -> None:
    for mode in (FILE, DIR, LINK):
        await exclude(scene, await scene.make(str(mode).encode(), mode=mode))
    assert set((await order(scene)).values()) == {Standing.ORDERED}
    for _, record in await scene.engine.due(b"", 10):
        assert record.change & Change.ORDERED and record.state is JournalState.DUE
        inode = await scene.engine.get(record.ino)
        assert not inode.flags & InodeFlag.EXCLUDED
        await scene.export(inode)
    assert set((await order(scene)).values()) == {Standing.CLEAN}


async def test_changed_attributes_and_moved_files_are_ordered(scene: Scene) -> None:
    changed = await scene.cold(b"changed")
    await scene.engine.set_attributes(changed.ino, AttributeChange(mode=stat.S_IFREG | 0o600))
    await exclude(scene, changed)
    moved = await scene.cold(b"moved")
    await scene.engine.rename(scene.root, b"moved", scene.root, b"to")
    await exclude(scene, moved)
    await scene.cold(b"same")
    assert await order(scene) == {b"changed": Standing.ORDERED, b"same": Standing.CLEAN, b"to": Standing.ORDERED}
    view = await scene.engine.export_view(moved.ino)
    assert view is not None and view.source is not None and view.source.key == b"p/moved"  # to be copied, not fetched


async def test_what_waits_for_its_export_is_ordered_and_tried_at_once(scene: Scene) -> None:
    file = await scene.make(b"file")
    record = await scene.engine.find_journal(file.ino)
    assert record is not None
    await scene.engine.postpone(record, 300, code="S3AccessDenied", text="no", terminal=True)
    assert await order(scene) == {b"file": Standing.ORDERED}
    again = await scene.engine.find_journal(file.ino)
    assert again is not None and again.seq > record.seq
    assert (again.terminal, again.not_before_ns, again.attempts, again.error_code) == (False, 0, 0, "")


async def test_file_that_somebody_writes_is_busy(scene: Scene) -> None:
    await scene.make(b"file", open_for_write=True)
    before = await scene.engine.due(b"", 10)
    assert await order(scene) == {b"file": Standing.BUSY}
    assert await scene.engine.due(b"", 10) == before


async def test_what_is_never_an_object_is_not_ordered(scene: Scene) -> None:
    await scene.make(b"fifo", mode=stat.S_IFIFO | 0o600)
    pinned = await scene.make(b"pinned")
    await scene.engine.set_hsm_flags(pinned.ino, Hsm.NOARCHIVE, Hsm.NONE)
    assert await order(scene) == {b"fifo": Standing.LOCAL, b"pinned": Standing.LOCAL}
    await scene.engine.create(ROOT_INO, b"outside", FILE, 0, 0)
    assert (await order(scene, ROOT_INO))[b"outside"] is Standing.OUTSIDE


async def test_each_name_of_a_file_must_be_there(scene: Scene) -> None:
    file = await scene.make(b"one")
    await scene.export(file)
    await scene.engine.link(file.ino, scene.root, b"two")
    await exclude(scene, file)
    assert await order(scene) == {b"one": Standing.ORDERED, b"two": Standing.ORDERED}
    await scene.export(await scene.engine.get(file.ino))
    assert await order(scene) == {b"one": Standing.CLEAN, b"two": Standing.CLEAN}


async def test_withdrawn_order_leaves_the_change_to_the_policy(scene: Scene) -> None:
    file = await scene.make(b"file")
    await order(scene)
    ordered = await scene.engine.find_journal(file.ino)
    await scene.engine.withdraw_order(file.ino)
    left = await scene.engine.find_journal(file.ino)
    assert ordered is not None and left is not None
    assert not left.change & Change.ORDERED and left.seq == ordered.seq  # an attempt that is under way may end
    await scene.engine.withdraw_order(file.ino)
    await scene.engine.withdraw_order(GONE)


async def test_single_names_and_pages(scene: Scene) -> None:
    for name in (b"a", b"b", b"c"):
        await scene.make(name)
    assert (await scene.engine.order_export(scene.root, b"b")).standing is Standing.ORDERED
    rows = await scene.engine.order_exports(scene.root, b"a", 1)
    assert [row.name for row in rows] == [b"b"]
    with pytest.raises(errors.NotFound):
        await scene.engine.order_export(scene.root, b"d")
    assert await scene.engine.order_exports(GONE, b"", 1) == []


# --- records -----------------------------------------------------------------------------------------------------------------


async def test_task_is_kept_as_it_is(scene: Scene) -> None:
    record = TaskRecord(
        "task-1", IMPORT, 5, ["s3://bucket/p", "caf\u00e9"], TaskReport("s3://bucket/p"), 90, 3, ["dra-1"], "token",
        position={"root": "/a\udcff"},
    )  # fmt: skip
    await scene.engine.create_task(record, {"k": "v"})
    (found,) = scene.engine.tasks()
    assert (found, scene.engine.tags("task-1")) == (record, {"k": "v"})
    await scene.engine.update_task(record.step("EXECUTING", 7), [TaskFailure(2, "/x", "S3Error")])
    assert scene.engine.tasks()[0].started_ns == 7


async def test_failures_come_in_the_order_of_the_walk_and_go_from_an_entry_on(scene: Scene) -> None:
    rows = [TaskFailure(number, f"/{number}\udcff", "S3Error") for number in (300, 1, 2, 70_000)]
    await scene.engine.note_task_failures("task-1", rows)
    await scene.engine.note_task_failures("task-10", [TaskFailure(1, "/other", "S3Error", "succeeded with warning")])
    ordered = sorted(rows, key=lambda row: row.order)
    assert await scene.engine.task_failures("task-1", 0, 10) == ordered
    assert await scene.engine.task_failures("task-1", 2, 1) == ordered[2:3]
    assert await scene.engine.forget_task_failures("task-1", 2, 1)
    assert not await scene.engine.forget_task_failures("task-1", 2, 10)
    assert await scene.engine.task_failures("task-1", 0, 10) == ordered[:2]
    assert len(await scene.engine.task_failures("task-10", 0, 10)) == 1
