"""DaemonClient's one function: an operation of the FSx API asked over a control socket, by another process on the same host.

It never waits longer than it is told to, whatever the daemon does.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path

import h11
import trio

from s3lustrefs.control.dispatch import CONTENT_TYPE
from s3lustrefs.control.fsx_model import TARGET_PREFIX
from s3lustrefs.control.fsx_request import Json
from s3lustrefs.errors import ControlFault, DaemonUnreachable, NoDaemon

_NOBODY = (errno.ENOENT, errno.ECONNREFUSED)


async def ask(socket_path: Path, operation: str, request: Json, *, seconds: float) -> Json:
    """The daemon's answer.

    Raises: NoDaemon when nobody listens; DaemonUnreachable when it does not answer in time, or ends meanwhile; ControlFault.
    """
    body = json.dumps(request).encode()
    with trio.move_on_after(seconds):
        try:
            stream = await _connected(socket_path)
            async with stream:
                status, answer = await _exchange(stream, operation, body)
        except OSError as exc:
            if exc.errno in _NOBODY:
                raise NoDaemon(f"nobody listens on {socket_path}") from exc
            raise DaemonUnreachable(f"{socket_path}: {exc.strerror}") from exc
        except (trio.BrokenResourceError, h11.RemoteProtocolError, ValueError) as exc:
            raise DaemonUnreachable(f"{socket_path}: the daemon ended while it was asked") from exc
        if status != 200:
            name, message = str(answer.pop("__type", "InternalServerError")), str(answer.pop("Message", ""))
            raise ControlFault(message, fault=name, members={key: str(value) for key, value in answer.items()})
        return answer
    raise DaemonUnreachable(f"{socket_path}: the daemon has not answered within {seconds:.0f} s")


async def _connected(socket_path: Path) -> trio.SocketStream:
    """The directory goes into the address as a descriptor: the kernel takes 107 bytes only. Raises: OSError."""
    directory = os.open(socket_path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        made = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await made.connect(f"/proc/self/fd/{directory}/{socket_path.name}")
        except BaseException:
            made.close()
            raise
        return trio.SocketStream(made)
    finally:
        os.close(directory)


async def _exchange(stream: trio.SocketStream, operation: str, body: bytes) -> tuple[int, Json]:
    connection = h11.Connection(h11.CLIENT)
    headers = [
        ("Host", "localhost"), ("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(body))),
        ("X-Amz-Target", f"{TARGET_PREFIX}.{operation}"),
    ]  # fmt: skip
    events = (h11.Request(method="POST", target="/", headers=headers), h11.Data(data=body), h11.EndOfMessage())
    await stream.send_all(b"".join(connection.send(event) or b"" for event in events))
    status, received = 0, bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(65536)))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            received += event.data
        elif isinstance(event, h11.EndOfMessage):
            answer: Json = json.loads(received)
            return status, answer
        else:
            raise ValueError("the answer ends early")
