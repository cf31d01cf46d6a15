"""Evictions of a file cache as tasks, on a real table; time is trio's mock clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
import trio.testing

from s3lustrefs import errors
from s3lustrefs.meta import task_records
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.store import Store
from s3lustrefs.model.file_system import Asked, FileSystemRecord
from s3lustrefs.model.task import AUTO_RELEASE, IMPORT, TaskRecord
from s3lustrefs.movers.evictions import Evictions
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.task_report import ReportDelivery
from s3lustrefs.movers.tasks import Tasks

CACHE = FileSystemRecord("fc-0123456789abcdef0", 1, "eu-central-1")


@dataclass
class Cache:
    """A queue and what keeps it, on a table that outlives both."""

    engine: LmdbEngine
    directory: Path
    is_full: bool = False

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        self.queue = Queue(self.engine, {}, ReportDelivery(self.engine, Repositories(), self.directory))
        self.queue.cache = self
        self.evictions = Evictions(self.engine, self.queue)

    async def round(self, need: int, sizes: Sequence[int]) -> None:
        """What the releaser does when so many bytes have to go, and files of these sizes may."""
        self.evictions.needed(need)
        if need and sizes:
            await self.evictions.begin(need)
            for size in sizes:
                await self.evictions.released(size)

    def tasks(self) -> list[TaskRecord]:
        """What the table has, the oldest first."""
        return sorted(self.engine.tasks(), key=lambda task: task.created_ns)

    def figures(self) -> list[tuple[str, int, int, int]]:
        return [(each.lifecycle, each.total, each.wanted_bytes, each.released_bytes) for each in self.tasks()]


class Queue(Tasks):
    """The real one; its state directory may be full."""

    cache: Cache

    async def create(self, record: TaskRecord, tags: Mapping[str, str], asked: Asked | None) -> None:
        self._refuse()
        await super().create(record, tags, asked)

    async def keep(self, record: TaskRecord) -> None:
        self._refuse()
        await super().keep(record)

    def _refuse(self) -> None:
        if self.cache.is_full:
            raise errors.OutOfSpace("the log cannot be written")


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[Cache]:
    store = Store(tmp_path / "meta", boot_id="boot")
    engine = LmdbEngine(store)
    await engine.update_file_system(CACHE)
    yield Cache(engine, tmp_path)
    await store.close()


async def test_rounds_without_a_pause_are_one_task(autojump_clock: trio.testing.MockClock, cache: Cache) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.evictions.run)
        for _ in range(3):
            await cache.round(100, [60, 60])
            await trio.sleep(2)
        await cache.round(0, [])
        assert [task.lifecycle for task in cache.tasks()] == ["EXECUTING"]
        await trio.sleep(5)
        assert cache.figures() == [("SUCCEEDED", 6, 340, 360)]
        await cache.round(10, [10])
        await trio.sleep(6)
        assert cache.figures() == [("SUCCEEDED", 6, 340, 360), ("SUCCEEDED", 1, 10, 10)]
        nursery.cancel_scope.cancel()
    for task in cache.tasks():
        assert task.type == AUTO_RELEASE and task.succeeded == task.total and not task.failed and not task.failure
        assert task.created_ns == task.started_ns <= task.counted_ns <= task.ended_ns


async def test_eviction_that_goes_on_for_long_has_tasks_that_end(autojump_clock: trio.testing.MockClock, cache: Cache) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.evictions.run)
        for _ in range(300):
            await cache.round(100, [100])
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    lifecycles = [task.lifecycle for task in cache.tasks()]
    assert lifecycles == ["SUCCEEDED"] * 5, lifecycles
    assert sum(task.total for task in cache.tasks()) == 300


async def test_figures_show_while_it_executes(autojump_clock: trio.testing.MockClock, cache: Cache) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.evictions.run)
        await cache.evictions.begin(1000)
        assert cache.figures() == [("EXECUTING", 0, 1000, 0)]
        for _ in range(9):
            await trio.sleep(0.5)
            await cache.evictions.released(10)
        assert cache.figures() == [("EXECUTING", 8, 1000, 80)]
        nursery.cancel_scope.cancel()


async def test_room_that_cannot_be_made_fails_the_task(autojump_clock: trio.testing.MockClock, cache: Cache) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.evictions.run)
        await cache.round(100, [30])
        for _ in range(10):
            await trio.sleep(2)
            await cache.round(70, [])
        (task,) = cache.tasks()
        assert task.lifecycle == "FAILED" and "not in the bucket yet" in task.failure
        nursery.cancel_scope.cancel()


async def test_room_that_came_from_elsewhere_is_room(autojump_clock: trio.testing.MockClock, cache: Cache) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.evictions.run)
        await cache.round(100, [30])
        await trio.sleep(2)
        await cache.round(0, [])
        await trio.sleep(5)
        assert cache.figures() == [("SUCCEEDED", 1, 100, 30)]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("sizes", "lifecycle"), [([60, 60], "SUCCEEDED"), ([60], "FAILED"), ([], "FAILED")])
@pytest.mark.parametrize("how", ["crash", "end"])
async def test_task_cut_short_ends(
    autojump_clock: trio.testing.MockClock, cache: Cache, sizes: list[int], lifecycle: str, how: str
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.evictions.run)
        await cache.evictions.begin(100)
        for size in sizes:
            await trio.sleep(2)
            await cache.evictions.released(size)
        if how == "end":
            nursery.cancel_scope.cancel()
        else:
            kept = cache.tasks()
            nursery.cancel_scope.cancel()
    if how == "crash":
        for task in kept:
            await cache.engine.update_task(task)
        assert [task.lifecycle for task in cache.tasks()] == ["EXECUTING"]
        cache.open()
        with trio.move_on_after(1):
            await cache.evictions.run()
    (task,) = cache.tasks()
    assert task.lifecycle == lifecycle and (task.total, task.released_bytes) == (len(sizes), sum(sizes))
    assert task.failure == ("the mount ended before enough was released" if lifecycle == "FAILED" else "")


async def test_other_file_systems_have_none(autojump_clock: trio.testing.MockClock, cache: Cache) -> None:
    await cache.engine.update_file_system(replace(CACHE, file_system_id="fs-0123456789abcdef0"))
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.evictions.run)
        await cache.round(100, [60, 60])
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert cache.tasks() == []


async def test_full_state_directory_delays_the_record_and_no_eviction(
    autojump_clock: trio.testing.MockClock, cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.evictions.run)
        cache.is_full = True
        await cache.round(100, [60, 60])
        await trio.sleep(10)
        assert cache.tasks() == []
        cache.is_full = False
        await trio.sleep(6)
        assert cache.figures() == [("SUCCEEDED", 2, 100, 120)]
        nursery.cancel_scope.cancel()
    assert "eviction is not recorded yet" in caplog.text
    caplog.clear()


async def test_newest_are_remembered_and_push_nobody_out(
    autojump_clock: trio.testing.MockClock, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_records, "MOST_ENDED", 2)
    monkeypatch.setattr(task_records, "MOST_EVICTIONS", 3)
    for number in (1, 2):
        asked = TaskRecord(f"task-{number:017x}", IMPORT, number).step("FAILED", number)
        await cache.queue.create(asked, {}, None)
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.evictions.run)
        for size in range(1, 7):
            await cache.round(size, [size])
            await trio.sleep(6)
        nursery.cancel_scope.cancel()
    # One more may be there until the next begins.
    assert [task.released_bytes for task in cache.tasks() if task.type == AUTO_RELEASE] == [3, 4, 5, 6]
    assert [task.type for task in cache.tasks()].count(IMPORT) == 2
    assert {task.task_id for task in cache.queue.all()} == {task.task_id for task in cache.tasks()}
