"""Export tasks over a table, with an exporter that does what its records say and uploads nothing; time is trio's mock clock."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from s3lustrefs.meta.attributes import AttributeChange
from s3lustrefs.meta.listing import preparer, preparer_options
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.schema import Change, JournalRecord, ObjectRecord
from s3lustrefs.meta.store import Store
from s3lustrefs.model.association import Association
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.model.task import EXPORT, TaskRecord, TaskType
from s3lustrefs.movers.links import Links
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.task_export import ExportJob
from s3lustrefs.movers.task_report import ReportDelivery
from s3lustrefs.movers.task_roots import Roots
from s3lustrefs.movers.tasks import Job, Tasks

FILES = 10
SECONDS_EACH = 1.0


@dataclass
class Site:
    """`FILES` files in /a that the policy keeps local."""

    engine: LmdbEngine
    directory: Path
    association: Association
    files: list[Inode]
    exported: list[Ino] = field(default_factory=list)
    after_export: Callable[[Ino], Any] | None = None
    """Awaited when a file has just been exported."""

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        roots = Roots(self.engine, cast(Links, []))
        jobs: dict[TaskType, Callable[[], Job]] = {EXPORT: lambda: ExportJob(self.engine, roots, lambda: None)}
        self.queue = Tasks(self.engine, jobs, ReportDelivery(self.engine, Repositories(), self.directory))

    async def create(self, number: int, *paths: str) -> str:
        task_id = f"task-{number}"
        await self.queue.create(TaskRecord(task_id, EXPORT, number, paths), {}, None)
        return task_id

    def state(self, task_id: str) -> tuple[str, int, int, int]:
        record = self.queue.find(task_id)
        assert record is not None
        return record.lifecycle, record.total, record.succeeded, record.failed

    async def change(self, file: Inode) -> Change:
        record = await self.engine.find_journal(file.ino)
        return record.change if record is not None else Change.NONE

    async def export_slowly(self) -> None:
        """Be the exporter: one ordered file in `SECONDS_EACH`, what nobody ordered is kept local at once."""
        while True:
            await trio.sleep(SECONDS_EACH)
            for _, record in await self.engine.due(b"", 1000):
                view = await self.engine.export_view(record.ino)
                if view is None or not record.change & Change.ORDERED or view.inode.hsm & Hsm.NOARCHIVE:
                    await self.engine.exclude(record)
                else:
                    await self.export(record)
                    break

    async def export(self, record: JournalRecord) -> None:
        view = await self.engine.export_view(record.ino)
        assert view is not None
        (target,) = view.targets
        written = ObjectRecord(target.association.assoc_id, target.key, record.ino, f"e{record.seq}", view.inode.size)
        await self.engine.settle_object(record.ino, written, content=True, version=view.inode.content_version)
        await self.engine.finish(record)
        self.exported.append(record.ino)
        if self.after_export is not None:
            await self.after_export(record.ino)

    async def finish(self) -> None:
        """Let everything come to its end."""
        with trio.move_on_after(1000):
            async with trio.open_nursery() as nursery:
                await self.queue.recover()
                await nursery.start(self.queue.run)
                nursery.start_soon(self.export_slowly)
                while self.queue.unfinished():  # noqa: ASYNC110 the queue tells nobody of its end
                    await trio.sleep(0.1)
                nursery.cancel_scope.cancel()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    store = Store(tmp_path / "meta", boot_id="boot")
    engine = LmdbEngine(store)
    linked = await engine.link_association(Association("/a", "bucket", "p/", association_id="dra-1", auto_export=frozenset()))
    files = [await engine.create(Ino(linked.root_ino), b"f%d" % number, stat.S_IFREG | 0o644, 0, 0) for number in range(FILES)]
    for file in files:
        record = await engine.find_journal(file.ino)
        assert record is not None
        await engine.exclude(record)
    yield Site(engine, tmp_path, linked, files)
    await store.close()


# --- orders -----------------------------------------------------------------------------------------------------------------


async def test_cancelling_a_task_that_waits_leaves_the_orders_of_the_one_that_executes(
    autojump_clock: trio.testing.MockClock, site: Site
) -> None:
    first, second = await site.create(1, "a"), await site.create(2, "/")
    async with trio.open_nursery() as nursery:
        await nursery.start(site.queue.run)
        nursery.start_soon(site.export_slowly)
        await trio.sleep(2.5 * SECONDS_EACH)
        assert 0 < len(site.exported) < FILES
        await site.queue.cancel(second)
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
    assert site.state(second)[0] == "CANCELED"
    assert site.state(first) == ("SUCCEEDED", FILES, FILES, 0) and len(set(site.exported)) == FILES


async def test_cancelling_the_task_that_executes_withdraws_its_orders(autojump_clock: trio.testing.MockClock, site: Site) -> None:
    task = await site.create(1, "a")
    async with trio.open_nursery() as nursery:
        await nursery.start(site.queue.run)
        nursery.start_soon(site.export_slowly)
        await trio.sleep(2.5 * SECONDS_EACH)
        exported = len(site.exported)
        await site.queue.cancel(task)
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
    assert site.state(task) == ("CANCELED", exported, exported, 0) and len(site.exported) == exported < FILES


async def test_figures_of_a_canceled_task_hold_after_a_crash(autojump_clock: trio.testing.MockClock, site: Site) -> None:
    task = await site.create(1, "a")
    async with trio.open_nursery() as nursery:
        await nursery.start(site.queue.run)
        nursery.start_soon(site.export_slowly)
        await trio.sleep(4.5 * SECONDS_EACH)
        await site.queue.cancel(task)
        nursery.cancel_scope.cancel()
    site.open()
    assert site.state(task)[0] == "CANCELING"
    await site.queue.recover()
    exported = len(site.exported)
    assert exported and site.state(task) == ("CANCELED", exported, exported, 0)
    assert not any([await site.change(file) & Change.ORDERED for file in site.files])


@pytest.mark.parametrize("ending", ["fails", "is canceled"])
async def test_archive_that_somebody_asked_for_outlives_a_task(
    autojump_clock: trio.testing.MockClock, site: Site, ending: str
) -> None:
    asked, *_ = site.files
    assert await site.engine.order_archive(asked.ino)
    if ending == "fails":
        await site.engine.update_association(replace(site.association, auto_export=frozenset({"CHANGED"})))
    task = await site.create(1, "a")
    async with trio.open_nursery() as nursery:
        await nursery.start(site.queue.run)
        await trio.sleep(0.5)
        if ending == "is canceled":
            assert await site.change(asked) & Change.ORDERED == Change.ORDERED
            await site.queue.cancel(task)
            await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
    assert site.state(task)[0] in ("FAILED", "CANCELED")
    assert await site.change(asked) & Change.ORDERED == Change.HSM_ORDERED
    assert not any([await site.change(file) & Change.ORDERED for file in site.files[1:]])


async def test_file_that_may_not_be_archived_any_more_is_not_counted_as_exported(
    autojump_clock: trio.testing.MockClock, site: Site
) -> None:
    kept = site.files[-1]

    async def keep(_: Ino) -> None:
        await site.engine.set_hsm_flags(kept.ino, Hsm.NOARCHIVE, Hsm.NONE)

    site.after_export = keep
    task = await site.create(1, "a")
    await site.finish()
    assert site.state(task) == ("FAILED", FILES, FILES - 1, 1) and kept.ino not in site.exported


async def test_withdrawing_the_archive_of_a_file_leaves_it_to_the_task(autojump_clock: trio.testing.MockClock, site: Site) -> None:
    file = site.files[-1]

    async def withdraw(_: Ino) -> None:
        await site.engine.withdraw_order(file.ino)

    site.after_export = withdraw
    task = await site.create(1, "a")
    await site.finish()
    assert site.state(task) == ("SUCCEEDED", FILES, FILES, 0) and file.ino in site.exported


async def test_lost_files_are_exported_anew_or_reported(autojump_clock: trio.testing.MockClock, site: Site) -> None:
    prepare = preparer(**preparer_options(site.association))  # type: ignore[arg-type]
    entries = [(b"", [prepare(b"cold", b"cold", 10, b"etag", 5, b"STANDARD")])]
    await site.engine.apply_listing(site.association, entries)
    cold = await site.engine.resolve(b"/a/cold")
    await site.engine.apply_headers(cold.ino, "etag", AttributeChange(), None)
    await site.engine.object_vanished(cold.ino)
    first = await site.create(1, "a")
    await site.finish()
    assert site.state(first) == ("FAILED", FILES + 1, FILES, 1)
    record = site.queue.find(first)
    assert record is not None and record.failure == f"1 of {FILES + 1} failed, the first with S3ObjectNotFound: a/cold"
    whole = site.files[0]
    await site.engine.set_hsm_flags(whole.ino, Hsm.LOST, Hsm.NONE)
    await site.create(2, "a")
    await site.finish()
    assert site.exported.count(whole.ino) == 2 and not (await site.engine.get(whole.ino)).hsm & Hsm.LOST


async def test_file_that_changes_behind_its_export_is_exported_again_and_not_for_ever(
    autojump_clock: trio.testing.MockClock, site: Site
) -> None:
    once, always, *_ = site.files

    async def touch(ino: Ino) -> None:
        if ino == always.ino or (ino == once.ino and site.exported.count(ino) == 1):
            await site.engine.begin_write(ino)
            await site.engine.make_due(ino)

    site.after_export = touch
    task = await site.create(1, "a")
    await site.finish()
    assert site.state(task) == ("FAILED", FILES, FILES - 1, 1)
    assert site.exported.count(once.ino) == 2 and 2 < site.exported.count(always.ino) < 20
