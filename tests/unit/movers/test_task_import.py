"""Import tasks over a table, with a sweeper that says what the test has it find; time is trio's mock clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import trio
import trio.testing

from s3lustrefs import errors
from s3lustrefs.meta import listing
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.schema import ObjectRecord
from s3lustrefs.meta.store import Store
from s3lustrefs.model.association import Association
from s3lustrefs.model.ids import NO_INO
from s3lustrefs.model.task import IMPORT, TaskFailure, TaskRecord, TaskReport, TaskType
from s3lustrefs.movers.links import Links
from s3lustrefs.movers.sweeper import SweepResult
from s3lustrefs.movers.task_import import ImportJob
from s3lustrefs.movers.task_report import ReportDelivery
from s3lustrefs.movers.tasks import Job, Tasks
from s3lustrefs.repository.object_store import ObjectHead, ObjectVersion
from tests.unit.movers.tasks_scene import Daemons


@dataclass
class Bucket(Daemons):
    """Batches of archived objects by the directory they are in. A listing takes a second a batch."""

    engine: LmdbEngine
    association: Association
    directory: Path
    archived: dict[bytes, list[list[bytes]]] = field(default_factory=dict)
    fails: list[Exception] = field(default_factory=list)
    """Raised in place of the end of a listing, once each."""
    listed: list[bytes] = field(default_factory=list)
    symlinks: set[bytes] = field(default_factory=set)
    unknown: dict[bytes, Exception] = field(default_factory=dict)
    """Instead of a HEAD's answer."""
    asked: list[bytes] = field(default_factory=list)
    reported: list[TaskFailure] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        links = cast(Links, SimpleNamespace(of=lambda _: SimpleNamespace(sweeper=self)))
        jobs: dict[TaskType, Callable[[], Job]] = {IMPORT: lambda: ImportJob(self.engine, links)}
        self.queue = Tasks(self.engine, jobs, cast(ReportDelivery, self))

    async def look_for(self, key: bytes, events: frozenset[str], result: SweepResult) -> None:
        assert events == {"NEW", "CHANGED"}

    async def sweep(self, directory: bytes, events: frozenset[str], result: SweepResult) -> None:
        self.listed.append(directory)
        for batch in self.archived.get(directory, []):
            await trio.sleep(1)
            result.objects += len(batch)
            assert result.on_archived is not None
            await result.on_archived([(key, ObjectRecord(self.association.assoc_id, key, NO_INO, "e", 6)) for key in batch])
        await trio.sleep(1)
        if self.fails:
            raise self.fails.pop(0)

    async def find(self, relative: bytes) -> ObjectHead | None:
        await trio.lowlevel.checkpoint()
        self.asked.append(relative)
        if relative in self.unknown:
            raise self.unknown[relative]
        return ObjectHead(ObjectVersion("e", 6), {"file-permissions": "0120777" if relative in self.symlinks else "0100600"})

    def clear(self) -> None:
        """There are no drafts."""

    async def deliver(self, task: TaskRecord) -> None:
        self.reported = await self.engine.task_failures(task.task_id, 0, 10_000)

    async def create(self, *paths: str) -> str:
        await self.queue.create(TaskRecord("task-1", IMPORT, 1, paths, TaskReport()), {}, None)
        return "task-1"


@pytest.fixture
async def bucket(tmp_path: Path) -> AsyncIterator[Bucket]:
    store = Store(tmp_path / "meta", boot_id="boot")
    engine = LmdbEngine(store)
    association = await engine.link_association(Association("/a", "bucket", "p/", association_id="dra-1"))
    yield Bucket(engine, association, tmp_path)
    await store.close()


async def test_warnings_are_in_the_table_while_the_listing_goes_on(autojump_clock: trio.testing.MockClock, bucket: Bucket) -> None:
    bucket.archived[b""] = [[b"f%d-%d" % (batch, number) for number in range(1200)] for batch in range(3)]
    task = await bucket.create()
    await bucket.work(2.5)
    assert bucket.state(task)[0] == "EXECUTING" and len(await bucket.engine.task_failures(task, 0, 10_000)) == 2400
    await bucket.work(100)
    assert bucket.state(task) == ("SUCCEEDED", 3600, 3600, 0)
    paths = [row.path for row in bucket.reported]
    assert paths == [f"/a/f{batch}-{number}" for batch in range(3) for number in range(1200)]
    assert {row.code for row in bucket.reported} == {"S3ObjectInUnsupportedTier"}


