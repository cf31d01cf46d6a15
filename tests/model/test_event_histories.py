"""Whatever happens in a bucket, and however it is told, the table ends as one that was listed afresh.

Events come late, twice, in any order. If each comes at least once, they suffice. If some are lost, a sweep makes them good.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.meta.check import check_engine
from s3lustrefs.meta.listing import preparer, preparer_options
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.store import Store
from s3lustrefs.model.association import EVENTS, Association
from s3lustrefs.model.ids import Ino
from s3lustrefs.movers.event_judge import EventJudge
from s3lustrefs.movers.event_observer import EventObserver
from s3lustrefs.movers.headers import HeaderFetcher
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.movers.listing_frames import Batch, BatchKind, fill_batch
from s3lustrefs.movers.observer import Observer, Seen
from s3lustrefs.movers.removals import Removals
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.room import Room
from s3lustrefs.repository.event_messages import BucketEvent, EventKind
from s3lustrefs.repository.list_page import Page
from s3lustrefs.repository.object_store import ObjectHead, ObjectStore, ObjectVersion

PREFIX = b"p/"
KEYS = [PREFIX + name for name in (b"f", b"g", b"d/f", b"d/", b"d/e/", b"d/e/f")]
SECOND = 10**9
START = 1_800_000_000 * SECOND


@dataclass
class Bucket:
    """What is there now, and every event so far; its clock is the whole world's."""

    objects: dict[bytes, ObjectVersion] = field(default_factory=dict)
    events: list[BucketEvent] = field(default_factory=list)
    now_ns: int = START
    heads: int = 0
    with_sequencers: bool = True
    is_silent: bool = False
    refused: set[bytes] = field(default_factory=set)

    def put(self, key: bytes, content: int) -> None:
        body = b"" if key.endswith(b"/") else b"x" * content
        version = ObjectVersion(hashlib.md5(body).hexdigest(), len(body), self.now_ns // SECOND * SECOND)
        self.objects[key] = version
        self._tell(BucketEvent(EventKind.CREATED, "bucket", key, self.now_ns, version.etag, version.size))

    def delete(self, key: bytes) -> None:
        if self.objects.pop(key, None) is not None:
            self._tell(BucketEvent(EventKind.REMOVED, "bucket", key, self.now_ns))

    def _tell(self, event: BucketEvent) -> None:
        sequencer = f"{len(self.events):08X}" if self.with_sequencers else ""
        self.events.append(event._replace(sequencer=sequencer))

    async def head(self, key: bytes, *, version_id: str = "") -> ObjectHead:
        self.heads += 1
        await trio.lowlevel.checkpoint()
        if self.is_silent:
            raise errors.RepositoryUnavailable("no answer")
        if key in self.refused:
            raise errors.RepositoryDenied("denied")
        if key not in self.objects:
            raise errors.ObjectNotFound("no such object")
        return ObjectHead(self.objects[key])


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChunkStore]:
    """Empty, and shared: nobody reads, and making its directories takes longer than a history."""
    store = ChunkStore([tmp_path_factory.mktemp("events")])
    store.open_()
    yield store
    store.close()


