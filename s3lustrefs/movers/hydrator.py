"""Hydrator: brings missing bytes of a file from the bucket when somebody reads or overwrites them.

Lazy by block, pinned to the version the file was imported from. What a reader needs is fetched at once; on sequential
reading a window that doubles is fetched ahead with several ranged GETs; a block is never fetched twice at the same
time (`Content.fetching` has an entry exactly while a fetch runs). Fetches belong to the hydrator, not to the request that asked:
a reader that goes away leaves a fetch that others may wait for.

Residency is recorded as soon as the bytes are in the chunk store: the log's barriers (meta/redo_log) make sure that such a
record counts after a power cut only if the bytes reached the disk.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import trio

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.data.residency import BLOCK_BYTES, Residency
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.schema import ObjectRecord
from s3lustrefs.model.events import BlocksChanged
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import AssocId, ContentVersion, Ino
from s3lustrefs.model.inode import Inode, InodeFlag
from s3lustrefs.movers import event_log
from s3lustrefs.movers.fetch import Fetch
from s3lustrefs.movers.object_versions import no_source, version_of
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.room import Room
from s3lustrefs.movers.slots import Slots
from s3lustrefs.repository.retry import backoff_seconds

log = logging.getLogger(__name__)

_SLOTS = 64
_BACKGROUND_SLOTS = 40
_BACKGROUND_LEAST = 4
"""However many readers wait: restores come to an end, too."""
_RANGE_BLOCKS = 8
"""8 MiB per ranged GET: large enough that a request costs nothing beside its bytes, small enough to spread."""
_MAX_WINDOW_BLOCKS = 96
_PATIENCE_SECONDS = 60.0
"""How long a read may wait for a bucket that does not answer before it gets EIO."""
_GIVEN_UP_SECONDS = 3.0
"""How long the end of somebody's patience, or an archived object, is the answer to others who ask for the same file: the kernel
asks at once a second time for what its readahead did not get, and the reader would wait for two minutes."""
_LONGEST_PAUSE_SECONDS = 5.0
"""Between two attempts while somebody waits."""
_REMEMBERED = 20_000


class Job(NamedTuple):
    """A fetch to run: blocks `[first, stop)`."""

    fetch: Fetch
    first: int
    stop: int


@dataclass(slots=True)
class Content:
    """What is known in memory of a PARTIAL file."""

    ino: Ino
    residency: Residency
    fetching: dict[int, Fetch] = field(default_factory=dict)
    given_up: errors.S3LustreError | None = None
    given_up_at: float = 0.0


@dataclass(slots=True)
class ReadWindow:
    """One handle's reading pattern: how far ahead to fetch. Byte offsets."""

    expected: int = 0
    blocks: int = 0

    def advance(self, start: int, end: int) -> int:
        """Blocks to fetch ahead after a read of `[start, end)`. The kernel's readahead sends requests out of order, so
        anything near the expected place counts as sequential."""
        near = 4 * BLOCK_BYTES
        if self.expected - near <= start <= self.expected + near:
            if end > self.expected:
                self.blocks = min(max(2, self.blocks * 2), _MAX_WINDOW_BLOCKS) if start else self.blocks
                self.expected = end
        else:
            self.blocks = 0
            self.expected = end
        return self.blocks


@dataclass(frozen=True, slots=True)
class HydratorStatistics:
    """Live numbers for status."""

    in_flight: int
    waiting_readers: int
    fetched_bytes: int
    fetches: int


