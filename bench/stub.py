"""A stub S3 server that answers at once: listings out of a catalog, and a small memory for whatever else is written to it.

`python -m bench.stub generated COUNT`, `flat COUNT` or `served DIRECTORY`; prints its port once it answers.
It checks no signature, and knows one bucket whatever its name. Deleting the bucket empties it.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path
from urllib.parse import parse_qsl, unquote_to_bytes

from bench.catalog import Catalog, Listed, flat, generated, served

_STATUS = {
    200: b"OK",
    204: b"No Content",
    206: b"Partial Content",
    404: b"Not Found",
    412: b"Precondition Failed",
    501: b"Not Implemented",
}
_BUCKET_ANSWERS = {
    "versioning": "<VersioningConfiguration/>",
    "location": "<LocationConstraint/>",
    "uploads": "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>",
}

Headers = dict[bytes, bytes]


class Answer(bytes):
    """A whole response, ready to be written."""

    @classmethod
    def of(cls, status: int, body: bytes = b"", *, etag: str = "", length: int | None = None) -> Answer:
        head = b"HTTP/1.1 %d %s\r\nServer: stub\r\nx-amz-request-id: 0\r\n" % (status, _STATUS[status])
        if etag:
            head += b'ETag: "%s"\r\nLast-Modified: Wed, 01 May 2024 12:34:56 GMT\r\n' % etag.encode()
        return cls(head + b"Content-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body)

    @classmethod
    def error(cls, status: int, code: str) -> Answer:
        return cls.of(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())


class Stub:
    """Answers one request at a time; shared by all connections."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._written: dict[bytes, tuple[str, bytes]] = {}

    def answer(self, method: bytes, target: bytes, headers: Headers, body: bytes) -> Answer:
        path, _, query_text = target.partition(b"?")
        query = dict(parse_qsl(query_text.decode(), keep_blank_values=True))
        key = unquote_to_bytes(path).lstrip(b"/").partition(b"/")[2]
        if not key:
            return self._of_bucket(method, query)
        if method == b"PUT":
            return self._put(key, headers, body)
        if method == b"DELETE":
            self._written.pop(key, None)
            return Answer.of(204)
        return self._get(method, key, headers) if method in (b"GET", b"HEAD") else Answer.error(501, "NotImplemented")

    def _of_bucket(self, method: bytes, query: dict[str, str]) -> Answer:
        if method == b"DELETE":
            self._catalog = Catalog(())
            return Answer.of(204)
        if query.get("list-type") == "2":
            page = self._catalog.page(
                _plain(query.get("prefix", "")),
                _plain(query.get("delimiter", "")),
                _plain(query.get("start-after", "")),
                query.get("continuation-token", ""),
                int(query.get("max-keys", 1000)),
            )
            return Answer.of(200, page)
        for name, xml in _BUCKET_ANSWERS.items():
            if name in query:
                return Answer.of(200, xml.encode())
        return Answer.of(200) if method == b"HEAD" else Answer.error(501, "NotImplemented")

    def _known(self, key: bytes) -> Listed | None:
        if key in self._written:
            etag, content = self._written[key]
            return Listed(key, len(content), etag)
        return self._catalog.find(key)

    def _put(self, key: bytes, headers: Headers, body: bytes) -> Answer:
        known = self._known(key)
        wanted = headers.get(b"if-match")
        if (headers.get(b"if-none-match") and known) or (wanted and (not known or wanted.strip(b'"').decode() != known.etag)):
            return Answer.error(412, "PreconditionFailed")
        etag = hashlib.md5(body).hexdigest()
        self._written[key] = etag, body
        return Answer.of(200, etag=etag)

    def _get(self, method: bytes, key: bytes, headers: Headers) -> Answer:
        known = self._known(key)
        if known is None:
            return Answer.of(404) if method == b"HEAD" else Answer.error(404, "NoSuchKey")
        wanted = headers.get(b"if-match")
        if wanted and wanted.strip(b'"').decode() != known.etag:
            return Answer.error(412, "PreconditionFailed")
        if method == b"HEAD":
            return Answer.of(200, etag=known.etag, length=known.size)
        content = self._written[key][1] if key in self._written else bytes(known.size)
        return Answer.of(200, content, etag=known.etag)


def _plain(value: str) -> bytes:
    return value.encode(errors="surrogateescape")


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive and as little work per request as possible."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._received = bytearray()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            request, *lines = bytes(self._received[:end]).split(b"\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
            length = int(headers.get(b"content-length", 0))
            if headers.get(b"expect"):
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                del headers[b"expect"]
            if len(self._received) < end + 4 + length:
                return
            body = bytes(self._received[end + 4 : end + 4 + length])
            del self._received[: end + 4 + length]
            method, target, _ = request.split(b" ")
            self._transport.write(self._stub.answer(method, target, headers, body))


async def serve(catalog: Catalog) -> None:
    stub = Stub(catalog)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(stub), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    kind, value = sys.argv[1:]
    objects = served(Path(value)) if kind == "served" else {"generated": generated, "flat": flat}[kind](int(value))
    asyncio.run(serve(Catalog(objects)))


if __name__ == "__main__":
    main()
