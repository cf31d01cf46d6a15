"""The fault proxy in a thread of its own, for tests that talk to a mount with blocking calls."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import trio

from tests.faultproxy import FaultProxy

WAIT_SECONDS = 60.0
_CONDITIONS = (b"if-match:", b"if-none-match:", b"x-amz-copy-source-if-match:")
SUBRESOURCES = ("uploads", "uploadId", "acl", "policy", "versioning", "tagging", "location")


class _Recording(FaultProxy):
    """Notes beside each entry of `log` whether the request was a server-side copy."""

    def __init__(self, upstream_url: str) -> None:
        super().__init__(upstream_url)
        self.copies: list[bool] = []
        self.strips_conditions = False

    async def _request(self, client: Any, server: Any, head: bytes) -> bool:
        self.copies.append(b"\r\nx-amz-copy-source:" in head.lower())
        if self.strips_conditions:
            head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(_CONDITIONS))
        return await super()._request(client, server, head)


class BackgroundProxy:
    """What tests need of a `FaultProxy` that another thread runs."""

    def __init__(self, proxy: _Recording, token: trio.lowlevel.TrioToken) -> None:
        self._proxy = proxy
        self._token = token
        self.endpoint_url = proxy.endpoint_url

    def add(self, action: str, *, method: str = "", path: str = "", times: int = 1, skip: int = 0, every: int = 1) -> None:
        self._proxy.add(action, method=method, path=path, times=times, skip=skip, every=every)

    def strip_conditions(self) -> None:
        """From now on the server behind knows no conditional requests. It must not compare signatures either."""
        self._proxy.strips_conditions = True

    def hits(self) -> int:
        """How many requests have met with a fault so far."""
        return sum(1 for _, _, action in self._proxy.log if action)

    def hits_by_action(self) -> collections.Counter[str]:
        """How many have met with each."""
        return collections.Counter(action for _, _, action in self._proxy.log if action)

    def clear_faults(self) -> None:
        """No more faults for new requests; held ones go on."""
        self._proxy.rules.clear()
        trio.from_thread.run_sync(self._proxy.release, trio_token=self._token)

    def wait_held(self) -> None:
        """Return once some request is held or has stalled."""

        async def wait() -> None:
            with trio.fail_after(WAIT_SECONDS):
                await self._proxy.held.wait()

        trio.from_thread.run(wait, trio_token=self._token)

    def mark(self) -> int:
        """A place in the log, for `requests`."""
        return len(self._proxy.log)

    def requests(self, method: str = "", path: str = "", since: int = 0) -> list[str]:
        """`METHOD target` of everything asked since a mark."""
        return [f"{m} {t}" for m, t, _ in self._proxy.log[since:] if method in ("", m) and path in t]

    def content_gets(self, since: int = 0) -> list[str]:
        """GETs of objects: neither of a bucket nor of a subresource."""
        found = []
        for request in self.requests("GET", since=since):
            path, _, query = request.removeprefix("GET ").partition("?")
            if path.strip("/").count("/") and not any(word in query for word in SUBRESOURCES):
                found.append(request)
        return found

    def uploads(self, since: int = 0) -> list[str]:
        """PUTs that carried content (or an empty body), not server-side copies."""
        rows = zip(self._proxy.log[since:], self._proxy.copies[since:], strict=False)
        return [f"{m} {t}" for (m, t, _), copy in rows if m == "PUT" and not copy]

    def copies(self, since: int = 0) -> list[str]:
        """Server-side copies."""
        rows = zip(self._proxy.log[since:], self._proxy.copies[since:], strict=False)
        return [f"{m} {t}" for (m, t, _), copy in rows if copy]

    def changes(self, since: int = 0) -> list[str]:
        """Every request that writes."""
        return [r for r in self.requests(since=since) if not r.startswith(("GET", "HEAD"))]

    def listings(self, since: int = 0) -> list[str]:
        return [r for r in self.requests("GET", since=since) if "list-type=2" in r]


@contextlib.contextmanager
def background_proxy(upstream_url: str) -> Iterator[BackgroundProxy]:
    """A proxy in front of a server, ended with the block."""
    proxy = _Recording(upstream_url)
    ready = threading.Event()
    tokens: list[trio.lowlevel.TrioToken] = []
    scopes: list[trio.CancelScope] = []

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            scopes.append(nursery.cancel_scope)
            await nursery.start(proxy.serve)
            tokens.append(trio.lowlevel.current_trio_token())
            ready.set()

    thread = threading.Thread(target=trio.run, args=(run,), name="fault proxy")
    thread.start()
    try:
        if not ready.wait(WAIT_SECONDS):
            raise RuntimeError("the fault proxy did not start")
        yield BackgroundProxy(proxy, tokens[0])
    finally:
        if tokens:
            trio.from_thread.run_sync(scopes[0].cancel, trio_token=tokens[0])
        thread.join(WAIT_SECONDS)
