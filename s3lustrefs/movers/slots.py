"""Slots: how many transfers run at once, those somebody waits for first."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Slots:
    """`total` transfers at once, of which background ones may hold at most `background`."""

    def __init__(self, total: int, background: int) -> None:
        self._total = total
        self._background = background
        self._busy = 0
        self._busy_background = 0
        self._demand: deque[trio.Event] = deque()
        self._waiting: deque[trio.Event] = deque()

    @property
    def busy(self) -> int:
        return self._busy

    @asynccontextmanager
    async def hold(self, *, demand: bool) -> AsyncIterator[None]:
        await self.acquire(demand=demand)
        try:
            yield
        finally:
            self.release(demand=demand)

    def release(self, *, demand: bool) -> None:
        self._busy -= 1
        self._busy_background -= 0 if demand else 1
        self._wake()

    async def acquire(self, *, demand: bool) -> None:
        """No checkpoint when a slot is free. Each is to be released."""
        if self._free(demand):
            self._take(demand)
            return
        queue = self._demand if demand else self._waiting
        turn = trio.Event()
        queue.append(turn)
        try:
            await turn.wait()
        except trio.Cancelled:
            if turn.is_set():  # the slot was already ours
                self.release(demand=demand)
            else:
                queue.remove(turn)
            raise

    def _free(self, demand: bool) -> bool:
        if demand:
            return self._busy < self._total
        return self._busy < self._total and self._busy_background < self._background and not self._demand

    def _take(self, demand: bool) -> None:
        self._busy += 1
        self._busy_background += 0 if demand else 1

    def _wake(self) -> None:
        """Hand free slots over in one step, so that nobody can slip in between."""
        while self._demand and self._free(True):
            self._take(True)
            self._demand.popleft().set()
        while self._waiting and self._free(False):
            self._take(False)
            self._waiting.popleft().set()
