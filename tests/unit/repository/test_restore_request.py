"""What is asked for when an archived object is to be restored: servers for tests do not mind the tier."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
import trio

from s3lustrefs.model.association import Endpoint
from s3lustrefs.repository.credentials import StaticCredentials
from s3lustrefs.repository.s3 import S3Store


@pytest.mark.parametrize(
    ("days", "tier", "expected"),
    [(3, "Bulk", {"Days": "3", "Tier": "Bulk"}), (None, "Expedited", {"Tier": "Expedited"})],
    ids=["days", "for good"],
)
async def test_restore_asks_for_so_many_days_in_that_tier(
    nursery: trio.Nursery, days: int | None, tier: str, expected: dict[str, str]
) -> None:
    asked: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        request = b""
        while not request.endswith(b"</RestoreRequest>"):
            received = await stream.receive_some(65536)
            if not received:
                return
            request += received
        head, _, body = request.partition(b"\r\n\r\n")
        asked.extend((head.split(b"\r\n")[0], body))
        await stream.send_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, serve, listeners)
    endpoint = Endpoint(endpoint_url=f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}", region="us-east-1")
    await S3Store(endpoint, "b", StaticCredentials("A" * 20, "B" * 40)).restore(b"k", days, tier)
    assert asked[0] == b"POST /b/k?restore HTTP/1.1"
    found = {element.tag.rpartition("}")[2]: element.text for element in ET.fromstring(asked[1]).iter() if not len(element)}
    assert found == expected
