"""A server of a few lines that answers as it is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio

Serve = Callable[[bytes], Awaitable[str]]


@pytest.fixture
def serve(nursery: trio.Nursery) -> Serve:
    """Answer every request with these bytes; gives host and port."""

    async def start(answer: bytes) -> str:
        async def client(stream: trio.SocketStream) -> None:
            head = b""
            while b"\r\n\r\n" not in head:
                received = await stream.receive_some(65536)
                if not received:
                    return
                head += received
            with suppress(trio.BrokenResourceError):  # a client that has seen enough
                await stream.send_all(answer)

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, client, listeners)
        return f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"

    return start
