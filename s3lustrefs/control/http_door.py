"""HttpDoor: HTTP/1.1 on one kind of socket, whole requests in, whole answers out; what either says is not its concern.

A client that is slow, silent, enormous, or does not read its answer loses its connection, and nobody else notices: a request has
`IDLE_SECONDS` and `MAX_REQUEST_BYTES`, an answer `IDLE_SECONDS`, and of too many connections the one goes that has waited longest
for its request to be complete.

h11 directly on trio, no application server. Hypercorn was tried: it sends under a shielded cancel scope, so that one
client that stops reading keeps the daemon from ever ending; it also costs 4.6 MB resident and 45 ms, h11 0.4 MB and 5 ms.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import h11
import trio

from s3lustrefs.control.dispatch import CONTENT_TYPE, Answer, faulty
from s3lustrefs.control.faults import Fault
from s3lustrefs.errors import UsageError

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 1 << 20
IDLE_SECONDS = 60.0
"""How long a connection may stay open without a complete request, and how long a client may take to read its answer."""
CLOSE_SECONDS = 5.0
MAX_CONNECTIONS = 128


@dataclass(frozen=True, slots=True)
class Request:
    """As received. Names of headers are in lower case, and may occur more than once."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """The last one of this name, or nothing."""
        return next((value for each, value in reversed(self.headers) if each == name), "")


class HttpDoor:
    """Gives every request to `answer`."""

    def __init__(self, answer: Callable[[Request], Awaitable[Answer]]) -> None:
        self._answer = answer
        self._receiving: dict[int, trio.CancelScope] = {}
        """By connection, the one that has waited longest first."""
        self._open = 0

    async def serve_connection(self, stream: trio.abc.Stream) -> None:
        connection = h11.Connection(h11.SERVER)
        self._open += 1
        if self._open > MAX_CONNECTIONS and self._receiving:
            next(iter(self._receiving.values())).cancel()
        try:
            try:
                while await self._serve_request(connection, stream):
                    connection.start_next_cycle()
            finally:
                with trio.move_on_after(CLOSE_SECONDS):  # TLS says goodbye, which a client may not want to hear
                    await stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.LocalProtocolError) as exc:
            log.debug("control connection ended reason=%s", exc)
        finally:
            self._open -= 1

    async def _serve_request(self, connection: h11.Connection, stream: trio.abc.Stream) -> bool:
        """One request and its answer; False when the connection is to end."""
        try:
            request = await self._receive(connection, stream)
            if request is None:
                return False
            status, body = await self._answer(request)
        except (h11.RemoteProtocolError, UsageError) as exc:
            status, body = faulty(Fault(400, "BadRequest", str(exc)))
        with trio.move_on_after(IDLE_SECONDS) as unread:
            await _send(connection, stream, status, body)
        return not unread.cancelled_caught and connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _receive(self, connection: h11.Connection, stream: trio.abc.Stream) -> Request | None:
        with trio.move_on_after(IDLE_SECONDS) as patience:
            self._receiving[id(connection)] = patience
            try:
                return await _receive(connection, stream)
            finally:
                del self._receiving[id(connection)]
        return None


async def _receive(connection: h11.Connection, stream: trio.abc.Stream) -> Request | None:
    """A whole request; None when the client has gone. Raises: UsageError, h11.RemoteProtocolError."""
    head, body = None, bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                await stream.send_all(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            connection.receive_data(bytes(await stream.receive_some(65536)))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_REQUEST_BYTES:
                raise UsageError(f"the request is larger than {MAX_REQUEST_BYTES} bytes")
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers)
            return Request(head.method.decode("latin-1"), head.target.decode("latin-1"), headers, bytes(body))
        else:
            return None


async def _send(connection: h11.Connection, stream: trio.abc.Stream, status: int, body: bytes) -> None:
    headers = [
        ("Content-Type", CONTENT_TYPE),
        ("Content-Length", str(len(body))),
        ("x-amzn-RequestId", str(uuid.uuid4())),
    ]
    events = (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
    await stream.send_all(b"".join(connection.send(event) or b"" for event in events))
