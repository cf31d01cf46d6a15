"""HeaderFetcher: asks for the POSIX headers of listed objects, since a listing does not show them.

On demand when a name's attributes are asked for, so that no permission is shown or enforced from unknown headers; by a
bounded background pool for the rest, directories somebody is listing first. Small objects may turn out to be symlinks:
their body is the target.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import trio

from s3lustrefs import errors
from s3lustrefs.meta.attributes import AttributeChange
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.ids import NO_INO, AssocId, Ino
from s3lustrefs.model.inode import Inode, InodeFlag
from s3lustrefs.model.log_events import LogEvent
from s3lustrefs.movers import event_log
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.slots import Slots
from s3lustrefs.repository import posix_headers
from s3lustrefs.repository.object_store import ObjectHead, ObjectStore

log = logging.getLogger(__name__)

_SLOTS = 48
_BACKGROUND_SLOTS = 32
_SCAN = 500
_RETRY_SECONDS = 15.0
_PATIENCE_SECONDS = 30.0


class HeaderFetcher:
    """One HEAD per inode, whoever asks."""

    def __init__(
        self,
        engine: MetadataEngine,
        repositories: Repositories,
        on_changed: Callable[[Ino], Awaitable[bool]],
        *,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._engine = engine
        self._repositories = repositories
        self._on_changed = on_changed
        self._patience_seconds = patience_seconds
        self._slots: defaultdict[AssocId, Slots] = defaultdict(partial(Slots, _SLOTS, _BACKGROUND_SLOTS))
        self._fetching: dict[Ino, trio.Event] = {}
        self._soon: deque[Inode] = deque(maxlen=20_000)
        self._wake = trio.Event()
        self._failing = False
        self.pending = 0
        """Known to be unknown and queued; more may be further on in the table."""

    async def known(self, inode: Inode) -> Inode:
        """The inode with its headers known. Raises: RepositoryError after a bounded time; StaleInode."""
        if not inode.flags & InodeFlag.HEADERS_UNKNOWN:
            return inode
        ino = inode.ino
        with trio.move_on_after(self._patience_seconds):
            while inode.flags & InodeFlag.HEADERS_UNKNOWN:
                await self._fetch(inode, demand=True)
                await trio.lowlevel.checkpoint()  # nothing else here has to be one
                inode = await self._engine.get(ino)
        if inode.flags & InodeFlag.HEADERS_UNKNOWN:
            raise self._repositories.troubles.late(ino, "no answer about the attributes", self._patience_seconds)
        return inode

    def prefetch(self, inodes: Iterable[Inode]) -> None:
        """Somebody looks at these: their headers come before the rest of the table."""
        self._soon.extend(i for i in inodes if i.flags & InodeFlag.HEADERS_UNKNOWN and i.ino not in self._fetching)
        self._wake.set()

    def expect(self, inode: Inode | None = None) -> None:
        """There is something to ask for: this inode, or (None) inodes with numbers not looked at yet."""
        if inode is not None:
            self._soon.append(inode)
        self._wake.set()

    async def know_all(self) -> None:
        """Return once no inode of the table has unknown headers; what fails is tried again until it does not."""
        attempts = 0
        while not await self._all_known():
            attempts += 1
            await trio.sleep(0 if attempts == 1 else _RETRY_SECONDS)

    async def _all_known(self) -> bool:
        limit = trio.Semaphore(_BACKGROUND_SLOTS)
        after, more, unknown = NO_INO, True, 0
        async with trio.open_nursery() as nursery:
            while more:
                inodes, after, more = await self._engine.unknown_headers(after, _SCAN)
                unknown += len(inodes)
                for inode in inodes:
                    await limit.acquire()
                    nursery.start_soon(self._background, inode, limit)
                await trio.lowlevel.checkpoint()
        return not unknown

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Go through the table once, in the order of inode numbers, and on whenever an import has added some.

        What failed is tried again from the beginning after a pause. Ends by cancellation.
        """
        task_status.started()
        limit = trio.Semaphore(_BACKGROUND_SLOTS)
        after = NO_INO
        async with trio.open_nursery() as nursery:
            while True:
                after = await self._pass(nursery, limit, after)
                with trio.move_on_after(_RETRY_SECONDS if self._failing else math.inf):
                    await self._wake.wait()
                self._wake = trio.Event()
                if self._failing:
                    self._failing, after = False, NO_INO

    async def _pass(self, nursery: trio.Nursery, limit: trio.Semaphore, after: Ino) -> Ino:
        """Ask for every unknown inode above `after`; the highest number looked at."""
        more = True
        while more or self._soon:
            inodes, reached, more = await self._engine.unknown_headers(after, _SCAN) if more else ([], after, False)
            after = reached
            queue = deque(inodes)
            while queue or self._soon:
                inode = self._soon.popleft() if self._soon else queue.popleft()
                self.pending = len(queue) + len(self._soon)
                await limit.acquire()
                nursery.start_soon(self._background, inode, limit)
            await trio.lowlevel.checkpoint()
        return after

    async def _background(self, inode: Inode, limit: trio.Semaphore) -> None:
        try:
            current = await self._engine.get(inode.ino)
            if current.flags & InodeFlag.HEADERS_UNKNOWN:
                await self._fetch(current, demand=False)
        except errors.StaleInode:
            return
        except errors.S3LustreError as exc:
            # They stay unknown; whoever asks for the attributes gets the reason.
            self._failing = True
            log.warning("attributes not fetched ino=%d error=%s", inode.ino, exc)
            await trio.sleep(0.2)
        except Exception:
            # A defect must cost one file its attributes, not everybody their mount.
            log.exception("attributes not fetched ino=%d", inode.ino)
        finally:
            limit.release()

    async def _fetch(self, inode: Inode, *, demand: bool) -> None:
        running = self._fetching.get(inode.ino)
        if running is not None:
            await running.wait()
            return
        self._fetching[inode.ino] = trio.Event()
        place = None
        try:
            place = await self._place(inode)
            if place is None:
                await self._engine.apply_headers(inode.ino, "", AttributeChange(), None)
                return
            async with self._slots[place[0]].hold(demand=demand):
                await self._ask(inode, *place)
            self._repositories.troubles.forget(inode.ino)
        except errors.RepositoryError as exc:
            if place is not None and type(self._repositories.troubles.find(inode.ino)) is not type(exc):
                event_log.note_headers(place[1], exc)  # once, however often it is tried
            self._repositories.troubles.note(inode.ino, exc)
            raise
        finally:
            self._fetching.pop(inode.ino).set()

    async def _ask(self, inode: Inode, assoc: AssocId, key: bytes, etag: str) -> None:
        store = self._repositories.of(assoc)
        try:
            head = await _head(store, key)
            if etag and head.version.etag != etag:
                raise errors.ObjectChanged(
                    f"{key.decode(errors='replace')} changed since it was listed", key=key.decode(errors="replace")
                )
            posix = posix_headers.decode(head.metadata)
            target = None
            # An archived symlink is shown as a file until what it leads to can be read.
            if posix.is_symlink and inode.is_file and 0 < head.version.size and not head.archived:
                target = await store.get_bytes(key, head.version, 0, head.version.size)
        except errors.ObjectNotFound as exc:
            event_log.note(LogEvent.IMPORT_OBJECT_DELETED, key=key, reason=exc)
            await self._engine.apply_headers(inode.ino, etag, AttributeChange(), None)
            await self._engine.object_vanished(inode.ino)
            return
        except errors.ObjectChanged:
            await self._on_changed(inode.ino)
            return
        version = head.version
        if head.archived:
            event_log.note_archived(version.storage_class, is_symlink=posix.is_symlink, key=key)
        await self._engine.apply_headers(inode.ino, etag, _change(posix), target, version.version_id, version.storage_class)

    async def _place(self, inode: Inode) -> tuple[AssocId, bytes, str] | None:
        """(association, key, expected ETag) of the object that has the headers; None when there is none."""
        if inode.is_file:
            source = await self._engine.source_of(inode)
            return (source.assoc, source.key, source.etag) if source else None
        location = await self._engine.locate(inode)
        if location is None:
            return None
        assoc, end = location.association.assoc_id, b"/" if inode.is_dir else b""
        if location.association.export_prefix:
            exported = await self._engine.find_object(assoc, location.key + end)
            if exported is None or exported.ino != inode.ino:
                return assoc, location.imported_key + end, ""
        return assoc, location.key + end, ""


async def _head(store: ObjectStore, key: bytes) -> ObjectHead:
    """Twice before it is believed that there is no object: default attributes would take the place of those it has."""
    try:
        return await store.head(key)
    except errors.ObjectNotFound:
        return await store.head(key)


def _change(posix: posix_headers.PosixHeaders) -> AttributeChange:
    return AttributeChange(posix.permissions, posix.uid, posix.gid, posix.atime_ns, posix.mtime_ns)
