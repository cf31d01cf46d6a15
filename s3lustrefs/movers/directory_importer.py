"""DirectoryImporter: imports one directory at a time, when somebody looks into it; for the associations of file caches.

A directory is marked (`InodeFlag.UNLISTED`) as long as the bucket may have names in it that are not here. That mark is all the
state there is. Listing a directory brings its objects and its subdirectories, which get the mark in turn; once the whole
answer is in the table the mark goes, in a transaction of its own. Whoever dies before leaves a directory that is listed
again, which changes nothing. A name in a marked directory is told to nobody before that (`Links.ensure_listed`), so none can
have been removed or renamed in it. What is listed stays as it is until somebody asks for a refresh: file caches import no
changes.

Listings run in a process of their own, from the first that is wanted until none was for a while.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import trio

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.listing import preparer_options
from s3lustrefs.model.association import Association
from s3lustrefs.model.events import InodeInvalidation, Invalidation
from s3lustrefs.model.ids import AssocId
from s3lustrefs.movers import event_log
from s3lustrefs.movers.headers import HeaderFetcher
from s3lustrefs.movers.importer import ImportStatistics, apply_batch, association_of
from s3lustrefs.movers.listing_frames import Batch, ListingRequest
from s3lustrefs.movers.listing_process import ListingProcess, open_listing
from s3lustrefs.repository.credentials import Credentials
from s3lustrefs.repository.list_request import ListingTarget
from s3lustrefs.repository.retry import backoff_seconds

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 60.0
_IDLE_SECONDS = 60.0
"""How long a listing process (30 MB) waits for more to do."""


@dataclass(slots=True, eq=False)
class _Load:
    """A directory that is being listed, or waits for it. `touched`: objects that changed here since its listing began; `heard_at`:
    when something of it arrived last, by trio's clock."""

    relative: bytes
    heard_at: float
    done: trio.Event = field(default_factory=trio.Event)
    error: errors.RepositoryError | None = None
    touched: set[bytes] = field(default_factory=set)
    watch: ExitStack = field(default_factory=ExitStack)
    """Keeps `touched` up to date."""


