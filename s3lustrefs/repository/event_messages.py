"""What the messages of an event queue say: S3 event notifications, plain, through SNS, or through EventBridge.

Other servers send nearly the same: event names with `s3:` in front (MinIO, older Ceph), no sequencer (moto), keys with `/` escaped.
Source: Amazon S3 User Guide, "Event message structure" and "EventBridge event message structure".
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import Enum
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from s3lustrefs.repository.list_page import parse_mtime
from s3lustrefs.repository.replies import bare_etag


class UnreadableMessage(ValueError):
    """Not a message about objects. The text says why, and quotes nothing longer than a line."""


class EventKind(Enum):
    """What happened to a key."""

    CREATED = "created"
    REMOVED = "removed"
    """No object is there now, as far as this event goes: deleted, expired, or hidden by a delete marker."""
    VERSION_REMOVED = "version removed"
    """One version is gone for good: what is there now is another matter."""
    RESTORED = "restored"
    """An archived object can be read now."""


class BucketEvent(NamedTuple):
    """One event about one object. `etag` is bare and, like `size`, only what a CREATED event has."""

    kind: EventKind
    bucket: str
    key: bytes
    time_ns: int
    """When it happened, by the endpoint's clock."""
    etag: str = ""
    size: int = -1
    version_id: str = ""
    sequencer: str = ""
    """Hexadecimal; compares only with others of the same key, and may be missing."""


_FAMILIES = {
    "ObjectCreated": EventKind.CREATED,
    "ObjectRemoved": EventKind.REMOVED,
    "LifecycleExpiration": EventKind.REMOVED,
    "ObjectRestore": EventKind.RESTORED,
}
_DETAIL_TYPES = {
    "Object Created": EventKind.CREATED,
    "Object Deleted": EventKind.REMOVED,
    "Object Restore Completed": EventKind.RESTORED,
}


def parse(body: str) -> list[BucketEvent]:
    """The events of one message; none when it is about what does not concern files (tags, ACLs, S3's test message).

    Raises: UnreadableMessage.
    """
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise UnreadableMessage(f"not JSON: {exc}") from exc
    try:
        return list(_events(message))
    except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as exc:
        raise UnreadableMessage(f"{type(exc).__name__}: {exc}") from exc


def _events(message: dict[str, Any]) -> Iterable[BucketEvent]:
    if "Records" in message:
        return [event for record in message["Records"] if (event := _notification(record)) is not None]
    if message.get("Event") == "s3:TestEvent":
        return []
    if message.get("Type") == "Notification":  # of SNS
        return _events(json.loads(message["Message"]))
    if message.get("source") == "aws.s3" and "detail" in message:
        event = _bridged(message)
        return [] if event is None else [event]
    raise ValueError(f"neither an S3 event, nor one through SNS or EventBridge; it has {', '.join(sorted(message)[:5])}")


def _notification(record: dict[str, Any]) -> BucketEvent | None:
    family, _, verb = record["eventName"].removeprefix("s3:").partition(":")
    kind = _FAMILIES.get(family)
    if kind is None or (kind is EventKind.RESTORED and verb != "Completed"):
        return None
    described = record["s3"]["object"]
    version = str(described.get("versionId") or "")
    if kind is EventKind.REMOVED and verb == "Delete" and version not in ("", "null"):
        kind = EventKind.VERSION_REMOVED
    key = unquote_to_bytes(described["key"].replace("+", " "))
    return _event(kind, record["s3"]["bucket"]["name"], key, record["eventTime"], described, version, described.get("eTag"))


def _bridged(message: dict[str, Any]) -> BucketEvent | None:
    kind = _DETAIL_TYPES.get(message["detail-type"])
    if kind is None:
        return None
    detail = message["detail"]
    described = detail["object"]
    version = str(described.get("version-id") or "")
    if kind is EventKind.REMOVED and detail.get("deletion-type") == "Permanently Deleted" and version not in ("", "null"):
        kind = EventKind.VERSION_REMOVED
    etag = described.get("etag") or described.get("eTag")
    return _event(kind, detail["bucket"]["name"], described["key"].encode(), message["time"], described, version, etag)


def _event(
    kind: EventKind, bucket: str, key: bytes, time: str, described: dict[str, Any], version: str, etag: str | None
) -> BucketEvent:
    size = described.get("size")
    sequencer = str(described.get("sequencer") or "")
    return BucketEvent(
        kind, bucket, key, parse_mtime(time), bare_etag(etag or ""), -1 if size is None else int(size), version, sequencer
    )


def latest(events: Iterable[BucketEvent]) -> BucketEvent | None:
    """Which of several events of one key happened last; None when they do not tell.

    Sequencers compare as hexadecimal numbers, padded on the right. Source: Amazon S3 User Guide, "Event ordering".
    """
    told = list(events)
    if all(event[:7] == told[0][:7] for event in told):
        return told[0]
    if not all(event.sequencer for event in told):
        return None
    longest = max(len(event.sequencer) for event in told)
    return max(told, key=lambda event: event.sequencer.upper().ljust(longest, "0"))