class Mount:
    """The engine and the movers that events and sweeps go through, on one bucket."""

    def __init__(self, directory: Path, chunks: ChunkStore, bucket: Bucket) -> None:
        self.bucket = bucket
        self.store = Store(directory / "meta", boot_id="boot")
        self.engine = LmdbEngine(self.store, clock_ns=lambda: bucket.now_ns)
        self.chunks = chunks

    async def link(self) -> None:
        association = Association("/a", "bucket", PREFIX.decode(), association_id="dra-1", posix_metadata="off")
        linked = await self.engine.link_association(association)
        repositories = Repositories()
        repositories.connect(linked.assoc_id, cast(ObjectStore, self.bucket))

        async def refresh(ino: Ino) -> bool:
            raise AssertionError("nobody reads here")

        headers = HeaderFetcher(self.engine, repositories, refresh)
        hydrator = Hydrator(self.engine, self.chunks, repositories, refresh, lambda _: None, Room(self.chunks))
        removals = Removals(self.chunks, hydrator, lambda _: None, lambda _: None)
        self.observer = Observer(self.engine, linked.assoc_id, repositories, headers, removals, lambda _: None)
        judge = EventJudge(self.engine, linked.assoc_id, clock_ns=lambda: self.bucket.now_ns)
        self.told = EventObserver(self.engine, linked.assoc_id, self.observer, headers, lambda _: None, judge)

    async def hear(self, events: Iterable[BucketEvent]) -> None:
        assert await self.told.observe(events) == frozenset()
        await self.told.settle_directories()

    async def sweep(self) -> None:
        association = self.observer.association()
        page = Page()
        for key, version in sorted(self.bucket.objects.items()):
            row = (key, version.size, version.etag.encode(), version.mtime_ns, b"STANDARD")
            for column, value in zip(page.columns(), row, strict=True):
                column.append(value)
        batch = fill_batch(
            Batch(BatchKind.BULK), page, PREFIX, preparer(**preparer_options(association))  # type: ignore[arg-type]
        )  # fmt: skip
        with self.engine.sweep(frozenset(EVENTS)) as sweep:
            listed = await self.observer.apply(batch, b"", sweep, Seen())
            suspects, _ = await self.engine.vanished_suspects(association, PREFIX, (b"", None), listed, sweep)
            for key in sorted(suspects, reverse=True):
                assert await self.observer.find(key) is None
                await self.observer.remove(key, sweep, Seen())

    async def tree(self) -> dict[bytes, Any]:
        """Files with size and ETag; directories only if something is in them, or if they have an object."""
        found: dict[bytes, Any] = {}
        assoc = self.observer.association().assoc_id

        async def walk(ino: Ino, path: bytes) -> bool:
            is_filled = False
            for name, inode in await self.engine.readdir(ino, b"", 1000):
                below = path + name
                known = await self.engine.find_object(assoc, PREFIX + below + (b"/" if inode.is_dir else b""))
                if inode.is_dir:
                    if await walk(inode.ino, below + b"/") or known is not None:
                        found[below + b"/"] = known and (known.etag, known.ino == inode.ino)
                        is_filled = True
                else:
                    assert known is not None and known.ino == inode.ino and known.size == inode.size
                    found[below] = known.etag
                    is_filled = True
            return is_filled

        await walk((await self.engine.resolve(b"/a")).ino, b"")
        return found


@asynccontextmanager
async def mount(chunks: ChunkStore, bucket: Bucket) -> AsyncIterator[Mount]:
    with tempfile.TemporaryDirectory(prefix="s3lustrefs-events-") as directory:
        made = Mount(Path(directory), chunks, bucket)
        await made.link()
        try:
            with made.told.judge.remembering():
                yield made
            assert check_engine(made.store) == []
        finally:
            await made.store.close()


Step = tuple[str, int, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, len(KEYS) - 1), st.integers(1, 3)),
        st.tuples(st.just("delete"), st.integers(0, len(KEYS) - 1), st.just(0)),
        st.tuples(st.just("hear"), st.integers(0, 5), st.integers(1, 4)),
        st.tuples(st.just("pass"), st.integers(0, 20), st.just(0)),
    ),
    max_size=25,
)


async def history(bucket: Bucket, mounted: Mount, steps: list[Step], order: Any, lost: set[int]) -> None:
    """Do the steps; some events are heard early, perhaps twice, and in the end all of them that are not lost."""
    for verb, number, more in steps:
        bucket.now_ns += SECOND // 10
        if verb == "put":
            bucket.put(KEYS[number], more)
        elif verb == "delete":
            bucket.delete(KEYS[number])
        elif verb == "pass":
            bucket.now_ns += number * SECOND
        else:
            recent = bucket.events[-(number + more) :][:more]
            await mounted.hear(event for event in recent if bucket.events.index(event) not in lost)
    left = [event for number, event in enumerate(bucket.events) if number not in lost]
    order.shuffle(left)
    while left:
        size = order.randint(1, 6)
        await mounted.hear(left[:size])
        left = left[size:]


