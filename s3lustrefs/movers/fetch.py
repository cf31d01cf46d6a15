"""Fetch: one ranged GET under way, whether a reader waits for it, and how long it may take.

A reader's patience covers everything, also the wait for a slot. Nobody is kept from anything by a background fetch that waits until
readers are done, so that this costs it no patience; and when a reader joins it, it goes on as a reader's.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from s3lustrefs import errors
from s3lustrefs.movers.slots import Slots, Turn


class Fetch:
    """`scope` is what `patience_seconds` end; `done` comes after the blocks are there, or `error` is set."""

    def __init__(self, *, demand: bool, patience_seconds: float) -> None:
        self.is_demand = demand
        self.done = trio.Event()
        self.error: errors.S3LustreError | None = None
        self.scope = trio.CancelScope(deadline=trio.current_time() + patience_seconds)
        self._patience_seconds = patience_seconds
        self._place: tuple[Slots, Turn] | None = None

    def join(self) -> None:
        """A reader waits for it from now on, with patience of its own."""
        if self.is_demand:
            return
        self.is_demand = True
        self.scope.deadline = trio.current_time() + self._patience_seconds
        if self._place is not None:
            slots, turn = self._place
            slots.promote(turn)

    @asynccontextmanager
    async def slot(self, slots: Slots) -> AsyncIterator[None]:
        """Hold a slot."""
        turn = Turn(demand=self.is_demand)
        self._place = slots, turn
        left = self.scope.deadline - trio.current_time()
        if not self.is_demand:
            self.scope.deadline = math.inf
        await slots.acquire(turn)
        try:
            if not self.is_demand:
                self.scope.deadline = trio.current_time() + left
            yield
        finally:
            slots.release(turn)
