"""awscrt's S3 client for trio: one await is one HTTP request, carried out by native threads outside the GIL.

One S3Client per (region, TLS, host) serves every bucket there, so that associations share threads and
connections. It is made by the first request, hence after daemonising: its threads do not survive a fork.

Ranged GETs are of type GET_OBJECT, everything else of type DEFAULT: one HTTP request, retried by the CRT, its answer handed over
whole. Measured on two cores shared with the server (nginx, http, `on_body` + pwrite), CPU s/GiB and MB/s of GETs by type:
64 KiB 4.9 and 250 against 6.4 and 210; 1 MiB 1.0 and 1430 against 1.5 and 1070; 8 MiB 0.65 and 1540 against 1.3 and 1030 (a DEFAULT
answer grows in a reallocated buffer). GET_OBJECT fails on empty objects, so nobody asks for an empty range.

INVARIANT 1: once `exchange` has returned or raised, Cancelled included, the CRT uses no buffer, stream or fd of that request.
INVARIANT 2: callbacks run in CRT threads and touch nothing but the `_Exchange` they belong to; it is read only after on_done.
"""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import outcome
import trio
from awscrt import auth, s3
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.io import (
    ClientBootstrap,
    ClientTlsContext,
    DefaultHostResolver,
    EventLoopGroup,
    TlsConnectionOptions,
    TlsContextOptions,
)

from s3lustrefs.repository.credential_snapshot import CredentialSnapshot
from s3lustrefs.repository.exchange import NO_RESPONSE, Refused, Request, ResponseSink, Stalled, TransferFailed
from s3lustrefs.repository.replies import Response

MEMORY_LIMIT_BYTES = 512 << 20
MAX_IN_FLIGHT = 128
"""Requests given to the CRT at a time: further ones wait here, where their stall clock does not run yet."""

UNIT_BYTES = 4 << 20
MAX_UNITS = 64
"""Bodies in flight, in units of 4 MiB: 256 MiB, since the CRT holds a part in memory until it is complete. Small ones are free."""

STALL_SECONDS = 20.0
SLOWEST_BYTES_PER_SECOND = 256 << 10
"""The CRT reports a part only when it is complete (measured: one event per request, whatever its size), so the watchdog allows
each request STALL_SECONDS plus the time its body takes at this rate."""


@dataclass(slots=True)
class _Exchange:
    """One request in flight; written by CRT threads, read by trio after `on_done`."""

    sink: ResponseSink | None
    response: Response = NO_RESPONSE
    chunks: list[bytes] = field(default_factory=list)
    error: BaseException | None = None

    def on_headers(self, status_code: int, headers: list[tuple[str, str]], **_: Any) -> None:
        self.response = Response(status_code, {name.lower(): value for name, value in headers})
        self.chunks.clear()
        if self.sink is not None:
            self.sink.begin(self.response)

    def on_body(self, chunk: bytes, offset: int, **_: Any) -> None:
        if self.sink is None:
            self.chunks.append(chunk)
            return
        self.sink.write(chunk, offset)


class Admission:
    """Limits what is in flight at one peer, by number and by bytes. Small requests never wait for the bytes of large ones."""

    def __init__(self) -> None:
        self._slots = trio.Semaphore(MAX_IN_FLIGHT)
        self._units = trio.Semaphore(MAX_UNITS)
        self._turn = trio.Lock()
        """Held while collecting units, so that two large requests never each hold half of what they need."""

    @asynccontextmanager
    async def admit(self, body_bytes: int) -> AsyncIterator[None]:
        """Wait for room for one request."""
        wanted = 0 if body_bytes < UNIT_BYTES // 4 else min(MAX_UNITS, -(-body_bytes // UNIT_BYTES))
        held = 0
        try:
            if wanted:
                async with self._turn:
                    while held < wanted:
                        await self._units.acquire()
                        held += 1
            try:
                # `acquire` gives way to other tasks even when it need not wait: 30 us of a small request.
                self._slots.acquire_nowait()
            except trio.WouldBlock:
                await self._slots.acquire()
            try:
                yield
            finally:
                self._slots.release()
        finally:
            for _ in range(held):
                self._units.release()


