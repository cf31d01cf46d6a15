"""Releaser: drops local bytes of archived, clean files: by order, and least recently used first when the cache is nearly full.

What may go is decided by `data/space`; a file that is open, dirty, due or pinned (`never_release`) stays. Between deciding and
dropping nothing is awaited for the same file, so that no handle can open it in between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

import trio

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.data.space import Candidate, choose_victims
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.schema import JournalState
from s3lustrefs.model.events import InodeInvalidation, Invalidation
from s3lustrefs.model.hsm import Hsm, Request, refusal
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.evictions import Evictions
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.movers.room import Room

log = logging.getLogger(__name__)

_PERIOD_SECONDS = 2.0
_EXPORT_SECONDS = 0.1
"""Pause before looking again when nothing could be dropped."""
_SCAN = 1000


class Releaser:
    """Keeps the chunk store below its high watermark, and makes room for those who wait in `room`.

    `is_open` tells whether a handle needs an inode's bytes.
    """

    def __init__(
        self,
        engine: MetadataEngine,
        chunks: ChunkStore,
        hydrator: Hydrator,
        room: Room,
        is_open: Callable[[Ino], bool],
        notify: Callable[[Invalidation], None],
        urge_exports: Callable[[], None],
        evictions: Evictions,
    ) -> None:
        self._engine = engine
        self._chunks = chunks
        self._hydrator = hydrator
        self._room = room
        self._is_open = is_open
        self._notify = notify
        self._urge_exports = urge_exports
        self._evictions = evictions
        self.released_bytes = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look every few seconds, and at once when somebody waits for room. Ends by cancellation."""
        task_status.started()
        while True:
            urgent = await self._room.wait_wanted(_PERIOD_SECONDS)
            released, hopeless = 0, False
            try:
                await self._chunks.remove_leftovers()
                released = await self._make_room(urgent)
            except errors.StorageError as exc:
                log.error("room could not be made error=%s", exc)
            if urgent and not released:
                # Only exports can help now, if there are any to come.
                hopeless = not await self._exports_to_come()
                self._urge_exports()
                await trio.sleep(_EXPORT_SECONDS)
            self._room.end_round(hopeless=hopeless)

    async def release(self, ino: Ino) -> int:
        """Drop a file's local bytes by order; how many there were. None at all is fine.

        Raises: NotPermitted, InUse with the reason; InvalidArgument: not a file; StaleInode.
        """
        inode = await self._engine.get(ino)
        if not inode.is_file:
            raise errors.InvalidArgument("not a regular file")
        if reason := refusal(Request.RELEASE, inode.hsm_state()):
            raise errors.NotPermitted(reason)
        if not await self._hydrator.resident_bytes(inode):
            return 0
        if await self._engine.source_of(inode) is None:
            raise errors.NotPermitted("no object is known that holds it")
        if await self._engine.find_journal(ino) is not None:
            raise errors.InUse("its changes are being exported: drain it first")
        if self._is_open(ino):
            raise errors.InUse("somebody has it open")
        if self._hydrator.is_fetching(ino):
            raise errors.InUse("it is being restored")
        released = await self._release(ino)
        self.released_bytes += released
        return released

    async def _make_room(self, urgent: bool) -> int:
        """Bytes that were freed."""
        need, freed = self._need(urgent), 0
        if need and self._chunks.has_condemned:
            freed = await self._remove_condemned()
            need = self._need(urgent)
        self._evictions.needed(need)
        if not need:
            return freed
        # With room in all, somebody waits because the one target that its bytes go to is full.
        targets = self._chunks.full_targets() if urgent and not self._needed() else set()
        released = 0
        victims = choose_victims(await self._candidates(targets), need)
        if victims:
            await self._evictions.begin(need)
        for ino in victims:
            dropped = await self._release(ino)
            released += dropped
            if dropped:
                await self._evictions.released(dropped)
        self.released_bytes += released
        await self._remove_condemned()
        if released:
            log.info("room made wanted_bytes=%d released_bytes=%d", need, released)
        return freed + released

    def _need(self, urgent: bool) -> int:
        """How many bytes should go; something, if somebody waits for room."""
        return self._needed() or (max(1, self._chunks.space().capacity_bytes // 20) if urgent else 0)

    def _needed(self) -> int:
        return max(0, self._room.budget.bytes_to_free(self._chunks.space()))

    async def _remove_condemned(self) -> int:
        """Remove at once what would go with the next checkpoint; how many bytes that freed. Raises: StorageError."""
        before = self._chunks.used_bytes()
        await self._engine.sync()
        await self._chunks.remove_condemned()
        return max(0, before - self._chunks.used_bytes())

    async def _exports_to_come(self) -> bool:
        """Whether some export may still turn local-only bytes into archived ones."""
        rows = await self._engine.due(b"", _SCAN)
        return any(record.state is JournalState.DUE and not record.terminal for _, record in rows)

    async def _candidates(self, targets: Collection[int]) -> list[Candidate]:
        """Every file with local bytes on these targets (none given: on any)."""
        found: dict[Ino, Candidate] = {}
        async for batch in self._chunks.chunk_batches(_SCAN, targets):
            for ino in {file.key.ino for file in batch}:
                if ino not in found:
                    candidate = await self._candidate(ino)
                    if candidate is not None:
                        found[ino] = candidate
            await trio.lowlevel.checkpoint()
        return list(found.values())

    async def _candidate(self, ino: Ino) -> Candidate | None:
        try:
            inode = await self._engine.get(ino)
        except errors.StaleInode:
            return None
        used_ns = max(inode.atime_ns, inode.mtime_ns)
        return Candidate(ino, used_ns, await self._hydrator.resident_bytes(inode), await self._may_go(inode))

    async def _may_go(self, inode: Inode) -> bool:
        return (
            inode.is_file
            and bool(inode.hsm & Hsm.ARCHIVED)
            and not inode.hsm & (Hsm.DIRTY | Hsm.NORELEASE | Hsm.LOST)
            and not self._is_open(inode.ino)
            and not self._hydrator.is_fetching(inode.ino)
            and await self._engine.source_of(inode) is not None
            and await self._engine.find_journal(inode.ino) is None
        )

    async def _release(self, ino: Ino) -> int:
        """Drop a file's bytes if it still may go; how many."""
        try:
            inode = await self._engine.get(ino)
        except errors.StaleInode:
            return 0
        if not await self._may_go(inode):
            return 0
        resident = await self._hydrator.resident_bytes(inode)
        await self._engine.release_content(ino)
        self._hydrator.forget(ino)
        failpoint("release.recorded")
        self._chunks.condemn(ino, inode.content_version, inode.chunk_bytes, inode.size)
        self._notify(InodeInvalidation(ino, content=False))
        return resident
