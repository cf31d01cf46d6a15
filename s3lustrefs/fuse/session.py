"""Session: the connection to the kernel, from the mount to its end by unmounting, by SIGTERM or by SIGINT.

Whatever hangs, it ends: what still waits for a bucket when the connection is gone is not answered any more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
from collections.abc import Callable, Iterator

import pyfuse3
import trio

from s3lustrefs import errors
from s3lustrefs.fuse import kernel_settings
from s3lustrefs.fuse.operations import Operations

log = logging.getLogger(__name__)

_MAX_REQUEST_TASKS = 20_000
"""Requests handled at once. Each blocked reader holds one; pyfuse3's own 99 would freeze the mount for everybody else."""
_CONNECTION_SECONDS = 0.25
_LAST_REQUESTS_SECONDS = 2.0
"""How long requests under way may take when the mount ends: what still waits for a bucket then is not answered any more."""


class Session:
    """One per process: libfuse knows no more. `options` are those of mount(8) and libfuse."""

    def __init__(self, operations: Operations, mount_point: str, options: set[str]) -> None:
        self._operations = operations
        self._mount_point = mount_point
        self._options = options
        self._requests = trio.CancelScope()
        self._ending = False
        self._abort: int | None = None

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """Mounted from here on, and until the block is left. Raises: MountPointError."""
        try:
            pyfuse3.init(self._operations, self._mount_point, self._options)
        except RuntimeError as exc:
            raise errors.MountPointError(
                f"cannot mount on {self._mount_point}: {exc}; see the lines above it on standard error"
            ) from exc
        self._end_on_signals()
        try:
            yield
        finally:
            # Lazily, where the end came by signal: the mount point is free at once, whoever still has files open.
            pyfuse3.close(unmount=True)
            self._sever()

    async def serve(self, ready: Callable[[], None]) -> None:
        """Answer requests until the end of the mount; `ready` is called once the first ones are answered."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_with_connection)
            nursery.start_soon(self._announce, ready)
            with self._requests:
                await pyfuse3.main(max_tasks=_MAX_REQUEST_TASKS)
            self._ending = True
            log.info("mount ended mount_point=%s", self._mount_point)
            nursery.cancel_scope.cancel()

    async def _announce(self, ready: Callable[[], None]) -> None:
        # Abandoned when the mount ends first: nobody would answer these calls then, until the connection is closed.
        await trio.to_thread.run_sync(os.stat, self._mount_point, abandon_on_cancel=True)
        await trio.to_thread.run_sync(kernel_settings.tune, self._mount_point, abandon_on_cancel=True)
        self._abort = await trio.to_thread.run_sync(kernel_settings.open_abort, self._mount_point, abandon_on_cancel=True)
        ready()

    def _sever(self) -> None:
        """A thread of the invalidator may wait in the kernel for a request that nobody will answer. It keeps the connection open:
        closing that would not end the request, and this process could not end either."""
        if self._abort is not None:
            with contextlib.suppress(OSError):
                os.write(self._abort, b"1")
            os.close(self._abort)

    def _end_on_signals(self) -> None:
        """From now on to the end of the process: a second signal must not kill a daemon that is about to unmount."""
        token = trio.lowlevel.current_trio_token()

        def received(number: int, frame: object) -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(self._end, number)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, received)

    def _end(self, number: int) -> None:
        if not self._ending:
            self._ending = True
            log.info("mount ending signal=%s", signal.Signals(number).name)
            pyfuse3.terminate()
            self._give_up_requests()

    async def _end_with_connection(self) -> None:
        """Unmounted: `pyfuse3.main` returns by itself once the last request is answered, which may wait for a bucket."""
        poll = select.poll()
        poll.register(_fuse_descriptor(), 0)  # reports only errors, and the end of the connection is one
        # A thread blocked in poll would be woken by every request, one more context switch for each.
        while not poll.poll(0):  # noqa: ASYNC110  # nothing can tell us
            await trio.sleep(_CONNECTION_SECONDS)
        self._give_up_requests()

    def _give_up_requests(self) -> None:
        self._requests.deadline = trio.current_time() + _LAST_REQUESTS_SECONDS


def _fuse_descriptor() -> int:
    """libfuse's descriptor of our connection, which it does not tell."""
    for entry in os.scandir("/proc/self/fd"):
        try:
            if os.readlink(entry.path) == "/dev/fuse":
                return int(entry.name)
        except FileNotFoundError:
            continue  # the descriptor of this very listing
    raise errors.FuseUnavailable("the connection to the kernel is gone")
