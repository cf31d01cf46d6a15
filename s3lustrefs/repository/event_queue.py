"""EventQueue: one SQS queue, by long polling: messages received and deleted in tens.

Own signed requests instead of a boto3 client, as for listings: at 250 calls a second boto3 would take most of the daemon's
interpreter, this takes a fifth of that. The signature is botocore's; credentials are never stored or logged.
Source: Amazon SQS API Reference, "AWS JSON protocol".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import trio
import urllib3

from s3lustrefs import errors
from s3lustrefs.repository.credential_snapshot import CredentialSnapshot
from s3lustrefs.repository.credentials import Credentials
from s3lustrefs.repository.event_messages import BucketEvent, UnreadableMessage, parse
from s3lustrefs.repository.list_request import connect
from s3lustrefs.repository.replies import EXPIRED_CODES, redacted

MOST_MESSAGES = 10
"""Of one call."""
WAIT_SECONDS = 10
"""Of a long poll. SQS allows 20: whoever gives up in between leaves what was just handed out invisible for a while."""
HIDDEN_SECONDS = 120
"""How long a received message is nobody else's, and then comes again unless it was deleted."""
_CONNECTIONS = 32
_GONE_CODES = frozenset({"QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", "QueueDeletedRecently"})
_DENIED_CODES = frozenset(
    {"AccessDenied", "AccessDeniedException", "InvalidClientTokenId", "SignatureDoesNotMatch", "UnrecognizedClientException"}
)


class Message(NamedTuple):
    """One message. `events` is None when it cannot be read: `defect` says why."""

    receipt: str
    events: list[BucketEvent] | None
    defect: str
    sent_seconds: float
    """Unix time; 0: the service does not tell."""
    receives: int
    """How often it was handed out, this time included; 0: the service does not tell."""
    message_id: str = ""
    """The same each time it is handed out."""


@dataclass(frozen=True, slots=True)
class QueueAddress:
    """Where a queue is, and the Region to sign for."""

    url: str
    region: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


class EventQueue:
    """See the module docstring. Calls are cancellable at once; their thread ends later by itself."""

    def __init__(self, address: QueueAddress, credentials: Credentials) -> None:
        self.address = address
        parts = urlsplit(address.url)
        self._endpoint = f"{parts.scheme}://{parts.netloc}/"
        self._credentials = credentials
        self._pool = connect(self._endpoint, _CONNECTIONS)
        self._limiter = trio.CapacityLimiter(_CONNECTIONS)

    async def receive(self, wait_seconds: int, *, hidden_seconds: int = HIDDEN_SECONDS) -> list[Message]:
        """Up to ten messages, nobody else's for `hidden_seconds`; none only after `wait_seconds` without any.

        Raises: RepositoryError.
        """
        wanted = {
            "MaxNumberOfMessages": MOST_MESSAGES,
            "WaitTimeSeconds": wait_seconds,
            "VisibilityTimeout": hidden_seconds,
            "AttributeNames": ["SentTimestamp", "ApproximateReceiveCount"],
        }
        found: list[Message] = await self._call("ReceiveMessage", wanted, _messages)
        return found

    async def delete(self, receipts: Sequence[str]) -> int:
        """Delete up to ten; how many could not be, which come again. Raises: RepositoryError."""
        entries = [{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts)]
        failed: int = await self._call("DeleteMessageBatch", {"Entries": entries}, lambda answer: len(answer.get("Failed") or ()))
        return failed

    async def _call(self, action: str, fields: dict[str, Any], read: Any) -> Any:
        used = await self._credentials.snapshot()
        for last in (False, True):
            try:
                return await trio.to_thread.run_sync(
                    self._exchange, action, fields, read, used, abandon_on_cancel=True, limiter=self._limiter
                )
            except _CredentialsExpired:
                if last:
                    raise
                await self._credentials.refresh(used)
                used = await self._credentials.snapshot()
        raise AssertionError("the loop returns or raises")

    def _exchange(self, action: str, fields: dict[str, Any], read: Any, keys: CredentialSnapshot) -> Any:
        """In a thread: one request, and its answer as `read` sees it."""
        body = json.dumps({"QueueUrl": self.address.url, **fields}).encode()
        headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": f"AmazonSQS.{action}"}
        request = botocore.awsrequest.AWSRequest("POST", self._endpoint, headers, body)
        frozen = botocore.credentials.ReadOnlyCredentials(keys.access_key, keys.secret_key, keys.token)
        botocore.auth.SigV4Auth(frozen, "sqs", self.address.region).add_auth(request)
        try:
            reply = self._pool.request(
                "POST", self._endpoint, body=body, headers=dict(request.headers.items()), retries=False, redirect=False
            )
        except urllib3.exceptions.HTTPError as exc:
            raise errors.RepositoryUnavailable(f"queue {self.address.name}: no answer: {exc}") from exc
        try:
            answer = json.loads(reply.data or b"{}")
            if reply.status == 200:
                return read(answer)
        except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as exc:
            raise errors.RepositoryUnavailable(
                f"queue {self.address.name}: {action}: status {reply.status} with an answer that is not SQS's"
            ) from exc
        raise self._error(action, reply.status, answer if isinstance(answer, dict) else {}, keys)

    def _error(self, action: str, status: int, answer: dict[str, Any], keys: CredentialSnapshot) -> errors.RepositoryError:
        code = str(answer.get("__type", "")).rpartition("#")[2]
        words = redacted(str(answer.get("message") or answer.get("Message") or ""), (keys.secret_key, keys.token or ""))
        text = f"queue {self.address.name}: {action}: {code or f'status {status}'} {words}".rstrip()
        if code in EXPIRED_CODES:
            return _CredentialsExpired(text)
        if code in _GONE_CODES:
            return errors.RepositoryRejected(f"queue {self.address.name} does not exist")
        if code in _DENIED_CODES or status == 403:
            return errors.RepositoryDenied(f"{text}; allow sqs:{action} on it")
        return errors.RepositoryUnavailable(text)


class _CredentialsExpired(errors.RepositoryDenied):
    """Denied, but newer credentials would do."""


def _messages(answer: dict[str, Any]) -> list[Message]:
    return [_message(each) for each in answer.get("Messages") or ()]


def _message(message: dict[str, Any]) -> Message:
    events, defect, body = None, "", str(message.get("Body"))
    try:
        events = parse(body)
    except UnreadableMessage as exc:
        defect = f"{exc}: {body[:200]!r}"
    attributes = message.get("Attributes") or {}
    sent = float(attributes.get("SentTimestamp") or 0) / 1000
    receives = int(attributes.get("ApproximateReceiveCount") or 0)
    return Message(message["ReceiptHandle"], events, defect, sent, receives, str(message.get("MessageId") or ""))
