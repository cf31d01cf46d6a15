"""EventObserver: brings what events tell of one association into the table, by the steps of a sweep.

Events of one key are one question: what is there now? The latest event answers it where it can be believed (`event_judge`),
otherwise a HEAD does. What changed here while the bucket was asked is asked again, until the answer is younger than the change.
"""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import trio

from s3lustrefs import errors
from s3lustrefs.meta.attributes import TIME_MARGIN_NS
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.listing import Sweep
from s3lustrefs.meta.schema import UNKNOWN_CLASS, object_key
from s3lustrefs.model.association import Association
from s3lustrefs.model.events import InodeInvalidation, Invalidation
from s3lustrefs.model.ids import AssocId
from s3lustrefs.movers import event_log
from s3lustrefs.movers.event_judge import EventJudge, Verdict
from s3lustrefs.movers.headers import HeaderFetcher
from s3lustrefs.movers.observer import Observer, Seen, batch_of
from s3lustrefs.repository.event_messages import BucketEvent, EventKind, latest
from s3lustrefs.repository.object_store import ObjectVersion

log = logging.getLogger(__name__)

_HEADS_AT_ONCE = 32
_MOST_ROUNDS = 5
_DIRECTORY_SECONDS = 30.0
"""How long a directory without its own object waits for events about what was in it, before it stays."""


@dataclass(slots=True)
class Told(Seen):
    """What events brought; `asked` counts the HEADs they took."""

    asked: int = 0


