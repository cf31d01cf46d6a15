"""A reverse proxy that injects faults in front of any S3 server.

The Host header passes unchanged, so that signatures stay valid. Usage, inside a nursery:

    proxy = FaultProxy(server.endpoint_url)
    await nursery.start(proxy.serve)
    proxy.add("slowdown", method="GET", path="/bucket/key", times=2)
    ... proxy.endpoint_url ...

Actions: `slowdown` (503), `internal` (500), `denied` (403), `notfound` (404), `precondition` (412), `expired` (400
ExpiredToken), `skewed` (403 RequestTimeTooSkewed), `no-kms-key` (400 KMS.NotFoundException), `html` (502 with an HTML body),
`late-error` (200 with an <Error> body), `reset` (closed without an answer), `lost-reply` (carried out, answer dropped), `cut-
head` (closed within the headers of the answer), `truncate:N` (closed after N body bytes), `stall:N` (silent after N body
bytes), `trickle:N` (N bytes of the body per second), `corrupt` (a body of the right length with one wrong byte), `corrupt-whole`
(the same, unless a range was asked for), `age:N` (messages of an SQS queue were sent N seconds earlier), `hold` (the request waits
until `release`), `hold-reply` (carried out, the answer waits until `release`).
"""

from __future__ import annotations

import dataclasses
import re
import ssl
import urllib.parse

import trio

