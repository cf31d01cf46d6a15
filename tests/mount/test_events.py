"""What others do in the bucket shows at once where the bucket tells: by events, as the import policy says, with sweeps far off."""

from __future__ import annotations

import errno
import json
import os
import socket
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from s3lustrefs.cli.control_client import ControlClient
from tests.mount.background_proxy import BackgroundProxy
from tests.mount.conftest import fresh_bucket
from tests.mount.site import Site
from tests.mount.test_auto_import import OBJECTS, refresh, tree
from tests.servers import S3Server

SECONDS = 30.0
NOTHING = {"new": 0, "changed": 0, "deleted": 0}


def events(place: Site) -> dict[str, Any]:
    found: dict[str, Any] = ask(place)["associations"][0]["events"]
    return found


def ask(place: Site) -> dict[str, Any]:
    """What `status --json` prints, without a process for it."""
    answer: dict[str, Any] = ControlClient(str(place.state_dir / "control.sock")).call("Status")
    return answer


def wait(condition: Callable[[], object], what: Callable[[], object], *, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.01)


def wait_state(place: Site, state: str) -> None:
    wait(lambda: events(place)["state"] == state, lambda: events(place))


def wait_tree(place: Site, expected: dict[str, bytes]) -> None:
    """Without reading through errors: a file may go between its name and its content."""

    def found() -> dict[str, bytes]:
        try:
            return tree(place.root)
        except OSError:
            return {}

    wait(lambda: found() == expected, lambda: (found(), events(place), place.log()[-2000:]))


def totals(place: Site) -> dict[str, int]:
    found = events(place)
    return {name: found[name] for name in ("new", "changed", "deleted")}


@pytest.fixture
def here(make_site: Callable[..., Site]) -> Site:
    """`OBJECTS`, mounted and looked at: the kernel remembers all of it. The bucket tells of changes."""
    place = make_site(event_queue_url="create")
    for key, body in OBJECTS.items():
        place.put(key, body)
    place.mount()
    wait_state(place, "LISTENING")
    tree(place.root)
    return place


def test_new_changed_and_deleted_objects_show_by_themselves(here: Site) -> None:
    assert not (here.root / "d/new").exists()  # remembered by the kernel
    here.put("p/d/new", b"new")
    here.put("p/n/e/w", b"in new directories")
    here.put("p/a b+c é", b"a name to escape")
    here.put("p/a", b"another content of a")
    for key in ("p/d/e/c", "p/gone/y", "p/m/", "p/m/x"):  # the directory before what is in it
        here.s3.delete_object(Bucket=here.bucket, Key=key)
    after = {"a": b"another content of a", "a b+c é": b"a name to escape", "d/": b"", "d/b": OBJECTS["p/d/b"], "d/new": b"new"}
    after |= {"d/e/": b"", "gone/": b"", "n/": b"", "n/e/": b"", "n/e/w": b"in new directories"}
    wait_tree(here, after)
    assert refresh(here) == NOTHING  # a listing would have ended in the same tree
    found = events(here)
    assert (found["changed"], found["deleted"], found["lost"], found["unreadable"]) == (1, 4, 0, 0)
    assert found["lag_seconds"] < SECONDS and ask(here)["metrics"]["AgeOfOldestQueuedMessage"]["AutoImport"] is not None
    assert "events       " in here.cli("status", here.root).stdout
    here.unmount()
    assert here.cli("fsck", here.state_dir).returncode == 0


def test_other_attributes_of_the_same_bytes_show(here: Site) -> None:
    ino = os.stat(here.root / "a").st_ino
    time.sleep(2.1)  # times of objects are compared with a margin
    here.s3.copy_object(
        Bucket=here.bucket, Key="p/a", CopySource=f"{here.bucket}/p/a",
        Metadata={"file-permissions": "0100640", "file-owner": "7"}, MetadataDirective="REPLACE",
    )  # fmt: skip
    wait(lambda: os.stat(here.root / "a").st_uid == 7, lambda: events(here))
    found = os.stat(here.root / "a")
    assert (found.st_mode & 0o777, found.st_ino) == (0o640, ino)
    assert "released" not in here.hsm("a")


