"""libcurl for trio: small requests, driven by trio's own epoll.

A small request costs the CRT five visits of a native thread to the GIL, each of which holds up whatever the trio thread is
doing; here everything happens in the trio thread, some 60 us per request. Measured on two cores shared with nginx and the
reader, cold files of 64 KiB by 16 threads: 2,000 files/s and 0.5 ms CPU each, against 1,300 and 1.0 through the CRT.

Only the quick way: whatever does not end in success, or in an answer that a repetition would not change (`FINAL`), is tried
again through the CRT (`bucket_client`), which has the retries and the errors. Source: curl_multi_socket_action(3).

INVARIANT 1: libcurl is never entered from one of its own callbacks; these take notes only, acted upon by `_settle`.
INVARIANT 2: a transfer that was abandoned is out of the multi handle before its task goes on.
"""

from __future__ import annotations

import io
import logging
import os
import re
import select
import ssl
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pycurl
import trio

from s3lustrefs.repository.credential_snapshot import CredentialSnapshot
from s3lustrefs.repository.exchange import NO_RESPONSE, Request, Stalled, TransferFailed
from s3lustrefs.repository.replies import Response

log = logging.getLogger(__name__)

MAX_BYTES = 256 << 10
"""Largest answer fetched this way: it is held in memory and written to the page cache from the trio thread."""
MAX_BODY_BYTES = 64 << 10
"""Largest body sent this way: its SHA-256, which libcurl signs along with it, takes the trio thread 0.1 ms."""
FINAL = frozenset({404, 412})
"""What a request that writes or asks ends with for good: there is no such object, or a condition does not hold."""

ONCE = frozenset({"CreateMultipartUpload"})
"""Never repeated unseen: an answer that was lost leaves an upload, and only who asked for it knows when it is safe to drop that."""

_DOT_SEGMENT = re.compile(r"/\.{1,2}(?:[/?]|$)")
"""libcurl takes these out of a path, and refuses to sign one that it is told to leave alone."""
_MAX_CONNECTIONS = 128
_CONNECT_MS = 3000
_NEVER = float("inf")
_EVENTS = 16
"""Sockets looked at before other tasks have their turn: each may have a quarter of a megabyte to copy."""
_REPAIR_SECONDS = 1.0
"""Pause after a defect, so that it does not take the whole processor."""


_PLAIN_VALUE = re.compile(r"[!-~]+(?: [!-~]+)*")
"""Header values that every signer reads alike: neither empty, nor with bytes beyond ASCII, nor with blanks that may be folded."""
_OPERATIONS = frozenset(
    {"GetObject", "HeadObject", "PutObject", "CopyObject", "DeleteObject", "DeleteObjects", "CreateMultipartUpload"}
)


@dataclass(slots=True, eq=False)
class _Transfer:
    """One request on an easy handle of its own."""

    easy: pycurl.Curl
    task: trio.lowlevel.Task
    is_waited_for: bool = False
    header_lines: list[bytes] = field(default_factory=list)
    body: list[bytes] = field(default_factory=list)
    failure: str | None = None


def can_send(request: Request) -> bool:
    """Whether a request is one for this client."""
    if request.operation not in _OPERATIONS or _DOT_SEGMENT.search(request.target):
        return False
    if request.method == "GET":
        return request.body_bytes <= MAX_BYTES
    is_small = request.body_bytes <= MAX_BODY_BYTES and isinstance(request.body, io.BytesIO | None)
    return is_small and all(_PLAIN_VALUE.fullmatch(value) for _, value in request.headers)


