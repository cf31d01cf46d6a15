"""The queues of restores: what goes first, what holds up what, and how it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from s3lustrefs import errors
from s3lustrefs.data.residency import Residency
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import AssocId, ContentVersion, Ino
from s3lustrefs.model.inode import Inode, InodeFlag
from s3lustrefs.movers import hsm_restores
from s3lustrefs.movers.hsm_restores import HsmRestores

MIB = 1 << 20


def released(ino: int, size: int = 10, assoc: int = 1) -> Inode:
    return Inode(
        Ino(ino), 0o100644, 0, 0, 1, size, 0, 0, 0,
        hsm=Hsm.EXISTS | Hsm.ARCHIVED, flags=InodeFlag.PARTIAL, source_assoc=AssocId(assoc), source_key=b"k",
    )  # fmt: skip


@dataclass
class Content:
    residency: Residency


@dataclass
class Bucket:
    """Stands for table and hydrator: fetches take a second, or hang, or fail."""

    inodes: dict[Ino, Inode] = field(default_factory=dict)
    fetched: list[Ino] = field(default_factory=list)
    asked: list[Ino] = field(default_factory=list)
    hanging: set[int] = field(default_factory=set)
    failures: dict[Ino, list[errors.S3LustreError]] = field(default_factory=dict)
    at_once: int = 0
    most_at_once: int = 0

    async def get(self, ino: Ino) -> Inode:
        return self.inodes[ino]

    async def resident_bytes(self, inode: Inode) -> int:
        return 0

    async def content(self, inode: Inode) -> Content:
        return Content(Residency(ContentVersion(0)))

    async def ensure(self, inode: Inode, start: int, end: int, *, demand: bool) -> None:
        assert not demand and end - start <= 8 * MIB
        self.asked.append(inode.ino)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if inode.source_assoc in self.hanging:
                await trio.sleep_forever()
            await trio.sleep(1)
            if self.failures.get(inode.ino):
                raise self.failures[inode.ino].pop()
            self.fetched.append(inode.ino)
        finally:
            self.at_once -= 1


@asynccontextmanager
async def running() -> AsyncIterator[tuple[HsmRestores, Bucket]]:
    bucket: Any = Bucket()
    restores = HsmRestores(bucket, bucket)
    async with trio.open_nursery() as nursery:
        await nursery.start(restores.run)
        yield restores, bucket
        nursery.cancel_scope.cancel()


def ask(restores: HsmRestores, bucket: Bucket, inode: Inode, *, ordered: bool = True) -> hsm_restores.Restore:
    bucket.inodes[inode.ino] = inode
    return restores.ask(inode, ordered=ordered)


async def test_one_restore_however_often_it_is_asked_for(autojump_clock: object) -> None:
    async with running() as (restores, bucket):
        first = ask(restores, bucket, released(1))
        assert ask(restores, bucket, released(1)) is first and restores.waiting == 1
        await first.done.wait()
        assert first.error is None and bucket.asked == [1] and restores.find(Ino(1)) is None


async def test_what_is_ordered_does_not_wait_for_files_that_are_preloaded(autojump_clock: object) -> None:
    async with running() as (restores, bucket):
        huge = [ask(restores, bucket, released(n, 1000 * 8 * MIB), ordered=False) for n in range(1, 41)]
        await trio.sleep(2.5)
        wanted = ask(restores, bucket, released(100))
        with trio.fail_after(3):
            await wanted.done.wait()
        assert not any(each.done.is_set() for each in huge)
        assert bucket.most_at_once <= 32


async def test_a_preload_that_is_ordered_by_name_goes_first(autojump_clock: object) -> None:
    async with running() as (restores, bucket):
        preloads = [ask(restores, bucket, released(n), ordered=False) for n in range(1, 201)]
        assert ask(restores, bucket, released(200)) is preloads[-1]
        await preloads[-1].done.wait()
        assert sum(each.done.is_set() for each in preloads) <= 66


async def test_a_bucket_that_hangs_holds_up_no_other(autojump_clock: object) -> None:
    async with running() as (restores, bucket):
        bucket.hanging = {2}
        for number in range(1, 200):
            ask(restores, bucket, released(number, assoc=2))
        other = ask(restores, bucket, released(500, assoc=1))
        with trio.fail_after(3):
            await other.done.wait()


async def test_no_answer_is_tried_again_and_a_refusal_is_not(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    async with running() as (restores, bucket):
        bucket.failures = {
            Ino(1): [errors.RepositoryUnavailable("busy") for _ in range(2)],
            Ino(2): [errors.RepositoryUnavailable("down") for _ in range(9)],
            Ino(3): [errors.RepositoryDenied("no")],
        }
        found = [ask(restores, bucket, released(n)) for n in (1, 2, 3)]
        for each in found:
            await each.done.wait()
        assert [type(each.error) for each in found] == [type(None), errors.RepositoryUnavailable, errors.RepositoryDenied]
        assert [bucket.asked.count(Ino(n)) for n in (1, 2, 3)] == [3, 3, 1]
    caplog.clear()


async def test_waiting_and_running_restores_can_be_cancelled(autojump_clock: object) -> None:
    async with running() as (restores, bucket):
        bucket.hanging = {1}
        found = [ask(restores, bucket, released(n)) for n in range(1, 51)]
        await trio.sleep(1)
        assert restores.cancel(Ino(1)) and restores.cancel(Ino(50)) and not restores.cancel(Ino(99))
        for each in (found[0], found[-1]):
            await each.done.wait()
            assert isinstance(each.error, errors.InUse)
        await trio.sleep(1)
        assert Ino(33) in bucket.asked and restores.waiting == 48


async def test_who_asks_after_a_cancel_gets_a_restore(autojump_clock: object) -> None:
    async with running() as (restores, bucket):
        first = ask(restores, bucket, released(1))
        await trio.sleep(0.5)
        restores.cancel(Ino(1))
        second = ask(restores, bucket, released(1))
        await second.done.wait()
        assert second is not first and second.error is None and isinstance(first.error, errors.InUse) and restores.waiting == 0


async def test_asking_again_keeps_the_place_in_the_queue(autojump_clock: object) -> None:
    async with running() as (restores, bucket):
        for number in range(1, 101):
            ask(restores, bucket, released(number))
        await trio.sleep(0.5)
        ask(restores, bucket, released(33))
        await trio.sleep(1)
        assert Ino(33) in bucket.asked


async def test_a_restore_is_given_up_with_the_last_preload_that_waits_for_it(autojump_clock: object) -> None:
    async with running() as (restores, bucket):
        bucket.hanging = {1}
        found = [ask(restores, bucket, released(n), ordered=False) for n in range(1, 41)]
        first, last, ordered = found[0], found[-1], found[1]
        assert ask(restores, bucket, released(1), ordered=False) is first and ask(restores, bucket, released(2)) is ordered
        await trio.sleep(1)
        assert ordered.is_running and not last.is_running
        for each in (first, last, ordered):
            restores.leave(each)
        await trio.sleep(1)
        assert [each.has_ended for each in (first, last, ordered)] == [False, True, False]
        restores.leave(first)
        again = ask(restores, bucket, released(1))
        assert again is not first
        await first.done.wait()
        assert isinstance(first.error, errors.InUse) and not again.has_ended and restores.find(Ino(1)) is again


async def test_there_is_an_end_to_the_queue(autojump_clock: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hsm_restores, "_MOST_ORDERED", 3)
    async with running() as (restores, bucket):
        bucket.hanging = {1}
        for number in (1, 2, 3, 3):
            ask(restores, bucket, released(number))
        with pytest.raises(errors.QueueFull):
            ask(restores, bucket, released(4))
        ask(restores, bucket, released(5), ordered=False)  # preloads never have many at a time


async def test_the_end_of_the_mount_begins_nothing(autojump_clock: object) -> None:
    async with running() as (restores, bucket):
        bucket.hanging = {1}
        for number in range(1, 10_001):
            ask(restores, bucket, released(number))
        await trio.sleep(1)
        waiting = restores.find(Ino(10_000))
    assert waiting is not None and waiting.done.is_set() and isinstance(waiting.error, errors.RepositoryUnavailable)
    assert len(bucket.asked) <= 64 and not restores.waiting
    with pytest.raises(errors.RepositoryUnavailable):
        restores.ask(released(1), ordered=True)