def test_attributes_stay_when_the_new_object_carries_none(here: Site) -> None:
    here.put("p/d/own", b"old", Metadata={"file-permissions": "0100640", "file-owner": "7", "file-group": "8"})
    wait((here.root / "d/own").exists, lambda: events(here))
    for body in (b"old", b"new content"):
        found = os.stat(here.root / "d/own")
        assert (found.st_mode & 0o777, found.st_uid, found.st_gid, found.st_size) == (0o640, 7, 8, len(body))
        assert (here.root / "d/own").read_bytes() == body
        here.put("p/d/own", b"new content")
        wait(lambda: os.stat(here.root / "d/own").st_size == len(b"new content"), lambda: events(here))


def test_what_others_put_shows_within_a_second(here: Site) -> None:
    """In a directory that has been listed, under names that the kernel remembers as absent. The median: others use this host."""
    lags = []
    for number in range(15):
        path = here.root / f"d/put{number}"
        assert path.name not in os.listdir(path.parent) and not path.exists()
        here.put(f"p/d/{path.name}", b"x")
        answered = time.monotonic()
        wait(path.exists, lambda: events(here))
        lags.append(time.monotonic() - answered)
    assert statistics.median(lags) < 1, lags


def test_events_leave_alone_what_is_changed_here(here: Site) -> None:
    """The export finds the difference, and neither side is lost."""
    here.expected_log.append("conflict (ino|kept)")
    known = events(here)["events"]
    with open(here.root / "a", "ab") as changed, open(here.root / "d/b", "ab") as deleted:
        for file in (changed, deleted):
            file.write(b", changed here")
            file.flush()
        here.put("p/a", b"theirs")
        here.s3.delete_object(Bucket=here.bucket, Key="p/d/b")
        wait(lambda: events(here)["events"] >= known + 2, lambda: events(here))
        assert (here.root / "a").read_bytes() == OBJECTS["p/a"] + b", changed here"
        assert (here.root / "d/b").read_bytes() == OBJECTS["p/d/b"] + b", changed here"
    assert totals(here) == NOTHING
    here.drain()
    (kept,) = here.root.glob("a.conflict-*")
    ours = {f"p/{kept.name}": OBJECTS["p/a"] + b", changed here", "p/d/b": OBJECTS["p/d/b"] + b", changed here"}
    expected = {"p/a": b"theirs", **ours}
    assert {key: here.body(key) for key in expected} == expected
    assert {key: (here.root / key.removeprefix("p/")).read_bytes() for key in expected} == expected


def test_where_no_queue_may_be_made_sweeps_serve_until_it_may(make_site: Callable[..., Site], proxy: BackgroundProxy) -> None:
    place = make_site(endpoint_url=proxy.endpoint_url, event_queue_url="create", import_interval="1")
    place.expected_log.append("bucket events not available")
    proxy.add("denied", method="PUT", path="notification", times=1000)
    place.mount()
    wait_state(place, "FAILING")
    assert "AccessDenied" in events(place)["reason"] and "not available, sweeps alone" in place.cli("status", place.root).stdout
    place.put("p/by-sweep", b"x")
    wait((place.root / "by-sweep").exists, lambda: ask(place)["associations"])
    proxy.clear_faults()
    wait_state(place, "LISTENING")
    (made,) = place.s3.get_bucket_notification_configuration(Bucket=place.bucket)["QueueConfigurations"]
    assert made["Id"] == "FSx"
    place.put("p/by-event", b"x")
    wait(lambda: events(place)["events"], lambda: events(place))
    assert (place.root / "by-event").exists()


