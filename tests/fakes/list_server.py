"""ListServer: answers ListObjectsV2 for a set of keys over real HTTP, with the habits of different products.

What it answers is derived from the sorted keys for every request anew, so it is the truth that listings are compared with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
import urllib.parse
from bisect import bisect_right
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from xml.sax.saxutils import escape

NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
DATE = "2026-03-01T01:02:03.250Z"
MTIME_NS = 1772326923 * 10**9 + 250_000_000


@dataclasses.dataclass
class Habits:
    """How a product differs. The defaults are Amazon's."""

    page_keys: int = 1000
    honours_start_after: bool = True
    honours_delimiter: bool = True
    encodes: bool = True
    blank_as_plus: bool = True
    encodes_slash: bool = False
    namespace: bool = True
    quoted_etag: bool = True
    storage_class: bool = True
    order: Callable[[bytes], Any] = bytes
    """Sort key of the listing; a product that sorts otherwise than by bytes also continues so."""


Reply = tuple[int, dict[str, str], bytes]


class ListServer:
    """Keys, habits, and what has been asked. `interfere` may answer instead: it gets the number of the request and its query."""

    def __init__(self, keys: list[bytes], habits: Habits | None = None) -> None:
        self.habits = habits or Habits()
        self.keys = sorted(keys, key=self.habits.order)
        self.queries: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.interfere: Callable[[int, dict[str, str]], Reply | None] = lambda number, query: None
        self.asked = threading.Event()
        self.endpoint_url = ""
        self._lock = threading.Lock()

    def reply(self, query: dict[str, str], headers: dict[str, str]) -> Reply:
        with self._lock:
            self.queries.append(query)
            self.headers.append(headers)
            number = len(self.queries)
        self.asked.set()
        answer = self.interfere(number, query)
        return answer if answer is not None else (200, {}, self._page(query).encode())

    def _page(self, query: dict[str, str]) -> str:
        habits = self.habits
        prefix = _raw(query.get("prefix", ""))
        delimiter = _raw(query.get("delimiter", "")) if habits.honours_delimiter else b""
        start = 0
        if "continuation-token" in query:
            start = int(query["continuation-token"])
        elif habits.honours_start_after and "start-after" in query:
            start = bisect_right([habits.order(key) for key in self.keys], habits.order(_raw(query["start-after"])))
        limit = min(habits.page_keys, int(query.get("max-keys", "1000")))
        contents: list[bytes] = []
        prefixes: list[bytes] = []
        for at in range(start, len(self.keys)):
            key = self.keys[at]
            if not key.startswith(prefix):
                continue
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            name = key[: cut + 1] if cut >= 0 else key
            if cut >= 0 and prefixes and prefixes[-1] == name:
                continue
            if len(contents) + len(prefixes) == limit:
                return self._xml(contents, prefixes, str(at))
            (prefixes if cut >= 0 else contents).append(name)
        return self._xml(contents, prefixes, None)

    def _xml(self, contents: list[bytes], prefixes: list[bytes], token: str | None) -> str:
        habits = self.habits
        quote = '"' if habits.quoted_etag else ""
        parts = [f'<?xml version="1.0"?><ListBucketResult{NAMESPACE if habits.namespace else ""}><Name>b</Name>']
        if habits.encodes:
            parts.append("<EncodingType>url</EncodingType>")
        parts.append(f"<IsTruncated>{'true' if token else 'false'}</IsTruncated>")
        if token:
            parts.append(f"<NextContinuationToken>{token}</NextContinuationToken>")
        for key in contents:
            storage = "<StorageClass>STANDARD_IA</StorageClass>" if habits.storage_class and size_of(key) % 2 else ""
            parts.append(
                f"<Contents><Key>{self._text(key)}</Key><LastModified>{DATE}</LastModified>"
                f"<ETag>{escape(quote + etag_of(key).decode() + quote)}</ETag><Size>{size_of(key)}</Size>{storage}</Contents>"
            )
        parts += [f"<CommonPrefixes><Prefix>{self._text(name)}</Prefix></CommonPrefixes>" for name in prefixes]
        return "".join(parts) + "</ListBucketResult>"

    def _text(self, key: bytes) -> str:
        if not self.habits.encodes:
            return escape(key.decode())
        text = urllib.parse.quote(key, safe="" if self.habits.encodes_slash else "/")
        return text.replace("%20", "+") if self.habits.blank_as_plus else text


def size_of(key: bytes) -> int:
    return len(key) * 977


def etag_of(key: bytes) -> bytes:
    return hashlib.md5(key).hexdigest().encode()


def class_of(key: bytes) -> bytes:
    return b"STANDARD_IA" if size_of(key) % 2 else b"STANDARD"


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _HttpServer

    def do_GET(self) -> None:
        _, _, query = self.path.partition("?")
        fields = dict(urllib.parse.parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
        status, headers, body = self.server.model.reply(fields, {name.lower(): value for name, value in self.headers.items()})
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: the queries are kept in the model."""


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    model: ListServer


@contextlib.contextmanager
def serving(model: ListServer) -> Iterator[ListServer]:
    """Serve a model on a free port of 127.0.0.1."""
    server = _HttpServer(("127.0.0.1", 0), _Handler)
    server.model = model
    model.endpoint_url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
