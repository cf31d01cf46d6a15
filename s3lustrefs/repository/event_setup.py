"""Finding or making the queue that a bucket's events arrive in, and the bucket's notification configuration that fills it.

FSx calls its configuration `FSx`, and so does this. What others configured in the bucket stays: the configuration is read,
one entry added, and written back. A queue outlives the mount, so that events of the time between two mounts are found, for the
14 days that SQS keeps them; it goes, and the entry with it, when the association is deleted.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import botocore.exceptions
import botocore.parsers
import trio

from s3lustrefs import errors
from s3lustrefs.model.association import Endpoint
from s3lustrefs.repository.address import is_amazon
from s3lustrefs.repository.control_client import s3_client, service_client
from s3lustrefs.repository.credential_snapshot import CredentialSnapshot
from s3lustrefs.repository.credentials import Credentials
from s3lustrefs.repository.event_queue import HIDDEN_SECONDS, QueueAddress
from s3lustrefs.repository.replies import redacted

log = logging.getLogger(__name__)

CONFIGURATION_NAME = "FSx"
_ANSWER_SECONDS = 15.0
_FSX_EVENTS = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
_MORE_EVENTS = ["s3:ObjectRestore:Completed", "s3:LifecycleExpiration:*"]
"""What FSx leaves out and a mount can use; not every server knows their names."""
_KEEP_SECONDS = 14 * 86400
_PARTS = ("TopicConfigurations", "QueueConfigurations", "LambdaFunctionConfigurations", "EventBridgeConfiguration")


@dataclass(frozen=True, slots=True)
class EventSource:
    """Whose events are wanted. `queue_name` is that of a queue made here; one per association."""

    bucket: str
    prefix: str
    endpoint: Endpoint
    region: str
    queue_name: str


def given_queue(url: str, region: str) -> QueueAddress:
    """A queue that somebody made: its Region is in Amazon's host names, elsewhere that of the bucket is signed for."""
    host = urlsplit(url).hostname or ""
    parts = host.split(".")
    return QueueAddress(url, parts[1] if host.startswith("sqs.") and "amazonaws" in parts else region)


async def make_queue(source: EventSource, credentials: Credentials) -> QueueAddress:
    """The queue of an association, made with its policy and the bucket's configuration where any of it is missing.

    Raises: RepositoryError with the reason in one line.
    """
    keys = await credentials.snapshot()
    return await trio.to_thread.run_sync(_in_words, source, keys, _make, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))


async def check_queue(source: EventSource, credentials: Credentials) -> None:
    """Make sure that the bucket still sends its events to the queue that `make_queue` made.

    Raises: RepositoryRejected when it does not; other RepositoryError when nobody knows.
    """
    keys = await credentials.snapshot()
    await trio.to_thread.run_sync(_in_words, source, keys, _check, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))


async def remove_queue(source: EventSource, credentials: Credentials) -> None:
    """Take back what `make_queue` made; what others configured stays. Raises: RepositoryError."""
    keys = await credentials.snapshot()
    await trio.to_thread.run_sync(_in_words, source, keys, _remove, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))


def look(source: EventSource, keys: CredentialSnapshot) -> str:
    """What a mount would find, in one line, without making anything. Blocks. Raises: RepositoryError."""
    return str(_in_words(source, keys, _look))


def _in_words(source: EventSource, keys: CredentialSnapshot, deed: Callable[[EventSource, Any, Any], Any]) -> Any:
    """Do something with a client of SQS and one of S3. Raises: RepositoryError."""
    url = os.environ.get("AWS_ENDPOINT_URL_SQS") or (None if is_amazon(source.endpoint) else source.endpoint.endpoint_url)
    try:
        sqs = service_client("sqs", url, source.region, keys, _ANSWER_SECONDS)
        s3 = s3_client(source.endpoint, source.region, keys, _ANSWER_SECONDS)
        return deed(source, sqs, s3)
    except botocore.exceptions.ClientError as exc:
        words = redacted(str(exc.response.get("Error", {}).get("Message") or ""), (keys.secret_key, keys.token or ""))
        code = str(exc.response.get("Error", {}).get("Code", ""))
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        # Who is asked for what it does not know may answer with a document of another kind.
        text = f"{exc.operation_name}: {code} {'' if '<' in words else words}".rstrip()
        if status == 403 or "AccessDenied" in code:
            raise errors.RepositoryDenied(f"no permission for bucket events: {text}", bucket=source.bucket) from exc
        kind = errors.RepositoryUnavailable if status >= 500 else errors.RepositoryRejected
        raise kind(f"no bucket events here: {text}", bucket=source.bucket) from exc
    except (botocore.exceptions.BotoCoreError, botocore.parsers.ResponseParserError, ValueError, KeyError, TypeError) as exc:
        # Whatever else listens at that address may say anything.
        where = url or "Amazon SQS"
        raise errors.RepositoryUnavailable(f"no bucket events: {where} does not answer as SQS does ({type(exc).__name__})") from exc


def _look(source: EventSource, sqs: Any, s3: Any) -> str:
    found = s3.get_bucket_notification_configuration(Bucket=source.bucket)
    try:
        sqs.get_queue_url(QueueName="s3lustrefs-check")
    except sqs.exceptions.QueueDoesNotExist:
        pass
    others = [each["QueueArn"].rpartition(":")[2] for each in found.get("QueueConfigurations", ()) if _overlaps(each, source)]
    if others:
        return f"the bucket sends its events to queue {others[0]} already: only the mount that made it can use it"
    return "a mount can make its queue and have the bucket fill it, if its credentials may"