def test_own_exports_are_never_imported_back(here: Site) -> None:
    here.expected_log.append("bucket events not available")
    (here.root / "mine").mkdir()
    for number in range(200):
        (here.root / f"mine/{number}").write_bytes(b"%d" % number)
    (here.root / "a").write_bytes(b"a of mine")
    (here.root / "d").rename(here.root / "moved")
    (here.root / "m/x").unlink()
    os.chmod(here.root / "gone/y", 0o600)
    here.drain()
    for number in range(0, 200, 2):
        (here.root / f"mine/{number}").write_bytes(b"again %d" % number)
    (here.root / "mine/199").unlink()
    here.drain()
    expected = tree(here.root)
    here.put("p/sentinel", b"theirs")
    wait((here.root / "sentinel").exists, lambda: events(here))
    # A receipt that fails under load leaves its messages out of sight for two minutes.
    wait(lambda: events(here)["events"] > 310, lambda: events(here), seconds=150)
    assert totals(here) == {"new": 1, "changed": 0, "deleted": 0}
    assert tree(here.root) == {**expected, "sentinel": b"theirs"}
    assert all("released" not in here.hsm(f"mine/{number}") for number in range(199))
    assert os.stat(here.root / "gone/y").st_mode & 0o777 == 0o600


@pytest.mark.parametrize("policy", ["new", "changed", "deleted"])
def test_events_follow_the_policy(make_site: Callable[..., Site], policy: str) -> None:
    place = make_site(auto_import=policy, event_queue_url="create")
    for key in ("p/old", "p/gone"):
        place.put(key, b"content")
    place.mount()
    wait_state(place, "LISTENING")
    place.put("p/new", b"new")
    place.put("p/old", b"changed")
    place.s3.delete_object(Bucket=place.bucket, Key="p/gone")
    wait(lambda: events(place)["events"] == 3, lambda: events(place))
    names = {"old"} | ({"new"} if policy == "new" else set()) | (set() if policy == "deleted" else {"gone"})
    assert set(os.listdir(place.root)) == names
    assert os.stat(place.root / "old").st_size == (7 if policy != "changed" else len(b"changed"))
    assert totals(place) == {"new": policy == "new", "changed": policy == "changed", "deleted": policy == "deleted"}


def test_without_a_policy_nothing_is_made(make_site: Callable[..., Site]) -> None:
    place = make_site(auto_import="none", event_queue_url="create").mount()
    assert events(place) | {"reason": "auto_import=none"} == events(place)
    assert "QueueConfigurations" not in place.s3.get_bucket_notification_configuration(Bucket=place.bucket)
    place.unmount()
    place.mount(auto_import="new", event_queue_url="auto")
    assert "not Amazon S3" in events(place)["reason"]
    assert "sweeps alone: not Amazon S3" in place.cli("status", place.root).stdout


