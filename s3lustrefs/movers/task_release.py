"""ReleaseJob: drops the local bytes of files that the bucket has and nobody used for a while.

A file is the task's business if it is archived, clean, not pinned and was not used lately; one whose bytes are not here anyway
counts as done, so that a task taken up after a crash comes to the same figures. One that is in use, or being written or fetched,
is none of it, as FSx says of files that are not eligible.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model import task as tasks
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.task_progress import Progress
from s3lustrefs.movers.task_roots import Roots
from s3lustrefs.movers.task_walk import Position, walk_names

log = logging.getLogger(__name__)

Release = Callable[[Ino], Awaitable[int]]
"""Drops the bytes of a file: how many there were. Raises: MetadataError with the reason when they may not go."""


class ReleaseJob:
    """One release task."""

    def __init__(self, engine: MetadataEngine, roots: Roots, release: Release) -> None:
        self._engine = engine
        self._roots = roots
        self._release = release

    async def run(self, progress: Progress) -> None:
        """Raises: TaskFailed, StorageError."""
        task = progress.record
        paths = await self._roots.of_paths(task.paths)
        walk = walk_names(self._engine, [os.fsencode(path) for path in paths])
        if not task.position or not await walk.resume(Position.of_words(task.position)):
            await progress.restart()
            for path in paths:  # a root may be a single file
                await self._look_at(await self._engine.resolve(os.fsencode(path)), progress)
        while met := await walk.next():
            for each in met:
                await self._look_at(each.row.inode, progress)
            await progress.settled(walk.position.as_words(), progress.total)

    async def _look_at(self, inode: Inode, progress: Progress) -> None:
        task = progress.record
        if not inode.is_file or not inode.hsm & Hsm.ARCHIVED or inode.hsm & (Hsm.DIRTY | Hsm.NORELEASE | Hsm.LOST):
            return
        if not tasks.was_unused((inode.atime_ns, inode.mtime_ns, inode.ctime_ns), task.created_ns, task.unused_seconds):
            return
        try:
            progress.released_bytes += await self._release(inode.ino)
        except errors.MetadataError as exc:
            log.debug("not released task=%s ino=%d reason=%s", task.task_id, inode.ino, exc)
            return
        progress.met(1)
        failpoint("task.released")

    async def withdraw(self, progress: Progress) -> None:
        """Nothing is left behind: what was released stays released."""
