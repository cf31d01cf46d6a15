"""Invalidator: tells the kernel what to forget, from a worker thread.

The calls can block on a request that is still being handled, so they are never made inside one. Block counts wait a second:
told at once, the kernel would ask for the attributes of each hydrated file again in the middle of its reading.
Source: pyfuse3 documentation of invalidate_entry and invalidate_inode.
"""

from __future__ import annotations

import errno
import logging

import pyfuse3
import trio

from s3lustrefs.model.events import BlocksChanged, InodeInvalidation, Invalidation
from s3lustrefs.model.ids import Ino

log = logging.getLogger(__name__)

_BATCH = 200
_BLOCKS_SECONDS = 1.0
"""How late st_blocks of a hydrated file may be where nothing else makes the kernel ask."""
_PATIENCE_SECONDS = 5.0
"""How long `wait_told` waits: the kernel may itself wait for a request that hangs."""


class Invalidator:
    """Owns the receiving end of the invalidation channel. `notify` never blocks: the queue is unbounded, its records are tiny."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Invalidation](2**31)
        self._blocks_changed: set[Ino] = set()
        self._noted = self._told = 0
        self._progress = trio.Event()

    def notify(self, invalidation: Invalidation | BlocksChanged) -> None:
        if isinstance(invalidation, BlocksChanged):
            self._blocks_changed.add(invalidation.ino)
        else:
            self._note(invalidation)

    def _note(self, invalidation: Invalidation) -> None:
        self._noted += 1
        self._send.send_nowait(invalidation)

    async def wait_told(self) -> None:
        """Return once the kernel has heard of everything so far, or seems not to listen."""
        noted = self._noted
        with trio.move_on_after(_PATIENCE_SECONDS):
            while self._told < noted:
                await self._progress.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._release_blocks_changed)
            await self._deliver()

    async def _release_blocks_changed(self) -> None:
        while True:
            await trio.sleep(_BLOCKS_SECONDS)
            changed, self._blocks_changed = self._blocks_changed, set()
            for ino in changed:
                self._note(InodeInvalidation(ino, content=False))

    async def _deliver(self) -> None:
        async for first in self._receive:
            batch = [first]
            while len(batch) < _BATCH:
                try:
                    batch.append(self._receive.receive_nowait())
                except trio.WouldBlock:
                    break
            await trio.to_thread.run_sync(_send_all, batch, abandon_on_cancel=True)
            self._told += len(batch)
            self._progress.set()
            self._progress = trio.Event()


def _send_all(batch: list[Invalidation]) -> None:
    for order in batch:
        try:
            if isinstance(order, InodeInvalidation):
                pyfuse3.invalidate_inode(order.ino, attr_only=not order.content)
            else:
                pyfuse3.invalidate_entry(order.parent, order.name)
        except FileNotFoundError:
            continue  # the kernel does not know it: nothing to forget
        except OSError as exc:
            if exc.errno == errno.EINVAL:
                return  # libfuse: the session has ended
            log.warning("invalidation failed order=%s error=%s", order, exc)