async def test_archived_symlinks_have_failed(autojump_clock: trio.testing.MockClock, bucket: Bucket) -> None:
    bucket.archived[b""] = [[b"file", b"link", b"secret"]]
    bucket.symlinks, bucket.unknown = {b"link"}, {b"secret": errors.RepositoryDenied("no")}
    task = await bucket.create()
    await bucket.work(100)
    assert bucket.state(task) == ("FAILED", 3, 2, 1)
    assert [(row.path, row.status, row.code) for row in bucket.reported] == [
        ("/a/file", "succeeded with warning", "S3ObjectInUnsupportedTier"),
        ("/a/link", "failed", "S3SymlinkInUnsupportedTier"),
        ("/a/secret", "succeeded with warning", "S3ObjectInUnsupportedTier"),
    ]


async def test_listing_waits_for_a_bucket_that_does_not_say_what_is_a_symlink(
    autojump_clock: trio.testing.MockClock, bucket: Bucket
) -> None:
    bucket.archived[b""] = [[b"one"]]
    bucket.unknown = {b"one": errors.RepositoryUnavailable("slow down")}
    task = await bucket.create()
    await bucket.work(1.5)
    assert bucket.asked == [b"one"] and bucket.state(task)[0] == "EXECUTING"
    bucket.unknown.clear()
    await bucket.work(300)
    assert bucket.state(task) == ("SUCCEEDED", 1, 1, 0)


async def test_without_posix_metadata_nothing_is_a_symlink(autojump_clock: trio.testing.MockClock, bucket: Bucket) -> None:
    await bucket.engine.update_association(replace(bucket.association, posix_metadata="off"))
    bucket.archived[b""], bucket.symlinks = [[b"link"]], {b"link"}
    task = await bucket.create()
    await bucket.work(100)
    assert not bucket.asked and bucket.state(task) == ("SUCCEEDED", 1, 1, 0)


async def test_listing_that_is_tried_again_warns_once(autojump_clock: trio.testing.MockClock, bucket: Bucket) -> None:
    bucket.archived[b""] = [[b"one"], [b"two"]]
    bucket.fails = [errors.RepositoryUnavailable("slow down")] * 2
    task = await bucket.create()
    await bucket.work(300)
    assert bucket.state(task) == ("SUCCEEDED", 2, 2, 0) and [row.path for row in bucket.reported] == ["/a/one", "/a/two"]
    assert len(bucket.listed) == 3


async def test_archived_object_that_does_not_show_is_a_failure_alone(
    autojump_clock: trio.testing.MockClock, bucket: Bucket
) -> None:
    bucket.archived[b""] = [[b"d", b"e"]]
    skipped = [(b"d", listing.DIRECTORY_WINS), (b"x//y", "has an empty path component"), (b"m/", listing.MARKER_HAS_CONTENT)]
    await bucket.engine.apply_listing(bucket.association, [], skipped=skipped)
    task = await bucket.create("s3://bucket/p/")
    await bucket.work(100)
    assert {(row.path, row.code) for row in bucket.reported} == {
        ("/a/d", "S3ObjectTypeMismatch"), ("/a/e", "S3ObjectInUnsupportedTier"), ("/a/x//y", "S3ObjectPathNotPosixCompliant"),
    }  # fmt: skip
    assert len({row.order for row in bucket.reported}) == 3 and bucket.state(task)[0] == "FAILED"


async def test_failures_are_those_of_the_path(autojump_clock: trio.testing.MockClock, bucket: Bucket) -> None:
    skipped = [(b"d//%d" % number, "no") for number in range(700)] + [(b"d-1//x", "no"), (b"e//x", "no")]
    await bucket.engine.apply_listing(bucket.association, [], skipped=skipped)
    bucket.archived[b"d"] = [[b"d/%d" % number for number in range(700)]]
    await bucket.create("s3://bucket/p/d")
    await bucket.work(100)
    failed = [row.path for row in bucket.reported if row.status == "failed"]
    assert failed == sorted(f"/a/d//{number}" for number in range(700))


async def test_path_that_does_not_exist_fails_the_task_after_a_crash_too(
    autojump_clock: trio.testing.MockClock, bucket: Bucket
) -> None:
    bucket.archived[b"there"] = [[b"there/%d" % number] for number in range(5)]
    task = await bucket.create("s3://bucket/p/typo", "s3://bucket/p/there")
    await bucket.work(3.5)
    assert bucket.state(task)[0] == "EXECUTING"
    await bucket.work(100)
    assert bucket.listed == [b"typo", b"there", b"there"]
    record = bucket.queue.find(task)
    assert record is not None and bucket.state(task) == ("FAILED", 5, 5, 0)
    assert record.failure.startswith("path s3://bucket/p/typo does not exist")
