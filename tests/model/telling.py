"""What tells a mount of changes in its bucket: the bucket's own notifications. Some are lost, doubled, late or out of order.

The bucket fills one queue, the mount listens to another one, and what becomes of a message in between is decided here.
"""

from __future__ import annotations

import json
import random
import time
import urllib.parse
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.servers import S3Server

_MOST = 10
_KINDS = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
_WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Fate:
    """What becomes of messages, by chance: lost ones never arrive, late ones stay for another time, double ones come twice."""

    seed: int
    lost: float
    late: float
    double: float

    def of(self, key: str) -> str:
        """Of all messages about a key, so that it does not depend on how many there are."""
        number = random.Random(f"{self.seed} {key}").random()
        return "lost" if number < self.lost else "late" if number < self.lost + self.late else "heard"


class Telling:
    """Between a bucket and the queue of its mount."""

    def __init__(self, server: S3Server, bucket: str) -> None:
        self._sqs = server.client("sqs")
        self._source, arn = self._make()
        self.queue_url, _ = self._make()
        self._waiting: list[tuple[str, str]] = []
        """(key, body), in the order of the bucket."""
        s3 = server.client()
        told = {"QueueArn": arn, "Events": _KINDS}
        s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [told]})
        s3.close()

    def close(self) -> None:
        self._sqs.close()

    def _make(self) -> tuple[str, str]:
        url: str = self._sqs.create_queue(QueueName=f"model-{uuid.uuid4().hex[:16]}")["QueueUrl"]
        found = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        return url, found["Attributes"]["QueueArn"]

    def _collect(self) -> None:
        while messages := self._sqs.receive_message(QueueUrl=self._source, MaxNumberOfMessages=_MOST).get("Messages"):
            for message in messages:
                for record in json.loads(message["Body"]).get("Records", ()):
                    key = urllib.parse.unquote_plus(record["s3"]["object"]["key"])
                    self._waiting.append((key, json.dumps({"Records": [record]})))
            done = [{"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]} for n, message in enumerate(messages)]
            self._sqs.delete_message_batch(QueueUrl=self._source, Entries=done)

    def end_polls(self) -> None:
        """A daemon that died leaves a long poll behind, which would take what is sent next, and hide it for two minutes."""
        self._sqs.send_message(QueueUrl=self.queue_url, MessageBody=json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent"}))

    def forget(self) -> None:
        """Everything that the bucket has told so far is lost."""
        self._collect()
        self._waiting.clear()

    def deliver(self, fate: Fate) -> list[tuple[str, str]]:
        """Pass on what the bucket has told; (key, body) of each message sent."""
        self._collect()
        rng = random.Random(fate.seed)
        waiting, self._waiting = self._waiting, []
        sent: list[tuple[str, str]] = []
        for key, body in waiting:
            match fate.of(key):
                case "late":
                    self._waiting.append((key, body))
                case "heard":
                    sent += [(key, body)] * (2 if rng.random() < fate.double else 1)
        rng.shuffle(sent)
        self.send(sent)
        return sent

    def send(self, messages: Sequence[tuple[str, str]]) -> None:
        for at in range(0, len(messages), _MOST):
            entries: list[Any] = [{"Id": str(n), "MessageBody": body} for n, (_, body) in enumerate(messages[at : at + _MOST])]
            self._sqs.send_message_batch(QueueUrl=self.queue_url, Entries=entries)

    def wait_taken(self) -> None:
        """Until the mount has taken everything there is to receive."""
        deadline = time.monotonic() + _WAIT_SECONDS
        name = "ApproximateNumberOfMessages"
        while left := int(self._sqs.get_queue_attributes(QueueUrl=self.queue_url, AttributeNames=[name])["Attributes"][name]):
            assert time.monotonic() < deadline, f"nobody takes {left} messages"
            time.sleep(0.01)
