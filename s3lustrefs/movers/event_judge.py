"""EventJudge: which events can be believed, and about which keys the bucket is asked.

Events arrive late, twice, in any order, and some are our own. A HEAD of the key always tells the truth, but costs a request.
So an event is believed only if it tells of a new object and nothing speaks against that being the latest: it happened clearly
later than what is known of the key; or nothing is known of the key, and no object of that key is known to have gone since.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum

import trio

from s3lustrefs.meta.attributes import TIME_MARGIN_NS
from s3lustrefs.meta.engine_repository import RepositoryEngine
from s3lustrefs.meta.schema import object_key
from s3lustrefs.model.ids import AssocId
from s3lustrefs.repository.event_messages import BucketEvent, EventKind

_SKEW_NS = 5_000_000_000
"""Between the endpoint's clock and this host's. A host that is later by more believes what it should ask about, for as long."""
_MOST_REMEMBERED = 50_000
_SLICE = 500


class Verdict(Enum):
    """What to do about an event."""

    NOTHING = "it is known"
    SAME_VERSION = "it tells of the version that is known, perhaps with other attributes"
    BELIEVE = "apply it as a listing is applied"
    ASK = "the HEAD of the key decides"


class EventJudge:
    """Of one association. Remembers keys whose objects changed or went since a certain time, in memory."""

    def __init__(self, engine: RepositoryEngine, assoc: AssocId, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._engine = engine
        self._assoc = assoc
        self._clock_ns = clock_ns
        self._touched: set[bytes] = set()
        self._since_ns = clock_ns()

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """To be held for as long as events are judged."""
        with self._engine.sweep(frozenset()) as sweep:
            self._touched, self._since_ns = sweep.touched, self._clock_ns()
            yield

    async def judge(self, event: BucketEvent) -> Verdict:
        known = await self._engine.find_object(self._assoc, event.key)
        table_key = object_key(self._assoc, event.key)
        if event.kind is not EventKind.CREATED:
            if known is None and event.kind is EventKind.REMOVED:
                self.note_absent(event.key)
                return Verdict.NOTHING
            return Verdict.ASK
        if not event.etag or event.size < 0:
            return Verdict.ASK
        if known is None:
            is_recent = event.time_ns > self._since_ns + _SKEW_NS
            return Verdict.BELIEVE if is_recent and table_key not in self._touched else Verdict.ASK
        if known.etag == event.etag and known.size == event.size:
            return Verdict.SAME_VERSION
        # An object that we wrote has no time: S3 does not tell it with its answer.
        return Verdict.BELIEVE if known.mtime_ns and event.time_ns > known.mtime_ns + TIME_MARGIN_NS else Verdict.ASK

    def note_absent(self, key: bytes) -> None:
        """There is no object of this key: an event of its creation that is still to come is older than that."""
        self._touched.add(object_key(self._assoc, key))

    async def prune(self) -> None:
        """Keep the memory small: keys that have an object are judged by its time, and need not be remembered."""
        if len(self._touched) <= _MOST_REMEMBERED:
            return
        prefix = object_key(self._assoc, b"")
        keys = list(self._touched)
        for at in range(0, len(keys), _SLICE):
            for table_key in keys[at : at + _SLICE]:
                foreign = not table_key.startswith(prefix)
                if foreign or await self._engine.find_object(self._assoc, table_key[len(prefix) :]) is not None:
                    self._touched.discard(table_key)
            await trio.lowlevel.checkpoint()
        if len(self._touched) > _MOST_REMEMBERED // 2:
            self._touched.clear()
            self._since_ns = self._clock_ns()
