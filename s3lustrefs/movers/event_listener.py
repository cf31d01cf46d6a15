"""EventListener: takes the messages of one queue, has their events observed, and deletes them once the effect is durable.

One long poll at a time while little happens; as many calls side by side as the queue fills while much does. A message is
deleted after the table is synced, for all of the last second together: a power cut costs a repetition, never an event. What
the bucket gave no answer about comes again by itself; after some times, or at once where it refuses to tell of one key only,
the key is put off: it is asked about now and then, and holds no other up. Without a queue, for
whatever reason, sweeps alone serve, and `status` says why.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import trio

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.ids import AssocId
from s3lustrefs.movers.directory_importer import DirectoryImporter
from s3lustrefs.movers.event_observer import EventObserver
from s3lustrefs.movers.importer import Importer
from s3lustrefs.repository.event_messages import BucketEvent
from s3lustrefs.repository.event_queue import HIDDEN_SECONDS, MOST_MESSAGES, WAIT_SECONDS, EventQueue, Message
from s3lustrefs.repository.retry import backoff_seconds

log = logging.getLogger(__name__)

_MOST_CALLS = 32
_MOST_RECEIVES = 5
"""How often a message is tried whose keys the bucket says nothing about, before they are put off."""
_POLICY_SECONDS = 5.0
"""How soon a policy that was switched on is noticed."""
_SYNC_SECONDS = 1.0
_LEAST_POLL_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 60.0
_FORGET_SECONDS = HIDDEN_SECONDS + 3 * _LONGEST_PAUSE_SECONDS
"""A message that was to come again and has not by then is nobody's any more."""
_LAGS = 1000


@dataclass(frozen=True, slots=True)
class EventStatistics:
    """Live numbers. Lag: from the event's own time to its effect here. `oldest_queued_seconds` None: nobody knows."""

    state: str
    error: str | None
    queue: str | None
    events: int
    asked: int
    new: int
    changed: int
    deleted: int
    foreign: int
    unreadable: int
    lost: int
    unanswered: int
    """Keys put off, those that sweeps met included."""
    last_event_at: float
    lag_seconds: float | None
    oldest_queued_seconds: float | None


@dataclass(frozen=True, slots=True)
class Member:
    """One association whose events arrive in the queue, which `connect` finds or makes."""

    observer: EventObserver
    importer: Importer | DirectoryImporter
    connect: Callable[[], Awaitable[EventQueue]]

    @property
    def is_wanted(self) -> bool:
        """Whether its policy wants to know; no, once its deletion was asked for."""
        try:
            return bool(self.observer.association().import_events)
        except errors.NotInRepository:
            return False


