"""Verifier: AWS's Signature Version 4 of a request, computed once more by botocore's own signer and compared.

What is signed is all that counts: host, date, every `x-amz-` header (the operation among them), and the body's hash. A request
that was recorded is refused when it is sent again, see `seen_signatures`. What was seen is forgotten with the process, so that
requests dated before its start are refused as well: a client whose clock is so many seconds slow is refused for so many seconds
after a start, nobody else. (What a client whose clock is ahead sent just before a start can be repeated after it.)
Source: AWS General Reference, "Signature Version 4"; Amazon FSx API Reference, "Common Errors".
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from calendar import timegm
from collections.abc import Callable
from dataclasses import dataclass

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from s3lustrefs.control.api_credentials import KeyPair
from s3lustrefs.control.fsx_request import refused
from s3lustrefs.control.http_door import Request
from s3lustrefs.control.seen_signatures import SeenSignatures

SKEW_SECONDS = 300
SERVICE = "fsx"

_ALGORITHM = "AWS4-HMAC-SHA256"
_FIELD = re.compile(r"\s*(Credential|SignedHeaders|Signature)=([^\s,]+)\s*")
_DATE = re.compile(r"\d{8}T\d{6}Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Claim:
    """What the Authorization header says."""

    access_key: str
    scope: tuple[str, ...]
    signed_headers: tuple[str, ...]
    signature: str


class Verifier:
    """Knows one key pair and one Region, and what was sent since it was made.

    `clock`: seconds since the epoch; `uptime`: seconds, never going back.
    """

    def __init__(
        self, pair: KeyPair, region: str, clock: Callable[[], float] = time.time, uptime: Callable[[], float] = time.monotonic
    ) -> None:
        self._pair = pair
        self._region = region
        self._clock = clock
        self._uptime = uptime
        self._started = uptime()
        self._seen = SeenSignatures(uptime)

    def verify(self, request: Request) -> None:
        """Raises: ControlFault."""
        if request.target != "/":
            raise refused("UnknownOperationException", "there is nothing here but POST /")
        claim = _claim(request)
        if not hmac.compare_digest(claim.access_key.encode(), self._pair.access_key.encode()):
            raise refused("UnrecognizedClientException", "the access key is not the one in this file system's api-credentials")
        now = self._clock()
        date, at = self._check_date(request, now)
        self._check_scope(claim.scope, date)
        _check_signed(claim.signed_headers, request)
        try:
            signature = self._signature(request, claim, date)
        except ValueError as exc:
            raise refused("IncompleteSignature", f"Host cannot be read: {exc}") from exc
        if not hmac.compare_digest(signature.encode(), claim.signature.encode()):
            raise refused(
                "InvalidSignatureException",
                "the signature does not match: check the secret key, and that no proxy changes requests",
            )
        self._seen.admit(signature, at, now - SKEW_SECONDS, now + SKEW_SECONDS)

    def _check_date(self, request: Request, now: float) -> tuple[str, int]:
        """The date as it is signed, and in seconds since the epoch."""
        date = request.header("x-amz-date")
        try:
            if not _DATE.fullmatch(date):
                raise ValueError
            at = timegm(time.strptime(date, "%Y%m%dT%H%M%SZ"))
        except ValueError:
            raise refused("IncompleteSignature", "X-Amz-Date is missing, or not of the form 20180301T120000Z") from None
        skew = now - at
        if abs(skew) > SKEW_SECONDS:
            what = f"{abs(skew):.0f} s {'old' if skew > 0 else 'ahead of time'}, at most {SKEW_SECONDS} s: check the client's clock"
            raise refused("RequestExpired", f"the request is {what}")
        running = self._uptime() - self._started  # not a date kept from then: the clock may have been set since
        if at + 1 <= now - running:
            what = f"{skew:.0f} s old, from before this server started ({running:.0f} s ago)"
            raise refused("RequestExpired", f"the request is {what}: sign it anew; if that does not help, check the client's clock")
        return date, at

    def _check_scope(self, scope: tuple[str, ...], date: str) -> None:
        expected = (date[:8], self._region, SERVICE, "aws4_request")
        for what, given, right in zip(("date", "Region", "service", "terminator"), scope, expected, strict=True):
            if given != right:
                raise refused("InvalidSignatureException", f"the request is signed for {what} {given!r}, here it must be {right!r}")

    def _signature(self, request: Request, claim: _Claim, date: str) -> str:
        signed = AWSRequest(method=request.method, url=f"http://{request.header('host')}/", data=request.body)
        for name, value in request.headers:
            if name in claim.signed_headers:
                signed.headers[name] = value
        signed.context["timestamp"] = date
        signer = SigV4Auth(Credentials(self._pair.access_key, self._pair.secret_key), SERVICE, self._region)
        return str(signer.signature(signer.string_to_sign(signed, signer.canonical_request(signed)), signed))


def _claim(request: Request) -> _Claim:
    """Raises: ControlFault."""
    authorization = request.header("authorization")
    if not authorization:
        raise refused("MissingAuthenticationToken", "the request is not signed: sign it with the key pair in api-credentials")
    algorithm, _, rest = authorization.partition(" ")
    parts = [_FIELD.fullmatch(part) for part in rest.split(",")]
    fields = {part[1]: part[2] for part in parts if part}
    if algorithm != _ALGORITHM or None in parts or len(fields) != 3 or len(parts) != 3:
        message = f"Authorization must be {_ALGORITHM} with Credential, SignedHeaders and Signature"
        raise refused("IncompleteSignature", message)
    access_key, *scope = fields["Credential"].split("/")
    if len(scope) != 4:
        raise refused("IncompleteSignature", "Credential must be KEY/DATE/REGION/SERVICE/aws4_request")
    return _Claim(access_key, tuple(scope), tuple(fields["SignedHeaders"].split(";")), fields["Signature"])


def _check_signed(signed: tuple[str, ...], request: Request) -> None:
    """Nothing that has a meaning may be unsigned, or there twice. Raises: ControlFault."""
    names = [name for name, _ in request.headers]
    needed = {"host", "x-amz-date", *(name for name in names if name.startswith("x-amz-"))}
    if unsigned := sorted(needed - set(signed)):
        raise refused("IncompleteSignature", f"not among the signed headers: {', '.join(unsigned)}")
    if absent := sorted(set(signed) - set(names)):
        raise refused("IncompleteSignature", f"signed, but not there: {', '.join(absent)}")
    if repeated := sorted({name for name in (*signed, "authorization") if names.count(name) > 1}):
        raise refused("IncompleteSignature", f"there more than once: {', '.join(repeated)}")
    digest = request.header("x-amz-content-sha256")
    if digest and not hmac.compare_digest(digest.encode(), hashlib.sha256(request.body).hexdigest().encode()):
        raise refused("InvalidSignatureException", "X-Amz-Content-SHA256 is not the hash of the body")
