"""The daemon dies between a message, its effect and its deletion: the event is not lost, and coming twice changes nothing."""

from __future__ import annotations

import os
import time

import pytest

from tests.crash.harness import Crashing

SECONDS = 60.0


@pytest.mark.parametrize("failpoint", ["event.received:2", "event.applied:2"])
def test_event_of_a_daemon_that_dies_is_not_lost(crashing: Crashing, failpoint: str) -> None:
    before = crashing.fill()
    crashing.mount(failpoint, "event_queue_url=create", "import_interval=0")
    crashing.wait_import()
    deadline = time.monotonic() + SECONDS
    while state(crashing)["state"] != "LISTENING":  # the first pass, with what was in the new queue
        assert time.monotonic() < deadline, crashing.log()
    queue = state(crashing)["queue"]
    put(crashing, "p/old/new", b"new")
    put(crashing, "p/old/a.txt", b"changed")
    crashing.s3.delete_object(Bucket=crashing.bucket, Key="p/old/gone.txt")
    assert crashing.wait_death() == -9, f"{failpoint} was never passed"
    crashing.clear()

    crashing.mount("", "event_queue_url=create", "import_interval=0")
    crashing.wait_import()
    sqs = crashing.server.client("sqs")
    # What the dead daemon had received shows again at once, instead of in two minutes.
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    left = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
    assert sum(map(int, left.values())) or state(crashing)["events"], "deleted before the effect"
    old = crashing.root / "old"
    while not ((old / "new").exists() and os.stat(old / "a.txt").st_size == 7 and not (old / "gone.txt").exists()):
        assert time.monotonic() < deadline, (sorted(os.listdir(old)), crashing.log())
    assert (old / "new").read_bytes() == b"new" and (old / "a.txt").read_bytes() == b"changed"
    assert (old / "b.bin").stat().st_size == len(before.snapshot()["old/b.bin"][2])
    assert crashing.end_cleanly() == 0


def state(crashing: Crashing) -> dict[str, str]:
    found: dict[str, str] = crashing.client().call("Status")["associations"][0]["events"]  # type: ignore[index]
    return found


def put(crashing: Crashing, key: str, body: bytes) -> None:
    crashing.s3.put_object(Bucket=crashing.bucket, Key=key, Body=body)
