"""Importer: fills the inode table from a listing of the bucket; one per association.

The listing runs in its own process; its batches are applied in slices of a few milliseconds. The mount is usable
meanwhile: a directory that somebody lists, or a name somebody asks for, is requested ahead of the rest, and the caller waits for
just that. An import that was cut off starts again from the beginning: applying an object twice changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace

import trio

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.listing import Applied, PreparedEntry, preparer_options
from s3lustrefs.model.association import Association
from s3lustrefs.model.events import DentryInvalidation, InodeInvalidation, Invalidation
from s3lustrefs.model.ids import AssocId
from s3lustrefs.movers import event_log
from s3lustrefs.movers.headers import HeaderFetcher
from s3lustrefs.movers.listing_frames import Batch, BatchKind, ListingRequest
from s3lustrefs.movers.listing_process import ListingProcess, open_listing
from s3lustrefs.repository.credentials import Credentials
from s3lustrefs.repository.list_request import ListingTarget
from s3lustrefs.repository.retry import backoff_seconds

log = logging.getLogger(__name__)

_SLICE_ENTRIES = 256
"""Entries per transaction: 2 to 3 ms on the trio thread."""
_PATIENCE_SECONDS = 60.0


@dataclass(slots=True)
class _Request:
    """Somebody waits for one directory or name, or for everything."""

    done: trio.Event = field(default_factory=trio.Event)
    error: errors.RepositoryError | None = None


@dataclass(frozen=True, slots=True)
class ImportStatistics:
    """Live numbers for status; `eta_seconds` is None, since a listing does not tell how much is left."""

    state: str
    objects: int
    objects_per_second: float
    seconds: float
    error: str


class Importer:
    """Imports one association once, and answers for what it has not imported yet."""

    def __init__(
        self,
        engine: MetadataEngine,
        association: Association,
        target: ListingTarget,
        credentials: Credentials,
        notify: Callable[[Invalidation], None],
        headers: HeaderFetcher,
        *,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._engine = engine
        self._assoc: AssocId = association.assoc_id
        self._target = target
        self._credentials = credentials
        self._notify = notify
        self._headers = headers
        self._patience_seconds = patience_seconds
        self._process: ListingProcess | None = None
        self._ready = trio.Event()
        self._ended = trio.Event()
        self._requests: dict[int, _Request] = {}
        self._asking: dict[tuple[str, bytes], _Request] = {}
        self._listed: set[bytes] = set()
        self._objects = 0
        self._started = 0.0
        self._seconds = 0.0
        self._error = ""
        self._attempt = _Request()
        """Of the whole import."""
        self._done = trio.Event()
        self._is_listed = association.import_state == "DONE"
        """Everything the listing found is in the table; headers may still be missing."""
        self.is_done = association.import_state == "DONE"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Import until everything is there, however often it takes; then return. Raises: NotInRepository when it is deleted."""
        task_status.started()
        failures = 0
        while not self.is_done:
            self._ended = trio.Event()
            try:
                await self._import()
            except errors.NotInRepository:
                raise
            except errors.S3LustreError as exc:
                self._error = str(exc)
                self._ended.set()
                self._end_attempt(exc)
                failures += 1
                delay = backoff_seconds(failures)
                event_log.note_listing(exc, association=self._assoc)
                log.warning("import failed, trying again association=%d seconds=%.0f error=%s", self._assoc, delay, exc)
                await trio.sleep(delay)

    def _end_attempt(self, exc: errors.S3LustreError) -> None:
        """Whoever cannot wait for ever is told."""
        if isinstance(exc, errors.RepositoryError):
            self._attempt.error = exc
            self._attempt.done.set()
            self._attempt = _Request()

    async def _import(self) -> None:
        association = self._association()
        await self._engine.update_association(replace(association, import_state="RUNNING"))
        self._objects, self._started = 0, time.monotonic()
        request = ListingRequest(
            self._target, await self._credentials.snapshot(),
            preparer="s3lustrefs.meta.listing:preparer", preparer_options=preparer_options(association),
        )  # fmt: skip
        try:
            async with open_listing(request) as process:
                self._process = process
                self._ready.set()
                # What is removed here meanwhile must not come back by a page from before.
                with self._engine.sweep(frozenset()) as local:
                    await self._take_batches(process, local.touched)
                self._is_listed = True
        finally:
            self._process = None
            self._abandon()
            if self._is_listed:
                self._ended.set()
            else:
                self._ready = trio.Event()
        if self._association().posix_metadata == "eager":
            await self._headers.know_all()
        failpoint("import.complete.before")
        await self._complete()

    async def _take_batches(self, process: ListingProcess, touched: Container[bytes]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(process.keep_credentials, self._credentials)
                async for batch in process.batches():
                    await self._apply(batch, touched)
                nursery.cancel_scope.cancel()
        except* errors.S3LustreError as group:
            raise group.exceptions[0] from None

    async def _complete(self) -> None:
        self._seconds = time.monotonic() - self._started
        self._error = ""
        await self._engine.update_association(replace(self._association(), import_state="DONE"))
        self.is_done = True
        self._done.set()
        self._attempt.done.set()
        self._ended.set()
        for request in self._asking.values():
            request.done.set()
        self._listed.clear()
        log.info("import complete association=%d objects=%d seconds=%.1f", self._assoc, self._objects, self._seconds)

    def _abandon(self) -> None:
        """The process is gone: whoever waits for it is told, and may ask the next one."""
        for request in self._requests.values():
            request.error = errors.RepositoryUnavailable(f"the listing ended early: {self._error or 'trying again'}")
            request.done.set()
        self._requests.clear()

    async def _apply(self, batch: Batch, touched: Container[bytes]) -> None:
        await apply_batch(self._engine, self._assoc, batch, touched, self._notify)
        if batch.kind is BatchKind.BULK:
            self._objects += sum(len(entries) for _, entries in batch.groups)
        if self._association().posix_metadata != "off":
            self._headers.expect()
        await self._engine.wait_room()
        if batch.request_id and batch.done:
            request = self._requests.pop(batch.request_id, None)
            if request is not None:
                request.error = batch.error
                request.done.set()

    def end(self) -> None:
        """There is nothing more to import, nor to wait for: the association is being taken away. To be cancelled then."""
        self._is_listed = self.is_done = True
        for event in (self._done, self._ended, self._ready):
            event.set()
        for request in self._asking.values():
            request.done.set()

    # --- for those who cannot wait for the whole import --------------------------------------------------------------------

    async def ensure_directory(self, relative: bytes) -> None:
        """Return once the direct entries of a directory (relative to the prefix, no slash at the end) are in the table.

        Raises: RepositoryError, after a bounded time at the latest.
        """
        if not self._is_listed and relative not in self._listed:
            await self._ask("directory", relative)
            self._listed.add(relative)

    async def ensure_name(self, relative: bytes) -> None:
        """Return once the bucket's answer about one name, file or directory, is in the table. Raises: RepositoryError."""
        parent = relative.rpartition(b"/")[0]
        if not self._is_listed and parent not in self._listed:
            await self._ask("probe", relative)

    async def wait_for_end(self) -> None:
        """Return once everything has been imported, however long that takes."""
        if not self.is_done:
            await self._done.wait()

    async def wait_imported(self) -> None:
        """Return once everything has been imported. Raises: RepositoryError when an attempt at that fails from now on."""
        attempt = self._attempt
        if not self.is_done:
            await attempt.done.wait()
        if attempt.error is not None:
            raise type(attempt.error)(f"the import fails: {attempt.error}", bucket=attempt.error.bucket)

    async def _ask(self, kind: str, relative: bytes) -> None:
        with trio.move_on_after(self._patience_seconds) as patience:
            request = self._asking.get((kind, relative))
            if request is None:
                request = self._asking[kind, relative] = _Request()
                try:
                    await self._send(kind, relative, request)
                    await request.done.wait()
                finally:
                    del self._asking[kind, relative]
                    if not request.done.is_set():
                        # Whoever joined later must not take the silence for an answer.
                        request.error = errors.RepositoryUnavailable(f"no listing in time: {self._error or 'the bucket is slow'}")
                        request.done.set()
            else:
                await request.done.wait()
            if request.error is not None and not self._is_listed:
                raise errors.again(request.error)
        if patience.cancelled_caught:
            raise errors.RepositoryUnavailable(
                f"no listing within {self._patience_seconds:.0f} s: {self._error or 'the bucket is slow'}"
            )

    async def _send(self, kind: str, relative: bytes, request: _Request) -> None:
        await self._ready.wait()
        process = self._process
        if process is None or self._is_listed:
            request.done.set()
            return
        ask = process.request_directory if kind == "directory" else process.request_probe
        try:
            await ask(relative, register=lambda number: self._requests.__setitem__(number, request))
        except errors.RepositoryUnavailable as exc:
            # Its listing is over, perhaps because everything is listed: what is in the table then is the answer.
            await self._ended.wait()
            if not self._is_listed:
                request.error = exc
            request.done.set()

    def _association(self) -> Association:
        return association_of(self._engine, self._assoc)

    def statistics(self) -> ImportStatistics:
        seconds = self._seconds or (time.monotonic() - self._started if self._started else 0.0)
        state = "DONE" if self.is_done else "RUNNING" if self._process else "PENDING"
        return ImportStatistics(state, self._objects, self._objects / seconds if seconds else 0.0, seconds, self._error)


def association_of(engine: MetadataEngine, assoc: AssocId) -> Association:
    """An association as it is now. Raises: NotInRepository when it is gone."""
    association = engine.association(assoc)
    if association is None:
        raise errors.NotInRepository(f"association {assoc} is gone")
    return association


async def apply_batch(
    engine: MetadataEngine, assoc: AssocId, batch: Batch, touched: Container[bytes], notify: Callable[[Invalidation], None]
) -> None:
    """Bring a batch into the table, a few milliseconds at a time. Raises: NotInRepository when the association is gone by now."""
    first = True
    for at in range(_SLICE_ENTRIES, len(batch.common_prefixes), _SLICE_ENTRIES):
        subdirectories = batch.common_prefixes[at : at + _SLICE_ENTRIES]
        association = association_of(engine, assoc)
        announce(await engine.apply_listing(association, (), directories=subdirectories, touched=touched), notify)
        await trio.lowlevel.checkpoint()
    for groups in slices(batch.groups):
        applied = await engine.apply_listing(
            association_of(engine, assoc), groups, batch.markers if first else (), batch.skipped if first else (),
            batch.common_prefixes[:_SLICE_ENTRIES] if first else (), touched=touched,
        )  # fmt: skip
        failpoint("import.batch")
        first = False
        announce(applied, notify)
        await trio.lowlevel.checkpoint()


def announce(applied: Applied, notify: Callable[[Invalidation], None]) -> None:
    """Have the kernel forget what a batch made out of date; and tell what it met."""
    for ino in applied.changed:
        notify(InodeInvalidation(ino, content=True))
    for ino in (*applied.grown, *(inode.ino for inode in applied.doubted)):
        notify(InodeInvalidation(ino, content=False))
    for parent, name in (*applied.replaced, *applied.appeared):
        notify(DentryInvalidation(parent, name))
    for key, reason in applied.skipped:
        event_log.note_skipped(key, reason)
    for conflict in applied.conflicts:
        log.warning("conflict kept kind=%s path=%s", conflict.kind, conflict.path)


def slices(
    groups: Sequence[tuple[bytes, Sequence[PreparedEntry]]],
) -> list[list[tuple[bytes, Sequence[PreparedEntry]]]]:
    """Cut a batch so that no transaction takes long; at least one slice, perhaps empty."""
    found: list[list[tuple[bytes, Sequence[PreparedEntry]]]] = [[]]
    room = _SLICE_ENTRIES
    for directory, entries in groups:
        for at in range(0, len(entries), _SLICE_ENTRIES):
            part = entries[at : at + _SLICE_ENTRIES]
            if room <= 0:
                found.append([])
                room = _SLICE_ENTRIES
            found[-1].append((directory, part))
            room -= len(part) + 4
    return found
