"""Tasks under random requests, deaths of the daemon between any two steps, entries that fail, and disks that fill up.

Against a model that knows only what clients were told: a task never goes back, what was canceled is never done, and in the end
every task has an end with figures that add up.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from s3lustrefs.meta.check import check_engine
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.store import Store
from s3lustrefs.model import task as tasks
from s3lustrefs.model.task import TaskType
from tests.unit.movers.associations_scene import Mortal, is_death, run
from tests.unit.movers.tasks_scene import Office

T = TypeVar("T")
pytestmark = pytest.mark.usefixtures("quiet")
AFTER = {
    "PENDING": {"EXECUTING", "CANCELING", "SUCCEEDED", "FAILED", "CANCELED"},
    "EXECUTING": {"CANCELING", "SUCCEEDED", "FAILED", "CANCELED"},
    "CANCELING": {"CANCELED"},
    "SUCCEEDED": set(),
    "FAILED": set(),
    "CANCELED": set(),
}
"""What a client may see of a task that it has seen so, some time later."""
DEATH = st.none() | st.integers(0, 6) | st.integers(0, 60)


class Histories(RuleBasedStateMachine):
    """`seen`: the state that clients were shown last, by task."""

    created = Bundle("created")

    def __init__(self) -> None:
        super().__init__()
        self.scratch = Path(tempfile.mkdtemp(prefix="s3lustrefs-t-"))
        self.store = Store(self.scratch / "meta", boot_id="boot")
        self.number = 0
        self.seen: dict[str, str] = {}
        self.run(self._start)

    async def _start(self) -> None:
        self.mortal = Mortal(LmdbEngine(self.store))
        engine: Any = self.mortal
        self.office = Office(engine, self.scratch)

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.run(self.store.close)
            shutil.rmtree(self.scratch)

    run = staticmethod(run)

    def mortally(self, death: int | None, deed: Callable[[], Awaitable[T]]) -> bool:
        """Do something in a daemon that dies before its verb of that number; whether it survived. The next daemon begins then."""
        self.mortal.calls_left = death
        try:
            self.run(deed)
        except BaseException as exc:
            if not is_death(exc):
                raise
            self.mortal.calls_left = None
            self.office.open()
            return False
        finally:
            self.mortal.calls_left = None
        return True

    # --- what clients do -----------------------------------------------------------------------------------------------------

    @rule(target=created, kind=st.sampled_from([tasks.IMPORT, tasks.EXPORT, tasks.RELEASE]))
    def create(self, kind: TaskType) -> str:
        self.number += 1
        made = self.run(lambda: self.office.create(self.number, kind))
        assert self.office.state(made)[0] == "PENDING"
        self.seen[made] = "PENDING"
        return made

    @rule(task=created, death=DEATH)
    def cancel(self, task: str, death: int | None) -> None:
        if self.office.state(task)[0] in ("SUCCEEDED", "FAILED", "CANCELED"):
            with pytest.raises(ValueError, match="does not follow"):
                self.run(lambda: self.office.queue.cancel(task))
        elif self.mortally(death, lambda: self.office.queue.cancel(task)):
            assert self.office.state(task)[0] == "CANCELING"

    # --- what happens --------------------------------------------------------------------------------------------------------

    @rule(fails=st.lists(st.integers(1, 10), max_size=3))
    def entries_fail(self, fails: list[int]) -> None:
        self.office.job.fails_at = tuple(fails)

    @rule(at=st.integers(1, 10))
    def disk_fills_up(self, at: int) -> None:
        self.office.job.is_full_at.append(at)

    @rule(seconds=st.floats(0.0, 40.0), death=DEATH)
    def daemon_works(self, seconds: float, death: int | None) -> None:
        self.mortally(death, lambda: self.office.work(seconds))

    @rule(task=created, seconds=st.floats(0.0, 12.0), death=DEATH)
    def cancel_while_it_works(self, task: str, seconds: float, death: int | None) -> None:
        was_told = []

        async def work_and_cancel() -> None:
            async with trio.open_nursery() as nursery:
                await self.office.queue.recover()
                await nursery.start(self.office.queue.run)
                await trio.sleep(seconds)
                record = self.office.queue.find(task)
                assert record is not None
                if not record.is_ended:
                    await self.office.queue.cancel(task)
                    was_told.append(task)
                await trio.sleep(seconds / 2)
                nursery.cancel_scope.cancel()
            self.office.open()

        self.mortally(death, work_and_cancel)
        if was_told:
            assert self.office.state(task)[0] in ("CANCELING", "CANCELED")

    @rule()
    def daemon_dies(self) -> None:
        self.office.open()

    # --- what must hold ------------------------------------------------------------------------------------------------------

    @invariant()
    def nothing_goes_back(self) -> None:
        for task, before in self.seen.items():
            now, total, succeeded, failed = self.office.state(task)
            assert now == before or now in AFTER[before], (task, before, now)
            self.seen[task] = now
            if now in ("SUCCEEDED", "FAILED", "CANCELED"):
                assert total == succeeded + failed <= 10, (task, now, total, succeeded, failed)
                assert now == "CANCELED" or (total == 10 and (now == "FAILED") == bool(failed)), (task, now, total, failed)
        assert check_engine(self.store) == []

    @rule()
    def settle(self) -> None:
        """Once everything is done, every task has ended, and nothing is left of what it failed at."""
        self.office.job.is_full_at.clear()
        self.run(lambda: self.office.work(10_000))
        self.nothing_goes_back()
        for task, state in self.seen.items():
            assert state in ("SUCCEEDED", "FAILED", "CANCELED"), (task, state)
            assert self.run(lambda task=task: self.office.engine.task_failures(task, 0, 10)) == []  # type: ignore[misc]


Histories.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # to make a failing history shorter takes minutes
)  # fmt: skip


TestHistories = Histories.TestCase