async def fresh(chunks: ChunkStore, bucket: Bucket) -> dict[bytes, Any]:
    async with mount(chunks, bucket) as other:
        await other.sweep()
        return await other.tree()


CONFIGURED = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@CONFIGURED
@given(steps=STEPS, order=st.randoms(use_true_random=False), with_sequencers=st.booleans())
def test_events_that_all_come_at_least_once_suffice(
    chunks: ChunkStore, steps: list[Step], order: Any, with_sequencers: bool
) -> None:
    async def run() -> None:
        bucket = Bucket(with_sequencers=with_sequencers)
        async with mount(chunks, bucket) as mounted:
            bucket.now_ns += 10 * SECOND
            await history(bucket, mounted, steps, order, set())
            assert await mounted.tree() == await fresh(chunks, bucket)

    trio.run(run)


@CONFIGURED
@given(
    steps=STEPS, order=st.randoms(use_true_random=False), with_sequencers=st.booleans(), lost=st.sets(st.integers(0, 24))
)  # fmt: skip
def test_a_sweep_makes_good_what_was_lost(
    chunks: ChunkStore, steps: list[Step], order: Any, with_sequencers: bool, lost: set[int]
) -> None:
    async def run() -> None:
        bucket = Bucket(with_sequencers=with_sequencers)
        async with mount(chunks, bucket) as mounted:
            bucket.now_ns += 10 * SECOND
            await history(bucket, mounted, steps, order, lost)
            await mounted.sweep()
            assert await mounted.tree() == await fresh(chunks, bucket)

    trio.run(run)


def test_new_objects_cost_no_request(chunks: ChunkStore) -> None:
    """The usual case must not need the bucket: thousands of events a second could not be asked about."""

    async def run() -> None:
        bucket = Bucket()
        async with mount(chunks, bucket) as mounted:
            bucket.now_ns += 10 * SECOND
            for number in range(1000):
                bucket.put(PREFIX + b"%d" % number, 1)
            await mounted.hear(bucket.events)
            assert bucket.heads == 0
            bucket.now_ns += 10 * SECOND
            for number in range(1000):
                bucket.put(PREFIX + b"%d" % number, 2)
            await mounted.hear(bucket.events[1000:])
            assert bucket.heads == 0 and mounted.told.told.changed == 1000
            assert await mounted.tree() == await fresh(chunks, bucket)

    trio.run(run)


def test_what_the_bucket_does_not_answer_comes_again(chunks: ChunkStore) -> None:
    async def run() -> None:
        bucket = Bucket()
        async with mount(chunks, bucket) as mounted:
            bucket.now_ns += 10 * SECOND
            bucket.put(PREFIX + b"f", 1)
            bucket.put(PREFIX + b"d/", 1)
            await mounted.hear(bucket.events)
            bucket.delete(PREFIX + b"f")
            bucket.delete(PREFIX + b"d/")
            bucket.put(PREFIX + b"g", 1)
            bucket.is_silent = True
            assert await mounted.told.observe(bucket.events[2:]) == {PREFIX + b"f"}
            await mounted.told.settle_directories()
            assert set(await mounted.tree()) == {b"f", b"d/", b"g"}
            bucket.is_silent = False
            await mounted.hear(bucket.events[2:3])
            assert await mounted.tree() == await fresh(chunks, bucket)

    trio.run(run)


