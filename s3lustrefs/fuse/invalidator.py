"""Invalidator: tells the kernel what to forget, from a worker thread.

The calls can block on a request that is still being handled, so they are never made inside one.
Source: pyfuse3 documentation of invalidate_entry and invalidate_inode.
"""

from __future__ import annotations

import logging

import pyfuse3
import trio

from s3lustrefs.model.events import InodeInvalidation, Invalidation

log = logging.getLogger(__name__)

_BATCH = 200
_GATHER_SECONDS = 0.02


class Invalidator:
    """Owns the receiving end of the invalidation channel. `notify` never blocks: the queue is unbounded, its records are tiny."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Invalidation](2**31)

    def notify(self, invalidation: Invalidation) -> None:
        self._send.send_nowait(invalidation)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        async for first in self._receive:
            if isinstance(first, InodeInvalidation) and not first.content:
                # Only a block count is out of date: a burst of hydrated files is worth one hop to the thread, not one each.
                await trio.sleep(_GATHER_SECONDS)
            batch = [first]
            while len(batch) < _BATCH:
                try:
                    batch.append(self._receive.receive_nowait())
                except trio.WouldBlock:
                    break
            await trio.to_thread.run_sync(_send_all, batch, abandon_on_cancel=True)


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
            log.warning("invalidation failed order=%s error=%s", order, exc)
