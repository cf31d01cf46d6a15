"""Sweeper: lists an association again and brings the table into line with it, as far as the import policy goes.

Every `import_interval`, and at a mount that had imported everything before, so that what others did in the bucket
meanwhile shows here: new, changed and deleted objects. The listing runs in its own process and arrives in batches, each of which
tells for a span of keys what is there; what the table knows beyond that is looked for with a HEAD before its name goes. A HEAD
that is refused for one key leaves that name alone; trouble with the whole bucket ends the sweep.

What changes here meanwhile is left alone (`observer`); the next sweep sees it.

Sweeps take turns, but a refresh of some subtree goes in between two batches of a sweep under way, which rests until it is done:
what a refresh finds is never older than what it meets in the table, and is noted as touched for that sweep, whose listing may be
older.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace

import trio

from s3lustrefs import errors
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.listing import Sweep, preparer_options
from s3lustrefs.meta.schema import CUT
from s3lustrefs.model.association import EVENTS, Association
from s3lustrefs.model.ids import AssocId, Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers import event_log
from s3lustrefs.movers.directory_importer import DirectoryImporter
from s3lustrefs.movers.importer import Importer
from s3lustrefs.movers.listing_frames import BatchKind, ListingRequest
from s3lustrefs.movers.listing_process import open_listing
from s3lustrefs.movers.observer import Observer, Seen, batch_of
from s3lustrefs.repository.credentials import Credentials
from s3lustrefs.repository.list_request import ListingTarget
from s3lustrefs.repository.object_store import ObjectHead
from s3lustrefs.repository.retry import backoff_seconds

log = logging.getLogger(__name__)

_HEADS_AT_ONCE = 32
"""As for events. A quarter of what a client keeps in flight, so that readers find room."""
_LOOK_SECONDS = 10.0


@dataclass(slots=True)
class SweepResult(Seen):
    """What one sweep found. `at` is unix time of its end."""

    seconds: float = 0.0
    at: float = 0.0


class Sweeper:
    """Sweeps one association, once its first import is complete. `refresh` re-imports the object of one name of a file."""

    def __init__(
        self,
        engine: MetadataEngine,
        association: Association,
        target: ListingTarget,
        credentials: Credentials,
        importer: Importer | DirectoryImporter,
        observer: Observer,
        refresh: Callable[[Ino, tuple[AssocId, bytes]], Awaitable[object]],
    ) -> None:
        self._engine = engine
        self._assoc: AssocId = association.assoc_id
        self._target = target
        self._credentials = credentials
        self._importer = importer
        self._observer = observer
        self._refresh = refresh
        self._one_at_a_time = trio.Lock()
        """Of sweeps; not of refreshes."""
        self._turn = trio.Lock()
        """Held for one batch of a sweep, or for a whole refresh. After `_one_at_a_time`, by who wants both."""
        self._is_due = association.import_state == "DONE"
        self.last = SweepResult()
        self.error = ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sweep at once if the import was complete before this mount, then every `import_interval`. Ends by cancellation.

        Raises: NotInRepository when the association is deleted.
        """
        task_status.started()
        await self._importer.wait_for_end()
        failures = 0
        while True:
            if not self._is_due:
                await self._wait()
            self._is_due = False
            association = self._observer.association()
            events = association.import_events
            if not events:
                continue
            try:
                await self.sweep(b"", events, new_since_ns=association.new_since_ns)
                failures = 0
            except errors.NotInRepository:
                raise
            except errors.S3LustreError as exc:
                failures += 1
                self._is_due = True
                delay = backoff_seconds(failures)
                event_log.note_listing(exc, association=self._assoc)
                log.warning("sweep failed, trying again association=%d seconds=%.0f error=%s", self._assoc, delay, exc)
                await trio.sleep(delay)

    async def _wait(self) -> None:
        # 0: never, until somebody changes that, which nothing tells us.
        while not (seconds := self._observer.association().import_interval_seconds):  # noqa: ASYNC110
            await trio.sleep(_LOOK_SECONDS)
        await trio.sleep(seconds)

    async def sweep(
        self, directory: bytes, events: frozenset[str] = frozenset(EVENTS), result: SweepResult | None = None,
        *, new_since_ns: int = 0,
    ) -> SweepResult:  # fmt: skip
        """Bring everything below a directory (relative to the prefix; empty: all) into line with the bucket; unknown objects that
        are older than `new_since_ns` stay unknown.

        `result` is filled in while it goes on, for those who watch.
        Raises: RepositoryError, also of the first import; StorageError: what was found until then is in the table.
        """
        await self._importer.wait_imported()
        async with self._one_at_a_time:
            with self._engine.sweep(events, new_since_ns=new_since_ns) as sweep:
                async with self._turn:
                    pass  # a refresh under way, which does not know of this sweep
                return await self._bring_into_line(directory, sweep, result or SweepResult(), self._turn)

    async def refresh_below(self, directory: bytes) -> SweepResult:
        """As `sweep`, whatever the policy says; only of everything one waits for other sweeps. Raises: as `sweep`."""
        if not directory:
            return await self.sweep(b"")
        await self._importer.wait_imported()
        async with self._turn:
            is_amid = self._one_at_a_time.locked()
            with self._engine.sweep(frozenset(EVENTS), is_told=is_amid) as sweep:
                return await self._bring_into_line(directory, sweep, SweepResult(), nullcontext())

    async def _bring_into_line(
        self, directory: bytes, sweep: Sweep, result: SweepResult, turn: AbstractAsyncContextManager[None]
    ) -> SweepResult:
        """`turn` is held for each batch."""
        started = time.monotonic()
        try:
            await self._list(directory, sweep, result, turn)
        except errors.S3LustreError as exc:
            self.error = str(exc)
            raise
        self.error = ""
        result.seconds, result.at = time.monotonic() - started, time.time()
        self.last = result
        log.info(
            "sweep complete association=%d below=%r objects=%d new=%d changed=%d deleted=%d refused=%d seconds=%.1f",
            self._assoc, directory, result.objects, result.new, result.changed, result.deleted, result.refused, result.seconds,
        )  # fmt: skip
        return result

    async def look_at(self, inode: Inode, key: bytes) -> SweepResult:
        """Bring one file into line with its object: the one it was imported from, of that `key`, or an exported one that is known.

        Raises: RepositoryError.
        """
        result = SweepResult(objects=1)
        association, source = self._observer.association(), await self._engine.source_of(inode)
        is_parted = bool(association.export_prefix) and (source is None or source.key != key)
        with self._engine.sweep(frozenset(EVENTS)) as sweep:
            if not is_parted and await self._observer.find(key) is None:
                await self._observer.remove(key, sweep, result)
            else:
                key = association.export_key_of(association.relative_of(key)) if is_parted else key
                known = await self._engine.find_object(self._assoc, key)
                await self._refresh(inode.ino, (self._assoc, key))
                is_replaced = (await self._engine.get(inode.ino)).content_version != inode.content_version
                result.changed = is_replaced or await self._engine.find_object(self._assoc, key) != known
        return result

    async def find(self, relative: bytes) -> ObjectHead | None:
        """What the bucket has under a path (relative to the prefix) now. Raises: RepositoryError."""
        return await self._observer.find(self._observer.association().key_of(relative))

    async def look_for(self, key: bytes, events: frozenset[str], result: SweepResult) -> None:
        """Bring one file into line with its object, if there is one. Raises: RepositoryError, StorageError."""
        await self._importer.wait_imported()
        with self._engine.sweep(events) as sweep:
            head = await self._observer.find(key)
            if head is not None:
                batch = batch_of(self._observer.association(), {key: head.version})
                await self._observer.apply(batch, b"", sweep, result)

    async def _list(
        self, directory: bytes, sweep: Sweep, result: SweepResult, turn: AbstractAsyncContextManager[None]
    ) -> None:  # fmt: skip
        association = self._observer.association()
        below = directory + b"/" if directory else b""
        target = replace(self._target, prefix=self._target.prefix + below)
        options = preparer_options(association)
        options["prefix"] = target.prefix.decode()
        request = ListingRequest(
            target, await self._credentials.snapshot(), preparer="s3lustrefs.meta.listing:preparer", preparer_options=options
        )
        gone_markers: list[bytes] = []  # they go last and deepest first, once nothing is left in them
        try:
            async with open_listing(request) as process, trio.open_nursery() as nursery:
                nursery.start_soon(process.keep_credentials, self._credentials)
                async for batch in process.batches():
                    if batch.kind is BatchKind.BULK:
                        async with turn:
                            listed = await self._observer.apply(batch, directory, sweep, result)
                            if batch.span is not None:
                                gone_markers += await self._compare(target.prefix, batch.span, listed, sweep, result)
                nursery.cancel_scope.cancel()
        except* errors.S3LustreError as group:
            raise group.exceptions[0] from None
        for key in sorted(gone_markers, reverse=True):
            await self._observer.remove(key, sweep, result)

    async def _compare(
        self, below: bytes, span: tuple[bytes, bytes | None], listed: frozenset[bytes], sweep: Sweep, result: SweepResult
    ) -> list[bytes]:
        """What the table knows of a span, beyond what is there (by table key). Markers that are gone."""
        gone_markers: list[bytes] = []
        if "DELETED" in sweep.events:
            gone_markers = await self._look_for_vanished(below, span, listed, sweep, result)
        after: bytes | None = b""
        while after is not None:
            after = await self._engine.forget_skipped(self._observer.association(), below, span, listed, after)
            await trio.lowlevel.checkpoint()
        return gone_markers

    async def _look_for_vanished(
        self, below: bytes, span: tuple[bytes, bytes | None], listed: frozenset[bytes], sweep: Sweep, result: SweepResult
    ) -> list[bytes]:
        """Page by page of the table, since an emptied bucket is one span. Directories go deepest first, each once all that is below
        it has been looked at: that is what the table has next. Those of which more may come in other spans are returned."""
        gone: list[bytes] = []
        after: bytes | None = b""
        while after is not None:
            association = self._observer.association()
            suspects, after = await self._engine.vanished_suspects(association, below, span, listed, sweep, after)
            if suspects:
                gone += await self._remove_vanished(suspects, sweep, result)
                await self._engine.wait_room()
            reached = span[1] if after is None else after
            waiting = [key for key in gone if len(key) > CUT or (reached is not None and reached.startswith(key))]
            for key in sorted(set(gone).difference(waiting), reverse=True):
                await self._observer.remove(key, sweep, result)
            gone = waiting
            await trio.lowlevel.checkpoint()
        return gone

    async def _remove_vanished(self, suspects: Iterable[bytes], sweep: Sweep, result: SweepResult) -> list[bytes]:
        """Remove the names of those objects that are not there; the directories among them, which stay for now."""
        limit = trio.Semaphore(_HEADS_AT_ONCE)
        markers: list[bytes] = []

        async def check(key: bytes) -> None:
            try:
                if await self._observer.find(key) is not None:
                    return
                if key.endswith(b"/"):
                    markers.append(key)
                else:
                    await self._observer.remove(key, sweep, result)
            except errors.RepositoryError as exc:
                event_log.note_unanswered(key, exc, is_gone=True)
                raise
            finally:
                limit.release()

        async def check_or_leave(key: bytes) -> None:
            try:
                await check(key)
            except errors.ObjectRefused as exc:  # one key must not keep what sorts behind it from being looked at
                result.refused += 1
                if result.refused == 1:
                    log.warning("name stays, the bucket does not say whether its object is there error=%s", exc)

        try:
            async with trio.open_nursery() as nursery:
                for key in suspects:
                    await limit.acquire()
                    nursery.start_soon(check_or_leave, key)
        except* errors.S3LustreError as group:
            raise group.exceptions[0] from None
        return markers
