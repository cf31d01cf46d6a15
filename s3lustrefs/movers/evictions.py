"""Evictions: what a file cache drops to make room, told as data repository tasks of type AUTO_RELEASE_DATA.

The releaser decides and drops; this only remembers. One task is one episode: everything that went without a pause of
`_PAUSE_SECONDS`, and a minute at most, so that a job that streams for hours through a full cache has tasks that end. Nobody asks
for these tasks, and nobody can cancel them. Only file caches have them: on FSx other file systems drop nothing by themselves.

A task is durable before the first file of its episode goes, its figures follow within `_SAVE_SECONDS`. A daemon that dies in
between leaves it EXECUTING; the next mount ends it: SUCCEEDED if enough had been counted, else FAILED with the reason. That
mount sees by itself what still has to go, as a task of its own. A state directory that takes no record holds up no eviction:
room may be what it lacks.

Source: Amazon FSx API Reference, "DataRepositoryTask", AUTO_RELEASE_DATA; fsx-spec sections 9.1 and 14.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import trio

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.task import AUTO_RELEASE, Lifecycle, TaskRecord
from s3lustrefs.movers.tasks import Tasks

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 5.0
"""Without an eviction: the releaser looks every two seconds, and writers of a full cache make it look several times a second."""
_MOST_SECONDS = 60.0
_SAVE_SECONDS = 2.0
_LOOK_SECONDS = 0.5
_NO_ROOM_SECONDS = 5.0
_CUT = "the mount ended before enough was released"
_NO_MORE = "not enough could be released: what is left is open, pinned or not in the bucket yet"


@dataclass(slots=True)
class _Episode:
    """One task that executes. Times are trio's, in seconds; `is_enough`: nothing more had to go when the releaser last looked."""

    record: TaskRecord
    began_at: float
    released_at: float
    saved_at: float
    is_enough: bool = False


class Evictions:
    """See the module docstring. Trio thread only."""

    def __init__(self, engine: MetadataEngine, tasks: Tasks, *, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._engine = engine
        self._tasks = tasks
        self._wall_ns = wall_ns
        self._episode: _Episode | None = None
        self._ended: list[TaskRecord] = []
        """Tasks whose end is not durable yet."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """End episodes, first of all that of a daemon that died. Ends by cancellation, and the episode under way with it."""
        task_status.started()
        cut = [task for task in self._tasks.all() if task.type == AUTO_RELEASE and not task.is_ended]
        self._ended = [self._end(task, _CUT) for task in cut]
        try:
            while True:
                self._look()
                if not await self._settle():
                    await trio.sleep(_NO_ROOM_SECONDS)
                await trio.sleep(_LOOK_SECONDS)
        finally:
            if self._episode is not None:
                self._ended.append(self._end(self._episode.record, "" if self._episode.is_enough else _CUT))
                self._episode = None
            with trio.CancelScope(shield=True):
                await self._settle()

    # --- for the releaser ------------------------------------------------------------------------------------------------

    def needed(self, size: int) -> None:
        """So many bytes should go, or are still there although they should have gone; 0: none."""
        if self._episode is not None:
            self._episode.is_enough = not size

    async def begin(self, size: int) -> None:
        """Files are about to be dropped for `size` bytes. Returns once a task tells so."""
        record = self._engine.file_system()
        if record is None or not record.is_cache:
            return
        episode = self._episode
        if episode is None:
            await self._open(size)
        else:
            wanted = max(episode.record.wanted_bytes, episode.record.released_bytes + size)
            episode.record, episode.is_enough = replace(episode.record, wanted_bytes=wanted), False
            episode.released_at = trio.current_time()  # it does not end between this and the first file

    async def released(self, size: int) -> None:
        """One file of `size` local bytes was dropped."""
        episode = self._episode
        if episode is None:
            return
        record, now = episode.record, trio.current_time()
        episode.record = replace(
            record, total=record.total + 1, succeeded=record.succeeded + 1, released_bytes=record.released_bytes + size,
            counted_ns=self._wall_ns(),
        )  # fmt: skip
        episode.released_at = now
        if now - episode.saved_at >= _SAVE_SECONDS:
            episode.saved_at = now
            await self._keep(episode.record)
            failpoint("eviction.counted")

    # --- the life of a task ----------------------------------------------------------------------------------------------

    async def _open(self, size: int) -> None:
        now_ns, now = self._wall_ns(), trio.current_time()
        linked = [association.association_id for association in self._engine.associations()]
        record = TaskRecord(f"task-{secrets.token_hex(9)[:17]}", AUTO_RELEASE, now_ns, associations=linked, wanted_bytes=size)
        record = record.step("EXECUTING", now_ns)
        self._episode = _Episode(record, now, now, now)
        try:
            await self._tasks.create(record, {}, None)
        except errors.StorageError as exc:
            # Kept with the next figures, if there is room by then.
            log.error("eviction is not recorded yet task=%s error=%s", record.task_id, exc)
        failpoint("eviction.begun")

    def _look(self) -> None:
        """End the episode under way if it is over."""
        episode, now = self._episode, trio.current_time()
        if episode is None:
            return
        is_met = episode.record.released_bytes >= episode.record.wanted_bytes
        if now - episode.released_at >= _PAUSE_SECONDS or (is_met and now - episode.began_at >= _MOST_SECONDS):
            self._ended.append(self._end(episode.record, "" if episode.is_enough else _NO_MORE))
            self._episode = None

    def _end(self, record: TaskRecord, failure: str) -> TaskRecord:
        """The task as it ends: as a failed one only if less went than had to."""
        if record.released_bytes >= record.wanted_bytes:
            failure = ""
        lifecycle: Lifecycle = "FAILED" if failure else "SUCCEEDED"
        return record.step(lifecycle, self._wall_ns(), failure=failure)

    async def _settle(self) -> bool:
        """Keep the tasks that ended; False: the state directory does not take them now."""
        while self._ended:
            record = self._ended[0]
            if not await self._keep(record):
                return False
            del self._ended[0]
            failpoint("eviction.ended")
            log.info(
                "eviction over task=%s lifecycle=%s wanted_bytes=%d released_bytes=%d files=%d",
                record.task_id, record.lifecycle, record.wanted_bytes, record.released_bytes, record.total,
            )  # fmt: skip
        return True

    async def _keep(self, record: TaskRecord) -> bool:
        try:
            await self._tasks.keep(record)
        except errors.StorageError as exc:
            log.error("eviction is not recorded yet task=%s error=%s", record.task_id, exc)
            return False
        return True