class Queue:
    """A queue that somebody made, into which a test puts what the bucket would have sent."""

    def __init__(self, server: S3Server) -> None:
        self._sqs = server.client("sqs")
        self.url: str = self._sqs.create_queue(QueueName=fresh_bucket(server))["QueueUrl"]
        self.arn: str = self._sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self._sqs.send_message(QueueUrl=self.url, MessageBody=body)

    def left(self) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        return sum(map(int, self._sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"].values()))


@pytest.fixture
def queue(moto_server: S3Server) -> Queue:
    return Queue(moto_server)


def told(
    place: Site, name: str, key: str, etag: str = "", size: int = 0, *, bucket: str = "", age: float = 0.0, **more: str
) -> str:
    moment = datetime.fromtimestamp(time.time() - age, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:23] + "Z"
    described = {"key": key, "eTag": etag, "size": size, **more}
    record = {"eventName": name, "eventTime": moment, "s3": {"bucket": {"name": bucket or place.bucket}, "object": described}}
    return json.dumps({"Records": [record]})


def test_what_messages_say_is_true_or_has_no_effect(make_site: Callable[..., Site], queue: Queue) -> None:
    place = make_site(event_queue_url=queue.url)
    place.expected_log.append("event message cannot be read")
    old = place.put("p/changed", b"old")["ETag"].strip('"')
    place.put("p/kept", b"kept")
    place.mount()
    wait_state(place, "LISTENING")
    new = place.put("p/changed", b"newer")["ETag"].strip('"')
    fresh = place.put("p/fresh", b"fresh")["ETag"].strip('"')
    place.put("p/other form", b"x")
    created, removed = "ObjectCreated:Put", "ObjectRemoved:Delete"
    queue.send(
        told(place, created, "p/changed", new, 5),
        told(place, created, "p/changed", old, 3, age=60),  # late
        told(place, removed, "p/kept"),  # removed and written again; the other event is on its way
        told(place, created, "p/never", "e" * 32, 7, age=60),  # gone again; the event of that was first
        told(place, created, "p/fresh", fresh, 5),
        told(place, created, "p/fresh", fresh, 5),  # twice
        json.dumps({"Type": "Notification", "Message": told(place, created, "p/other+form", "f" * 32, 1, age=60)}),
        json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": place.bucket}),
        told(place, created, "q/elsewhere", "e" * 32, 7),
        told(place, created, "p/elsewhere", "e" * 32, 7, bucket="another"),
        "not JSON at all",
        told(place, "ObjectTagging:Put", "p/kept"),
    )
    wait(lambda: not queue.left(), lambda: (queue.left(), events(place)))
    assert tree(place.root) == {"changed": b"newer", "kept": b"kept", "fresh": b"fresh", "other form": b"x"}
    found = events(place)
    assert (found["unreadable"], found["foreign"], found["lost"]) == (1, 2, 0)
    assert refresh(place) == NOTHING


def through_sns(server: S3Server, queue: Queue, bucket: str, raw: str = "false") -> None:
    sns, s3 = server.client("sns"), server.client()
    topic = sns.create_topic(Name=bucket)["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue.arn, Attributes={"RawMessageDelivery": raw})
    told = {"TopicArn": topic, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={"TopicConfigurations": [told]})


def through_raw_sns(server: S3Server, queue: Queue, bucket: str) -> None:
    through_sns(server, queue, bucket, raw="true")


def through_eventbridge(server: S3Server, queue: Queue, bucket: str) -> None:
    bus, s3 = server.client("events"), server.client()
    pattern = {"source": ["aws.s3"], "detail": {"bucket": {"name": [bucket]}}}
    bus.put_rule(Name=bucket, EventPattern=json.dumps(pattern))
    bus.put_targets(Rule=bucket, Targets=[{"Id": "queue", "Arn": queue.arn}])
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={"EventBridgeConfiguration": {}})


@pytest.mark.parametrize("connect", [through_sns, pytest.param(through_raw_sns, marks=pytest.mark.long), through_eventbridge])
def test_queues_behind_sns_and_eventbridge(
    make_site: Callable[..., Site], moto_server: S3Server, queue: Queue, connect: Callable[[S3Server, Queue, str], None]
) -> None:
    place = make_site(event_queue_url=queue.url)
    place.put("p/kept", b"before")
    connect(moto_server, queue, place.bucket)
    place.mount()
    wait_state(place, "LISTENING")
    assert tree(place.root) == {"kept": b"before"}
    place.put("p/kept", b"changed, and longer")
    place.put("p/a b+c é", b"new")
    wait_tree(place, {"kept": b"changed, and longer", "a b+c é": b"new"})
    place.s3.delete_object(Bucket=place.bucket, Key="p/kept")
    wait_tree(place, {"a b+c é": b"new"})
    wait(lambda: not queue.left(), lambda: (queue.left(), events(place)))
    found = events(place)
    assert (found["unreadable"], found["lost"], totals(place)) == (0, 0, {"new": 1, "changed": 1, "deleted": 1})
    assert refresh(place) == NOTHING


def test_delete_markers_and_undeletes(make_site: Callable[..., Site], queue: Queue) -> None:
    place = make_site(event_queue_url=queue.url)
    place.s3.put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration={"Status": "Enabled"})
    first = place.put("p/f", b"first")["VersionId"]
    place.mount()
    wait_state(place, "LISTENING")
    marker = place.s3.delete_object(Bucket=place.bucket, Key="p/f")["VersionId"]
    queue.send(told(place, "ObjectRemoved:DeleteMarkerCreated", "p/f", versionId=marker))
    wait(lambda: not (place.root / "f").exists(), lambda: events(place))
    place.s3.delete_object(Bucket=place.bucket, Key="p/f", VersionId=marker)
    queue.send(told(place, "ObjectRemoved:Delete", "p/f", versionId=marker))
    wait((place.root / "f").exists, lambda: events(place))
    second = place.put("p/f", b"second!")["VersionId"]
    place.s3.delete_object(Bucket=place.bucket, Key="p/f", VersionId=first)
    queue.send(told(place, "LifecycleExpiration:Delete", "p/f", versionId=first))
    wait_tree(place, {"f": b"second!"})
    place.s3.delete_object(Bucket=place.bucket, Key="p/f", VersionId=second)
    queue.send(told(place, "ObjectRemoved:Delete", "p/f", versionId=second))
    wait_tree(place, {})


def test_a_key_that_is_refused_costs_only_itself(make_site: Callable[..., Site], queue: Queue, proxy: BackgroundProxy) -> None:
    place = make_site(endpoint_url=proxy.endpoint_url, event_queue_url=queue.url, import_interval="0")
    place.expected_log.append("events wait, the bucket does not say")
    names = [f"f{number}" for number in range(12)]
    for name in ("secret", *names):
        place.put(f"p/{name}", b"x")
    place.mount()
    wait_state(place, "LISTENING")
    proxy.add("denied", method="HEAD", path="p/secret", times=1000)
    place.s3.delete_object(Bucket=place.bucket, Key="p/secret")
    started = time.monotonic()
    for name in names:
        place.s3.delete_object(Bucket=place.bucket, Key=f"p/{name}")
        queue.send(told(place, "ObjectRemoved:Delete", "p/secret"), told(place, "ObjectRemoved:Delete", f"p/{name}"))
        wait(lambda path=place.root / name: not path.exists(), lambda: events(place))  # type: ignore[misc]
    assert time.monotonic() - started < 40, "a pause after each of them doubles: the twelfth would be a minute long"
    wait(lambda: not queue.left(), queue.left)
    found = events(place)
    assert (found["unanswered"], found["lost"], found["deleted"]) == (1, 0, len(names)) and (place.root / "secret").exists()
    assert "1 keys that the bucket refuses to tell of" in place.cli("status", place.root).stdout
    assert "HeadObject" in place.why("secret")["last_error"]
    proxy.clear_faults()
    place.kill_daemon()  # what it remembered goes with it: a mount begins with a sweep
    place.cli("unmount", "--no-drain", place.root, check=False)
    place.mount()
    wait(lambda: not (place.root / "secret").exists(), lambda: events(place))


@pytest.mark.parametrize("posix_metadata", ["lazy", "off"])
def test_archived_objects_that_events_told_of_are_restored(
    make_site: Callable[..., Site], queue: Queue, posix_metadata: str
) -> None:
    place = make_site(event_queue_url=queue.url, import_interval="0", posix_metadata=posix_metadata)
    for key in ("p/d/deep", "p/d/old"):
        place.put(key, b"here")
    place.mount()
    wait_state(place, "LISTENING")
    for key in ("p/d/deep", "p/d/fresh"):  # one that is changed, one that is new
        etag = place.put(key, b"deep down", StorageClass="DEEP_ARCHIVE")["ETag"].strip('"')
        queue.send(told(place, "ObjectCreated:Put", key, etag, 9, age=-10))  # clearly later than all else: no HEAD
    etag = place.put("p/d/plain", b"plain")["ETag"].strip('"')
    queue.send(told(place, "ObjectCreated:Put", "p/d/plain", etag, 5, age=-10))
    wait(lambda: events(place)["events"] == 3 and not queue.left(), lambda: events(place))
    assert events(place)["asked"] == 0
    if posix_metadata == "lazy":  # the fetch of the headers tells it
        wait(lambda: place.about("d/plain")["storage_class"], lambda: place.about("d/plain"))
        wait(lambda: place.about("d/fresh")["storage_class"] == "DEEP_ARCHIVE", lambda: place.about("d/fresh"))
    else:
        assert (
            place.about("d/fresh")["storage_class"] is None and "not known yet" in place.cli("why", place.root / "d/fresh").stdout
        )
    done = json.loads(place.cli("restore", place.root / "d", "--wait", "--json").stdout)
    uncertain = 1 if posix_metadata == "off" else 0  # `plain` was looked at, too
    assert (done["readable"], done["waiting"], done["failed"]) == (2 + uncertain, 0, 0)
    assert [(place.root / "d" / name).read_bytes() for name in ("deep", "fresh")] == [b"deep down"] * 2
    refresh(place)
    assert place.about("d/plain")["storage_class"] == "STANDARD"
    assert place.about("d/fresh")["storage_class"] == "DEEP_ARCHIVE"


def bridged(place: Site, what: str, key: str, etag: str, size: int) -> str:
    """As EventBridge wraps what `told` tells."""
    detail = {"bucket": {"name": place.bucket}, "object": {"key": key, "etag": etag, "size": size, "sequencer": "0A"}}
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps({"source": "aws.s3", "detail-type": what, "time": moment, "detail": detail})


def test_a_restore_that_is_done_changes_nothing_but_that_the_file_can_be_read(make_site: Callable[..., Site], queue: Queue) -> None:
    place = make_site(event_queue_url=queue.url, import_interval="0")
    cold = {"StorageClass": "DEEP_ARCHIVE", "Metadata": {"file-permissions": "0100640", "file-owner": "7"}}
    etag = place.put("p/d/deep", b"deep down", **cold)["ETag"].strip('"')
    place.mount()
    wait_state(place, "LISTENING")
    before = os.stat(place.root / "d/deep")
    with pytest.raises(OSError) as caught:
        (place.root / "d/deep").read_bytes()
    assert caught.value.errno == errno.ENODATA
    place.put("p/d/missed", b"deep down", **cold)  # the event of its creation was lost
    for key in ("p/d/deep", "p/d/missed"):
        place.s3.restore_object(Bucket=place.bucket, Key=key, RestoreRequest={"Days": 1})  # by somebody else
        queue.send(told(place, "ObjectRestore:Post", key, etag, 9), told(place, "ObjectRestore:Completed", key, etag, 9))
        for what in ("Object Restore Initiated", "Object Restore Completed"):
            queue.send(bridged(place, what, key, etag, 9))
    wait(lambda: events(place)["events"] == 4 and not queue.left(), lambda: events(place))
    assert totals(place) == {"new": 1, "changed": 0, "deleted": 0} and events(place)["unreadable"] == 0

    def is_read() -> bool:
        try:
            return [(place.root / "d" / name).read_bytes() for name in ("deep", "missed")] == [b"deep down"] * 2
        except OSError:
            return False

    wait(is_read, lambda: place.why("d/deep"))  # a refusal is remembered for some seconds
    found = os.stat(place.root / "d/deep")
    assert [getattr(found, name) for name in ("st_ino", "st_mode", "st_uid", "st_mtime_ns", "st_ctime_ns")] == [
        getattr(before, name) for name in ("st_ino", "st_mode", "st_uid", "st_mtime_ns", "st_ctime_ns")
    ]
    assert place.about("d/missed")["storage_class"] == "DEEP_ARCHIVE" and os.stat(place.root / "d/missed").st_uid == 7
    assert refresh(place) == NOTHING


def test_ages_of_what_waits_are_told(make_site: Callable[..., Site], queue: Queue, proxy: BackgroundProxy) -> None:
    place = make_site(endpoint_url=proxy.endpoint_url, event_queue_url=queue.url, auto_export="new+changed", import_interval="0")
    place.expected_log += ["events wait, the bucket does not say", "export"]
    place.put("p/f", b"x")

    def ages() -> tuple[float | None, float]:
        found = ask(place)["metrics"]["AgeOfOldestQueuedMessage"]
        return found["AutoImport"], found["AutoExport"]

    proxy.add("hold", method="GET", path="list-type=2", skip=1, times=1000)  # the first is the look at the bucket
    place.mount(imported=False)
    proxy.wait_held()
    etag = place.put("p/new", b"new")["ETag"].strip('"')
    queue.send(told(place, "ObjectCreated:Put", "p/new", etag, 3))
    before = time.time()
    time.sleep(2.5)
    wait(lambda: ages()[0], lambda: events(place))
    assert 2 <= (ages()[0] or 0) <= time.time() - before + 1 and ages()[1] == 0
    proxy.clear_faults()
    wait(lambda: (place.root / "new").exists() and ages() == (0, 0), lambda: (ages(), events(place)))
    proxy.add("internal", method="HEAD", path="p/f", times=1000)
    proxy.add("internal", method="PUT", path="p/mine", times=1000)
    place.s3.delete_object(Bucket=place.bucket, Key="p/f")
    queue.send(told(place, "ObjectRemoved:Delete", "p/f"))
    (place.root / "mine").write_bytes(b"mine")
    before = time.time()
    wait(lambda: "events wait, the bucket does not say" in place.log(), place.log)  # hidden from now on
    time.sleep(2.5)
    for age in ages():
        assert 2 <= (age or 0) <= time.time() - before + 1, ages()
    proxy.clear_faults()
    place.drain()
    assert ages()[1] == 0 and (ages()[0] or 0) > 2, "what could be exported says nothing of what is to be imported"


@pytest.mark.long
def test_a_queue_that_is_gone_is_said_and_made_again(here: Site, moto_server: S3Server) -> None:
    here.expected_log += ["bucket events not available", "event messages not deleted"]
    before = time.monotonic()
    moto_server.client("sqs").delete_queue(QueueUrl=events(here)["queue"])
    wait(lambda: "bucket events not available" in here.log(), lambda: events(here))
    wait_state(here, "LISTENING")
    here.put("p/after", b"after")
    wait((here.root / "after").exists, lambda: events(here))
    here.unmount()  # in the middle of a long poll
    assert time.monotonic() - before < 2 * SECONDS


def test_a_second_mount_of_the_bucket_says_why_it_sweeps(here: Site, make_site: Callable[..., Site]) -> None:
    other = make_site(bucket=here.bucket, event_queue_url="create").mount()
    other.expected_log.append("bucket events not available")
    wait_state(other, "FAILING")
    assert "sends its events to queue" in other.cli("status", other.root).stdout
    here.put("p/both", b"x")
    wait((here.root / "both").exists, lambda: events(here))
    assert refresh(other)["new"] == 1


def test_two_associations_share_a_queue(
    moto_server: S3Server, make_site: Callable[..., Site], queue: Queue, tmp_path: Path
) -> None:
    place = make_site(event_queue_url=queue.url)
    toml = tmp_path / "two.toml"
    toml.write_text(
        "".join(f'[[dra]]\nfile_system_path = "/{n}"\ndata_repository_path = "s3://{place.bucket}/{n}"\n' for n in ("one", "two"))
    )
    place.source = str(toml)
    place.mount()
    for name in ("one", "two"):
        etag = place.put(f"{name}/f", b"x")["ETag"].strip('"')
        queue.send(told(place, "ObjectCreated:Put", f"{name}/f", etag, 1))
        wait((place.root / name / "f").exists, lambda: ask(place))
    wait(lambda: not queue.left(), queue.left)


def test_a_queue_that_never_answers_holds_nothing_up(make_site: Callable[..., Site]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = make_site(event_queue_url=f"http://127.0.0.1:{silent.getsockname()[1]}/1/q")
        place.put("p/f", b"x")
        place.mount()
        asked, _ = silent.accept()
        assert tree(place.root) == {"f": b"x"} and events(place)["state"] == "STARTING"
        start = time.monotonic()
        place.unmount()
        assert time.monotonic() - start < 25, "the request would have ended by itself after 30 s"
        asked.close()