_ANSWERS = {
    "slowdown": (503, "SlowDown", "Please reduce your request rate."),
    "internal": (500, "InternalError", "We encountered an internal error."),
    "denied": (403, "AccessDenied", "Access Denied"),
    "notfound": (404, "NoSuchKey", "The specified key does not exist."),
    "precondition": (412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
    "skewed": (403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."),
    "no-kms-key": (400, "KMS.NotFoundException", "Invalid arn us-east-1"),
    "late-error": (200, "InternalError", "We encountered an internal error."),
}
_CHUNK = 1 << 18
_SENT = re.compile(rb'("SentTimestamp": ?")(\d{13})')


@dataclasses.dataclass
class Rule:
    """One fault for one in `every` of the requests that match, `times` times, after letting `skip` of them pass."""

    action: str
    method: str = ""
    path: str = ""
    times: int = 1
    skip: int = 0
    every: int = 1
    seen: int = 0
    hits: int = 0

    def takes(self, method: str, target: str) -> bool:
        matches = self.method in ("", method) and self.path in target
        if not matches or self.hits >= self.skip + self.times:
            return False
        self.seen += 1
        if self.seen % self.every:
            return False
        self.hits += 1
        return self.hits > self.skip


class _Peer:
    """One connection with a buffer of what was read too far."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""
        self.closed = False

    async def more(self) -> None:
        received = await self.stream.receive_some(_CHUNK)
        if not received:
            raise trio.BrokenResourceError
        self.buffer += received

    async def head(self) -> bytes | None:
        """Read up to and including the empty line; None when the peer has closed before that."""
        while b"\r\n\r\n" not in self.buffer:
            try:
                await self.more()
            except trio.BrokenResourceError:
                return None
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    async def take(self, most: int) -> bytes:
        if not self.buffer:
            await self.more()
        taken, self.buffer = self.buffer[:most], self.buffer[most:]
        return taken

    async def line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            await self.more()
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line + b"\r\n"


class FaultProxy:
    """Forwards to one server; `rules` are tried in order, `log` has (method, target, action) of every request."""

    def __init__(self, upstream_url: str) -> None:
        parts = urllib.parse.urlsplit(upstream_url)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.rules: list[Rule] = []
        self.log: list[tuple[str, str, str]] = []
        self.endpoint_url = ""
        self.held = trio.Event()
        """Set once a request is being held or has stalled."""
        self._released = trio.Event()

    def add(self, action: str, *, method: str = "", path: str = "", times: int = 1, skip: int = 0, every: int = 1) -> None:
        self.rules.append(Rule(action, method, path, times, skip, every))

    def release(self) -> None:
        """Let held requests go on; later ones may be held again."""
        self._released.set()
        self._released, self.held = trio.Event(), trio.Event()

    async def serve(
        self, *, tls: ssl.SSLContext | None = None, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept connections until cancelled, with `tls` as https://localhost."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        self.endpoint_url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
        task_status.started()
        if tls is None:
            await trio.serve_listeners(self._client, listeners)
        else:
            secure = [trio.SSLListener(listener, tls, https_compatible=True) for listener in listeners]
            await trio.serve_listeners(self._client, secure)

    async def _client(self, stream: trio.abc.Stream) -> None:
        client = _Peer(stream)
        server: _Peer | None = None
        try:
            while (head := await client.head()) is not None:
                if server is None or server.closed:
                    server = _Peer(await trio.open_tcp_stream(*self._upstream))
                if not await self._request(client, server, head):
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            with trio.move_on_after(1, shield=True):
                await stream.aclose()
                if server is not None:
                    await server.stream.aclose()

    async def _request(self, client: _Peer, server: _Peer, head: bytes) -> bool:
        """Carry out one request; False when the connection must close after it."""
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        action, _, argument = next((rule.action for rule in self.rules if rule.takes(method, target)), "").partition(":")
        if action == "corrupt-whole":
            action = "corrupt" if _header(head, b"range") is None else ""
        self.log.append((method, target, action))
        if action == "reset":
            return False
        if action == "hold":
            self.held.set()
            await self._released.wait()
        if action in _ANSWERS or action == "html":
            await _copy_body(client, None, head)
            await client.stream.send_all(_answer(action, with_body=method != "HEAD"))
            return True
        if _header(head, b"expect") is not None:  # answered here: some servers never do
            lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:")]
            head = b"\r\n".join(lines)
            await client.stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        await server.stream.send_all(head)
        await _copy_body(client, server, head)
        reply = await server.head()
        if reply is None or action == "lost-reply":
            return False
        if action == "hold-reply":
            self.held.set()
            await self._released.wait()
        if action == "cut-head":
            await client.stream.send_all(reply[: len(reply) // 2])
            return False
        await client.stream.send_all(_kept_alive(reply))
        if method != "HEAD" and not reply.split(b" ", 2)[1].startswith((b"204", b"304")):
            limit = int(argument) if action in ("truncate", "stall") else None
            sink = _Spoiling(client.stream, action, argument) if action in ("corrupt", "trickle", "age") else client
            if not await _copy_body(server, sink, reply, limit):
                if action == "stall":
                    self.held.set()
                    await trio.sleep_forever()
                return False
        if reply.startswith(b"HTTP/1.0") or (_header(reply, b"connection") or b"").lower() == b"close":
            await server.stream.aclose()
            server.closed = True
        return True


class _Spoiling:
    """A client that gets its body with one wrong byte, or slowly."""

    def __init__(self, stream: trio.abc.Stream, action: str, argument: str) -> None:
        self._stream_below = stream
        self._spoilt = action != "corrupt"
        self._bytes_per_second = int(argument) if action == "trickle" else 0
        self._older_ms = int(argument) * 1000 if action == "age" else 0

    @property
    def stream(self) -> _Spoiling:
        return self

    async def send_all(self, data: bytes) -> None:
        if not self._spoilt and data:
            self._spoilt = True
            data = data[:-1] + bytes([data[-1] ^ 0x20])
        if self._older_ms:  # as many digits as before
            data = _SENT.sub(lambda found: b"%s%d" % (found[1], int(found[2]) - self._older_ms), data)
        step = self._bytes_per_second // 10 or len(data)
        for at in range(0, len(data), step):
            await self._stream_below.send_all(data[at : at + step])
            if self._bytes_per_second:
                await trio.sleep(0.1)


def _answer(action: str, *, with_body: bool) -> bytes:
    if action == "html":
        status, body, kind = 502, b"<html><head><title>502 Bad Gateway</title></head><body><br>sorry</body></html>", "text/html"
    else:
        status, code, message = _ANSWERS[action]
        kind = "application/xml"
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message>'
            "<RequestId>fault</RequestId></Error>"
        ).encode()
    head = f"HTTP/1.1 {status} Fault\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return head + body if with_body else head


def _kept_alive(reply: bytes) -> bytes:
    """The same head for a connection that stays open, as real endpoints keep it, whatever the server behind does with its own."""
    status, *fields = reply.split(b"\r\n")
    kept = [field for field in fields if not field.lower().startswith(b"connection:")]
    return b"\r\n".join([status.replace(b"HTTP/1.0", b"HTTP/1.1"), *kept])


def _header(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        field, _, value = line.partition(b":")
        if field.strip().lower() == name:
            return value.strip()
    return None


async def _copy_body(source: _Peer, sink: _Peer | _Spoiling | None, head: bytes, limit: int | None = None) -> bool:
    """Pass a body on (or drop it, without a sink); False when `limit` cut it off."""

    async def send(data: bytes) -> None:
        if sink is not None:
            await sink.stream.send_all(data)

    stated = _header(head, b"content-length")
    if stated is not None:
        left = int(stated)
        allowed = left if limit is None else min(limit, left)
        while allowed:
            data = await source.take(allowed)
            await send(data)
            allowed -= len(data)
            left -= len(data)
        return left == 0
    if (_header(head, b"transfer-encoding") or b"").lower() == b"chunked":
        await _copy_chunks(source, send)
    return True


async def _copy_chunks(source: _Peer, send: object) -> None:
    assert callable(send)
    while True:
        line = await source.line()
        await send(line)
        left = int(line.split(b";")[0], 16) + 2
        last = left == 2
        while left:
            data = await source.take(left)
            await send(data)
            left -= len(data)
        if last:
            return
