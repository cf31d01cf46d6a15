"""Queues and bucket notifications against moto, which serves both; and what an endpoint without them says."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from s3lustrefs import errors
from s3lustrefs.model.association import Endpoint
from s3lustrefs.repository.credentials import StaticCredentials
from s3lustrefs.repository.event_messages import EventKind
from s3lustrefs.repository.event_queue import EventQueue
from s3lustrefs.repository.event_setup import EventSource, check_queue, given_queue, make_queue, remove_queue
from tests.mount.conftest import fresh_bucket
from tests.servers import REGION, S3Server


def source(server: S3Server, bucket: str, prefix: str = "p/", name: str = "") -> EventSource:
    return EventSource(bucket, prefix, Endpoint(server.endpoint_url, REGION), REGION, name or f"s3lustrefs-{bucket}")


def keys(server: S3Server) -> StaticCredentials:
    return StaticCredentials(server.access_key, server.secret_key)


def configured(server: S3Server, bucket: str) -> dict[str, Any]:
    found: dict[str, Any] = server.client().get_bucket_notification_configuration(Bucket=bucket)
    found.pop("ResponseMetadata")
    return found


async def test_queue_is_made_once_and_filled_by_the_bucket(moto_server: S3Server) -> None:
    bucket = fresh_bucket(moto_server)
    address = await make_queue(source(moto_server, bucket), keys(moto_server))
    before = configured(moto_server, bucket)
    assert await make_queue(source(moto_server, bucket), keys(moto_server)) == address
    assert configured(moto_server, bucket) == before
    (ours,) = before["QueueConfigurations"]
    assert (ours["Id"], ours["Filter"]["Key"]["FilterRules"]) == ("FSx", [{"Name": "prefix", "Value": "p/"}])
    assert set(ours["Events"]) >= {"s3:ObjectCreated:*", "s3:ObjectRemoved:*"}
    sqs = moto_server.client("sqs")
    attributes = sqs.get_queue_attributes(QueueUrl=address.url, AttributeNames=["All"])["Attributes"]
    (allowed,) = json.loads(attributes["Policy"])["Statement"]
    assert allowed["Principal"] == {"Service": "s3.amazonaws.com"}
    assert allowed["Condition"]["ArnEquals"]["aws:SourceArn"] == f"arn:aws:s3:::{bucket}"
    assert attributes["MessageRetentionPeriod"] == str(14 * 86400)

    client = moto_server.client()
    client.put_object(Bucket=bucket, Key="elsewhere", Body=b"x")
    client.put_object(Bucket=bucket, Key="p/a b+é", Body=b"xyz")
    client.delete_object(Bucket=bucket, Key="p/a b+é")
    queue = EventQueue(address, keys(moto_server))
    messages = await queue.receive(0)
    told = [event for message in messages for event in message.events or ()]
    key = "p/a b+é".encode()
    assert [(e.kind, e.bucket, e.key) for e in told] == [(EventKind.CREATED, bucket, key), (EventKind.REMOVED, bucket, key)]
    assert told[0].size == 3 and messages[0].sent_seconds and messages[0].receives == 1
    assert await queue.delete([message.receipt for message in messages]) == 0
    assert await queue.receive(0) == []


async def test_an_answer_waits_for_the_first_message(moto_server: S3Server) -> None:
    sqs = moto_server.client("sqs")
    address = given_queue(sqs.create_queue(QueueName=fresh_bucket(moto_server))["QueueUrl"], REGION)
    queue = EventQueue(address, keys(moto_server))
    started = trio.current_time()
    assert await queue.receive(1) == [] and trio.current_time() - started > 0.9
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            await trio.sleep(0.5)
            body = json.dumps({"Records": []})
            await trio.to_thread.run_sync(lambda: sqs.send_message(QueueUrl=address.url, MessageBody=body))

        nursery.start_soon(send)
        started = trio.current_time()
        assert len(await queue.receive(10)) == 1
        assert 0.4 < trio.current_time() - started < 5


async def test_configurations_of_others_stay(moto_server: S3Server) -> None:
    bucket = fresh_bucket(moto_server)
    topic = moto_server.client("sns").create_topic(Name=bucket)["TopicArn"]
    sqs = moto_server.client("sqs")
    url = sqs.create_queue(QueueName=bucket)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    elsewhere = {"Key": {"FilterRules": [{"Name": "prefix", "Value": "q/"}]}}
    theirs = {
        "TopicConfigurations": [{"Id": "FSx", "TopicArn": topic, "Events": ["s3:ObjectTagging:*"]}],
        "QueueConfigurations": [{"Id": "logs", "QueueArn": arn, "Events": ["s3:ObjectCreated:*"], "Filter": elsewhere}],
    }
    client = moto_server.client()
    client.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=theirs)
    before = configured(moto_server, bucket)
    await make_queue(source(moto_server, bucket), keys(moto_server))
    after = configured(moto_server, bucket)
    assert after["TopicConfigurations"] == before["TopicConfigurations"]
    assert after["QueueConfigurations"][0] == before["QueueConfigurations"][0]
    assert [each["Id"] for each in after["QueueConfigurations"]] == ["logs", f"FSx-s3lustrefs-{bucket}"]


async def test_queue_and_its_configuration_are_looked_after_and_taken_back(moto_server: S3Server) -> None:
    bucket, client = fresh_bucket(moto_server), moto_server.client()
    there, credentials = source(moto_server, bucket), keys(moto_server)
    first = source(moto_server, bucket, "q/", f"other-{bucket}")
    await make_queue(first, credentials)
    others = configured(moto_server, bucket)
    with pytest.raises(errors.RepositoryRejected, match=r"was deleted: update the association"):
        await check_queue(there, credentials)
    await make_queue(there, credentials)
    await check_queue(there, credentials)
    made = configured(moto_server, bucket)
    made["QueueConfigurations"][1]["Events"] = ["s3:ObjectTagging:*"]
    client.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=made)
    with pytest.raises(errors.RepositoryRejected, match="was changed"):
        await check_queue(there, credentials)
    await remove_queue(there, credentials)
    assert configured(moto_server, bucket) == others
    sqs = moto_server.client("sqs")
    with pytest.raises(sqs.exceptions.QueueDoesNotExist):
        sqs.get_queue_url(QueueName=there.queue_name)
    await remove_queue(there, credentials)
    await check_queue(first, credentials)


async def test_a_bucket_that_tells_another_queue_is_left_alone(moto_server: S3Server) -> None:
    bucket = fresh_bucket(moto_server)
    await make_queue(source(moto_server, bucket, "", f"first-{bucket}"), keys(moto_server))
    before = configured(moto_server, bucket)
    with pytest.raises(errors.RepositoryRejected, match=f"queue first-{bucket} already.*event_queue_url"):
        await make_queue(source(moto_server, bucket), keys(moto_server))
    assert configured(moto_server, bucket) == before


async def test_a_queue_that_does_not_exist_says_so(moto_server: S3Server) -> None:
    queue = EventQueue(given_queue(f"{moto_server.endpoint_url}/123456789012/none", REGION), keys(moto_server))
    with pytest.raises(errors.RepositoryRejected, match="queue none does not exist"):
        await queue.receive(0)


def test_region_of_a_given_queue() -> None:
    assert given_queue("https://sqs.eu-west-1.amazonaws.com/1/q", "us-east-1").region == "eu-west-1"
    assert given_queue("http://127.0.0.1:9324/1/q", "us-east-1").region == "us-east-1"


async def test_nobody_answers() -> None:
    queue = EventQueue(given_queue("http://127.0.0.1:9/1/q", REGION), StaticCredentials("KEY", "SECRET"))
    with pytest.raises(errors.RepositoryUnavailable, match="queue q: no answer") as caught:
        await queue.receive(0)
    assert "SECRET" not in str(caught.value)


@pytest.mark.rgw
async def test_an_endpoint_without_queues_says_so_in_one_line(rgw_server: S3Server) -> None:
    bucket = fresh_bucket(rgw_server)
    with pytest.raises(errors.RepositoryError, match="no bucket events|no permission for bucket events") as caught:
        await make_queue(source(rgw_server, bucket), keys(rgw_server))
    print(caught.value)
    assert "\n" not in str(caught.value) and rgw_server.secret_key not in str(caught.value)
