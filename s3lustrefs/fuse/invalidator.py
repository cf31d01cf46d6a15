"""Invalidator: tells the kernel what to forget, from worker threads.

The calls can block on a request that is still being handled, so they are never made inside one: a dentry needs the lock of its
directory, which a look-up there has until it is answered; pages wait for reads of them. Orders that need the same lock are one
`_Group`, and one thread at a time tells it. A thread that gets stuck keeps the group it is at; its other groups go to another
thread. So what hangs in one directory, or with one bucket, does not hold up what is to be told of others. Orders only make the
kernel forget: in which order they come does not matter, as long as each comes after the commit that it tells of.

Block counts wait a second: told at once, the kernel would ask for the attributes of each hydrated file again in the middle of
its reading.

Source: pyfuse3 documentation of invalidate_entry and invalidate_inode; linux fs/fuse/dir.c, fuse_reverse_inval_entry.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from dataclasses import dataclass, field

import pyfuse3
import trio

from s3lustrefs.model.events import BlocksChanged, InodeInvalidation, Invalidation
from s3lustrefs.model.ids import Ino

log = logging.getLogger(__name__)

_BATCH = 200
"""Orders for one thread, about; a group is not split."""
_LATE_SECONDS = 0.1
"""After which a thread counts as stuck: a batch takes a few milliseconds."""
_THREADS = 32
"""So many directories and files can be stuck before everything waits for one of them."""
_BLOCKS_SECONDS = 1.0
"""How late st_blocks of a hydrated file may be where nothing else makes the kernel ask."""
_PATIENCE_SECONDS = 5.0
"""How long `wait_told` waits: the kernel may itself wait for a request that hangs."""


@dataclass(slots=True, eq=False)
class _Group:
    """Orders about the names of one directory, or about one inode. `since`: number of the first of them."""

    ino: Ino
    since: int
    orders: set[Invalidation] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Batch:
    """What one thread was given. It takes from the left of `left`, we take back from the right; deques are safe for that."""

    groups: list[_Group]
    left: deque[_Group]
    ended: trio.Event = field(default_factory=trio.Event)


class Invalidator:
    """`notify` never blocks: as many orders as it takes are kept, and those that are the same are kept once.

    INVARIANT: a group is either waiting, or under way in exactly one batch; each batch has one of `_THREADS` slots.
    """

    def __init__(self) -> None:
        self._waiting: dict[Ino, _Group] = {}
        self._under_way: dict[Ino, _Group] = {}
        self._blocks_changed: set[Ino] = set()
        self._noted = 0
        self._work = trio.Event()
        self._progress = trio.Event()
        self._slots = trio.Semaphore(_THREADS)
        self._limiter = trio.CapacityLimiter(_THREADS)

    def notify(self, invalidation: Invalidation | BlocksChanged) -> None:
        if isinstance(invalidation, BlocksChanged):
            self._blocks_changed.add(invalidation.ino)
        else:
            self._note(invalidation)

    def _note(self, order: Invalidation) -> None:
        self._noted += 1
        ino = order.ino if isinstance(order, InodeInvalidation) else order.parent
        group = self._waiting.get(ino)
        if group is None:
            group = self._waiting[ino] = _Group(ino, self._noted)
        group.orders.add(order)
        self._work.set()

    async def wait_told(self) -> None:
        """Return once the kernel has heard of everything so far, or seems not to listen."""
        noted = self._noted
        owing = self._waiting.keys() | self._under_way.keys()
        with trio.move_on_after(_PATIENCE_SECONDS):
            while owing := {ino for ino in owing if self._owes(ino, noted)}:
                await self._progress.wait()

    def _owes(self, ino: Ino, noted: int) -> bool:
        groups = (self._waiting.get(ino), self._under_way.get(ino))
        return any(group is not None and group.since <= noted for group in groups)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ends by cancellation, also while threads are stuck."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._release_blocks_changed)
            while True:
                await self._work.wait()
                await self._slots.acquire()
                batch = self._next_batch()
                if batch is None:
                    self._slots.release()
                    continue
                nursery.start_soon(self._tell, batch)
                with trio.move_on_after(_LATE_SECONDS):
                    await batch.ended.wait()
                if not batch.ended.is_set():
                    self._take_back(batch)

    async def _release_blocks_changed(self) -> None:
        while True:
            await trio.sleep(_BLOCKS_SECONDS)
            changed, self._blocks_changed = self._blocks_changed, set()
            for ino in changed:
                self._note(InodeInvalidation(ino, content=False))

    def _next_batch(self) -> _Batch | None:
        """Waiting groups that nobody is at; None, and no more `_work` for now, when there are none."""
        groups, size = [], 0
        for ino, group in self._waiting.items():
            if ino not in self._under_way:
                groups.append(group)
                size += len(group.orders)
                if size >= _BATCH:
                    break
        if not groups:
            self._work = trio.Event()
            return None
        for group in groups:
            self._under_way[group.ino] = self._waiting.pop(group.ino)
        return _Batch(groups, deque(groups))

    async def _tell(self, batch: _Batch) -> None:
        await trio.to_thread.run_sync(_send_all, batch.left, abandon_on_cancel=True, limiter=self._limiter)
        self._told(batch, len(batch.groups))
        batch.ended.set()
        self._slots.release()
        self._work.set()

    def _take_back(self, batch: _Batch) -> None:
        """Have others tell what the thread of a batch has not begun."""
        while batch.left:
            try:
                group = batch.left.pop()
            except IndexError:
                break
            batch.groups.pop()  # the same: both are in the same order
            del self._under_way[group.ino]
            later = self._waiting.setdefault(group.ino, group)
            later.orders |= group.orders
            later.since = group.since
        self._told(batch, len(batch.groups) - 1)

    def _told(self, batch: _Batch, count: int) -> None:
        """The kernel has heard of the first groups of a batch."""
        for group in batch.groups[: max(0, count)]:
            del self._under_way[group.ino]
        del batch.groups[: max(0, count)]
        self._progress.set()
        self._progress = trio.Event()


def _send_all(left: deque[_Group]) -> None:
    """In a thread. A group is whose took it out of the deque."""
    while True:
        try:
            group = left.popleft()
        except IndexError:
            return
        for order in group.orders:
            _send(order)


def _send(order: Invalidation) -> None:
    try:
        if isinstance(order, InodeInvalidation):
            pyfuse3.invalidate_inode(order.ino, attr_only=not order.content)
        else:
            pyfuse3.invalidate_entry(order.parent, order.name)
    except FileNotFoundError:
        return  # the kernel does not know it: nothing to forget
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # libfuse: the session has ended
            log.warning("invalidation failed order=%s error=%s", order, exc)