class CrtClient:
    """Sends requests signed with the latest credentials. Lives in one process and is used from one trio thread."""

    def __init__(self, peer: Peer, credentials: Callable[[], CredentialSnapshot], stall_seconds: float = STALL_SECONDS) -> None:
        self._native = _native_client(os.getpid(), peer)
        self._stall_seconds = stall_seconds
        self._admission = _admission(os.getpid(), peer)
        self._region = peer.region
        self._credentials = credentials
        self._signed_for: CredentialSnapshot | None = None
        self._signing: auth.AwsSigningConfig | None = None

    async def exchange(self, request: Request, sink: ResponseSink | None = None) -> Response:
        """Send one request and wait for its whole answer.

        Raises: TransferFailed, Stalled, and whatever `sink` raised.
        """
        patience = self._stall_seconds + request.extra_seconds + request.body_bytes / SLOWEST_BYTES_PER_SECOND
        async with self._admission.admit(request.body_bytes):
            with trio.move_on_after(patience) as watchdog:
                exchange = await self._run(request, sink)
            if watchdog.cancelled_caught:
                raise Stalled(f"no answer within {patience:.0f} seconds", NO_RESPONSE)
        if exchange.error is not None and not _is_accepted(exchange.error):
            raise _translated(exchange.error)
        response = exchange.response
        return Response(response.status, response.headers, b"".join(exchange.chunks))

    def _signing_config(self) -> auth.AwsSigningConfig:
        """For the latest credentials. Not a provider that calls back: its call for every part comes from a native thread and
        waits for the GIL, which made up half of what a 64 KiB GET cost."""
        now = self._credentials()
        if self._signing is None or now != self._signed_for:
            provider = auth.AwsCredentialsProvider.new_static(now.access_key, now.secret_key, now.token)
            self._signing = s3.create_default_s3_signing_config(region=self._region, credential_provider=provider)
            self._signed_for = now
        return self._signing

    async def _run(self, request: Request, sink: ResponseSink | None) -> _Exchange:
        """Hand the request to the CRT and sleep until it has let go of it, even when cancelled meanwhile."""
        exchange = _Exchange(sink)
        token = trio.lowlevel.current_trio_token()
        task = trio.lowlevel.current_task()
        raise_cancel: Callable[[], Any] | None = None

        def wake() -> None:
            result: outcome.Outcome[None] = outcome.Value(None)
            if raise_cancel is not None:
                result = outcome.capture(raise_cancel)
            trio.lowlevel.reschedule(task, result)

        def on_done(error: BaseException | None, **_: Any) -> None:
            exchange.error = error
            token.run_sync_soon(wake)

        headers = HttpHeaders([("host", request.host), *request.headers])
        native = self._native.make_request(
            type=s3.S3RequestType.GET_OBJECT if request.operation == "GetObject" else s3.S3RequestType.DEFAULT,
            operation_name=request.operation,
            request=HttpRequest(request.method, request.target, headers, request.body),
            signing_config=self._signing_config(),
            on_headers=exchange.on_headers,
            on_body=exchange.on_body,
            on_done=on_done,
        )

        def abort(raise_cancelled: Callable[[], Any]) -> trio.lowlevel.Abort:
            nonlocal raise_cancel
            raise_cancel = raise_cancelled
            native.cancel()
            return trio.lowlevel.Abort.FAILED

        await trio.lowlevel.wait_task_rescheduled(abort)
        return exchange