def test_keys_that_the_bucket_refuses_to_tell_of_are_looked_at_later(chunks: ChunkStore) -> None:
    async def run() -> None:
        bucket = Bucket()
        async with mount(chunks, bucket) as mounted:
            bucket.now_ns += 10 * SECOND
            for name in (b"f", b"g", b"d/"):
                bucket.put(PREFIX + name, 1)
            await mounted.hear(bucket.events)
            for name in (b"f", b"g", b"d/"):
                bucket.delete(PREFIX + name)
            bucket.refused = {PREFIX + b"f", PREFIX + b"d/"}
            await mounted.hear(bucket.events[3:])  # no event has to come again
            assert set(await mounted.tree()) == {b"f", b"d/"} and mounted.told.unanswered == 2
            for pause in (60, 120, 240):
                heads = bucket.heads
                await trio.sleep(pause - 1)
                await mounted.told.look_again()
                await mounted.told.settle_directories()
                assert bucket.heads == heads
                await trio.sleep(2)
                bucket.is_silent = pause == 120  # which changes nothing
                await mounted.told.look_again()
                assert bucket.heads > heads and mounted.told.unanswered == 2
                if bucket.is_silent:
                    bucket.is_silent = False
                    await trio.sleep(pause)
                    await mounted.told.look_again()
            bucket.refused.clear()
            await trio.sleep(481)
            await mounted.told.look_again()
            assert await mounted.tree() == await fresh(chunks, bucket) == {} and mounted.told.unanswered == 0

    trio.run(run, clock=MockClock(autojump_threshold=0.01))


def test_a_tree_that_is_deleted_goes_whole_whatever_the_order(chunks: ChunkStore) -> None:
    async def run() -> None:
        bucket = Bucket()
        async with mount(chunks, bucket) as mounted:
            bucket.now_ns += 10 * SECOND
            for number in range(50):
                for name in (b"", b"sub/", b"sub/file"):
                    bucket.put(PREFIX + b"t/%d/%s" % (number, name), 1)
            bucket.put(PREFIX + b"t/", 1)
            await mounted.hear(bucket.events)
            told = len(bucket.events)
            for key in sorted(bucket.objects):
                bucket.delete(key)
            for event in bucket.events[told:]:  # directories first
                await mounted.hear([event])
            assert await mounted.engine.readdir(Ino(mounted.observer.association().root_ino), b"", 10) == []

    trio.run(run)


def test_directories_that_wait_to_become_empty_cost_nothing_meanwhile(chunks: ChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = 0
    resolve = LmdbEngine.resolve

    async def counted(engine: LmdbEngine, path: bytes) -> Any:
        nonlocal resolved
        resolved += 1
        return await resolve(engine, path)

    async def run() -> None:
        nonlocal resolved
        bucket = Bucket()
        async with mount(chunks, bucket) as mounted:
            bucket.now_ns += 10 * SECOND
            for number in range(300):
                for name in (b"", b"file"):
                    bucket.put(PREFIX + b"t/%d/%s" % (number, name), 1)
            bucket.put(PREFIX + b"t/", 1)
            await mounted.hear(bucket.events)
            at = len(bucket.events)
            for key in sorted(bucket.objects, key=lambda key: (not key.endswith(b"/"), key)):  # markers first
                bucket.delete(key)
            monkeypatch.setattr(LmdbEngine, "resolve", counted)
            removed = bucket.events[at:]
            for first in range(0, len(removed), 10):
                await mounted.hear(removed[first : first + 10])
            assert await mounted.engine.readdir(Ino(mounted.observer.association().root_ino), b"", 10) == []
            assert resolved <= 301 + 600, "once when its marker goes, and once for each name that goes from it"
            resolved, told = 0, len(bucket.events)
            for name in (b"w/", b"w/new", b"v/"):
                bucket.put(PREFIX + name, 1)
            await mounted.hear(bucket.events[told:])
            for name in (b"w/", b"v/"):
                bucket.delete(PREFIX + name)
            await mounted.hear(bucket.events[told + 3 :])
            assert resolved == 2 and set(await mounted.tree()) == {b"w/", b"w/new"}
            await trio.sleep(31)
            await mounted.told.settle_directories()  # it stays, as a directory without an object of its own
            assert await mounted.tree() == await fresh(chunks, bucket)

    trio.run(run, clock=MockClock(autojump_threshold=0.01))
