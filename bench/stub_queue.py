"""A stub of SQS that always has ten more messages, until they are all handed out.

`python -m bench.stub_queue COUNT`; prints its port once it answers. Nothing is handed out before a GET of `/start`; a GET of
`/deleted` answers how many messages were deleted. It checks no signature, and knows one queue whatever its name.

Of ten events seven are about new objects, two change objects of `bench.catalog.generated`, one removes an object that came
`REMOVED_AFTER` events before (until there are so many, it is about a new object, too).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator

from bench.catalog import generated

BATCH = 10
REMOVED_AFTER = 5000
_TIME = "TIME-OF-EVENT-----------"


def bodies(count: int) -> Iterator[str]:
    """The messages, with a placeholder for the time."""
    old = generated(count)
    for number in range(count):
        kind = number % BATCH
        name, key, etag, size = "ObjectCreated:Put", f"told/{number // 1000:04d}/{number:07d}", f"{number:032x}", 1000 + number
        if kind in (3, 6):
            key = next(old).key.decode()
        elif kind == 9 and number > REMOVED_AFTER:
            old_number = number - REMOVED_AFTER - 1
            name, key = "ObjectRemoved:Delete", f"told/{old_number // 1000:04d}/{old_number:07d}"
        described = {"key": key, "size": size, "eTag": etag, "sequencer": f"{number:016X}"}
        record = {"eventVersion": "2.1", "eventSource": "aws:s3", "eventTime": _TIME, "eventName": name}
        yield json.dumps({"Records": [{**record, "s3": {"bucket": {"name": "bench"}, "object": described}}]})


class Queue:
    """Answers ready to be sent; those who ask before the start wait for it."""

    def __init__(self, count: int) -> None:
        self._batches: list[bytes] = []
        batch: list[dict[str, object]] = []
        for number, body in enumerate(bodies(count)):
            attributes = {"SentTimestamp": _TIME, "ApproximateReceiveCount": "1"}
            batch.append({"MessageId": str(number), "ReceiptHandle": str(number), "Body": body, "Attributes": attributes})
            if len(batch) == BATCH:
                self._batches.append(json.dumps({"Messages": batch}).encode())
                batch = []
        self._batches.reverse()
        self._started = asyncio.Event()
        self.deleted = 0

    async def answer(self, method: bytes, target: bytes, action: bytes, body: bytes) -> bytes:
        if method == b"GET":
            if target == b"/start":
                self._started.set()
            return str(self.deleted).encode()
        if action.endswith(b"DeleteMessageBatch"):
            entries = json.loads(body)["Entries"]
            self.deleted += len(entries)
            return json.dumps({"Successful": [{"Id": entry["Id"]} for entry in entries], "Failed": []}).encode()
        if not self._started.is_set() or not self._batches:
            await asyncio.sleep(json.loads(body).get("WaitTimeSeconds", 0) and 0.2)
        if not self._started.is_set() or not self._batches:
            return b"{}"
        now = time.time()
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        sent = self._batches.pop().replace(f'"SentTimestamp": "{_TIME}"'.encode(), f'"SentTimestamp": "{int(now * 1000)}"'.encode())
        return sent.replace(_TIME.encode(), text.encode())


async def _serve(queue: Queue, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            request, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
            body = await reader.readexactly(int(headers.get(b"content-length", 0)))
            method, target, _ = request.split(b" ")
            answer = await queue.answer(method, target, headers.get(b"x-amz-target", b""), body)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\n\r\n" % len(answer))
            writer.write(answer)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _main(count: int) -> None:
    queue = Queue(count)
    server = await asyncio.start_server(lambda r, w: _serve(queue, r, w), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