class CurlClient:
    """Sends small requests. One for every trio run: its sockets are watched by that run's epoll."""

    def __init__(self) -> None:
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, _MAX_CONNECTIONS)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        self._transfers: dict[pycurl.Curl, _Transfer] = {}
        self._idle: defaultdict[str, list[pycurl.Curl]] = defaultdict(list)
        self._sockets = select.epoll()
        """Those libcurl waits for, in an epoll of their own, which trio waits for as one: a task for each of them would cost as
        much as the request."""
        self._watched: set[int] = set()
        self._unwatchable: list[int] = []
        self._due = False
        self._deadline = _NEVER
        self._alarm = trio.CancelScope()
        trio.lowlevel.spawn_system_task(self._keep_time)
        trio.lowlevel.spawn_system_task(self._watch)

    async def exchange(
        self, request: Request, *, tls: bool, region: str, credentials: CredentialSnapshot, patience: float
    ) -> Response:
        """Send one request and wait for its whole answer, at most `patience` seconds.

        Raises: Stalled; TransferFailed for every other end than success.
        """
        idle = self._idle[request.method]
        easy = idle.pop() if idle else _new_easy(request.method)
        transfer = _Transfer(easy, trio.lowlevel.current_task())
        try:
            _prepare(transfer, request, tls, region, credentials)
            with trio.move_on_after(patience) as watchdog:
                await self._perform(transfer)
        except pycurl.error as error:
            easy.close()
            raise TransferFailed(f"libcurl refuses the request: {error}", NO_RESPONSE) from error
        if watchdog.cancelled_caught:
            raise Stalled(f"no answer within {patience:.0f} seconds", NO_RESPONSE)
        if transfer.failure is not None:
            easy.close()
            raise TransferFailed(transfer.failure, NO_RESPONSE)
        idle.append(easy)
        status, headers = _parsed(transfer.header_lines)
        if not status:
            raise TransferFailed("the connection ended within the headers", NO_RESPONSE)
        response = Response(status, headers, b"".join(transfer.body))
        transfer.body.clear()  # the idle handle keeps the list until its next request
        if not 200 <= status < 300:
            raise TransferFailed(f"status {status}", response)
        return response

    async def _perform(self, transfer: _Transfer) -> None:
        def abort(_: Callable[[], Any]) -> trio.lowlevel.Abort:
            del self._transfers[transfer.easy]
            self._multi.remove_handle(transfer.easy)
            transfer.easy.close()
            if self._due:  # noted down by the removal, for another transfer; nobody may be under way to act upon it
                self._deadline = self._alarm.deadline = trio.current_time()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.checkpoint_if_cancelled()
        self._multi.add_handle(transfer.easy)
        self._transfers[transfer.easy] = transfer
        self._settle()
        if transfer.easy in self._transfers:  # not failed at once, as where there is no descriptor left for a socket
            transfer.is_waited_for = True
            await trio.lowlevel.wait_task_rescheduled(abort)

    def _act(self, fd: int, events: int) -> None:
        """Let libcurl go on. A defect in there ends the transfers, not the mount."""
        try:
            self._multi.socket_action(fd, events)
        except pycurl.error as error:
            log.error("libcurl failed error=%s", error)
            self._fail_all(f"libcurl: {error}")

    def _fail_all(self, failure: str) -> None:
        for easy in list(self._transfers):
            self._finish(easy, failure)

    def _settle(self) -> None:
        """Act upon what the callbacks noted down: expired timers, lost sockets, and transfers that are done."""
        while True:
            while self._unwatchable:
                self._act(self._unwatchable.pop(), pycurl.CSELECT_ERR)
            if self._due:
                self._due = False
                self._act(pycurl.SOCKET_TIMEOUT, 0)
            queued, succeeded, failed = self._multi.info_read()
            for easy in succeeded:
                self._finish(easy, None)
            for easy, code, message in failed:
                self._finish(easy, f"libcurl error {code}: {message}")
            if not queued and not self._due and not self._unwatchable:
                return

    def _finish(self, easy: pycurl.Curl, failure: str | None) -> None:
        self._multi.remove_handle(easy)
        transfer = self._transfers.pop(easy)
        transfer.failure = failure
        if transfer.is_waited_for:
            trio.lowlevel.reschedule(transfer.task)

    # --- what libcurl waits for ------------------------------------------------------------------------------------------

    def _on_socket(self, wanted: int, fd: int, multi: object, data: object) -> None:
        """`wanted` is made of pycurl.POLL_* bits."""
        mask = (select.EPOLLIN if wanted & pycurl.POLL_IN else 0) | (select.EPOLLOUT if wanted & pycurl.POLL_OUT else 0)
        try:
            if wanted == pycurl.POLL_REMOVE:
                self._watched.discard(fd)
                self._sockets.unregister(fd)
            elif fd in self._watched:
                self._sockets.modify(fd, mask)
            else:
                self._sockets.register(fd, mask)
                self._watched.add(fd)
        except (OSError, ValueError) as error:  # ValueError: this run is over, and libcurl closes what it kept
            if wanted != pycurl.POLL_REMOVE:
                log.error("socket cannot be watched fd=%d error=%s", fd, error)
                self._unwatchable.append(fd)

    async def _watch(self) -> None:
        with self._sockets:
            while True:
                try:
                    await trio.lowlevel.wait_readable(self._sockets.fileno())
                    for fd, events in self._sockets.poll(0, _EVENTS):
                        self._act(fd, _selected(events))
                    self._settle()
                except Exception:
                    # Out of a system task it would end the whole run: a defect costs some requests, not the mount.
                    log.exception("requests given up")
                    self._fail_all("internal error; daemon.log has the traceback")
                    await trio.sleep(_REPAIR_SECONDS)

    def _on_timer(self, milliseconds: int) -> None:
        self._due = milliseconds == 0
        self._deadline = trio.current_time() + milliseconds / 1000 if milliseconds > 0 else _NEVER
        # An early alarm does no harm, and moving it each time would cost a task switch per request.
        if self._deadline < self._alarm.deadline:
            self._alarm.deadline = self._deadline

    async def _keep_time(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._deadline) as self._alarm:
                await trio.sleep_forever()
            if trio.current_time() >= self._deadline:
                self._deadline = _NEVER
                self._due = True
                self._settle()