class Hydrator:
    """See the module docstring. `on_changed` re-imports a file whose object is no longer the version it was pinned to; True: it
    still is that version."""

    def __init__(
        self,
        engine: MetadataEngine,
        chunks: ChunkStore,
        repositories: Repositories,
        on_changed: Callable[[Ino], Awaitable[bool]],
        notify: Callable[[BlocksChanged], None],
        room: Room,
        *,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._engine = engine
        self._chunks = chunks
        self._repositories = repositories
        self._on_changed = on_changed
        self._notify = notify
        self._room = room
        self._patience_seconds = patience_seconds
        self._contents: OrderedDict[Ino, Content] = OrderedDict()
        self._slots: defaultdict[AssocId, Slots] = defaultdict(partial(Slots, _SLOTS, _BACKGROUND_SLOTS, _BACKGROUND_LEAST))
        """One set for each association, so that readers of a bucket that hangs do not hold up those of another."""
        self._outdated: set[Ino] = set()
        """Files read from a version that the bucket has replaced but keeps: those who have them open go on with it."""
        self._nursery: trio.Nursery | None = None
        self._waiting = 0
        self._fetched_bytes = 0
        self._fetches = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the fetches. Ends by cancellation: fetches under way stop, their blocks stay missing."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def statistics(self) -> HydratorStatistics:
        return HydratorStatistics(sum(s.busy for s in self._slots.values()), self._waiting, self._fetched_bytes, self._fetches)

    # --- residency in memory ---------------------------------------------------------------------------------------------

    async def content(self, inode: Inode) -> Content:
        """The residency of a PARTIAL inode's present content version."""
        known = self._contents.get(inode.ino)
        if known is not None and known.residency.content_version == inode.content_version:
            self._contents.move_to_end(inode.ino)
            return known
        raw = await self._engine.get_residency(inode)
        residency = Residency.decode(raw) if raw else Residency(inode.content_version)
        content = Content(inode.ino, residency)
        self._contents[inode.ino] = content
        while len(self._contents) > _REMEMBERED:
            ino, oldest = next(iter(self._contents.items()))
            if oldest.fetching:
                break
            del self._contents[ino]
        return content

    def is_fetching(self, ino: Ino) -> bool:
        content = self._contents.get(ino)
        return content is not None and bool(content.fetching)

    def forget(self, ino: Ino) -> None:
        """The file's bytes changed hands (released, replaced, gone)."""
        self._contents.pop(ino, None)
        self._outdated.discard(ino)

    def try_again(self, ino: Ino) -> None:
        """What kept the file from being fetched is over."""
        content = self._contents.get(ino)
        if content is not None:
            content.given_up = None

    async def renew(self, ino: Ino) -> bool:
        """Nobody has this file open: whoever opens it now is to see the object as it is, if a read has told that it was replaced.

        Returns whether the file may have changed.
        """
        if ino not in self._outdated:
            return False
        try:
            await self._on_changed(ino)
            self._outdated.discard(ino)
        except errors.RepositoryError as exc:  # what is known can still be read; the next open, or a sweep, brings it
            log.warning("replaced object not imported yet ino=%d error=%s", ino, exc)
        return True

    async def quiesce(self, inode: Inode) -> None:
        """Return once no fetch writes to this file's chunks; none has started when this returns."""
        content = self._contents.get(inode.ino)
        while content is not None and content.fetching:
            await next(iter(content.fetching.values())).done.wait()

    async def resident_bytes(self, inode: Inode) -> int:
        if inode.is_complete:
            return inode.size
        return (await self.content(inode)).residency.resident_bytes(inode.size)

    # --- hydration ---------------------------------------------------------------------------------------------------------

    async def ensure(
        self, inode: Inode, start: int, end: int, window: ReadWindow | None = None, *, demand: bool = True
    ) -> None:  # fmt: skip
        """Return once bytes `[start, end)` are resident. `window`: of the handle that the kernel reads; `demand`: somebody waits,
        otherwise readers go first.

        Raises: StaleInode when the object changed; ObjectArchived, RepositoryDenied, ObjectNotFound, OutOfSpace;
        RepositoryUnavailable after a bounded time.
        """
        end = min(end, inode.size)
        if inode.is_complete or start >= end:
            return
        content = await self.content(inode)
        if content.given_up is not None and trio.current_time() - content.given_up_at < _GIVEN_UP_SECONDS:
            for_all = isinstance(content.given_up, errors.ObjectArchived)  # a background fetch has patience of its own
            if (demand or for_all) and content.residency.missing(start, end):
                raise errors.again(content.given_up) from content.given_up
        wanted, jobs = self._claim_missing(content, start, end, demand=demand)
        # The kernel's reads are never cancelled before the end of the mount, so a single fetch of theirs needs no task of its own.
        # Whoever else asks may go (a writer interrupts an export), while readers wait for the same fetch.
        mine = jobs.pop() if window is not None and len(jobs) == 1 else None
        self._spawn(inode, content, jobs)
        if window is not None:
            ahead = window.advance(start, end)
            if ahead:
                _, jobs = self._claim_missing(content, end, min(inode.size, end + ahead * BLOCK_BYTES), demand=False)
                self._spawn(inode, content, jobs)
        self._waiting += demand
        try:
            if mine is not None:
                await self._fetch(inode, content, mine)
            for fetch in wanted:
                if not fetch.done.is_set():
                    await fetch.done.wait()
                if fetch.error is not None:
                    raise errors.again(fetch.error) from fetch.error
        finally:
            self._waiting -= demand

    def _claim_missing(self, content: Content, start: int, end: int, *, demand: bool) -> tuple[list[Fetch], list[Job]]:
        """Claim every missing block of `[start, end)` that nobody fetches yet: all fetches to wait for, and those to start now."""
        wanted: list[Fetch] = []
        jobs: list[Job] = []
        for block, limit in content.residency.missing(start, end):
            while block < limit:
                running = content.fetching.get(block)
                if running is not None:
                    if running not in wanted:
                        wanted.append(running)
                        if demand:
                            running.join()
                    block += 1
                    continue
                stop = block + 1
                while stop < limit and stop - block < _RANGE_BLOCKS and stop not in content.fetching:
                    stop += 1
                job = Job(Fetch(demand=demand, patience_seconds=self._patience_seconds), block, stop)
                for claimed in range(block, stop):
                    content.fetching[claimed] = job.fetch
                jobs.append(job)
                wanted.append(job.fetch)
                block = stop
        return wanted, jobs

    def _spawn(self, inode: Inode, content: Content, jobs: list[Job]) -> None:
        """Start claimed fetches; without an await since they were claimed, so that none is claimed and never run."""
        if self._nursery is None:
            raise errors.RepositoryUnavailable("the file system is shutting down")
        for job in jobs:
            self._nursery.start_soon(self._fetch, inode, content, job)

    async def _fetch(self, inode: Inode, content: Content, job: Job) -> None:
        fetch, first, stop = job
        try:
            with fetch.scope:
                await self._fetch_blocks(inode, content, job)
            if fetch.scope.cancelled_caught:
                fetch.error = self._repositories.troubles.late(inode.ino, "no answer from the bucket", self._patience_seconds)
                if fetch.is_demand:
                    content.given_up, content.given_up_at = fetch.error, trio.current_time()
        except errors.S3LustreError as exc:
            fetch.error = exc
            self._repositories.troubles.note(inode.ino, exc)
            if fetch.is_demand:  # of the others, orders note their end themselves, and readahead is followed by a reader
                event_log.note_restore(inode.ino, exc)
            if isinstance(exc, errors.ObjectArchived):
                content.given_up, content.given_up_at = exc, trio.current_time()
        except Exception:
            # A defect must cost one reader EIO, not everybody their mount.
            log.exception("fetch failed unexpectedly ino=%d blocks=%d-%d", inode.ino, first, stop)
            fetch.error = errors.StorageError("internal error; daemon.log has the traceback")
        finally:
            if fetch.error is None and content.residency.missing(first * BLOCK_BYTES, first * BLOCK_BYTES + 1):
                fetch.error = errors.RepositoryUnavailable("the file system is shutting down")
            for block in range(first, stop):
                content.fetching.pop(block, None)
            fetch.done.set()

    async def _fetch_blocks(self, inode: Inode, content: Content, job: Job) -> None:
        fetch, first, stop = job
        if inode.flags & InodeFlag.DAMAGED:
            raise errors.ContentLost(f"inode {inode.ino}: these bytes are gone, and no bucket has them")
        if inode.hsm & Hsm.LOST and inode.flags & InodeFlag.WRITTEN_OFF:
            raise errors.ContentLost(
                f"inode {inode.ino} is flagged lost_from_hsm; `lfs hsm_clear --lost` has the bucket asked again"
            )
        source = await self._engine.source_of(inode)
        if source is None:
            raise no_source(await self._engine.get(inode.ino))
        start, end = first * BLOCK_BYTES, min(stop * BLOCK_BYTES, source.size)
        await self._room.ensure(max(0, end - start))
        patience = self._room.patience()
        slots = self._slots[source.assoc]
        failures = 0
        while True:
            try:
                async with fetch.slot(slots):
                    await self._get(inode, source, start, end)
                break
            except errors.OutOfSpace:
                # One target is full while there is room in all.
                if not await patience.make_way():
                    raise
            except errors.RepositoryUnavailable as exc:
                # Bounded by the fetch's patience; the client below has done its own quick retries.
                log.warning("fetch failed, trying again ino=%d key=%r error=%s", inode.ino, source.key, exc)
                self._repositories.troubles.note(inode.ino, exc)
                failures += 1
                await trio.sleep(min(backoff_seconds(failures), _LONGEST_PAUSE_SECONDS))
        self._repositories.troubles.forget(inode.ino)
        await self._record(inode, content, first, stop)
        self._fetches += 1
        self._fetched_bytes += max(0, end - start)

    async def _get(self, inode: Inode, source: ObjectRecord, start: int, end: int, tried: tuple[ObjectRecord, ...] = ()) -> None:
        """Raises: StaleInode and ObjectNotFound only once the bucket has said so twice; other RepositoryError."""
        try:
            await self._get_pieces(inode, source, start, end)
        except (errors.ObjectChanged, errors.ObjectNotFound) as exc:
            log.info("object changed under a reader ino=%d error=%s", inode.ino, exc)
            is_known = await self._on_changed(inode.ino)
            current = await self._engine.get(inode.ino)
            # Known in a later version, perhaps, than the one wanted here: somebody else noticed the change first.
            if current.content_version == inode.content_version:
                other = await self._engine.source_of(current)
                if other is not None and other not in (source, *tried):  # that of another name has the same bytes
                    return await self._get(inode, other, start, end, (source, *tried))
                if is_known:
                    raise errors.RepositoryUnavailable(f"{exc}; but it is as it was") from exc
            if isinstance(exc, errors.ObjectNotFound):
                raise
            raise errors.StaleInode(f"the object changed in the bucket: {exc}") from exc

    async def _get_pieces(self, inode: Inode, source: ObjectRecord, start: int, end: int) -> None:
        store = self._repositories.of(source.assoc)
        version = version_of(source)
        while start < end:
            boundary = (start // inode.chunk_bytes + 1) * inode.chunk_bytes
            piece_end = min(end, boundary)
            with self._chunks.pinned(inode.ino, inode.content_version, inode.chunk_bytes, start) as (fd, offset):
                if not await store.get_range(source.key, version, start, piece_end, fd, offset):
                    self._outdated.add(inode.ino)
            start = piece_end

    async def _record(self, inode: Inode, content: Content, first: int, stop: int) -> None:
        current = await self._engine.get(inode.ino)
        residency = content.residency
        if current.content_version != residency.content_version:
            raise errors.StaleInode(f"inode {inode.ino} was replaced while it was fetched")
        residency.add(first, stop)
        complete = residency.complete(current.size)
        failpoint("residency.before")
        try:
            await self._engine.put_residency(
                inode.ino, ContentVersion(residency.content_version), residency.encode(), complete=complete
            )
        except errors.StorageError:
            # Not recorded, so they will be fetched again: whatever is written to them until then would be overwritten.
            residency.remove(first, stop)
            raise
        failpoint("residency.after")
        if complete:
            self._contents.pop(inode.ino, None)
            self._notify(BlocksChanged(inode.ino))