class EventObserver:
    """One at a time: `observe` and `settle_directories` are called by one task."""

    def __init__(
        self,
        engine: MetadataEngine,
        assoc: AssocId,
        observer: Observer,
        headers: HeaderFetcher,
        notify: Callable[[Invalidation], None],
        judge: EventJudge,
    ) -> None:
        self._engine = engine
        self._assoc = assoc
        self._observer = observer
        self._headers = headers
        self._notify = notify
        self.judge = judge
        self._gone_markers: dict[bytes, float] = {}
        """Directories whose own object is gone, and until when they wait to become empty; first who waits longest."""
        self._may_be_empty: set[bytes] = set()
        """Of these, those to look at: new ones, and those that something was removed from. There may be thousands of others."""
        self.told = Told()
        self._said_to_be_gone: frozenset[bytes] = frozenset()
        """Of the events under way."""

    def association(self) -> Association:
        return self._observer.association()

    async def observe(self, events: Iterable[BucketEvent]) -> frozenset[bytes]:
        """Bring the table into line with what events tell. The keys that the bucket gave no answer about; those that it refuses
        to tell of, while it tells of others, are not among them: they are looked at later (`look_again`).

        Raises: StorageError, NotInRepository; some of the events may have had their effect.
        """
        by_key: dict[bytes, list[BucketEvent]] = defaultdict(list)
        for event in events:
            by_key[event.key].append(event)
        self._said_to_be_gone = frozenset(
            key for key, told in by_key.items() if all(each.kind is EventKind.REMOVED for each in told)
        )
        failed: set[bytes] = set()
        with self._engine.sweep(self.association().auto_import, is_told=True) as sweep:
            believed, ask = await self._judge(by_key)
            again = await self._bring_in(believed, ask, sweep, failed)
        for _ in range(_MOST_ROUNDS):
            if not again:
                break
            with self._engine.sweep(self.association().auto_import, is_told=True) as sweep:
                again = await self._bring_in({}, again, sweep, failed)
        return frozenset(failed | again)

    async def _judge(self, by_key: Mapping[bytes, list[BucketEvent]]) -> tuple[dict[bytes, ObjectVersion], set[bytes]]:
        """(versions to believe in, keys to ask about)."""
        believed: dict[bytes, ObjectVersion] = {}
        ask: set[bytes] = set()
        for key, told in by_key.items():
            event = latest(told)
            verdict = Verdict.ASK if event is None else await self.judge.judge(event)
            if event is None or verdict is Verdict.ASK:
                if key.endswith(b"/") and all(each.kind is EventKind.REMOVED for each in told):
                    self._gone_markers.setdefault(key, trio.current_time() + _DIRECTORY_SECONDS)
                    self._may_be_empty.add(key)
                else:
                    ask.add(key)
            elif verdict is Verdict.BELIEVE:
                time_ns = event.time_ns // 10**9 * 10**9
                believed[key] = ObjectVersion(event.etag, event.size, time_ns, storage_class=UNKNOWN_CLASS)
            elif verdict is Verdict.SAME_VERSION:
                await self._hear_again(event)
        return believed, ask

    async def _hear_again(self, event: BucketEvent) -> None:
        """The same bytes: written by us, or written again by somebody with other attributes."""
        association = self.association()
        if "CHANGED" not in association.auto_import or association.posix_metadata == "off":
            return
        inode = await self._engine.doubt_headers(self._assoc, event.key, event.time_ns, TIME_MARGIN_NS)
        if inode is not None:
            self.told.changed += 1
            self._notify(InodeInvalidation(inode.ino, content=False))
            self._headers.expect(inode)

    async def _bring_in(
        self, believed: dict[bytes, ObjectVersion], ask: set[bytes], sweep: Sweep, failed: set[bytes]
    ) -> set[bytes]:
        """One round; the keys that changed here meanwhile."""
        there, gone = dict(believed), []
        for key, version in (await self._ask(ask, failed)).items():
            if version is not None:
                there[key] = version
                continue
            self.judge.note_absent(key)
            if "DELETED" in sweep.events:
                gone.append(key)
        if there:
            await self._observer.apply(batch_of(self.association(), there), b"", sweep, self.told)
        for key in sorted(gone, reverse=True):
            await self._observer.remove(key, sweep, self.told)
            if (above := _directory_of(key)) in self._gone_markers:
                self._may_be_empty.add(above)
        return {key for key in (*there, *gone) if object_key(self._assoc, key) in sweep.overtaken}

    async def _ask(self, keys: Iterable[bytes], failed: set[bytes]) -> dict[bytes, ObjectVersion | None]:
        found: dict[bytes, ObjectVersion | None] = {}
        failures: list[errors.RepositoryError] = []
        limit = trio.Semaphore(_HEADS_AT_ONCE)

        async def ask(key: bytes) -> None:
            try:
                head = await self._observer.find(key)
                found[key] = head.version if head is not None else None
            except errors.RepositoryError as exc:
                failures.append(exc)
                failed.add(key)
                event_log.note_unanswered(key, exc, is_gone=key in self._said_to_be_gone)
            finally:
                limit.release()

        async with trio.open_nursery() as nursery:
            for key in keys:
                await limit.acquire()
                self.told.asked += 1
                nursery.start_soon(ask, key)
        failed -= {key for key in failed if key in self._observer.unanswered}
        if failures:
            log.warning("events wait, the bucket does not say what is true keys=%d error=%s", len(failures), failures[0])
        return found

    @property
    def unanswered(self) -> int:
        """Keys that are looked at later."""
        return len(self._observer.unanswered)

    def put_off(self, keys: Iterable[bytes]) -> bool:
        """Look at keys later, though no event about them comes again. False: not all of them, there are too many."""
        return not [key for key in keys if not self._observer.unanswered.note(key)]

    async def look_again(self) -> None:
        """Ask about some of the keys whose time has come. Raises: StorageError."""
        keys = frozenset(self._observer.unanswered.due(_HEADS_AT_ONCE))
        if keys:
            failed: set[bytes] = set()
            with self._engine.sweep(self.association().auto_import, is_told=True) as sweep:
                again = await self._bring_in({}, set(keys), sweep, failed)
            self.put_off(again)

    async def settle_directories(self) -> None:
        """Remove directories whose own object is gone, deepest first, once they are empty.

        Events of a recursive delete come in any order. One that does not become empty stays, as a directory that exists
        because of what is in it. Raises: StorageError.
        """
        if "DELETED" not in self.association().auto_import:
            self._gone_markers.clear()
            self._may_be_empty.clear()
        while ready := await self._ready_directories():
            failed: set[bytes] = set()
            with self._engine.sweep(self.association().auto_import, is_told=True) as sweep:
                again = await self._bring_in({}, ready, sweep, failed)
            for key in ready - failed - again:
                del self._gone_markers[key]
            if failed or again:
                self._may_be_empty |= failed | again
                break

    async def _ready_directories(self) -> set[bytes]:
        """Those that are empty, which may make the ones above them so, or that have waited long enough."""
        now = trio.current_time()
        ready = set(itertools.takewhile(lambda key: now >= self._gone_markers[key], self._gone_markers))
        look, self._may_be_empty = self._may_be_empty - ready, set()
        for key in look:
            if key in self._gone_markers and await self._is_empty(key):
                ready.add(key)
            await trio.lowlevel.checkpoint()
        return ready

    async def _is_empty(self, key: bytes) -> bool:
        association = self.association()
        relative = association.relative_of(key).rstrip(b"/")
        try:
            inode = await self._engine.resolve(association.file_system_path.rstrip("/").encode() + b"/" + relative)
            return not inode.is_dir or not await self._engine.readdir(inode.ino, b"", 1)
        except (errors.NotFound, errors.StaleInode, errors.NotADirectory):
            return True


def _directory_of(key: bytes) -> bytes:
    """The key of the marker of the directory that a file, or a marker, is in."""
    above, slash, _ = key.removesuffix(b"/").rpartition(b"/")
    return above + slash
