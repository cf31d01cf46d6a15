"""Preloads: orders of `s3lustrefs hydrate` to bring files, and everything below directories, from the bucket.

The largest files go first, so that none of them is left alone at the end. Each is a restore (`hsm_restores`) that goes behind
readers and behind what was ordered by name. In memory only: what was not brought by the end of the mount is not, and asking again
does no harm.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from s3lustrefs import errors
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.hsm import Hsm, Request, refusal
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.files_below import files_below
from s3lustrefs.movers.hsm_restores import HsmRestores, Restore
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.movers.links import Links

log = logging.getLogger(__name__)

_FILES_AT_ONCE = 64
"""Asked for ahead of what is at work, so that no association runs dry while another one's files are long."""
_MOST_JOBS = 100
_MOST_LISTED = 1000
_SIZE_CLASSES = 64


@dataclass(slots=True)
class Preload:
    """One order. Bytes are those to be brought; a file that is here already counts as `local` and has none."""

    files: int = 0
    total_bytes: int = 0
    local: int = 0
    brought: int = 0
    brought_bytes: int = 0
    failed: int = 0
    is_walked: bool = False
    """All files are known."""
    is_done: bool = False
    failures: list[tuple[bytes, str]] = field(default_factory=list)
    """The first of them, with the reason."""
    running: dict[Ino, Restore] = field(default_factory=dict)
    waiting: list[array[int]] = field(default_factory=lambda: [array("Q") for _ in range(_SIZE_CLASSES)])
    """Inode numbers by the number of bits of their size: an order good enough, in eight bytes for each of many files."""
    more: trio.Event = field(default_factory=trio.Event)

    def add(self, inode: Inode) -> None:
        self.files += 1
        if not inode.hsm_state() & Hsm.RELEASED:
            self.local += 1
            return
        self.total_bytes += inode.size
        self.waiting[inode.size.bit_length()].append(inode.ino)

    def take(self) -> Ino | None:
        """One of the largest."""
        largest = next((inos for inos in reversed(self.waiting) if inos), None)
        return Ino(largest.pop()) if largest else None

    def fail(self, path: bytes, reason: str) -> None:
        self.failed += 1
        if len(self.failures) < _MOST_LISTED:
            self.failures.append((path, reason))


class Preloads:
    """Orders by number; the latest are remembered. `known` returns an inode once only its attributes can tell what it is."""

    def __init__(
        self,
        engine: MetadataEngine,
        hydrator: Hydrator,
        restores: HsmRestores,
        links: Links,
        known: Callable[[Inode], Awaitable[Inode]],
    ) -> None:
        self._engine = engine
        self._hydrator = hydrator
        self._restores = restores
        self._links = links
        self._known = known
        self._jobs: dict[int, tuple[Preload, trio.CancelScope]] = {}
        self._next = 1
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the orders. Ends by cancellation."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def start(self, paths: Sequence[bytes]) -> int:
        """The number of a new order. Raises: NotFound; QueueFull; RepositoryError, also at the end of the mount."""
        named = [(path, await self._links.resolve(path)) for path in paths]
        if self._nursery is None:
            raise errors.RepositoryUnavailable("the file system is shutting down")
        self._forget_oldest()
        number, job, scope = self._next, Preload(), trio.CancelScope()
        self._next += 1
        self._jobs[number] = job, scope
        self._nursery.start_soon(self._work, job, scope, named, name=f"preload {number}")
        return number

    def _forget_oldest(self) -> None:
        """Raises: QueueFull."""
        if len(self._jobs) >= _MOST_JOBS:
            ended = next((number for number, (job, _) in self._jobs.items() if job.is_done), None)
            if ended is None:
                raise errors.QueueFull(f"{len(self._jobs)} preloads are under way already")
            del self._jobs[ended]

    def look(self, number: int) -> Preload:
        """Raises: NotFound."""
        return self._find(number)[0]

    def cancel(self, number: int) -> None:
        """Bring no more; what is under way is given up. Raises: NotFound."""
        self._find(number)[1].cancel()

    def _find(self, number: int) -> tuple[Preload, trio.CancelScope]:
        found = self._jobs.get(number)
        if found is None:
            raise errors.NotFound(f"there is no preload {number} (any more)")
        return found

    async def partial_bytes(self, job: Preload) -> int:
        """What is here already of the files under way."""
        total = 0
        for restore in [each for each in job.running.values() if each.is_running]:
            try:
                total += await self._hydrator.resident_bytes(await self._engine.get(restore.ino)) - restore.resident_before
            except errors.MetadataError:
                continue
        return max(0, total)

    # --- working ---------------------------------------------------------------------------------------------------------

    async def _work(self, job: Preload, scope: trio.CancelScope, named: list[tuple[bytes, Inode]]) -> None:
        try:
            with scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._walk, job, named)
                    await self._bring_all(job, nursery)
        except Exception:
            # A defect must cost one order, not everybody their mount.
            log.exception("preload failed unexpectedly")
            job.fail(b"/", "internal error; daemon.log has the traceback")
        finally:
            job.is_walked = job.is_done = True

    async def _walk(self, job: Preload, named: list[tuple[bytes, Inode]]) -> None:
        try:
            async for page in files_below(self._engine, self._links, named):
                for _, inode in page:
                    if inode.is_file:
                        job.add(inode)
                job.more.set()
        except errors.RepositoryError as exc:  # what is below the directories cannot be told
            job.fail(b"/", str(exc))
        job.is_walked = True
        job.more.set()

    async def _bring_all(self, job: Preload, nursery: trio.Nursery) -> None:
        limit = trio.Semaphore(_FILES_AT_ONCE)
        while True:
            await limit.acquire()
            while (ino := job.take()) is None:
                if job.is_walked:
                    return
                await job.more.wait()
                job.more = trio.Event()
            nursery.start_soon(self._bring, job, ino, limit)

    async def _bring(self, job: Preload, ino: Ino, limit: trio.Semaphore) -> None:
        try:
            error = await self._try(job, ino)
            if isinstance(error, errors.StaleInode):  # the object changed: its new version is wanted as well
                error = await self._try(job, ino)
            if error is not None:
                raise error
        except errors.StaleInode:
            job.files -= 1  # deleted meanwhile
        except errors.S3LustreError as exc:
            job.fail(await self._path(ino), str(exc))
        finally:
            limit.release()

    async def _try(self, job: Preload, ino: Ino) -> errors.S3LustreError | None:
        inode = await self._known(await self._engine.get(ino))
        if not inode.is_file or inode.is_complete:  # it turned out to be a symlink, or somebody was faster
            job.local += 1
            job.total_bytes -= inode.size if inode.is_file else 0
            return None
        if reason := refusal(Request.RESTORE, inode.hsm_state()):
            return errors.NotPermitted(reason)
        if ino in job.running:  # by another of its names, or below another of the paths that were given
            job.files -= 1
            job.total_bytes -= inode.size
            return None
        restore = job.running[ino] = self._restores.ask(inode, ordered=False)
        try:
            await restore.done.wait()
        finally:
            del job.running[ino]
            self._restores.leave(restore)
        if restore.error is None:
            job.brought += 1
            job.brought_bytes += restore.size
        return restore.error

    async def _path(self, ino: Ino) -> bytes:
        try:
            return await self._engine.path_of(ino)
        except errors.MetadataError:
            return b"(deleted)"
