"""Control socket: JSON operations over HTTP/1.1, as the AWS JSON 1.1 protocol frames them.

`POST /` with `X-Amz-Target: PREFIX.OPERATION` and a JSON object as body; 200 with a JSON object, or 400/500 with
`{"__type": FAULT, "Message": TEXT}`. The socket is 0600 in a 0700 directory: whoever can open it is the owner.
Source: fsx-spec section 15.

h11 directly on trio, no application server. Hypercorn was tried: it sends under a shielded cancel scope, so that one
client that stops reading keeps the daemon from ever ending; it also costs 4.6 MB resident and 45 ms, h11 0.4 MB and 5 ms.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import h11
import trio

from s3lustrefs.control.faults import Fault, fault_of
from s3lustrefs.errors import UsageError
from s3lustrefs.log import working_on

log = logging.getLogger(__name__)

Operation = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

PREFIX = "S3LustreFS"
CONTENT_TYPE = "application/x-amz-json-1.1"
MAX_REQUEST_BYTES = 1 << 20
IDLE_SECONDS = 60.0
"""How long a connection may stay open without a complete request."""


class ControlServer:
    """Serves `operations` on `socket_path`. A name without a prefix of its own belongs to `S3LustreFS`."""

    def __init__(self, socket_path: Path, operations: Mapping[str, Operation]) -> None:
        self._path = socket_path
        self._operations = {name if "." in name else f"{PREFIX}.{name}": call for name, call in operations.items()}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then every connection is dropped and the socket is gone. Raises: OSError when it cannot listen."""
        listener, inode = self._listen()
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(trio.serve_listeners, self._serve_connection, [listener])
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

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        async with stream:
            try:
                while await self._serve_request(connection, stream):
                    connection.start_next_cycle()
            except (trio.BrokenResourceError, trio.ClosedResourceError, h11.LocalProtocolError) as exc:
                log.debug("control connection ended reason=%s", exc)

    async def _serve_request(self, connection: h11.Connection, stream: trio.SocketStream) -> bool:
        """One request and its answer; False when the connection is to end."""
        try:
            with trio.move_on_after(IDLE_SECONDS) as idle:
                request, received = await _receive(connection, stream)
            if idle.cancelled_caught or request is None:
                return False
            status, body = await self._answer(request, received)
        except (h11.RemoteProtocolError, UsageError) as exc:
            status, body = _faulty(Fault(400, "BadRequest", str(exc)))
        await _send(connection, stream, status, body)
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _answer(self, request: h11.Request, body: bytes) -> tuple[int, bytes]:
        headers = {name: value.decode("latin-1") for name, value in request.headers}
        target = headers.get(b"x-amz-target", "")
        operation = self._operations.get(target)
        if request.method != b"POST" or operation is None:
            return _faulty(Fault(400, "UnknownOperationException", f"unknown operation {target or request.method.decode()!r}"))
        try:
            arguments = json.loads(body or b"{}")
        except ValueError as exc:
            return _faulty(Fault(400, "SerializationException", f"the request is not JSON: {exc}"))
        if not isinstance(arguments, dict):
            return _faulty(Fault(400, "SerializationException", "the request is not a JSON object"))
        with working_on(op=target):
            try:
                return 200, json.dumps(await operation(arguments)).encode()
            except Exception as exc:  # noqa: BLE001 - the table is where every exception becomes an answer
                return _faulty(fault_of(exc, target))


def _faulty(fault: Fault) -> tuple[int, bytes]:
    return fault.status, json.dumps({"__type": fault.name, "Message": fault.message}).encode()


async def _receive(connection: h11.Connection, stream: trio.SocketStream) -> tuple[h11.Request | None, bytes]:
    """A whole request; None when the client has gone. Raises: UsageError, h11.RemoteProtocolError."""
    request, body = None, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                await stream.send_all(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            connection.receive_data(await stream.receive_some(65536))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_REQUEST_BYTES:
                raise UsageError(f"the request is larger than {MAX_REQUEST_BYTES} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return request, body
        else:
            return None, b""


async def _send(connection: h11.Connection, stream: trio.SocketStream, status: int, body: bytes) -> None:
    headers = [
        ("Content-Type", CONTENT_TYPE),
        ("Content-Length", str(len(body))),
        ("x-amzn-RequestId", str(uuid.uuid4())),
    ]
    events = (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
    await stream.send_all(b"".join(connection.send(event) or b"" for event in events))
