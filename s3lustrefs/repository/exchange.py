"""One HTTP request and how it may end, whichever client carries it (`crt`, `curl`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from s3lustrefs.repository.replies import Response


class BodySource(Protocol):
    """What a request body is read from, in the CRT's threads, possibly several times (retries)."""

    def readinto(self, buffer: memoryview) -> int: ...

    def seek(self, offset: int, whence: int = 0) -> int: ...

    def read(self, size: int = -1) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. `target` is percent-encoded, query included."""

    operation: str
    method: str
    host: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: BodySource | None = None
    body_bytes: int = 0
    """Length of `body`, or of the answer's body where that is the larger one."""
    extra_seconds: float = 0.0
    """Further patience for requests whose answer takes the endpoint long, such as copies."""


NO_RESPONSE = Response(0, {})


class ResponseSink(Protocol):
    """Where the answer of a successful request goes. Called in any thread; what it raises ends the request and reaches us."""

    def begin(self, response: Response) -> None: ...

    def write(self, chunk: bytes, offset: int) -> None: ...


class TransferFailed(Exception):
    """The request ended without success; `response` is the answer where there was one, else its status is 0."""

    def __init__(self, reason: str, response: Response) -> None:
        super().__init__(reason)
        self.reason = reason
        self.response = response


class Refused(TransferFailed):
    """The client refused the request, or an answer with other bytes than the Range asked for. Trying again is no use."""


class Stalled(TransferFailed):
    """The watchdog cancelled the request."""
