"""Slots: how many transfers run at once, those somebody waits for first."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Turn:
    """One transfer's place. `is_demand`: somebody waits for it; for one that has its slot, as what it got that."""

    __slots__ = ("granted", "is_demand", "is_waiting")

    def __init__(self, *, demand: bool) -> None:
        self.is_demand = demand
        self.is_waiting = False
        self.granted: trio.Event | None = None


class Slots:
    """`total` transfers at once, of which background ones may hold at most `background`; `least` of them go before whoever waits,
    so that the background comes to an end under any load."""

    def __init__(self, total: int, background: int, least: int = 0) -> None:
        self._total = total
        self._background = background
        self._least = least
        self._busy = 0
        self._busy_background = 0
        self._demand: deque[Turn] = deque()
        self._waiting: deque[Turn] = deque()

    @property
    def busy(self) -> int:
        return self._busy

    @asynccontextmanager
    async def hold(self, *, demand: bool) -> AsyncIterator[None]:
        turn = Turn(demand=demand)
        await self.acquire(turn)
        try:
            yield
        finally:
            self.release(turn)

    def release(self, turn: Turn) -> None:
        self._busy -= 1
        self._busy_background -= 0 if turn.is_demand else 1
        self._wake()

    async def acquire(self, turn: Turn) -> None:
        """No checkpoint when a slot is free. Each is to be released."""
        if self._is_free(demand=turn.is_demand):
            self._take(turn)
            return
        turn.granted, turn.is_waiting = trio.Event(), True
        self._queue_of(turn).append(turn)
        try:
            await turn.granted.wait()
        except trio.Cancelled:
            if turn.is_waiting:
                turn.is_waiting = False
                self._queue_of(turn).remove(turn)
            else:  # the slot was already ours
                self.release(turn)
            raise

    def promote(self, turn: Turn) -> None:
        """Somebody waits for a background transfer now: if it has no slot yet it gets the next, or one at once."""
        if turn.is_waiting and not turn.is_demand:
            self._waiting.remove(turn)
            turn.is_demand = True
            self._demand.append(turn)
            self._wake()

    def _queue_of(self, turn: Turn) -> deque[Turn]:
        return self._demand if turn.is_demand else self._waiting

    def _is_free(self, *, demand: bool) -> bool:
        if demand or self._busy_background < self._least:
            return self._busy < self._total
        return self._busy < self._total and self._busy_background < self._background and not self._demand

    def _take(self, turn: Turn) -> None:
        self._busy += 1
        self._busy_background += 0 if turn.is_demand else 1

    def _wake(self) -> None:
        """Hand free slots over in one step, so that nobody can slip in between."""
        while self._waiting and self._busy_background < self._least and self._is_free(demand=False):
            self._grant(self._waiting)
        while self._demand and self._is_free(demand=True):
            self._grant(self._demand)
        while self._waiting and self._is_free(demand=False):
            self._grant(self._waiting)

    def _grant(self, queue: deque[Turn]) -> None:
        turn = queue.popleft()
        self._take(turn)
        turn.is_waiting = False
        assert turn.granted is not None  # as long as it waits
        turn.granted.set()
