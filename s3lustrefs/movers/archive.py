"""Archive: asks the bucket to restore objects of archive storage classes, and finds out when they can be read.

The bucket knows what was asked for, so nothing is recorded here: whoever reads a file, or exports a change of it, finds out by
trying. Looked at again and again are only the objects that this mount has asked for since it began, so that what waits for them
goes on at once: readers of `restore --wait`, changes of attributes and names.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from s3lustrefs import errors
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.schema import UNKNOWN_CLASS, ObjectRecord
from s3lustrefs.model.events import DentryInvalidation, Invalidation
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.repository import posix_headers
from s3lustrefs.repository.object_store import ARCHIVE_CLASSES, ObjectHead

log = logging.getLogger(__name__)

_HEADS_AT_ONCE = 16
_HEADS_PER_SECOND = 50
_FIRST_SECONDS, _LONGEST_SECONDS = 1.0, 60.0
"""Between two looks: some products restore at once, Amazon's fastest tier takes minutes, its slowest two days."""
_ANSWER_SECONDS = 5.0
_MAY_BE_ARCHIVED = ARCHIVE_CLASSES | {"INTELLIGENT_TIERING", UNKNOWN_CLASS}
_MOST_FAILURES = 10_000


@dataclass(frozen=True, slots=True)
class ArchiveState:
    """Of one object in an archive: `expires_ns` is when a restored copy goes again, 0 where that is not known."""

    storage_class: str
    readable: bool
    ongoing: bool
    expires_ns: int


class Archive:
    """See the module docstring. `refresh` imports a file's object again, `wake` tells that something became due."""

    def __init__(
        self,
        engine: MetadataEngine,
        repositories: Repositories,
        hydrator: Hydrator,
        refresh: Callable[[Ino], Awaitable[object]],
        notify: Callable[[Invalidation], None],
        wake: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._repositories = repositories
        self._hydrator = hydrator
        self._refresh = refresh
        self._notify = notify
        self._wake = wake
        self._ongoing: set[Ino] = set()
        self._failures: dict[Ino, str] = {}
        self._asked = trio.Event()

    @property
    def ongoing(self) -> int:
        """Restores under way that this mount has asked for."""
        return len(self._ongoing)

    def is_ongoing(self, ino: Ino) -> bool:
        return ino in self._ongoing

    def failure(self, ino: Ino) -> str:
        """Why a restore ended without making the object readable; empty when it did not."""
        return self._failures.get(ino, "")

    async def may_need_restore(self, inode: Inode) -> bool:
        """Whether somebody who reads or exports this file could have to wait for a restore, as far as is known here."""
        source = await self._engine.source_of(inode) if inode.is_file else None
        if source is None or source.storage_class not in _MAY_BE_ARCHIVED:
            return False
        return not inode.is_complete or await self._engine.find_journal(inode.ino) is not None

    # --- asking ----------------------------------------------------------------------------------------------------------

    async def ask(self, inode: Inode, days: int, tier: str) -> ArchiveState | None:
        """Have the file's object restored, or kept readable for longer. None: it is not archived.

        Raises: NotInRepository for a file without an object; RepositoryError.
        """
        source = await self._source(inode)
        store = self._repositories.of(source.assoc)
        head = await store.head(source.key)
        if _state(head) is None:
            return None
        if not _is_ongoing(head):
            self._failures.pop(inode.ino, None)
            try:
                await store.restore(source.key, days if head.version.storage_class in ARCHIVE_CLASSES else None, tier)
            except errors.RepositoryRejected:
                head = await store.head(source.key)
                if head.archived and not _is_ongoing(head):
                    raise  # otherwise somebody else was faster
        if head.archived:
            self._ongoing.add(inode.ino)
            self._asked.set()
        else:
            await self._readable(inode, head)
        return _state(head)

    async def _source(self, inode: Inode) -> ObjectRecord:
        source = await self._engine.source_of(inode) if inode.is_file else None
        if source is None:
            raise errors.NotInRepository("has no object in a bucket: there is nothing to restore")
        return source

    async def state(self, inode: Inode) -> ArchiveState | None:
        """What the bucket says now. None: not archived. Raises: RepositoryError, also when it does not say so soon."""
        source = await self._engine.source_of(inode) if inode.is_file else None
        if source is None or source.storage_class not in _MAY_BE_ARCHIVED:
            return None
        with trio.move_on_after(_ANSWER_SECONDS):
            return _state(await self._repositories.of(source.assoc).head(source.key))
        raise errors.RepositoryUnavailable("the bucket does not answer")

    # --- waiting ---------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look after restores under way. Ends by cancellation; the bucket goes on with them."""
        task_status.started()
        pause = _FIRST_SECONDS
        while True:
            with trio.move_on_after(pause if self._ongoing else float("inf")):
                await self._asked.wait()
                self._asked = trio.Event()
                pause = _FIRST_SECONDS
                await trio.sleep(_FIRST_SECONDS)
            await self._look_at_all()
            pause = max(min(pause * 1.5, _LONGEST_SECONDS), len(self._ongoing) / _HEADS_PER_SECOND)

    async def _look_at_all(self) -> None:
        limit = trio.Semaphore(_HEADS_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for ino in list(self._ongoing):
                await limit.acquire()
                nursery.start_soon(self._look_at, ino, limit)

    async def _look_at(self, ino: Ino, limit: trio.Semaphore) -> None:
        try:
            inode = await self._engine.get(ino)
            source = await self._source(inode)
            head = await self._repositories.of(source.assoc).head(source.key)
            if not head.archived:
                await self._readable(inode, head)
            elif not _is_ongoing(head):
                self._failed(ino, "the bucket ended the restore, and the object cannot be read")
        except (errors.ObjectNotFound, errors.NotInRepository, errors.StaleInode) as exc:
            self._failed(ino, str(exc))
        except errors.S3LustreError as exc:
            log.debug("restore not looked at, trying again ino=%d error=%s", ino, exc)
        except Exception:
            # A defect must cost one file its restore, not everybody their mount.
            log.exception("restore not looked at ino=%d", ino)
            self._failed(ino, "internal error; daemon.log has the traceback")
        finally:
            limit.release()

    def _failed(self, ino: Ino, reason: str) -> None:
        self._ongoing.discard(ino)
        self._failures[ino] = reason
        if len(self._failures) > _MOST_FAILURES:
            del self._failures[next(iter(self._failures))]

    async def _readable(self, inode: Inode, head: ObjectHead) -> None:
        if posix_headers.decode(head.metadata).is_symlink:
            # What it leads to could not be read before. The name is to be looked up again, first of all: the kernel answers EIO
            # for an inode of a known name that is of another type now.
            self._notify(DentryInvalidation(inode.parent, inode.name))
            await self._refresh(inode.ino)
            self._notify(DentryInvalidation(inode.parent, inode.name))
        self._hydrator.try_again(inode.ino)
        self._repositories.troubles.forget(inode.ino)
        waiting = await self._engine.find_journal(inode.ino)
        if waiting is not None and waiting.error_code == errors.ObjectArchived.code:
            await self._engine.postpone(waiting, 0.0)
            self._wake()
        self._ongoing.discard(inode.ino)
        log.debug("object restored ino=%d", inode.ino)


def _is_ongoing(head: ObjectHead) -> bool:
    return head.restore is not None and head.restore.ongoing


def _state(head: ObjectHead) -> ArchiveState | None:
    if not head.archived and head.restore is None:
        return None
    expires_ns = head.restore.expires_ns if head.restore is not None else 0
    return ArchiveState(head.version.storage_class, not head.archived, _is_ongoing(head), expires_ns)