_OTHER_RANGE = "the endpoint ignores Range, or answers another one"
_REFUSED = {
    "AWS_ERROR_DEST_COPY_TOO_SMALL": _OTHER_RANGE,
    "AWS_ERROR_S3_INVALID_CONTENT_RANGE_HEADER": _OTHER_RANGE,
    "AWS_ERROR_S3_MISSING_CONTENT_RANGE_HEADER": _OTHER_RANGE,
    "AWS_ERROR_HTTP_INVALID_HEADER_VALUE": "a header to be sent has a value that HTTP does not allow",
    "AWS_ERROR_HTTP_INVALID_HEADER_NAME": "a header to be sent has a name that HTTP does not allow",
}

_ANSWERED = {
    "AWS_ERROR_S3_REQUEST_TIME_TOO_SKEWED": (403, "RequestTimeTooSkewed"),
    "AWS_ERROR_S3_SLOW_DOWN": (503, "SlowDown"),
    "AWS_ERROR_S3_INTERNAL_ERROR": (500, "InternalError"),
}
"""Errors that stand for an answer which the CRT does not hand over."""


def _is_accepted(error: BaseException) -> bool:
    """The CRT knows the success codes 200, 204 and 206; to it 202, the answer to RestoreObject, is an error."""
    return isinstance(error, s3.S3ResponseError) and error.status_code == 202


def _translated(error: BaseException) -> BaseException:
    """Give the CRT's error its answer, so that only this module knows awscrt's exceptions."""
    if isinstance(error, s3.S3ResponseError):
        headers = {name.lower(): value for name, value in error.headers or []}
        return TransferFailed(str(error.name), Response(error.status_code or 0, headers, error.body or b""))
    name = getattr(error, "name", "")
    if name in _ANSWERED:
        status, code = _ANSWERED[name]
        return TransferFailed(str(error), Response(status, {}, b"<Error><Code>%s</Code></Error>" % code.encode()))
    if name in _REFUSED:
        return Refused(_REFUSED[name], NO_RESPONSE)
    if name.startswith("AWS_"):
        return TransferFailed(f"{name}: {getattr(error, 'message', '')}", NO_RESPONSE)
    return error


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom a native client talks to.

    The host is part of it because the CRT pools connections by host name alone: two endpoints on one host that differ in their
    port would get each other's requests (seen with two servers on 127.0.0.1).
    """

    region: str
    tls: bool
    host: str


@functools.cache
def _bootstrap(pid: int) -> ClientBootstrap:
    loops = EventLoopGroup(max(2, min(8, os.cpu_count() or 2)))
    return ClientBootstrap(loops, DefaultHostResolver(loops))


def _own_authorities() -> TlsConnectionOptions | None:
    """TLS options that trust the certificates of AWS_CA_BUNDLE, as boto3 and the AWS CLI do; None for the system's own."""
    bundle = os.environ.get("AWS_CA_BUNDLE")
    if not bundle:
        return None
    options = TlsContextOptions()
    options.override_default_trust_store_from_path(None, bundle)
    return ClientTlsContext(options).new_connection_options()


@functools.cache
def _native_client(pid: int, peer: Peer) -> s3.S3Client:
    """The process's client for this peer; `pid` keeps a forked child from using its parent's threads."""
    return s3.S3Client(
        bootstrap=_bootstrap(pid),
        region=peer.region,
        tls_mode=s3.S3RequestTlsMode.ENABLED if peer.tls else s3.S3RequestTlsMode.DISABLED,
        tls_connection_options=_own_authorities() if peer.tls else None,
        part_size=16 << 20,
        memory_limit=MEMORY_LIMIT_BYTES,
        throughput_target_gbps=50.0,
        max_active_connections_override=MAX_IN_FLIGHT,
        connect_timeout_ms=3000,
        # Quick retries only (about 4 s in the worst case): longer patience is the caller's, who knows whether a reader waits.
        retry_config=s3.S3RetryConfig(
            max_retries=4, backoff_scale_factor_ms=250, max_backoff_secs=2, retry_mode=s3.S3RetryMode.EXPONENTIAL_BACKOFF
        ),
    )


@functools.cache
def _admission(pid: int, peer: Peer) -> Admission:
    return Admission()
