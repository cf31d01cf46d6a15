"""BucketClient: sends requests to one bucket, signed with the latest credentials, and makes every failure one of our exceptions."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence

import trio

from s3lustrefs import errors
from s3lustrefs.model.association import Endpoint
from s3lustrefs.repository import curl, replies
from s3lustrefs.repository.address import bucket_address
from s3lustrefs.repository.bodies import SliceReader, storage_error
from s3lustrefs.repository.credentials import Credentials, resolve_region
from s3lustrefs.repository.crt import CrtClient, Peer
from s3lustrefs.repository.exchange import BodySource, Refused, Request, ResponseSink, Stalled, TransferFailed
from s3lustrefs.repository.object_store import FileSlice
from s3lustrefs.repository.replies import Response

log = logging.getLogger(__name__)

_REST_SECONDS = 5.0
"""How long the quick way is not tried after it found no server: each try costs a connection."""

Headers = list[tuple[str, str]]

Meaning = Mapping[str, type[errors.RepositoryError]]
"""What a status or error code means for one kind of request, where it differs from the general table in `replies`."""

_GENERAL: Meaning = {}


class BucketClient:
    """The one way out of this process to a bucket, listings aside. Opens nothing before the first request."""

    def __init__(self, endpoint: Endpoint, bucket: str, credentials: Credentials, stall_seconds: float) -> None:
        self.region = resolve_region(endpoint)
        self._bucket = bucket
        self._credentials = credentials
        self._stall_seconds = stall_seconds
        self._address = bucket_address(endpoint, self.region, bucket)
        self._crt: CrtClient | None = None
        self._quick_again_at = 0.0

    def where(self, key: bytes) -> str:
        """The object as messages name it."""
        return f"s3://{self._bucket}/{key.decode('utf-8', 'backslashreplace')}"

    async def send_body(
        self,
        operation: str,
        key: bytes,
        body: FileSlice | bytes,
        headers: Headers,
        query: Headers,
        meaning: Meaning = _GENERAL,
    ) -> Response:
        """PUT bytes or a slice of a file. Raises: RepositoryError; StorageError when the file cannot be read."""
        length = body_length(body)
        headers = [*headers, ("content-length", str(length))]
        if isinstance(body, bytes):
            source = io.BytesIO(body) if body else None
            return await self.call(operation, "PUT", key, query=query, headers=headers, body=source, length=length, meaning=meaning)
        try:
            reader = SliceReader(body)
        except OSError as error:
            raise storage_error(error, f"{body.path}: cannot be read for upload") from error
        try:
            return await self.call(operation, "PUT", key, query=query, headers=headers, body=reader, length=length, meaning=meaning)
        except errors.RepositoryError:
            if reader.failure is not None:
                raise reader.failure from None
            raise
        finally:
            reader.close()

    async def call(
        self,
        operation: str,
        method: str,
        key: bytes,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Sequence[tuple[str, str]] = (),
        body: BodySource | None = None,
        length: int = 0,
        seconds: float = 0.0,
        sink: ResponseSink | None = None,
        meaning: Meaning = _GENERAL,
    ) -> Response:
        """Send one request; when the endpoint says that the token expired, refresh the credentials and send it once more."""
        request = Request(
            operation, method, self._address.host, self._address.target(key, query), tuple(headers), body, length, seconds
        )
        used = await self._credentials.snapshot()
        for last in (False, True):
            if body is not None:
                body.seek(0)
            try:
                response = await self._exchange(request, sink)
                if operation == "GetObject" or replies.xml_root(response.body) != "Error":
                    return response
                failure = TransferFailed("the answer is an error", response)
            except Refused as error:
                raise errors.RepositoryRejected(f"{self.where(key)}: {operation}: {error.reason}", bucket=self._bucket) from error
            except TransferFailed as error:
                failure = error
            if last or not _may_be_expired(method, failure.response):
                break
            await self._credentials.refresh(used)
        raise self._error(failure, operation, key, meaning) from failure

    async def _exchange(self, request: Request, sink: ResponseSink | None) -> Response:
        """Small requests the quick way; everything else, and what failed so, through the CRT, which has the retries.

        Those of `curl.ONCE` go through the CRT only where libcurl cannot send them.
        """
        is_once = request.operation in curl.ONCE
        if curl.can_send(request) and (is_once or trio.current_time() >= self._quick_again_at):
            try:
                response = await curl.client().exchange(
                    request,
                    tls=self._address.tls,
                    region=self.region,
                    credentials=self._credentials.current(),
                    patience=self._stall_seconds + request.extra_seconds,
                )
                if sink is None and replies.xml_root(response.body) == "Error":
                    raise TransferFailed("the answer is an error", response)
            except Stalled:
                raise
            except TransferFailed as failure:
                answer = failure.response
                if sink is None and (is_once or answer.status in curl.FINAL or _may_be_expired(request.method, answer)):
                    raise
                log.debug("quick request failed, using the CRT host=%s reason=%s", request.host, failure.reason)
                if not answer.status:
                    self._quick_again_at = trio.current_time() + _REST_SECONDS
            else:
                if sink is None:
                    return response
                sink.begin(response)
                sink.write(response.body, 0)
                return Response(response.status, response.headers)
        return await self._transport().exchange(request, sink)

    def _error(self, failure: TransferFailed, operation: str, key: bytes, meaning: Meaning) -> errors.RepositoryError:
        now = self._credentials.current()
        secrets = (now.secret_key, now.token or "", now.access_key)
        return replies.error_of(
            failure.response, failure.reason, operation=operation, bucket=self._bucket, key=key, secrets=secrets, meaning=meaning
        )

    def _transport(self) -> CrtClient:
        if self._crt is None:
            peer = Peer(self.region, self._address.tls, self._address.host)
            self._crt = CrtClient(peer, self._credentials.current, self._stall_seconds)
        return self._crt


def _may_be_expired(method: str, response: Response) -> bool:
    """Answers to HEAD have no body, hence no code: Amazon says just 400 there when the token has expired."""
    return replies.error_code(response) in replies.EXPIRED_CODES or (method == "HEAD" and response.status == 400)


def body_length(body: FileSlice | bytes) -> int:
    """Bytes of a request body."""
    return len(body) if isinstance(body, bytes) else body.length
