"""Exporter: brings due journal records into line in the bucket.

One record is exported at a time per claim, many claims at once. What must be done is decided anew from the table at each
attempt (`meta/export_targets.view`), so a record can be repeated at any point: after a crash, after a failure, after a change
that came in between. Requests are conditional on the version the table last saw; a conflict never overwrites.

Order: everything that touches one object key holds that key's lock, so a delete never overtakes the write of a newer file of
that name. An object that another inode still needs as its source is neither overwritten nor deleted: that inode goes first.

An upload and a write never overlap: `interrupt` cancels the claim of an inode and waits until nothing reads its bytes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import trio

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.schema import Change, JournalRecord, JournalState, journal_key
from s3lustrefs.model.ids import AssocId, Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers import event_log
from s3lustrefs.movers.export_deletes import DeleteExport
from s3lustrefs.movers.export_files import AsItWas, FileExport
from s3lustrefs.movers.export_order import LeftBehind, NotYet
from s3lustrefs.movers.export_shares import ExportShares
from s3lustrefs.movers.key_locks import KeyLocks
from s3lustrefs.movers.rate import Rate
from s3lustrefs.repository.retry import LONGEST_SECONDS, backoff_seconds

log = logging.getLogger(__name__)

_WORKERS = 192
"""Exports of an association under way at once. Of these at most 32 have a request on its way (`FileExport`): the others are
waiting for the disk, on which the file and the note of its request must be first."""
_DELETES = 512
"""The same for deletes, which have nothing to send and go together (`DeleteBatches`)."""
_SETTLE_SECONDS = 1.0
"""Age of a record before it is claimed, so that a burst of changes of one file costs one request. A drain does not wait for it."""
_BUSY_REQUESTS_PER_SECOND = 500
_BUSY_SECONDS = 0.1
_WORKERS_WHILE_BUSY = ((5.0, 0), (15.0, 2), (30.0, 8), (math.inf, _WORKERS))
"""(age of the record below, exports at once). With 32 at work a job creating small files got 430 files/s on two cores that
also ran the S3 server, with one 1,050, with none 2,100; FSx takes 8 to 10 s from close to object even when idle."""
_PASS_RECORDS = 256
_IDLE_SECONDS = 0.25
_LEAST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 1.0
_URGE_SECONDS = 30.0
_EXPANSION_BATCH = 500
_NO_RECORD_SECONDS = 1.0
_BLOCKED_SECONDS = 5.0
_NONE = AssocId(0)
_PATIENCE = 6
"""Attempts after which a failure that may pass by itself is told as one that does not."""


@dataclass(slots=True)
class Claim:
    """A record being exported."""

    assoc: AssocId
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)


@dataclass(frozen=True, slots=True)
class ExporterStatistics:
    """Live numbers for status."""

    in_flight: int
    exported_objects: int
    exported_bytes: int
    records_per_second: float
    """Journal records settled lately."""


class Exporter:
    """See the module docstring. `wall_ns` is the clock of the journal; `count_requests` is how many the kernel has sent so far."""

    def __init__(
        self,
        engine: MetadataEngine,
        files: FileExport,
        deletes: DeleteExport,
        count_requests: Callable[[], int],
        *,
        settle_seconds: float = _SETTLE_SECONDS,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._engine = engine
        self._files = files
        self._deletes = deletes
        self._settle_ns = int(settle_seconds * 1e9)
        self._wall_ns = wall_ns
        self._claims: dict[bytes, Claim] = {}
        self._by_ino: dict[Ino, Claim] = {}
        self._shares = ExportShares()
        self._count_requests = count_requests
        self._busy = False
        self._busy_at = -1.0
        self._busy_total = 0
        self._locks = KeyLocks()
        self._wake = trio.Event()
        self._idle = trio.Event()
        self._after = b""
        self._urged_ns = 0
        self._attempted: dict[bytes, int] = {}
        self._settled = 0
        self._rate = Rate()

    # --- the queue -------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Claim and export what is due. Ends by cancellation: what is under way stays in the journal."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                started = trio.current_time()
                claimed = await self._pass(nursery)
                if claimed and not self._is_busy():
                    continue
                # A long queue of records that must wait is looked through at most a tenth of the time, however often
                # something wakes us.
                spent = trio.current_time() - started
                await trio.sleep(min(max(_LEAST_PAUSE_SECONDS, 10 * spent), _LONGEST_PAUSE_SECONDS))
                with trio.move_on_after(_IDLE_SECONDS):
                    await self._wake.wait()
                self._wake = trio.Event()

    async def _pass(self, nursery: trio.Nursery) -> int:
        """Go once through the journal from where the last pass ended; how many records were claimed."""
        claimed = 0
        self._shares.begin_pass()
        while True:
            rows = await self._engine.due(self._after, _PASS_RECORDS)
            for key, record in rows:
                if self._is_ready(key, record):
                    assoc = await self._association_of(record)
                    if await self._may_start(record, assoc):
                        self._claim(nursery, key, record, assoc)
                        claimed += 1
            self._after = rows[-1][0] if len(rows) == _PASS_RECORDS else b""
            await trio.lowlevel.checkpoint()
            if not self._after:
                return claimed

    def _is_ready(self, key: bytes, record: JournalRecord) -> bool:
        if record.state is not JournalState.DUE or key in self._claims:
            return False
        now = self._wall_ns()
        if self._is_urged(record):
            return record.not_before_ns <= now or self._attempted.get(key, 0) < self._urged_ns
        return record.not_before_ns <= now and record.since_ns + self._settle_ns <= now

    def _is_urged(self, record: JournalRecord) -> bool:
        return record.since_ns <= self._urged_ns and self._wall_ns() - self._urged_ns < _URGE_SECONDS * 1e9

    async def _association_of(self, record: JournalRecord) -> AssocId:
        """The one whose bucket the record's export is likely to ask."""
        associations = self._engine.associations()
        if len(associations) == 1:
            return associations[0].assoc_id
        if not record.ino:
            return record.assoc
        try:
            location = await self._engine.locate(await self._engine.get(record.ino))
        except errors.StaleInode:
            return _NONE
        return location.association.assoc_id if location is not None else _NONE

    async def _may_start(self, record: JournalRecord, assoc: AssocId) -> bool:
        if not self._is_urged(record):
            return self._shares.under_way(assoc) < self._allowed(record)
        most = _WORKERS if record.ino else _DELETES
        return await self._shares.has_room(assoc, most, lambda: len(self._engine.associations()) == 1)

    def _allowed(self, record: JournalRecord) -> int:
        """How many exports may run for this one to start. They yield to whoever works on the mount, but not for ever."""
        if not self._is_busy():
            return _WORKERS
        age_seconds = (self._wall_ns() - record.since_ns) / 1e9
        return next(workers for limit, workers in _WORKERS_WHILE_BUSY if age_seconds < limit)

    def _is_busy(self) -> bool:
        """Whether the kernel has sent many requests lately."""
        now = trio.current_time()
        if now - self._busy_at >= _BUSY_SECONDS:
            total = self._count_requests()
            self._busy = (total - self._busy_total) / (now - self._busy_at) > _BUSY_REQUESTS_PER_SECOND
            self._busy_at, self._busy_total = now, total
        return self._busy

    def _claim(self, nursery: trio.Nursery, key: bytes, record: JournalRecord, assoc: AssocId) -> None:
        claim = Claim(assoc)
        self._claims[key] = claim
        self._shares.add(assoc)
        if record.ino:
            self._by_ino[record.ino] = claim
        nursery.start_soon(self._work, key, record, claim, name=f"export {record.ino or record.key!r}")

    async def _work(self, key: bytes, record: JournalRecord, claim: Claim) -> None:
        left: LeftBehind | None = None
        try:
            try:
                with claim.scope:
                    left = await self._export(key, record)
            finally:
                # From here on nothing reads the inode's bytes, so that a write need not wait, nor give up a delete.
                if record.ino:
                    del self._by_ino[record.ino]
                claim.done.set()
            if left is not None:
                await self._follow(left)
        finally:
            del self._claims[key]
            self._shares.remove(claim.assoc)
            if not self._claims:
                self._idle.set()
                self._idle = trio.Event()

    async def _follow(self, left: LeftBehind) -> None:
        try:
            await self._deletes.follow(left, self._locks.hold)
        except errors.S3LustreError as exc:
            log.warning("delete left to its own record key=%r error=%s", left.known.key, exc)
        except Exception:
            # A defect must cost one object its delete, not everybody their mount.
            log.exception("delete left to its own record key=%r", left.known.key)

    async def _export(self, key: bytes, listed: JournalRecord) -> LeftBehind | None:
        """One attempt; what is to be deleted after it. Whatever fails is recorded with the journal record, never lost."""
        record = await self._current(listed)
        if record is None:
            self._attempted.pop(key, None)
            return None
        self._attempted[key] = self._wall_ns()
        try:
            left = await self._dispatch(record)
            self._attempted.pop(key, None)
            self._settled += 1
            self._rate.sample(self._settled)
            return left
        except NotYet as wait:
            await self._wait(record, wait)
        except errors.S3LustreError as exc:
            await self._record_failure(record, exc)
        except Exception:
            # A defect must cost one file its export, not everybody their mount.
            log.exception("export failed unexpectedly ino=%d key=%r", record.ino, record.key)
            await self._record_failure(record, errors.S3LustreError("internal error; daemon.log has the traceback"))
        return None

    async def _wait(self, record: JournalRecord, wait: NotYet) -> None:
        """What waits for a record that was given up has failed too: a drain must end, and say so."""
        first = await self._engine.find_journal(wait.first) if wait.first else None
        if first is None or not self.has_failed_since_urge(journal_key(first), first):
            await self._postpone(record, wait.seconds)
            return
        text = f"waits for another file, which failed: {first.error_text}"
        await self._postpone(record, _BLOCKED_SECONDS, code=first.error_code, text=text, terminal=True)

    async def _current(self, listed: JournalRecord) -> JournalRecord | None:
        """The record as it is now: it may have changed between the scan and the claim."""
        if listed.ino:
            record = await self._engine.find_journal(listed.ino)
        else:
            record = await self._engine.find_lost_key(listed.assoc, listed.key)
        return record if record is not None and record.state is JournalState.DUE else None

    async def _dispatch(self, record: JournalRecord) -> LeftBehind | None:
        if record.change & Change.SUBTREE:
            await self._expand(record)
            self.wake()
        elif record.ino:
            return await self._files.export(record, self._locks.hold)
        else:
            await self._deletes.export(record, self._locks.hold)
        return None

    async def _expand(self, record: JournalRecord) -> None:
        """Break a moved directory or a lost prefix into small records. Repeating it after a crash does no harm."""
        after: bytes | None = b""
        while after is not None:
            if record.ino:
                after = await self._engine.expand_directory(record, after, _EXPANSION_BATCH)
            else:
                association = self._engine.association(record.assoc)
                if association is None:
                    break
                after = await self._engine.expand_prefix(association, record, after, _EXPANSION_BATCH)
            failpoint("expand.batch")
            self.wake()  # the first of them can go already
            await trio.lowlevel.checkpoint()
        await self._engine.end_expansion(record)

    async def _record_failure(self, record: JournalRecord, exc: errors.S3LustreError) -> None:
        attempt = record.attempts + 1
        delay = LONGEST_SECONDS if exc.terminal else backoff_seconds(attempt)
        level = logging.ERROR if exc.terminal or record.attempts >= _PATIENCE else logging.WARNING
        if isinstance(exc, errors.ObjectArchived):  # nothing is wrong: it waits for a restore, perhaps for ever
            level = logging.DEBUG if record.attempts else logging.INFO
        log.log(
            level,
            "export failed ino=%d key=%r attempt=%d retry_seconds=%.0f error=%s",
            record.ino,
            record.key,
            attempt,
            delay,
            exc,
        )
        if not isinstance(exc, errors.ObjectArchived) and ((exc.terminal and not record.terminal) or record.attempts == _PATIENCE):
            event_log.note(event_log.of_export(exc), ino=record.ino, key=record.key or getattr(exc, "key", ""), reason=exc)
        await self._postpone(record, delay, code=exc.code, text=str(exc), terminal=exc.terminal)

    async def _postpone(
        self, record: JournalRecord, delay_seconds: float, *, code: str = "", text: str = "", terminal: bool = False
    ) -> None:
        try:
            await self._engine.postpone(record, delay_seconds, code=code, text=text, terminal=terminal)
        except errors.StorageError as full:
            # The record stays as it was: without this pause it would be claimed again at once.
            log.error("state directory takes no records, exports pause ino=%d error=%s", record.ino, full)
            await trio.sleep(_NO_RECORD_SECONDS)

    # --- for others ------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something became due."""
        self._wake.set()

    def urge(self, *, again: bool = False) -> None:
        """Export everything that is due now, what failed before and what is still settling included. `again`: what failed a
        moment ago too, since its cause may have been removed."""
        now = self._wall_ns()
        if again or now - self._urged_ns > _URGE_SECONDS * 1e9:
            self._urged_ns = now
        self.wake()

    @property
    def idle(self) -> trio.Event:
        """Set once nothing that was under way when it was looked up, or began since, is under way any more."""
        return self._idle

    def has_failed_since_urge(self, key: bytes, record: JournalRecord) -> bool:
        """Whether a record was tried since the last `urge` and cannot succeed until somebody changes something."""
        return record.terminal and key not in self._claims and self._attempted.get(key, 0) >= self._urged_ns

    async def export_snapshot(self, frozen: Inode, record: JournalRecord | None, as_it_was: AsItWas) -> None:
        """Export a file that is still open, see `FileExport.export_snapshot`."""
        await self._files.export_snapshot(frozen, record, as_it_was, self._locks.hold)

    def is_uploading(self, ino: Ino) -> bool:
        return ino in self._by_ino

    def sent_bytes(self, ino: Ino) -> int:
        """Of a file that is being uploaded, what is in the bucket already."""
        return self._files.sent_bytes(ino)

    def cancel(self, ino: Ino) -> None:
        """Stop reading this inode's bytes as soon as possible; what was being done stays due."""
        claim = self._by_ino.get(ino)
        if claim is not None:
            claim.scope.cancel()

    async def interrupt(self, ino: Ino) -> None:
        """Return once no export reads this inode's bytes; what it was doing stays due."""
        claim = self._by_ino.get(ino)
        if claim is not None:
            claim.scope.cancel()
            await claim.done.wait()

    def hold(self, assoc: AssocId, key: bytes) -> AbstractAsyncContextManager[None]:
        """No export touches this key meanwhile."""
        return self._locks.hold(assoc, key)

    def statistics(self) -> ExporterStatistics:
        return ExporterStatistics(
            len(self._claims),
            self._files.exported_objects + self._deletes.deleted_objects,
            self._files.exported_bytes,
            self._rate.sample(self._settled),
        )
