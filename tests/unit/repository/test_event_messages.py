from __future__ import annotations

import json
from typing import Any

import pytest

from s3lustrefs.repository.event_messages import BucketEvent, EventKind, UnreadableMessage, latest, parse

TIME = "2026-03-01T01:02:03.250Z"
TIME_NS = 1_772_326_923_250_000_000


def record(name: str, **described: Any) -> dict[str, Any]:
    return {
        "eventSource": "aws:s3",
        "eventName": name,
        "eventTime": TIME,
        "s3": {"configurationId": "FSx", "bucket": {"name": "b"}, "object": {"key": "p/a+b%2Bc%C3%A9", **described}},
    }


def plain(*records: dict[str, Any]) -> str:
    return json.dumps({"Records": list(records)})


def bridged(kind: str, **detail: Any) -> str:
    described = {"key": "p/a b+cé", "size": 5, "etag": "e", "version-id": "v", "sequencer": "0A"}
    return json.dumps(
        {"source": "aws.s3", "detail-type": kind, "time": TIME, "detail": {"bucket": {"name": "b"}, "object": described, **detail}}
    )


CREATED = BucketEvent(EventKind.CREATED, "b", "p/a b+cé".encode(), TIME_NS, "e", 5, "v", "0A")
FULL = {"size": 5, "eTag": '"e"', "versionId": "v", "sequencer": "0A"}


@pytest.mark.parametrize(
    "body",
    [
        plain(record("ObjectCreated:Put", **FULL)),
        plain(record("s3:ObjectCreated:CompleteMultipartUpload", **FULL)),
        json.dumps({"Type": "Notification", "TopicArn": "t", "Message": plain(record("ObjectCreated:Copy", **FULL))}),
        bridged("Object Created"),
        json.dumps({"Type": "Notification", "Message": bridged("Object Created")}),
    ],
)
def test_every_form_says_the_same(body: str) -> None:
    assert parse(body) == [CREATED]


@pytest.mark.parametrize(
    ("name", "described", "kind"),
    [
        ("ObjectRemoved:Delete", {}, EventKind.REMOVED),
        ("ObjectRemoved:Delete", {"versionId": "null"}, EventKind.REMOVED),
        ("ObjectRemoved:Delete", {"versionId": "v"}, EventKind.VERSION_REMOVED),
        ("ObjectRemoved:DeleteMarkerCreated", {"versionId": "v"}, EventKind.REMOVED),
        ("LifecycleExpiration:Delete", {"versionId": "v"}, EventKind.VERSION_REMOVED),
        ("LifecycleExpiration:DeleteMarkerCreated", {"versionId": "v"}, EventKind.REMOVED),
        ("ObjectRestore:Completed", {}, EventKind.RESTORED),
    ],
)
def test_what_happened(name: str, described: dict[str, Any], kind: EventKind) -> None:
    (event,) = parse(plain(record(name, **described)))
    assert event.kind is kind


def test_what_happened_through_eventbridge() -> None:
    assert parse(bridged("Object Deleted", **{"deletion-type": "Permanently Deleted"}))[0].kind is EventKind.VERSION_REMOVED
    assert parse(bridged("Object Deleted", **{"deletion-type": "Delete Marker Created"}))[0].kind is EventKind.REMOVED
    assert parse(bridged("Object Restore Completed"))[0].kind is EventKind.RESTORED


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"}),
        json.dumps({"Type": "Notification", "Message": json.dumps({"Event": "s3:TestEvent"})}),
        plain(record("ObjectTagging:Put"), record("ObjectAcl:Put"), record("ObjectRestore:Post")),
        bridged("Object Tags Added"),
    ],
)
def test_what_does_not_concern_files_is_no_event(body: str) -> None:
    assert parse(body) == []


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no JSON",
        "[]",
        "3",
        "{}",
        '{"Records": [{}]}',
        '{"Records": 3}',
        '{"Type": "Notification", "Message": "x"}',
        plain({**record("ObjectCreated:Put"), "eventTime": "yesterday"}),
        plain(record("ObjectCreated:Put", size="many")),
        plain(record("ObjectCreated:Put", size=1)).replace('"size": 1', '"size": 1e999'),
        "[" * 200_000,
    ],
)
def test_what_cannot_be_read_says_so(body: str) -> None:
    with pytest.raises(UnreadableMessage):
        parse(body)


def test_sequencers_of_different_lengths_are_padded_on_the_right() -> None:
    events = [CREATED._replace(sequencer=text, etag=text) for text in ("0055AED6DCD90281E5", "0055AED6DCD9", "0055aed6dcd90281e6")]
    newest = latest(events)
    assert newest is not None and newest.etag == "0055aed6dcd90281e6"


def test_events_without_sequencers_tell_only_when_they_agree() -> None:
    bare = CREATED._replace(sequencer="")
    assert latest([bare, bare]) == bare
    assert latest([bare, bare._replace(etag="other")]) is None
