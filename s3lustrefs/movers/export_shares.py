"""ExportShares: how many exports of each association are under way, so that a bucket that hangs holds up only its own.

Each association may have as many as if it were alone. The journal is gone through in its order: who comes to a record whose
association has no room waits for it, but in one pass only for so long, and not again while nothing of it ends; then the rest of
that association is passed over, and the next pass begins with it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

import trio

from s3lustrefs.model.ids import AssocId

_TURN_SECONDS = 2.0
"""Of a pass, for each association that has no room: those behind it wait that long."""


class ExportShares:
    """`AssocId(0)` are files of no association, which have nothing to send."""

    def __init__(self) -> None:
        self._running: Counter[AssocId] = Counter()
        self._freed: dict[AssocId, trio.Event] = {}
        self._waited: defaultdict[AssocId, float] = defaultdict(float)
        """Seconds of this pass."""
        self._stuck: set[AssocId] = set()

    def begin_pass(self) -> None:
        self._waited.clear()

    def under_way(self, assoc: AssocId) -> int:
        return self._running[assoc]

    def add(self, assoc: AssocId) -> None:
        self._running[assoc] += 1

    def remove(self, assoc: AssocId) -> None:
        self._running[assoc] -= 1
        self._stuck.discard(assoc)
        if assoc in self._freed:
            self._freed.pop(assoc).set()

    async def has_room(self, assoc: AssocId, most: int, is_alone: Callable[[], bool]) -> bool:
        """Whether another one may start, as soon as that can be said; always True in the end where nobody else waits."""
        while self._running[assoc] >= most:
            alone = is_alone()
            left = _TURN_SECONDS if alone else _TURN_SECONDS - self._waited[assoc]
            if left <= 0 or (assoc in self._stuck and not alone):
                return False
            started = trio.current_time()
            with trio.move_on_after(left) as turn:
                await self._freed.setdefault(assoc, trio.Event()).wait()
            self._waited[assoc] += trio.current_time() - started
            if turn.cancelled_caught:
                self._stuck.add(assoc)
        return True
