"""Associations that come to a queue, leave it, and are switched off, while somebody listens."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from s3lustrefs.model.association import Association
from s3lustrefs.model.ids import AssocId
from s3lustrefs.movers.event_listener import EventListener, Member
from s3lustrefs.repository.event_messages import BucketEvent, EventKind
from s3lustrefs.repository.event_queue import HIDDEN_SECONDS, Message


class Queue:
    """Mostly empty."""

    class address:
        name = url = "queue"

    def __init__(self) -> None:
        self.connected = 0
        self.messages: list[Message] = []
        self.deleted: list[str] = []

    async def connect(self) -> Any:
        await trio.lowlevel.checkpoint()
        self.connected += 1
        return self

    async def receive(self, seconds: float, *, hidden_seconds: int = HIDDEN_SECONDS) -> list[Any]:
        await trio.sleep(seconds)
        if not hidden_seconds:
            return self.messages
        told, self.messages = self.messages, []
        return told

    async def delete(self, receipts: list[str]) -> int:
        await trio.lowlevel.checkpoint()
        self.deleted += receipts
        return 0


class FailingOnce:
    """Stands for the table."""

    def __init__(self) -> None:
        self.syncs = 0

    async def sync(self) -> None:
        await trio.lowlevel.checkpoint()
        self.syncs += 1
        if self.syncs == 1:
            raise RuntimeError("a defect")


class Watched:
    """Stands for observer, judge and importer of one association."""

    def __init__(self, number: int) -> None:
        self.now = Association("/a", "b", "", assoc_id=AssocId(number))
        self.judge = self.told = self
        self.failing: frozenset[bytes] = frozenset()
        self.put_off_keys: list[bytes] = []
        self.imported = trio.Event()
        self.imported.set()
        self.asked = self.new = self.changed = self.deleted = self.unanswered = 0

    def association(self) -> Association:
        return self.now

    @contextmanager
    def remembering(self) -> Any:
        yield

    async def settle_directories(self) -> None:
        await trio.lowlevel.checkpoint()

    prune = look_again = settle_directories

    async def wait_for_end(self) -> None:
        await self.imported.wait()

    async def observe(self, events: list[BucketEvent]) -> frozenset[bytes]:
        await trio.lowlevel.checkpoint()
        return self.failing

    def put_off(self, keys: list[bytes]) -> bool:
        self.put_off_keys += keys
        return True

    def member(self, queue: Queue) -> Member:
        return Member(cast(Any, self), cast(Any, self), queue.connect)


async def test_policy_that_is_switched_off_and_members_that_come_and_go_end_a_round(autojump_clock: MockClock) -> None:
    queue, first, second = Queue(), Watched(1), Watched(2)
    listener = EventListener(cast(Any, None))
    listener.join(AssocId(1), first.member(queue))
    async with trio.open_nursery() as nursery:
        await nursery.start(listener.run)
        await trio.sleep(60)
        assert (listener.statistics().state, queue.connected) == ("LISTENING", 1)
        first.now = replace(first.now, auto_import=frozenset())
        await trio.sleep(60)
        assert (listener.statistics().state, listener.statistics().error) == ("OFF", None)
        first.now = replace(first.now, auto_import=frozenset({"NEW"}))
        await trio.sleep(60)
        assert (listener.statistics().state, queue.connected) == ("LISTENING", 2)
        listener.join(AssocId(2), second.member(queue))
        await trio.sleep(60)
        assert (listener.statistics().state, queue.connected) == ("LISTENING", 3)
        await listener.leave(AssocId(1))
        first.now = replace(first.now, lifecycle="MISCONFIGURED")
        await trio.sleep(60)
        assert (listener.statistics().state, queue.connected, listener.is_idle) == ("LISTENING", 4, False)
        second.now = replace(second.now, lifecycle="MISCONFIGURED")
        await trio.sleep(60)
        assert listener.statistics().state == "OFF"
        await listener.leave(AssocId(2))
        assert listener.is_idle
        nursery.cancel_scope.cancel()


async def test_a_defect_costs_a_repetition_and_not_the_mount(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    queue, table = Queue(), FailingOnce()
    listener = EventListener(cast(Any, table))
    listener.join(AssocId(1), Watched(1).member(queue))
    async with trio.open_nursery() as nursery:
        await nursery.start(listener.run)
        for receipt in ("first", "second"):
            queue.messages = [Message(receipt, [], "", 0.0, 1)]
            await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert table.syncs == 2 and queue.deleted == ["second"] and "a defect" in caplog.text
    caplog.clear()


class Synced:
    """Stands for the table."""

    async def sync(self) -> None:
        await trio.lowlevel.checkpoint()


def sent(seconds_ago: float, *, receives: int = 1) -> Message:
    events = [BucketEvent(EventKind.REMOVED, "b", b"key", 0)]
    return Message(f"receipt {receives}", events, "", time.time() - seconds_ago, receives, "m")


async def test_age_of_what_has_to_come_again_counts_until_it_is_done(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    queue, watched = Queue(), Watched(1)
    listener = EventListener(cast(Any, Synced()))
    listener.join(AssocId(1), watched.member(queue))

    def age() -> float:
        found = listener.statistics().oldest_queued_seconds
        assert found is not None
        return found

    async with trio.open_nursery() as nursery:
        await nursery.start(listener.run)
        await trio.sleep(60)
        assert age() == 0
        watched.failing = frozenset({b"key"})
        queue.messages = [sent(3600)]
        for _ in range(2):
            await trio.sleep(60)  # hidden meanwhile
            assert 3600 <= age() < 3660 and not queue.deleted
        queue.messages = [sent(3600, receives=5)]
        await trio.sleep(60)
        assert age() == 0 and queue.deleted == ["receipt 5"] and watched.put_off_keys == [b"key"]
        queue.messages = [sent(100)]
        await trio.sleep(60)
        assert 100 <= age() < 160
        await trio.sleep(600)  # somebody else took it
        assert age() == 0
        watched.failing = frozenset()
        queue.messages = [sent(100)]
        await trio.sleep(60)
        assert age() == 0
        nursery.cancel_scope.cancel()
    assert "event put off" in caplog.text
    caplog.clear()


async def test_age_of_what_waits_for_an_import_is_known(autojump_clock: MockClock) -> None:
    queue, watched = Queue(), Watched(1)
    watched.imported = trio.Event()
    listener = EventListener(cast(Any, Synced()))
    listener.join(AssocId(1), watched.member(queue))
    async with trio.open_nursery() as nursery:
        await nursery.start(listener.run)
        await trio.sleep(60)
        assert (listener.statistics().state, listener.statistics().oldest_queued_seconds) == ("STARTING", 0)
        queue.messages = [sent(7200)]
        await trio.sleep(60)
        assert 7200 <= (listener.statistics().oldest_queued_seconds or 0) < 7260 and queue.messages
        watched.imported.set()
        await trio.sleep(60)
        assert (listener.statistics().oldest_queued_seconds, queue.deleted) == (0, ["receipt 1"])
        nursery.cancel_scope.cancel()
