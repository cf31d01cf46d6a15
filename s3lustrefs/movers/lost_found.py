"""LostFound: the losers of conflicts stay a while in `.s3lustrefs-lost+found`, bounded in age and in size; the oldest go first.

Size alone takes nothing away that has been there for less than a day: somebody must have had the chance to look.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import trio

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.location import LOST_FOUND
from s3lustrefs.model.ids import ROOT_INO, Ino
from s3lustrefs.movers.removals import Removals

log = logging.getLogger(__name__)

_GRACE_SECONDS = 86400.0
_LONGEST_PAUSE_SECONDS = 600.0
_SHARE = 10
"""A tenth of the cache, where nothing else is asked for."""
_BATCH = 512


@dataclass(frozen=True, slots=True)
class Loser:
    """One file in lost+found; `since_ns` is when it came, or was changed since."""

    parent: Ino
    name: bytes
    size: int
    since_ns: int


@dataclass(frozen=True, slots=True)
class LostFoundStatistics:
    """Live numbers for status; `purged` since the mount."""

    files: int
    bytes: int
    oldest_seconds: float
    purged: int


class LostFound:
    """`keep_seconds` 0: for ever; `most_bytes` None: a share of the cache. `wall_ns` is the clock of the inode table."""

    def __init__(
        self,
        engine: MetadataEngine,
        chunks: ChunkStore,
        removals: Removals,
        *,
        keep_seconds: float,
        most_bytes: int | None,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._engine = engine
        self._chunks = chunks
        self._removals = removals
        self._keep_seconds = keep_seconds or math.inf
        self._most_bytes = most_bytes
        self._wall_ns = wall_ns
        self._purged = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Purge now and then. Ends by cancellation."""
        task_status.started()
        while True:
            await trio.sleep(min(_LONGEST_PAUSE_SECONDS, max(1.0, self._keep_seconds / 10)))
            try:
                await self.purge()
            except errors.S3LustreError as exc:
                log.warning("lost+found not purged, trying again error=%s", exc)

    async def statistics(self) -> LostFoundStatistics:
        losers, _ = await self._look()
        oldest = min((loser.since_ns for loser in losers), default=None)
        age = 0.0 if oldest is None else max(0.0, (self._wall_ns() - oldest) / 1e9)
        return LostFoundStatistics(len(losers), sum(loser.size for loser in losers), age, self._purged)

    async def purge(self) -> None:
        """Take away what is too old, then the oldest of what is too much. Raises: StorageError."""
        losers, directories = await self._look()
        now = self._wall_ns()
        most = self._chunks.space().capacity_bytes // _SHARE if self._most_bytes is None else self._most_bytes
        too_much = sum(loser.size for loser in losers) - most
        for loser in sorted(losers, key=lambda each: each.since_ns):
            age = (now - loser.since_ns) / 1e9
            is_old = age > self._keep_seconds
            if not is_old and not (too_much > 0 and age > min(_GRACE_SECONDS, self._keep_seconds)):
                break
            if await self._remove(loser.parent, loser.name):
                self._purged += 1
                too_much -= loser.size
                reason = "old" if is_old else "more than lost_found_size"
                log.info("lost+found purged name=%r bytes=%d reason=%s", loser.name, loser.size, reason)
        if not losers or self._purged:
            for parent, name in reversed(directories):
                await self._remove(parent, name)

    async def _look(self) -> tuple[list[Loser], list[tuple[Ino, bytes]]]:
        """Every loser, and every directory after the one it is in."""
        try:
            top = await self._engine.lookup(ROOT_INO, LOST_FOUND)
        except errors.NotFound:
            return [], []
        losers: list[Loser] = []
        directories = [(ROOT_INO, LOST_FOUND)]
        waiting = [top.ino] if top.is_dir else []
        while waiting:
            ino, after = waiting.pop(), b""
            while entries := await self._engine.readdir(ino, after, _BATCH):
                after = entries[-1][0]
                for name, inode in entries:
                    if inode.is_dir:
                        directories.append((ino, name))
                        waiting.append(inode.ino)
                    else:
                        losers.append(Loser(ino, name, inode.size, inode.ctime_ns))
                await trio.lowlevel.checkpoint()
        return losers, directories

    async def _remove(self, parent: Ino, name: bytes) -> bool:
        removed = await self._engine.remove_loser(parent, name)
        failpoint("lost_found.removed")
        if removed is not None:
            self._removals.follow(parent, [removed])
        return removed is not None
