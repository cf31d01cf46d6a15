"""ControlServer: the control socket, which the commands of this package ask. It is 0600 in a 0700 directory: whoever can open it is
the owner.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import trio

from s3lustrefs.control.dispatch import Answer, Dispatcher, Operation, Service
from s3lustrefs.control.http_door import HttpDoor, Request

log = logging.getLogger(__name__)


class ControlServer:
    """Serves `operations` and `services` (see `dispatch`) on `socket_path`."""

    def __init__(
        self,
        socket_path: Path,
        operations: Mapping[str, Operation],
        services: Mapping[str, Service] = MappingProxyType({}),
    ) -> None:
        self._path = socket_path
        self._dispatcher = Dispatcher(operations, services)
        self._door = HttpDoor(self._answer)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then every connection is dropped and the socket is gone. Raises: OSError when it cannot listen."""
        listener, inode = self._listen()
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(trio.serve_listeners, self._door.serve_connection, [listener])
                log.info("control listening socket=%s", self._path)
                task_status.started()
        finally:
            self._remove(inode)

    def _listen(self) -> tuple[trio.SocketListener, int]:
        """The listening socket and the inode number of its file.

        Bound under another name and renamed into place, so that the name never leads to a socket with wrong
        permissions, and one left behind by a killed daemon is replaced. The directory goes into the address as a
        descriptor: the kernel takes 107 bytes only.
        """
        directory = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            fresh = f".{self._path.name}.{os.getpid()}"
            (self._path.parent / fresh).unlink(missing_ok=True)
            sock.bind(f"/proc/self/fd/{directory}/{fresh}")
            os.chmod(self._path.parent / fresh, 0o600)
            sock.listen(64)
            os.rename(fresh, self._path.name, src_dir_fd=directory, dst_dir_fd=directory)
            return trio.SocketListener(trio.socket.from_stdlib_socket(sock)), self._path.stat().st_ino
        except BaseException:
            sock.close()
            raise
        finally:
            os.close(directory)

    def _remove(self, inode: int) -> None:
        """Remove our own socket, never a successor's."""
        try:
            if self._path.stat().st_ino == inode:
                self._path.unlink()
        except FileNotFoundError:
            return  # the state directory was cleared while we ran; nothing is left to remove
        except OSError as exc:  # a read-only or failing disk: the next mount replaces it
            log.warning("control socket not removed path=%s error=%s", self._path, exc)

    async def _answer(self, request: Request) -> Answer:
        return await self._dispatcher.answer(request.method, request.header("x-amz-target"), request.body)