class EventListener:
    """Of one queue; associations `join` and `leave` while it listens."""

    def __init__(self, engine: MetadataEngine) -> None:
        self._engine = engine
        self._members: Mapping[AssocId, Member] = {}
        """Replaced, never changed: who goes through them meanwhile goes on with those of before."""
        self._has_news = False
        """Members came or went since the listener began to listen."""
        self._taking = trio.Lock()
        self._queue: EventQueue | None = None
        self._state = "STARTING"
        self._error = ""
        self._done: list[str] = []
        """Receipts of messages that are to be deleted."""
        self._wake = trio.Event()
        self._lags: deque[float] = deque(maxlen=_LAGS)
        self._oldest_sent = 0.0
        """Of the messages that are worked on, or of those that an import keeps waiting; unix time, 0: there are none."""
        self._is_age_known = False
        self._coming_again: dict[str, tuple[float, float]] = {}
        """By message: when it was sent (unix time), and until when it is remembered (trio's clock)."""
        self._events = self._foreign = self._unreadable = self._lost = 0
        self._last_event_at = 0.0

    def join(self, assoc: AssocId, member: Member) -> None:
        """Take the events of an association too, once its import is complete: until then those of all wait in the queue."""
        self._members = {**self._members, assoc: member}
        self._has_news = True

    async def leave(self, assoc: AssocId) -> None:
        """Return once nothing is done about events of an association any more."""
        async with self._taking:
            self._members = {other: member for other, member in self._members.items() if other != assoc}
            self._has_news = True

    @property
    def is_idle(self) -> bool:
        """Whether no association is left."""
        return not self._members

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen for as long as some policy wants to know. Ends by cancellation."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._delete_messages)
            failures = 0
            while True:
                try:
                    if not self._is_wanted():
                        self._state, self._error, self._is_age_known = "OFF", "", False
                        await trio.sleep(_POLICY_SECONDS)
                        continue
                    self._has_news = False
                    self._queue = await next(iter(self._members.values())).connect()
                    await self._wait_for_imports(self._queue)
                    await self._listen(self._queue)
                    failures, self._oldest_sent = 0, 0.0
                    continue  # nobody wants to know any more, or others do
                except errors.S3LustreError as exc:
                    failure = str(exc)
                    if failure != self._error:
                        log.warning("bucket events not available, sweeps go on error=%s", exc)
                except Exception:
                    # Whatever a queue may say costs events, which sweeps make good, not everybody their mount.
                    failure = "internal error; daemon.log has the traceback"
                    log.exception("bucket events not available, sweeps go on")
                failures = 1 if self._state == "LISTENING" else failures + 1
                self._state, self._error, self._oldest_sent, self._is_age_known = "FAILING", failure, 0.0, False
                await trio.sleep(backoff_seconds(failures))

    def _is_wanted(self) -> bool:
        return any(member.is_wanted for member in self._members.values())

    async def _wait_for_imports(self, queue: EventQueue) -> None:
        """Until then events wait in the queue. Raises: RepositoryError."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._note_oldest, queue)
                for member in self._members.values():
                    await member.importer.wait_for_end()
                nursery.cancel_scope.cancel()
        except* errors.RepositoryError as group:
            raise group.exceptions[0] from None

    async def _note_oldest(self, queue: EventQueue) -> None:
        """Look at the first messages without taking them. Once: each look counts as a receipt, and nobody takes them meanwhile."""
        while True:
            asked = trio.current_time()
            messages = await queue.receive(WAIT_SECONDS, hidden_seconds=0)
            self._oldest_sent, self._is_age_known = _oldest(messages), True
            if messages:
                return
            if trio.current_time() - asked < _LEAST_POLL_SECONDS:
                await trio.sleep(_LEAST_POLL_SECONDS)

    async def _listen(self, queue: EventQueue) -> None:
        calls, refusals = 1, 0
        with ExitStack() as stack:
            for member in self._members.values():
                stack.enter_context(member.observer.judge.remembering())
            messages = await queue.receive(0)  # so that what is wrong shows at once
            while self._is_wanted() and not self._has_news:
                if self._state != "LISTENING":
                    log.info("listening to bucket events queue=%s", queue.address.name)
                self._state, self._error, self._is_age_known = "LISTENING", "", True
                is_more = len(messages) >= calls * MOST_MESSAGES
                calls = min(calls * 2, _MOST_CALLS) if is_more else max(1, -(-len(messages) // MOST_MESSAGES))
                async with self._taking:
                    refusals = refusals + 1 if await self._take(messages) else 0
                if refusals:  # what is received meanwhile could only wait, and use up its tries
                    await trio.sleep(min(backoff_seconds(refusals), _LONGEST_PAUSE_SECONDS))
                if not is_more:
                    self._oldest_sent = 0.0
                for member in self._members.values():
                    await member.observer.judge.prune()
                asked = trio.current_time()
                messages = await _receive(queue, calls)
                if calls == 1 and not messages and trio.current_time() - asked < _LEAST_POLL_SECONDS:
                    await trio.sleep(_LEAST_POLL_SECONDS)  # no long poll, whatever was asked for

    async def _take(self, messages: Sequence[Message]) -> bool:
        """Whether some events have to come again."""
        if messages:
            failpoint("event.received")
        self._oldest_sent = _oldest(messages)
        told: dict[AssocId, list[BucketEvent]] = defaultdict(list)
        for message in messages:
            if message.events is None:
                self._unreadable += 1
                log.warning("event message cannot be read, deleted error=%s", message.defect)
            for event in message.events or ():
                assoc = self._place(event)
                if assoc is None:
                    self._foreign += 1
                else:
                    told[assoc].append(event)
        failed = {assoc: await self._observe(assoc, events) for assoc, events in told.items()}
        for member in self._members.values():
            if member.is_wanted:
                await member.observer.settle_directories()
                await member.observer.look_again()
        if messages:
            failpoint("event.applied")
        self._finish(messages, failed)
        return any(failed.values())

    def _place(self, event: BucketEvent) -> AssocId | None:
        for assoc, member in self._members.items():
            if not member.is_wanted:
                continue
            association = member.observer.association()
            if association.bucket == event.bucket and association.is_imported(event.key):
                return assoc
        return None

    async def _observe(self, assoc: AssocId, events: list[BucketEvent]) -> frozenset[bytes]:
        """The keys whose events must come again."""
        try:
            failed = await self._members[assoc].observer.observe(events)
        except errors.S3LustreError as exc:
            log.warning("events not taken, they come again association=%d events=%d error=%s", assoc, len(events), exc)
            return frozenset(event.key for event in events)
        except Exception:
            # A defect must cost some events, which the next sweep makes good, not everybody their mount.
            log.exception("events not taken association=%d events=%d", assoc, len(events))
            return frozenset(event.key for event in events)
        now = time.time()
        self._events += len(events)
        self._last_event_at = now
        self._lags.extend(max(0.0, now - event.time_ns / 1e9) for event in events if event.key not in failed)
        return failed

    def _finish(self, messages: Sequence[Message], failed: Mapping[AssocId, frozenset[bytes]]) -> None:
        for message in messages:
            stuck = [(a, e.key) for e in message.events or () if (a := self._place(e)) is not None and e.key in failed.get(a, ())]
            if stuck and message.receives < _MOST_RECEIVES:
                self._coming_again[message.message_id] = message.sent_seconds, trio.current_time() + _FORGET_SECONDS
                continue
            self._coming_again.pop(message.message_id, None)
            lost = [key for assoc, key in stuck if not self._members[assoc].observer.put_off([key])]
            if lost:
                self._lost += 1
                log.error("event given up, left to the next sweep key=%r tries=%d", lost[0], message.receives)
            elif stuck:
                log.warning("event put off, its key is looked at later key=%r tries=%d", stuck[0][1], message.receives)
            self._done.append(message.receipt)
        if self._done:
            self._wake.set()

    async def _delete_messages(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            await trio.sleep(_SYNC_SECONDS)
            done, self._done = self._done, []
            try:
                await self._engine.sync()
                await self._delete(done)
            except errors.S3LustreError as exc:
                # They come again, and change nothing then.
                log.warning("event messages not deleted count=%d error=%s", len(done), exc)
            except Exception:
                log.exception("event messages not deleted count=%d", len(done))

    async def _delete(self, receipts: list[str]) -> None:
        queue = self._queue
        assert queue is not None  # the receipts came from it
        limit = trio.Semaphore(_MOST_CALLS // 2)

        async def delete(part: list[str]) -> None:
            try:
                failed = await queue.delete(part)
                if failed:
                    log.info("event messages not deleted count=%d", failed)
            finally:
                limit.release()

        try:
            async with trio.open_nursery() as nursery:
                for at in range(0, len(receipts), MOST_MESSAGES):
                    await limit.acquire()
                    nursery.start_soon(delete, receipts[at : at + MOST_MESSAGES])
        except* errors.RepositoryError as group:
            raise group.exceptions[0] from None

    def statistics(self) -> EventStatistics:
        told = [member.observer.told for member in self._members.values()]
        return EventStatistics(
            self._state, self._error or None, self._queue.address.url if self._queue else None, self._events,
            sum(t.asked for t in told), sum(t.new for t in told), sum(t.changed for t in told), sum(t.deleted for t in told),
            self._foreign, self._unreadable, self._lost, sum(m.observer.unanswered for m in self._members.values()),
            self._last_event_at,
            statistics.median(self._lags) if self._lags else None, self._oldest_queued() if self._is_age_known else None,
        )  # fmt: skip

    def _oldest_queued(self) -> float:
        """Seconds. What was received and has to come again is in the queue all the time, though hidden for some of it."""
        now = trio.current_time()
        self._coming_again = {name: told for name, told in self._coming_again.items() if told[1] > now}
        sent = [self._oldest_sent, *(sent for sent, _ in self._coming_again.values())]
        return max(0.0, time.time() - min(each for each in sent if each)) if any(sent) else 0.0


def _oldest(messages: Sequence[Message]) -> float:
    """When the oldest was sent, unix time; 0: nobody tells."""
    return min((m.sent_seconds for m in messages if m.sent_seconds), default=0.0)


async def _receive(queue: EventQueue, calls: int) -> list[Message]:
    """What is in the queue now; with one call, what comes soon. Raises: RepositoryError."""
    if calls == 1:
        return await queue.receive(WAIT_SECONDS)
    messages: list[Message] = []

    async def receive() -> None:
        messages.extend(await queue.receive(0))

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(calls):
                nursery.start_soon(receive)
    except* errors.RepositoryError as group:
        raise group.exceptions[0] from None
    return messages