_client: trio.lowlevel.RunVar[CurlClient] = trio.lowlevel.RunVar("curl_client")


def client() -> CurlClient:
    """The one of this trio run."""
    try:
        return _client.get()
    except LookupError:
        made = CurlClient()
        _client.set(made)
        return made


def _selected(events: int) -> int:
    """What epoll tells, in libcurl's words; it finds out itself what an error is."""
    trouble = events & (select.EPOLLERR | select.EPOLLHUP)
    readable = pycurl.CSELECT_IN if trouble or events & select.EPOLLIN else 0
    return int(readable | (pycurl.CSELECT_OUT if trouble or events & select.EPOLLOUT else 0))


def _new_easy(method: str) -> pycurl.Curl:
    """A handle for requests of one method: what such requests have in common is set once."""
    easy = pycurl.Curl()
    if method == "GET":
        easy.setopt(pycurl.MAXFILESIZE, MAX_BYTES)
    elif method == "HEAD":
        easy.setopt(pycurl.NOBODY, 1)
    else:
        easy.setopt(pycurl.CUSTOMREQUEST, method)
    easy.setopt(pycurl.NOSIGNAL, 1)
    easy.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    easy.setopt(pycurl.NOPROXY, "*")  # as the CRT
    easy.setopt(pycurl.CONNECTTIMEOUT_MS, _CONNECT_MS)
    easy.setopt(pycurl.BUFFERSIZE, 128 << 10)
    bundle = os.environ.get("AWS_CA_BUNDLE") or ssl.get_default_verify_paths().cafile
    if bundle:
        easy.setopt(pycurl.CAINFO, bundle)
    return easy


def _prepare(transfer: _Transfer, request: Request, tls: bool, region: str, credentials: CredentialSnapshot) -> None:
    headers = [f"{name}: {value}" for name, value in request.headers if name != "content-length"]  # libcurl states its own
    if credentials.token:
        headers.append(f"x-amz-security-token: {credentials.token}")
    easy = transfer.easy
    if request.method in ("PUT", "POST"):
        easy.setopt(pycurl.POSTFIELDS, request.body.getvalue() if isinstance(request.body, io.BytesIO) else b"")
        # libcurl repeats what it sent over a kept connection that ended without an answer.
        easy.setopt(pycurl.FRESH_CONNECT, request.operation in ONCE)
        headers.append("expect:")  # not asked for: a small body may as well come at once
        if not any(name == "content-type" for name, _ in request.headers):
            headers.append("content-type:")  # none: libcurl would say that it is a form
    easy.setopt(pycurl.URL, f"{'https' if tls else 'http'}://{request.host}{request.target}")
    easy.setopt(pycurl.HTTPHEADER, headers)
    easy.setopt(pycurl.AWS_SIGV4, f"aws:amz:{region}:s3")
    easy.setopt(pycurl.USERNAME, credentials.access_key)
    easy.setopt(pycurl.PASSWORD, credentials.secret_key)
    # Straight into lists: a Python function called for each piece would cost more than the transfer.
    easy.setopt(pycurl.HEADERFUNCTION, transfer.header_lines.append)
    easy.setopt(pycurl.WRITEFUNCTION, transfer.body.append)


def _parsed(lines: list[bytes]) -> tuple[int, dict[str, str]]:
    """Status and headers of the last answer; before it there may be others, such as 100 Continue.

    The status is 0 where the headers do not end: to libcurl a connection that is closed among them is an answer without a body.
    """
    status = 0
    headers: dict[str, str] = {}
    ended = False
    for line in lines:
        text = _text(line)
        if text.startswith("HTTP/"):
            status, headers, ended = int(text.split(None, 2)[1]), {}, False
            continue
        name, colon, value = text.partition(":")
        if colon:
            headers[name.lower()] = value.strip()
        ended = ended or not text.strip()
    return status if ended else 0, headers


def _text(line: bytes) -> str:
    """Metadata of others may well be UTF-8, as HTTP does not have it."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")