def _check(source: EventSource, sqs: Any, s3: Any) -> None:
    found = s3.get_bucket_notification_configuration(Bucket=source.bucket).get("QueueConfigurations", ())
    ours = [each for each in found if each["QueueArn"].rpartition(":")[2] == source.queue_name and _prefix(each) == source.prefix]
    if not any(set(_FSX_EVENTS) <= set(each["Events"]) for each in ours):
        raise errors.RepositoryRejected(
            f"the event notification configuration of bucket {source.bucket} for queue {source.queue_name} was "
            f"{'changed' if ours else 'deleted'}: update the association to have it made again",
            bucket=source.bucket,
        )


def _make(source: EventSource, sqs: Any, s3: Any) -> QueueAddress:
    try:
        url = sqs.get_queue_url(QueueName=source.queue_name)["QueueUrl"]
    except sqs.exceptions.QueueDoesNotExist:
        attributes = {"MessageRetentionPeriod": str(_KEEP_SECONDS), "VisibilityTimeout": str(HIDDEN_SECONDS)}
        url = sqs.create_queue(QueueName=source.queue_name, Attributes=attributes)["QueueUrl"]
        log.info("event queue made queue=%s bucket=%s", source.queue_name, source.bucket)
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn", "Policy"])["Attributes"]
    arn = attributes["QueueArn"]
    policy = _policy(arn, source.bucket)
    if json.loads(attributes.get("Policy") or "{}") != policy:
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(policy)})
    _configure_bucket(source, s3, arn)
    return QueueAddress(url, source.region)


def _remove(source: EventSource, sqs: Any, s3: Any) -> None:
    try:
        url = sqs.get_queue_url(QueueName=source.queue_name)["QueueUrl"]
    except sqs.exceptions.QueueDoesNotExist:
        return
    try:
        found = s3.get_bucket_notification_configuration(Bucket=source.bucket)
        present = {part: found[part] for part in _PARTS if part in found}
        queues = present.get("QueueConfigurations", [])
        others = [each for each in queues if each["QueueArn"].rpartition(":")[2] != source.queue_name]
        if len(others) < len(queues):
            kept = {**present, "QueueConfigurations": others}
            s3.put_bucket_notification_configuration(Bucket=source.bucket, NotificationConfiguration=kept)
    except botocore.exceptions.ClientError as exc:
        if exc.response.get("Error", {}).get("Code") != "NoSuchBucket":
            raise
    sqs.delete_queue(QueueUrl=url)
    log.info("event queue removed queue=%s bucket=%s", source.queue_name, source.bucket)


def _policy(arn: str, bucket: str) -> dict[str, Any]:
    """Only S3, and only for this bucket, may send. Source: Amazon S3 User Guide, "Granting permissions to publish messages"."""
    partition = arn.split(":")[1]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": CONFIGURATION_NAME,
                "Effect": "Allow",
                "Principal": {"Service": "s3.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": arn,
                "Condition": {"ArnEquals": {"aws:SourceArn": f"arn:{partition}:s3:::{bucket}"}},
            }
        ],
    }


def _configure_bucket(source: EventSource, s3: Any, arn: str) -> None:
    found = s3.get_bucket_notification_configuration(Bucket=source.bucket)
    present = {part: found[part] for part in _PARTS if part in found}
    queues = present.get("QueueConfigurations", [])
    if any(each["QueueArn"] == arn and _prefix(each) == source.prefix for each in queues):
        return
    others = [each["QueueArn"] for each in queues if _overlaps(each, source)]
    if others:
        raise errors.RepositoryRejected(
            f"the bucket sends its events to queue {others[0].rpartition(':')[2]} already, and S3 allows one: "
            "fan them out with SNS or EventBridge, a queue for each mount, and name it with event_queue_url",
            bucket=source.bucket,
        )
    taken = {each.get("Id") for part in _PARTS[:3] for each in present.get(part, ())}
    name = CONFIGURATION_NAME if CONFIGURATION_NAME not in taken else f"{CONFIGURATION_NAME}-{source.queue_name}"
    ours: dict[str, Any] = {"Id": name, "QueueArn": arn, "Events": _FSX_EVENTS + _MORE_EVENTS}
    if source.prefix:
        ours["Filter"] = {"Key": {"FilterRules": [{"Name": "prefix", "Value": source.prefix}]}}
    try:
        _put(s3, source.bucket, present, ours)
    except botocore.exceptions.ClientError as exc:
        if exc.response.get("Error", {}).get("Code") not in ("InvalidArgument", "MalformedXML", "InvalidRequest"):
            raise
        _put(s3, source.bucket, present, {**ours, "Events": _FSX_EVENTS})
    log.info("bucket events configured bucket=%s prefix=%s name=%s", source.bucket, source.prefix, name)


def _put(s3: Any, bucket: str, present: dict[str, Any], ours: dict[str, Any]) -> None:
    merged = {**present, "QueueConfigurations": [*present.get("QueueConfigurations", []), ours]}
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=merged)


def _prefix(configuration: dict[str, Any]) -> str:
    rules = configuration.get("Filter", {}).get("Key", {}).get("FilterRules", ())
    return next((str(rule["Value"]) for rule in rules if rule["Name"].lower() == "prefix"), "")


def _overlaps(configuration: dict[str, Any], source: EventSource) -> bool:
    """Whether some key below the prefix makes events for somebody else already. S3 refuses a second configuration then."""
    other = _prefix(configuration)
    shared = other.startswith(source.prefix) or source.prefix.startswith(other)
    return shared and any(event.startswith(("s3:ObjectCreated", "s3:ObjectRemoved")) for event in configuration["Events"])