class DirectoryImporter:
    """Of one association. It answers what an `Importer` does, which has nothing to wait for here."""

    is_done = True
    """There is no import as a whole."""

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
        idle_seconds: float = _IDLE_SECONDS,
    ) -> None:
        self._engine = engine
        self._assoc: AssocId = association.assoc_id
        self._target = target
        self._credentials = credentials
        self._notify = notify
        self._headers = headers
        self._patience_seconds = patience_seconds
        self._idle_seconds = idle_seconds
        self._loads: dict[bytes, _Load] = {}
        """What is wanted, by directory: everybody who asks for one waits for the same."""
        self._active: dict[int, _Load] = {}
        """What the process has been asked for, by the number of the request."""
        self._want, self._wanted = trio.open_memory_channel[_Load](math.inf)
        self._objects = 0
        self._error = ""
        self._is_over = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """List what is asked for. Ends by cancellation. Raises: NotInRepository when the association is deleted."""
        task_status.started()
        failures = 0
        while True:
            first = await self._wanted.receive()
            if first.done.is_set():
                continue  # it was given up before its turn came
            try:
                await self._serve(first)
                failures = 0
            except errors.NotInRepository as exc:
                self._fail(exc)
                raise
            except errors.S3LustreError as exc:
                failures += 1
                self._fail(exc)
                delay = backoff_seconds(failures)
                event_log.note_listing(exc, association=self._assoc)
                log.warning("directories not listed association=%d seconds=%.0f error=%s", self._assoc, delay, exc)
                await trio.sleep(delay)

    def _fail(self, exc: errors.S3LustreError) -> None:
        """Whoever waits is told, and may ask again."""
        self._error = str(exc)
        for load in self._loads.values():
            load.error = exc if isinstance(exc, errors.RepositoryError) else errors.RepositoryUnavailable(str(exc))
            load.done.set()
        self._loads.clear()

    async def _serve(self, first: _Load) -> None:
        """Have a process list what is wanted, until nothing was for a while."""
        request = ListingRequest(
            self._target, await self._credentials.snapshot(), bulk=False,
            preparer="s3lustrefs.meta.listing:preparer", preparer_options=preparer_options(self._association()),
        )  # fmt: skip
        try:
            async with open_listing(request) as process, trio.open_nursery() as nursery:
                nursery.start_soon(process.keep_credentials, self._credentials)
                nursery.start_soon(self._take_batches, process)
                load: _Load | None = first
                while load is not None:
                    if not load.done.is_set():
                        await self._begin(process, load)
                    load = await self._next()
                nursery.cancel_scope.cancel()
        except* errors.S3LustreError as group:
            raise group.exceptions[0] from None
        finally:
            for load in self._active.values():
                load.watch.close()
            self._active.clear()

    async def _next(self) -> _Load | None:
        while True:
            with trio.move_on_after(self._idle_seconds):
                return await self._wanted.receive()
            if not self._active:
                return None

    async def _begin(self, process: ListingProcess, load: _Load) -> None:
        # What is removed here meanwhile must not come back by a page from before.
        load.touched = load.watch.enter_context(self._engine.sweep(frozenset())).touched
        await process.request_directory(load.relative, register=lambda number: self._active.__setitem__(number, load))

    async def _take_batches(self, process: ListingProcess) -> None:
        async for batch in process.batches():
            load = self._active[batch.request_id]
            load.heard_at = trio.current_time()
            if batch.error is None:
                await apply_batch(self._engine, self._assoc, batch, load.touched, self._notify)
                self._objects += sum(len(entries) for _, entries in batch.groups)
                if self._association().posix_metadata != "off":
                    self._headers.expect()
                failpoint("directory.batch")
                await self._engine.wait_room()
            if batch.done:
                await self._end(load, batch)

    async def _end(self, load: _Load, batch: Batch) -> None:
        del self._active[batch.request_id]
        load.watch.close()
        load.error = batch.error
        if batch.error is None:
            failpoint("directory.listed")
            ino = await self._engine.note_listed(self._association(), load.relative)
            failpoint("directory.recorded")
            if ino is not None:  # its link count says what is in it by now
                self._notify(InodeInvalidation(ino, content=False))
            self._error = ""
        else:
            self._error = str(batch.error)
            event_log.note_listing(batch.error, association=self._assoc)
            log.info("directory not listed association=%d directory=%r error=%s", self._assoc, load.relative, batch.error)
        del self._loads[load.relative]
        load.done.set()

    def end(self) -> None:
        """The association is being taken away: there is nothing to wait for. To be cancelled then."""
        self._is_over = True
        for load in self._loads.values():
            load.done.set()

    # --- for others ----------------------------------------------------------------------------------------------------------

    async def ensure_directory(self, relative: bytes) -> None:
        """Return once a directory (relative to the prefix, no slash at the end) was listed.

        Raises: RepositoryError, when nothing was heard of it for a bounded time at the latest; the listing goes on.
        """
        if self._is_over:
            return
        now = trio.current_time()
        load = self._loads.get(relative)
        if load is None:
            load = self._loads[relative] = _Load(relative, now)
            self._want.send_nowait(load)
        while not load.done.is_set():
            deadline = max(now, load.heard_at) + self._patience_seconds
            if trio.current_time() >= deadline:
                reason = self._error or "the bucket is slow"
                raise errors.RepositoryUnavailable(
                    f"no listing within {self._patience_seconds:.0f} s: {reason}", bucket=self._target.bucket
                )
            with trio.move_on_at(deadline):
                await load.done.wait()
        if load.error is not None:
            raise errors.again(load.error)

    async def ensure_name(self, relative: bytes) -> None:
        """Return once the directory that a name is in was listed. Raises: RepositoryError."""
        await self.ensure_directory(relative.rpartition(b"/")[0])

    async def wait_for_end(self) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_imported(self) -> None:
        """Return once what is being listed now has been: its answers may be older than what a sweep is about to find."""
        for load in list(self._loads.values()):
            await load.done.wait()
        await trio.lowlevel.checkpoint()

    async def wait_done(self, seconds: float) -> None:
        await trio.lowlevel.checkpoint()

    def _association(self) -> Association:
        return association_of(self._engine, self._assoc)

    def statistics(self) -> ImportStatistics:
        """`objects`: listed since the mount."""
        return ImportStatistics("LAZY", self._objects, 0.0, 0.0, self._error)
