"""Associations that come to a queue, leave it, and are switched off, while somebody listens."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from s3lustrefs.model.association import Association
from s3lustrefs.model.ids import AssocId
from s3lustrefs.movers.event_listener import EventListener, Member
from s3lustrefs.repository.event_queue import Message


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

    async def receive(self, seconds: float) -> list[Any]:
        await trio.sleep(seconds)
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
        self.asked = self.new = self.changed = self.deleted = self.unanswered = 0

    def association(self) -> Association:
        return self.now

    @contextmanager
    def remembering(self) -> Any:
        yield

    async def settle_directories(self) -> None:
        await trio.lowlevel.checkpoint()

    prune = wait_for_end = look_again = settle_directories

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
