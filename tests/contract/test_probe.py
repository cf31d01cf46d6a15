"""The probe finds out what real servers enforce, and names each thing that is wrong with its remedy."""

from __future__ import annotations

import contextlib
import json
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from s3lustrefs import errors
from s3lustrefs.model.association import Endpoint
from s3lustrefs.repository.credentials import Credentials, StaticCredentials
from s3lustrefs.repository.object_store import Capabilities
from s3lustrefs.repository.probe import Finding, check, preflight
from s3lustrefs.repository.s3 import S3Store
from tests.servers import REGION, S3Server


@pytest.fixture
def client(s3_server: S3Server) -> Iterator[Any]:
    client = s3_server.client()
    yield client
    client.close()


def store_of(server: S3Server, bucket: str, **changes: Any) -> S3Store:
    endpoint = Endpoint(**{"endpoint_url": server.endpoint_url, "region": REGION, **changes})
    return S3Store(endpoint, bucket, StaticCredentials(server.access_key, server.secret_key))


def nothing_left(client: Any, bucket: str) -> bool:
    versions = client.list_object_versions(Bucket=bucket)
    uploads = client.list_multipart_uploads(Bucket=bucket)
    return not (versions.get("Versions") or versions.get("DeleteMarkers") or uploads.get("Uploads"))


async def test_capabilities_are_those_of_the_server_and_nothing_is_left(s3_server: S3Server, bucket: str, client: Any) -> None:
    expected = {
        "moto": Capabilities(delete_if_match=True, etag_is_md5=True, is_write_probed=True),
        "radosgw": Capabilities(if_match_quoted=False, etag_is_md5=True, is_write_probed=True),
    }
    assert await preflight(store_of(s3_server, bucket), "some/prefix/", writable=True) == expected[s3_server.kind]
    assert nothing_left(client, bucket)


async def test_a_versioned_bucket_is_probed_for_itself(s3_server: S3Server, bucket: str, client: Any) -> None:
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    found = await preflight(store_of(s3_server, bucket), "", writable=True)
    assert found.versioning == "Enabled"
    assert found.put_if_none_match == (s3_server.kind == "moto")
    assert nothing_left(client, bucket)


async def test_reading_only_writes_nothing(s3_server: S3Server, bucket: str, client: Any) -> None:
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    await preflight(store_of(s3_server, bucket), "", writable=False)
    assert nothing_left(client, bucket)


async def test_a_missing_bucket(s3_server: S3Server) -> None:
    with pytest.raises(errors.BucketNotFound, match=r"bucket no-such-bucket does not exist at .*create it"):
        await preflight(store_of(s3_server, "no-such-bucket"), "", writable=True)


async def test_a_wrong_region(moto_server: S3Server) -> None:
    bucket = f"t-{uuid.uuid4().hex[:16]}"
    client = moto_server.client(region_name="eu-west-1")
    client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    client.close()
    with pytest.raises(errors.RepositoryRejected, match=r"in Region eu-west-1, not us-east-1. Set region=eu-west-1"):
        await preflight(store_of(moto_server, bucket), "", writable=True)


async def test_an_endpoint_where_nothing_listens(moto_server: S3Server) -> None:
    with pytest.raises(errors.RepositoryUnavailable, match="cannot be reached: Connection refused. Check endpoint_url"):
        await preflight(store_of(moto_server, "bucket", endpoint_url="http://127.0.0.1:1"), "", writable=True)
    with pytest.raises(errors.RepositoryUnavailable, match="no-such-host.invalid cannot be reached"):
        await preflight(store_of(moto_server, "bucket", endpoint_url="http://no-such-host.invalid"), "", writable=True)


async def test_an_endpoint_that_never_answers(moto_server: S3Server) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        store = store_of(moto_server, "bucket", endpoint_url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(errors.RepositoryUnavailable, match=r"does not answer within 0.3 seconds. Check endpoint_url"):
            await preflight(store, "", writable=True, answer_seconds=0.3)


@pytest.mark.parametrize(
    ("body", "kind", "match"),
    [
        (
            b"<html><body><h1>It works!</h1></body></html>",
            errors.RepositoryRejected,
            "as an S3 endpoint does.*Correct endpoint_url",
        ),
        (b"", errors.RepositoryRejected, "as an S3 endpoint does.*Correct endpoint_url"),
        (b"<html><br>It works!", errors.RepositoryUnavailable, "fails: 500.*Check endpoint_url"),
        (b"It works!", errors.RepositoryUnavailable, "fails: 500.*Check endpoint_url"),
    ],
)
async def test_an_endpoint_that_is_no_s3(
    moto_server: S3Server, nursery: trio.Nursery, body: bytes, kind: type[errors.RepositoryError], match: str
) -> None:
    async def web_server(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await stream.aclose()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, web_server, listeners)
    store = store_of(moto_server, "bucket", endpoint_url=f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
    with pytest.raises(kind, match=match):
        await preflight(store, "", writable=True)


async def test_no_credentials(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in moto_server.environment().items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    endpoint = Endpoint(endpoint_url=moto_server.endpoint_url)
    with pytest.raises(errors.RepositoryDenied, match="no credentials found"):
        await preflight(S3Store(endpoint, "bucket", Credentials(endpoint)), "", writable=True)


@pytest.mark.rgw
@pytest.mark.parametrize(
    ("allowed", "match"),
    [
        (["s3:GetObject", "s3:PutObject"], r"no permission to list .*Allow s3:ListBucket on arn:aws:s3:::"),
        (["s3:ListBucket", "s3:PutObject"], r"no permission to read .*Allow s3:GetObject on arn:aws:s3:::"),
        (["s3:ListBucket", "s3:GetObject"], r"no permission to write .*Allow s3:PutObject on arn:aws:s3:::"),
    ],
)
async def test_each_missing_permission_has_its_own_words(rgw_server: S3Server, allowed: list[str], match: str) -> None:
    bucket = f"t-{uuid.uuid4().hex[:16]}"
    client = rgw_server.client()
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="there", Body=b"x")
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": ["arn:aws:iam:::user/u1"]},
        "Action": allowed,
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
    }
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    client.close()
    endpoint = Endpoint(endpoint_url=rgw_server.endpoint_url, region=REGION)
    store = S3Store(endpoint, bucket, StaticCredentials(rgw_server.other_access_key, rgw_server.other_secret_key))
    with pytest.raises(errors.RepositoryDenied, match=match) as caught:
        await preflight(store, "", writable=True)
    assert rgw_server.other_secret_key not in str(caught.value)
    if "s3:PutObject" not in allowed:
        await preflight(store, "", writable=False)


def test_check_lists_everything_for_a_person(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    found = {finding.name: finding for finding in check(bucket, "x/", Endpoint(endpoint_url=s3_server.endpoint_url))}
    assert [name for name, finding in found.items() if finding.result == "fail"] == []
    assert {"credentials", "endpoint", "list", "read", "write", "delete", "versioning", "encryption", "conditional writes"} <= set(
        found
    )
    assert found["conditional writes"].result == "ok"
    assert found["conditional copies"].result == "warn"
    assert found["prefix"].result == "warn"


def test_check_ends_at_what_is_wrong(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in moto_server.environment().items():
        monkeypatch.setenv(name, value)
    found: list[Finding] = check("no-such-bucket", "", Endpoint(endpoint_url=moto_server.endpoint_url))
    assert [(finding.name, finding.result) for finding in found] == [("credentials", "ok"), ("bucket", "fail")]
    assert found[-1].remedy
