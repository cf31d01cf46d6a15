"""The queue of tasks and their lives, with jobs that do nothing but count; time is trio's mock clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from s3lustrefs import errors
from s3lustrefs.meta import task_records
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.store import Store
from s3lustrefs.model import task as tasks
from s3lustrefs.model.association import Association
from s3lustrefs.model.task import TaskFailure, TaskReport
from tests.unit.movers.tasks_scene import Counting, Office


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    store = Store(tmp_path / "meta", boot_id="boot")
    yield Office(LmdbEngine(store), tmp_path)
    await store.close()


async def test_task_lives_from_pending_to_its_end(autojump_clock: trio.testing.MockClock, office: Office) -> None:
    task = await office.create(1)
    assert office.state(task) == ("PENDING", 0, 0, 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(office.queue.run)
        await trio.sleep(4.5)
        assert office.state(task) == ("EXECUTING", 4, 4, 0)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert office.state(task) == ("SUCCEEDED", 10, 10, 0)
    office.open()
    assert office.state(task) == ("SUCCEEDED", 10, 10, 0)


async def test_one_of_each_type_executes_and_the_others_wait_for_their_turn(
    autojump_clock: trio.testing.MockClock, office: Office
) -> None:
    first, second = await office.create(1), await office.create(2)
    release = await office.create(3, tasks.RELEASE)
    async with trio.open_nursery() as nursery:
        await nursery.start(office.queue.run)
        await trio.sleep(5)
        assert [office.state(each)[0] for each in (first, second, release)] == ["EXECUTING", "PENDING", "EXECUTING"]
        await trio.sleep(10)
        assert [office.state(each)[0] for each in (first, second, release)] == ["SUCCEEDED", "EXECUTING", "SUCCEEDED"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seconds", [0.5, 3.5, 9.5])
async def test_task_goes_on_after_a_crash_with_figures_that_add_up(
    autojump_clock: trio.testing.MockClock, office: Office, seconds: float
) -> None:
    office.job.fails_at = (2, 3, 8)
    first, second = await office.create(1), await office.create(2)
    await office.work(seconds)
    assert office.state(first)[0] == "EXECUTING"
    await office.finish()
    assert office.state(first) == office.state(second) == ("FAILED", 10, 7, 3)
    begun = [line for line in office.job.log if line.startswith(f"run {first}")]
    assert len(begun) == 2 and int(begun[1].split()[-1]) >= seconds - 3
    record = office.queue.find(first)
    assert record is not None and record.failure == "3 of 10 failed, the first with S3Error: 2"
    assert await office.engine.task_failures(first, 0, 10) == []  # its report, had there been one, is delivered


async def test_type_that_rests_waits_for_another_mount(autojump_clock: trio.testing.MockClock, office: Office) -> None:
    export, canceled, release = await office.create(1, tasks.EXPORT), await office.create(2, tasks.EXPORT), await office.create(3)
    office.open(resting={tasks.EXPORT})
    await office.queue.cancel(canceled)
    await office.finish()
    assert [office.state(each)[0] for each in (export, canceled, release)] == ["PENDING", "CANCELED", "SUCCEEDED"]
    await office.finish()
    assert office.state(export)[0] == "SUCCEEDED"


async def test_failures_are_durable_until_the_task_ends(autojump_clock: trio.testing.MockClock, office: Office) -> None:
    office.job.fails_at = (1, 2)
    task = await office.create(1)
    await office.work(2.5)
    assert [row.path for row in await office.engine.task_failures(task, 0, 10)] == ["/1", "/2"]


async def test_what_this_mount_cannot_do_waits_for_another_and_can_be_canceled(
    autojump_clock: trio.testing.MockClock, office: Office
) -> None:
    begun, waiting, unwanted = [await office.create(number, tasks.EXPORT) for number in (1, 2, 3)]
    await office.work(3.5)
    office.open(resting={tasks.EXPORT})
    release = await office.create(4, tasks.RELEASE)
    before = list(office.job.log)
    await office.queue.cancel(unwanted)
    await office.finish()  # and opens another
    assert [office.state(each)[0] for each in (begun, waiting, unwanted, release)] == [
        "EXECUTING", "PENDING", "CANCELED", "SUCCEEDED",
    ]  # fmt: skip
    assert office.job.log[len(before) :] == [f"withdraw {unwanted}", f"run {release} from 0"]
    await office.finish()
    assert office.state(begun) == office.state(waiting) == ("SUCCEEDED", 10, 10, 0)


async def test_cancel_ends_a_task_wherever_it_stands(autojump_clock: trio.testing.MockClock, office: Office) -> None:
    running, waiting = await office.create(1), await office.create(2)
    async with trio.open_nursery() as nursery:
        await nursery.start(office.queue.run)
        await trio.sleep(3.5)
        for task in (waiting, running):
            assert (await office.queue.cancel(task)).lifecycle == "CANCELING"
        await trio.sleep(0.5)
        assert office.state(running) == ("CANCELED", 3, 3, 0) and office.state(waiting) == ("CANCELED", 0, 0, 0)
        for task in (waiting, running):
            with pytest.raises(ValueError, match="is CANCELED"):
                await office.queue.cancel(task)
        nursery.cancel_scope.cancel()
    assert set(office.job.log) == {f"run {running} from 0", f"withdraw {waiting}", f"withdraw {running}"}


async def test_cancel_outlives_the_daemon_that_heard_it(autojump_clock: trio.testing.MockClock, office: Office) -> None:
    task = await office.create(1)
    await office.work(3.5)
    await office.queue.cancel(task)
    office.open()
    assert office.state(task)[0] == "CANCELING"
    await office.finish()
    assert office.state(task)[0] == "CANCELED" and office.job.log[-1] == f"withdraw {task}"


async def test_defect_at_the_start_is_left_to_the_task(autojump_clock: trio.testing.MockClock, office: Office) -> None:
    task = await office.create(1)
    await office.queue.cancel(task)
    office.open()
    office.job.withdrawing = ZeroDivisionError("a defect")
    await office.finish()
    assert office.state(task)[0] == "CANCELED"


@pytest.mark.parametrize(
    ("error", "text"),
    [(errors.TaskFailed("path x does not exist"), "path x does not exist"), (errors.RepositoryDenied("no"), "no"),
     (ZeroDivisionError("a defect"), "internal error; daemon.log has the traceback")],
)  # fmt: skip
async def test_job_that_gives_up_fails_its_task_alone(
    autojump_clock: trio.testing.MockClock, office: Office, error: Exception, text: str
) -> None:
    office.job.ends_with = error
    task = await office.create(1)
    await office.finish()
    record = office.queue.find(task)
    assert record is not None and (record.lifecycle, record.failure) == ("FAILED", text)
    assert office.job.log[-1] == f"withdraw {task}"
    office.job = Counting()
    after = await office.create(2)
    await office.finish()
    assert office.state(after)[0] == "SUCCEEDED"


async def test_full_disk_delays_a_task_and_does_not_end_it(
    autojump_clock: trio.testing.MockClock, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await office.create(1)
    update, calls = office.engine.update_task, [0]

    async def full(*given: Any) -> None:
        calls[0] += 1
        if calls[0] in (1, 2):
            raise errors.OutOfSpace("the log cannot be written")
        await update(*given)

    monkeypatch.setattr(office.engine, "update_task", full)
    await office.finish()
    assert office.state(task)[0] == "SUCCEEDED" and calls[0] > 2


async def test_full_disk_delays_a_job_which_goes_on_from_where_it_stood(
    autojump_clock: trio.testing.MockClock, office: Office
) -> None:
    office.job.fails_at, office.job.is_full_at = (2, 5, 9), [6, 6, 10]
    task = await office.create(1)
    await office.finish()
    assert office.state(task) == ("FAILED", 10, 7, 3)
    begun = [int(line.split()[-1]) for line in office.job.log if line.startswith("run")]
    assert len(begun) == 4 and begun == sorted(begun) and begun[1] >= 3
    assert "withdraw" not in "".join(office.job.log[:-1])


async def test_lost_content_is_no_reason_to_wait(autojump_clock: trio.testing.MockClock, office: Office) -> None:
    office.job.ends_with = errors.ContentLost("gone")
    task = await office.create(1)
    await office.finish()
    assert office.state(task)[0] == "FAILED"


@pytest.mark.parametrize("canceled", [False, True])
async def test_defect_at_the_end_of_a_task_costs_that_task_alone(
    autojump_clock: trio.testing.MockClock, office: Office, canceled: bool
) -> None:
    office.job.withdrawing = ZeroDivisionError("a defect")
    office.job.ends_with = None if canceled else errors.TaskFailed("path x does not exist")
    task = await office.create(1)
    async with trio.open_nursery() as nursery:
        await nursery.start(office.queue.run)
        await trio.sleep(3.5)
        if canceled:
            await office.queue.cancel(task)
        await trio.sleep(30)
        record = office.queue.find(task)
        assert record is not None and record.lifecycle == ("CANCELED" if canceled else "FAILED")
        assert record.failure == ("" if canceled else "internal error; daemon.log has the traceback")
        office.job.withdrawing = office.job.ends_with = None
        after = await office.create(2)
        await trio.sleep(30)
        assert office.state(after)[0] == "SUCCEEDED"
        nursery.cancel_scope.cancel()


async def test_full_disk_at_the_start_ends_no_mount(
    autojump_clock: trio.testing.MockClock, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.job.fails_at = (1, 2)
    ended, canceled = await office.create(1), await office.create(2)
    await office.work(15)
    await office.engine.note_task_failures(ended, [TaskFailure(1, "/1", "S3Error")])  # as after a crash behind its end
    await office.queue.cancel(canceled)
    office.open()
    update, forget, calls = office.engine.update_task, office.engine.forget_task_failures, [0]

    async def full(*given: Any) -> None:
        calls[0] += 1
        if calls[0] < 8:
            raise errors.OutOfSpace("the log cannot be written")
        await update(*given)

    async def full_as_well(*given: Any) -> bool:
        calls[0] += 1
        if calls[0] < 8:
            raise errors.OutOfSpace("the log cannot be written")
        return await forget(*given)

    monkeypatch.setattr(office.engine, "update_task", full)
    monkeypatch.setattr(office.engine, "forget_task_failures", full_as_well)
    await office.finish()
    assert office.state(canceled)[0] == "CANCELED" and await office.engine.task_failures(ended, 0, 10) == []


async def test_figures_of_a_task_outlive_its_cancellation_and_a_crash(
    autojump_clock: trio.testing.MockClock, office: Office
) -> None:
    office.job.fails_at = (1, 2)
    first, second = await office.create(1), await office.create(2, tasks.EXPORT)
    await office.work(4.5)
    for task in (first, second):
        await office.queue.cancel(task)
    seen = office.state(first)
    assert seen[2:] == (seen[1] - 2, 2)
    office.open()
    await office.queue.recover()
    assert office.state(first) == ("CANCELED", *seen[1:])
    assert office.state(second) == ("CANCELED", *seen[1:])


@pytest.mark.parametrize("path", ["s3://bucket/p/\udcff", "s3://bucket/p/there"])
async def test_report_that_cannot_be_written_is_no_reason_to_fail(
    autojump_clock: trio.testing.MockClock, office: Office, path: str
) -> None:
    await office.engine.link_association(Association("/a", "bucket", "p/", association_id="dra-1"))
    task = await office.create(1, report=TaskReport(path))
    (office.directory / f"report-{task}").mkdir()  # nor can a draft be written there, nor removed
    await office.finish()
    assert office.state(task) == ("SUCCEEDED", 10, 10, 0)


async def test_history_is_bounded_and_never_drops_what_has_not_ended(
    autojump_clock: trio.testing.MockClock, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_records, "MOST_ENDED", 3)
    oldest = await office.create(1, tasks.EXPORT)
    for number in range(2, 8):
        await office.engine.set_tags(await office.create(number), {"n": str(number)})
        record = office.queue.find(f"task-{number:017x}")
        assert record is not None
        await office.engine.update_task(record.step("CANCELING", 1).step("CANCELED", 2))
        office.open()
    await office.create(9)
    kept = sorted(int(record.task_id.removeprefix("task-"), 16) for record in office.queue.all())
    assert kept == [1, 5, 6, 7, 9] and office.state(oldest)[0] == "PENDING"
    office.open()
    assert len(office.queue.all()) == 5
    assert office.engine.tags(f"task-{2:017x}") == {} and office.engine.tags(f"task-{7:017x}") == {"n": "7"}
