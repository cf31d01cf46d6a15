"""RestoreJobs: the orders of `s3lustrefs restore`, each for some files and everything below some directories.

In memory only: the bucket keeps what was asked for, and asking again does no harm.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from s3lustrefs import errors
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.archive import Archive, ArchiveState
from s3lustrefs.movers.files_below import files_below
from s3lustrefs.movers.links import Links
from s3lustrefs.repository.retry import backoff_seconds

log = logging.getLogger(__name__)

_ASKED_AT_ONCE = 16
_ATTEMPTS = 5
_MOST_JOBS = 100
_MOST_LISTED = 1000


@dataclass(slots=True)
class RestoreJob:
    """One order. `readable` counts files that can be read, because they were restored or are not archived."""

    days: int
    tier: str
    readable: int = 0
    failed: int = 0
    is_asked: bool = False
    """Everything has been asked for."""
    waiting: dict[Ino, bytes] = field(default_factory=dict)
    """Restores under way, with the path they were asked for by."""
    failures: list[tuple[bytes, str]] = field(default_factory=list)
    """The first of them, with the reason."""

    def fail(self, path: bytes, reason: str) -> None:
        self.failed += 1
        if len(self.failures) < _MOST_LISTED:
            self.failures.append((path, reason))


class RestoreJobs:
    """Jobs by number; the latest are remembered."""

    def __init__(self, engine: MetadataEngine, archive: Archive, links: Links) -> None:
        self._engine = engine
        self._archive = archive
        self._links = links
        self._jobs: dict[int, RestoreJob] = {}
        self._next = 1
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the jobs. Ends by cancellation: what was not asked for by then is not."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def start(self, paths: Sequence[bytes], days: int, tier: str) -> int:
        """The number of a new job. Raises: NotFound."""
        found = [(path, await self._links.resolve(path)) for path in paths]
        if self._nursery is None:
            raise errors.RepositoryUnavailable("the file system is shutting down")
        number = self._next
        self._next += 1
        job = self._jobs[number] = RestoreJob(days, tier)
        self._jobs.pop(number - _MOST_JOBS, None)
        self._nursery.start_soon(self._work, job, found, name=f"restore {number}")
        return number

    def look(self, number: int) -> RestoreJob:
        """How a job stands. Raises: NotFound."""
        job = self._jobs.get(number)
        if job is None:
            raise errors.NotFound(f"there is no restore {number} (any more)")
        for ino, path in list(job.waiting.items()):
            if not self._archive.is_ongoing(ino):
                del job.waiting[ino]
                if reason := self._archive.failure(ino):
                    job.fail(path, reason)
                else:
                    job.readable += 1
        return job

    async def _work(self, job: RestoreJob, found: list[tuple[bytes, Inode]]) -> None:
        limit = trio.Semaphore(_ASKED_AT_ONCE)
        try:
            async with trio.open_nursery() as nursery:
                is_named = True
                try:
                    async for files in files_below(self._engine, self._links, found):
                        for path, inode in files:
                            if is_named or await self._archive.may_need_restore(inode):
                                await limit.acquire()
                                nursery.start_soon(self._ask, job, path, inode, limit)
                        is_named = False
                except errors.RepositoryError as exc:  # what is below the directories cannot be told
                    job.fail(b"/", str(exc))
        except Exception:
            # A defect must cost one order its end, not everybody their mount.
            log.exception("restore order failed unexpectedly")
            job.fail(b"/", "internal error; daemon.log has the traceback")
        finally:
            job.is_asked = True

    async def _ask(self, job: RestoreJob, path: bytes, inode: Inode, limit: trio.Semaphore) -> None:
        try:
            state = await self._ask_patiently(inode, job)
            if state is None or state.readable:
                job.readable += 1
            else:
                job.waiting[inode.ino] = path
        except errors.S3LustreError as exc:
            job.fail(path, str(exc))
        except Exception:
            # A defect must cost one file its restore, not everybody their mount.
            log.exception("restore failed unexpectedly ino=%d", inode.ino)
            job.fail(path, "internal error; daemon.log has the traceback")
        finally:
            limit.release()

    async def _ask_patiently(self, inode: Inode, job: RestoreJob) -> ArchiveState | None:
        """A bucket is easily overloaded by the restores of a large tree."""
        for attempt in range(1, _ATTEMPTS):
            try:
                return await self._archive.ask(inode, job.days, job.tier)
            except errors.RepositoryUnavailable as exc:
                log.debug("restore not asked for, trying again ino=%d error=%s", inode.ino, exc)
                await trio.sleep(backoff_seconds(attempt))
        return await self._archive.ask(inode, job.days, job.tier)
