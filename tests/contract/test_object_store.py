"""S3Store keeps the ObjectStore contract on real servers, with and without faults on the way.

Whatever is written is read back by plain boto3, and the other way round.
"""

from __future__ import annotations

import functools
import json
import os
import ssl
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from s3lustrefs import errors
from s3lustrefs.model.association import Endpoint
from s3lustrefs.repository import curl
from s3lustrefs.repository.address import bucket_address
from s3lustrefs.repository.credential_snapshot import CredentialSnapshot
from s3lustrefs.repository.credentials import Credentials, StaticCredentials
from s3lustrefs.repository.exchange import Request
from s3lustrefs.repository.object_store import (
    Capabilities,
    Condition,
    FileSlice,
    ObjectVersion,
    PutHeaders,
    UploadedPart,
)
from s3lustrefs.repository.probe import preflight
from s3lustrefs.repository.s3 import S3Store
from tests.faultproxy import FaultProxy
from tests.servers import REGION, S3Server

CAPABILITIES = {
    "moto": Capabilities(delete_if_match=True),
    "radosgw": Capabilities(if_match_quoted=False),
}
"""What the probe must find on each server; the stores below are told so."""

ODD_KEYS = [
    b"plain/file",
    b"dir/",
    b"a//b",
    b"/lead",
    b"/",
    b"..",
    b"a/./b",
    b"a/../b",
    "ünï/日本/😀".encode(),
    "e\u0301".encode(),
    b"%41 %2F+plus space",
    b"q?x=1&y#z;'\"<>~*|\\:@!$(),[]{}^`",
    b"tab\there",
    b"x" * 1024,
]
NOTHING = PutHeaders()
ABSENT = Condition()
MIB = 1 << 20


@pytest.fixture
def client(s3_server: S3Server) -> Iterator[Any]:
    """Plain boto3."""
    client = s3_server.client()
    yield client
    client.close()


def make_store(server: S3Server, bucket: str, *, url: str = "", stall_seconds: float = 20.0) -> S3Store:
    endpoint = Endpoint(endpoint_url=url or server.endpoint_url, region=REGION)
    credentials = StaticCredentials(server.access_key, server.secret_key)
    return S3Store(endpoint, bucket, credentials, capabilities=CAPABILITIES[server.kind], stall_seconds=stall_seconds)


@pytest.fixture
def store(s3_server: S3Server, bucket: str) -> S3Store:
    return make_store(s3_server, bucket)


@pytest.fixture
async def proxy(s3_server: S3Server, nursery: trio.Nursery) -> FaultProxy:
    proxy = FaultProxy(s3_server.endpoint_url)
    await nursery.start(proxy.serve)
    return proxy


@pytest.fixture
def faulty(s3_server: S3Server, bucket: str, proxy: FaultProxy) -> S3Store:
    """The store, seen through the proxy."""
    return make_store(s3_server, bucket, url=proxy.endpoint_url)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "local"
    path.write_bytes(os.urandom(6 * MIB))
    return path


@pytest.fixture
def destination(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "destination", os.O_CREAT | os.O_RDWR)
    yield fd
    os.close(fd)


def body_of(client: Any, bucket: str, key: bytes) -> bytes:
    body: bytes = client.get_object(Bucket=bucket, Key=key.decode())["Body"].read()
    return body


# --- whole objects ---------------------------------------------------------------------------------------------------------


async def test_odd_keys_are_written_read_copied_and_deleted_byte_for_byte(store: S3Store, client: Any) -> None:
    for key in ODD_KEYS:
        written = await store.put(key, b"hello " + key, NOTHING, ABSENT)
        assert body_of(client, store.bucket, key) == b"hello " + key
        assert (await store.head(key)).version.etag == written.etag
        assert await store.get_bytes(key, written, 0, written.size) == b"hello " + key
        copied = await store.copy(b"copy", store.bucket, key, written, NOTHING, None)
        assert await store.get_bytes(b"copy", copied, 0, copied.size) == b"hello " + key
        await store.delete(key, Condition(written.etag))
        with pytest.raises(errors.ObjectNotFound):
            await store.head(key)


async def test_odd_keys_are_signed_as_servers_expect_by_the_quick_client_too(
    store: S3Store, s3_server: S3Server, bucket: str
) -> None:
    """Directly, since a request that fails there is sent again another way."""
    address = bucket_address(store.endpoint, REGION, bucket)
    keys = CredentialSnapshot(s3_server.access_key, s3_server.secret_key, None)
    sent = 0
    for key in ODD_KEYS:
        request = Request("GetObject", "GET", address.host, address.target(key), (("range", "bytes=0-3"),), None, 4)
        if not curl.can_send(request):
            continue
        await store.put(key, b"body of " + key, NOTHING, None)
        response = await curl.client().exchange(request, tls=False, region=REGION, credentials=keys, patience=10)
        assert response.body == b"body", key
        sent += 1
    assert sent == len(ODD_KEYS) - 3


async def test_headers_written_come_back_in_head(store: S3Store) -> None:
    headers = PutHeaders({"file-owner": "7", "Mixed-Case": "a b"}, {"Content-Type": "text/x-odd", "Cache-Control": "no-store"})
    await store.put(b"k", b"12345", headers, None)
    head = await store.head(b"k")
    assert head.version.size == 5
    assert head.version.storage_class == "STANDARD"
    assert head.version.mtime_ns > 1_600_000_000 * 10**9
    assert dict(head.metadata) == {"file-owner": "7", "mixed-case": "a b"}
    assert {name: head.content_headers[name] for name in headers.content_headers} == headers.content_headers
    assert not head.archived


async def test_metadata_of_others_is_kept_as_it_is(store: S3Store) -> None:
    metadata = {"n": "ü日", "empty": "", "two": "a  b", "encoded": "=?UTF-8?B?w7w=?="}
    await store.put(b"k", b"1", PutHeaders(metadata), None)
    assert dict((await store.head(b"k")).metadata) == metadata
    with pytest.raises(errors.RepositoryRejected, match="HTTP does not allow"):
        await store.put(b"k", b"2", PutHeaders({"n": "x\r\nx-amz-meta-forged: 1"}), None)
    assert dict((await store.head(b"k")).metadata) == metadata


async def test_tags_are_written_and_kept_by_a_copy(store: S3Store) -> None:
    tags = [("project", "a=b c+d"), ("stage", "x/y")]
    version = await store.put(b"k", b"1", PutHeaders(tags=tags), None)
    assert sorted(await store.get_tags(b"k")) == sorted(tags)
    await store.copy(b"k2", store.bucket, b"k", version, NOTHING, None)
    assert sorted(await store.get_tags(b"k2")) == sorted(tags)


async def test_copy_replaces_metadata_also_onto_itself(store: S3Store) -> None:
    version = await store.put(b"k", b"123", PutHeaders({"old": "1"}, {"Content-Type": "text/a"}), None)
    headers = PutHeaders({"new": "2"}, {"Content-Type": "text/b"})
    copied = await store.copy(b"k", store.bucket, b"k", version, headers, Condition(version.etag))
    head = await store.head(b"k")
    assert (head.version.etag, head.version.size) == (copied.etag, 3)
    assert dict(head.metadata) == {"new": "2"}
    assert head.content_headers["Content-Type"] == "text/b"


async def test_copy_from_another_bucket(store: S3Store, s3_server: S3Server, client: Any) -> None:
    other = f"t-{uuid.uuid4().hex[:16]}"
    client.create_bucket(Bucket=other)
    etag = client.put_object(Bucket=other, Key="ä+ b", Body=b"from afar")["ETag"].strip('"')
    await store.copy(b"here", other, "ä+ b".encode(), ObjectVersion(etag, 9), NOTHING, ABSENT)
    assert body_of(client, store.bucket, b"here") == b"from afar"


async def test_delete_of_nothing_is_fine(store: S3Store) -> None:
    await store.delete(b"never-there", None)
    await store.delete(b"never-there", Condition("0" * 32))


# --- conditions ------------------------------------------------------------------------------------------------------------


async def test_a_write_that_expects_nothing_or_another_version_changes_nothing(store: S3Store, client: Any) -> None:
    first = await store.put(b"k", b"first", NOTHING, ABSENT)
    stale = Condition("0" * 32)
    for condition in (ABSENT, stale):
        with pytest.raises(errors.ObjectChanged):
            await store.put(b"k", b"other", NOTHING, condition)
        with pytest.raises(errors.ObjectChanged):
            await store.copy(b"k", store.bucket, b"k", first, PutHeaders({"x": "y"}), condition)
        upload_id = await store.create_upload(b"k", NOTHING)
        part = await store.upload_part(b"k", upload_id, 1, b"other")
        with pytest.raises(errors.ObjectChanged):
            await store.complete_upload(b"k", upload_id, [part], condition)
        await store.abort_upload(b"k", upload_id)
    with pytest.raises(errors.ObjectChanged):
        await store.delete(b"k", stale)
    assert body_of(client, store.bucket, b"k") == b"first"
    second = await store.put(b"k", b"second", NOTHING, Condition(first.etag))
    assert body_of(client, store.bucket, b"k") == b"second"
    await store.delete(b"k", Condition(second.etag))


async def test_a_write_that_expects_a_version_of_a_missing_object_fails(store: S3Store) -> None:
    with pytest.raises(errors.ObjectChanged):
        await store.put(b"gone", b"x", NOTHING, Condition("0" * 32))
    with pytest.raises(errors.ObjectNotFound):
        await store.head(b"gone")


async def test_exactly_one_of_many_creators_wins(store: S3Store, client: Any) -> None:
    winners: list[int] = []

    async def create(number: int) -> None:
        try:
            await store.put(b"raced", b"%d" % number, NOTHING, ABSENT)
        except errors.ObjectChanged:
            return
        winners.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(16):
            nursery.start_soon(create, number)
    assert body_of(client, store.bucket, b"raced") == b"%d" % winners[0]
    assert len(winners) == 1


async def test_stores_without_conditions_check_with_head(s3_server: S3Server, bucket: str) -> None:
    store = make_store(s3_server, bucket)
    store.capabilities = Capabilities(put_if_none_match=False, put_if_match=False, get_if_match=False)
    first = await store.put(b"k", b"first", NOTHING, ABSENT)
    with pytest.raises(errors.ObjectChanged):
        await store.put(b"k", b"second", NOTHING, ABSENT)
    second = await store.put(b"k", b"2nd", NOTHING, Condition(first.etag))
    with pytest.raises(errors.ObjectChanged):
        await store.put(b"k", b"third", NOTHING, Condition(first.etag))
    assert await store.get_bytes(b"k", second, 0, 3) == b"2nd"
    with pytest.raises(errors.ObjectChanged):
        await store.get_bytes(b"k", first, 0, 3)


async def test_conditions_hold_in_a_versioned_bucket_once_probed(s3_server: S3Server, bucket: str, client: Any) -> None:
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    store = make_store(s3_server, bucket)
    store.capabilities = await preflight(store, "", writable=True)
    first = await store.put(b"k", b"first", NOTHING, ABSENT)
    assert first.version_id
    with pytest.raises(errors.ObjectChanged):
        await store.put(b"k", b"other", NOTHING, ABSENT)
    second = await store.put(b"k", b"second", NOTHING, Condition(first.etag))
    with pytest.raises(errors.ObjectChanged):
        await store.put(b"k", b"other", NOTHING, Condition(first.etag))
    assert (await store.head(b"k", version_id=first.version_id)).version.etag == first.etag
    assert await store.get_bytes(b"k", second, 0, 6) == b"second"


# --- versions --------------------------------------------------------------------------------------------------------------


def keep_versions(client: Any, bucket: str, status: str = "Enabled") -> None:
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})


async def test_the_history_of_a_key_is_told_and_of_no_other(store: S3Store, client: Any) -> None:
    assert await store.list_versions(b"k") == []
    before = await store.put(b"a+b/k \xc3\xa4", b"before", NOTHING, None)
    keep_versions(client, store.bucket)
    for key in (b"a+b/k \xc3\xa4", b"a+b/k \xc3\xa4x", b"a+b/k"):
        written = [await store.put(key, body, NOTHING, None) for body in (b"one", b"other")]
        await store.delete(key, None)
    history = await store.list_versions("a+b/k ä".encode())
    assert [(each.is_current, each.is_delete_marker, each.version.size) for each in history] == [
        (True, True, 0), (False, False, 5), (False, False, 3), (False, False, 6)
    ]  # fmt: skip
    assert (history[3].version.version_id, history[3].version.etag) == ("null", before.etag)
    assert history[1].version.etag == written[1].etag
    assert all(each.version.mtime_ns > 0 for each in history)


async def test_the_state_of_versioning_is_told_as_it_is(store: S3Store, client: Any) -> None:
    states = [await store.versioning()]
    for status in ("Enabled", "Suspended"):
        keep_versions(client, store.bucket, status)
        states.append(await store.versioning())
    assert states == ["Unversioned", "Enabled", "Suspended"]


async def test_a_long_history_is_told_whole(store: S3Store, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_versions(client, store.bucket)
    written = [(await store.put(b"k", b"%d" % number, NOTHING, None)).version_id for number in range(12)]
    await store.put(b"k0", b"", NOTHING, None)
    monkeypatch.setattr("s3lustrefs.repository.versions.PAGE_VERSIONS", 5)
    history = await store.list_versions(b"k")
    assert {each.version.version_id for each in history} == set(written)
    assert [each.version.version_id for each in history if each.is_current] == written[-1:]


async def test_a_replaced_or_removed_version_can_be_read_while_it_is_kept(
    store: S3Store, client: Any, destination: int, local: Path
) -> None:  # fmt: skip
    keep_versions(client, store.bucket)
    old = await store.put(b"k", b"old content", NOTHING, None)
    assert await store.get_range(b"k", old, 0, 11, destination, 0)
    await store.put(b"k", b"new", NOTHING, None)
    for start, end in ((0, 11), (4, 11)):
        assert not await store.get_range(b"k", old, start, end, destination, 100)
        assert os.pread(destination, 99, 100)[: end - start] == b"old content"[start:end]
    await store.delete(b"k", None)
    assert not await store.get_range(b"k", old, 0, 11, destination, 200)
    client.delete_object(Bucket=store.bucket, Key="k", VersionId=old.version_id)
    with pytest.raises(errors.ObjectNotFound):
        await store.get_range(b"k", old, 0, 11, destination, 300)
    await store.put(b"k", b"newest content", NOTHING, None)
    with pytest.raises(errors.ObjectChanged):
        await store.get_range(b"k", old, 0, 11, destination, 300)
    assert os.fstat(destination).st_size == 211


async def test_a_version_is_copied_over_the_current_one(store: S3Store, client: Any) -> None:
    keep_versions(client, store.bucket)
    old = await store.put(b"k", b"old content", PutHeaders({"file-owner": "7"}, tags=[("colour", "red")]), None)
    new = await store.put(b"k", b"new", NOTHING, None)
    headers = PutHeaders((await store.head(b"k", version_id=old.version_id)).metadata)
    with pytest.raises(errors.ObjectChanged):
        await store.copy(b"k", store.bucket, b"k", old, headers, Condition(old.etag))
    copied = await store.copy(b"k", store.bucket, b"k", old, headers, Condition(new.etag))
    assert copied.etag == old.etag
    assert body_of(client, store.bucket, b"k") == b"old content"
    assert dict((await store.head(b"k")).metadata) == {"file-owner": "7"}
    assert list(await store.get_tags(b"k")) == [("colour", "red")]
    assert len(await store.list_versions(b"k")) == 3


async def test_a_version_is_copied_in_parts(store: S3Store, client: Any) -> None:
    keep_versions(client, store.bucket)
    old = await store.put(b"k", b"old content", NOTHING, None)
    new = await store.put(b"k", b"new", NOTHING, None)
    upload_id = await store.create_upload(b"k", PutHeaders({"file-owner": "7"}))
    part = await store.copy_part(b"k", upload_id, 1, store.bucket, b"k", old, 0, old.size)
    await store.complete_upload(b"k", upload_id, [part], Condition(new.etag))
    assert body_of(client, store.bucket, b"k") == b"old content"


async def test_reading_needs_no_permission_for_versions(rgw_server: S3Server, tmp_path: Path) -> None:
    owner = rgw_server.client()
    bucket = f"t-{uuid.uuid4().hex[:16]}"
    owner.create_bucket(Bucket=bucket)
    keep_versions(owner, bucket)
    arn = f"arn:aws:s3:::{bucket}/*"
    allowed = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": ["arn:aws:iam:::user/u1"]}, "Action": ["s3:GetObject"], "Resource": [arn]}
    ]}  # fmt: skip
    owner.put_bucket_policy(Bucket=bucket, Policy=json.dumps(allowed))
    mine = make_store(rgw_server, bucket)
    endpoint = Endpoint(endpoint_url=rgw_server.endpoint_url, region=REGION)
    credentials = StaticCredentials(rgw_server.other_access_key, rgw_server.other_secret_key)
    other = S3Store(endpoint, bucket, credentials, capabilities=CAPABILITIES["radosgw"])
    version = await mine.put(b"k", b"content", NOTHING, None)
    assert version.version_id
    assert await other.get_bytes(b"k", version, 0, 7) == b"content"
    await mine.put(b"k", b"another", NOTHING, None)
    with pytest.raises(errors.ObjectChanged):
        await other.get_bytes(b"k", version, 0, 7)
    owner.close()


# --- ranges ----------------------------------------------------------------------------------------------------------------


async def test_ranges_land_where_they_belong_and_nowhere_else(store: S3Store, local: Path, destination: int) -> None:
    content = local.read_bytes()
    version = await store.put(b"k", FileSlice(str(local), 0, len(content)), NOTHING, None)
    for start, end in ((0, 1), (3, 70_000), (MIB - 1, 4 * MIB + 5), (len(content) - 1, len(content)), (0, len(content))):
        os.ftruncate(destination, 0)
        await store.get_range(b"k", version, start, end, destination, 11)
        assert os.pread(destination, len(content) + 100, 0) == bytes(11) + content[start:end]
        assert await store.get_bytes(b"k", version, start, end) == content[start:end]


async def test_a_replaced_object_is_never_spliced(store: S3Store, destination: int) -> None:
    old = await store.put(b"k", b"a" * 1000, NOTHING, None)
    await store.put(b"k", b"b" * 1000, NOTHING, None)
    with pytest.raises(errors.ObjectChanged):
        await store.get_range(b"k", old, 10, 20, destination, 0)
    await store.put(b"k", b"c", NOTHING, None)
    with pytest.raises(errors.ObjectChanged):
        await store.get_range(b"k", old, 10, 20, destination, 0)
    await store.delete(b"k", None)
    with pytest.raises(errors.ObjectNotFound):
        await store.get_range(b"k", old, 10, 20, destination, 0)
    assert os.fstat(destination).st_size == 0


async def test_hundreds_of_ranges_at_once(store: S3Store, local: Path, destination: int) -> None:
    content = local.read_bytes()
    version = await store.put(b"k", FileSlice(str(local), 0, len(content)), NOTHING, None)
    size = 16 << 10
    async with trio.open_nursery() as nursery:
        for start in range(0, len(content), size):
            nursery.start_soon(store.get_range, b"k", version, start, min(start + size, len(content)), destination, start)
    assert os.pread(destination, len(content) + 1, 0) == content


async def test_a_destination_that_cannot_be_written_says_so(store: S3Store, tmp_path: Path) -> None:
    version = await store.put(b"k", b"abc", NOTHING, None)
    path = tmp_path / "read-only"
    path.touch()
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(errors.StorageError):
            await store.get_range(b"k", version, 0, 3, fd, 0)
    finally:
        os.close(fd)


# --- uploads ---------------------------------------------------------------------------------------------------------------


async def test_a_slice_is_sent_with_zeros_past_the_end_of_its_file(store: S3Store, local: Path, client: Any) -> None:
    content = local.read_bytes()
    for offset, length in ((0, 0), (0, 10), (5 * MIB, 2 * MIB), (7 * MIB, 100_000)):
        expected = content[offset : offset + length].ljust(length, b"\0")
        version = await store.put(b"k", FileSlice(str(local), offset, length), NOTHING, None)
        assert version.size == length
        assert body_of(client, store.bucket, b"k") == expected


async def test_a_slice_of_a_missing_file_says_so(store: S3Store, tmp_path: Path) -> None:
    with pytest.raises(errors.StorageError):
        await store.put(b"k", FileSlice(str(tmp_path / "none"), 0, 1), NOTHING, None)


async def test_multipart_with_copied_part(store: S3Store, local: Path, client: Any) -> None:
    content = local.read_bytes()
    source = await store.put("sø+urce".encode(), FileSlice(str(local), 0, len(content)), NOTHING, None)
    upload_id = await store.create_upload(b"k", PutHeaders({"file-owner": "9"}, {"Content-Type": "text/x"}))
    parts = [
        await store.upload_part(b"k", upload_id, 3, b"tail"),
        await store.copy_part(b"k", upload_id, 1, store.bucket, "sø+urce".encode(), source, 1, 1 + 5 * MIB),
        await store.upload_part(b"k", upload_id, 2, FileSlice(str(local), 0, 5 * MIB)),
    ]
    version = await store.complete_upload(b"k", upload_id, parts, ABSENT)
    assert body_of(client, store.bucket, b"k") == content[1 : 1 + 5 * MIB] + content[: 5 * MIB] + b"tail"
    head = await store.head(b"k")
    assert head.version == version
    assert version.etag.endswith("-3")
    assert dict(head.metadata) == {"file-owner": "9"}
    assert head.content_headers["Content-Type"] == "text/x"


async def test_a_copied_part_of_a_changed_source_is_refused(store: S3Store) -> None:
    await store.put(b"source", b"x" * 100, NOTHING, None)
    upload_id = await store.create_upload(b"k", NOTHING)
    with pytest.raises(errors.ObjectChanged):
        await store.copy_part(b"k", upload_id, 1, store.bucket, b"source", ObjectVersion("0" * 32, 100), 0, 10)
    await store.abort_upload(b"k", upload_id)


async def test_an_aborted_upload_leaves_nothing_and_aborts_again(store: S3Store, client: Any) -> None:
    upload_id = await store.create_upload(b"k", NOTHING)
    part = await store.upload_part(b"k", upload_id, 1, b"x")
    await store.abort_upload(b"k", upload_id)
    await store.abort_upload(b"k", upload_id)
    assert not client.list_multipart_uploads(Bucket=store.bucket).get("Uploads")
    with pytest.raises(errors.RepositoryUnavailable):
        await store.complete_upload(b"k", upload_id, [part], None)


async def test_completing_with_wrong_parts_is_rejected(store: S3Store) -> None:
    upload_id = await store.create_upload(b"k", NOTHING)
    await store.upload_part(b"k", upload_id, 1, b"x")
    with pytest.raises(errors.RepositoryRejected):
        await store.complete_upload(b"k", upload_id, [UploadedPart(1, "f" * 32)], None)
    await store.abort_upload(b"k", upload_id)


# --- refusals --------------------------------------------------------------------------------------------------------------


async def test_a_missing_bucket_is_named(s3_server: S3Server) -> None:
    store = make_store(s3_server, "no-such-bucket-here")
    for condition in (None, ABSENT, Condition("0" * 32)):
        with pytest.raises(errors.BucketNotFound, match="no-such-bucket-here"):
            await store.put(b"k", b"x", NOTHING, condition)


@pytest.mark.rgw
async def test_another_users_bucket_is_denied_without_showing_secrets(rgw_server: S3Server) -> None:
    client = rgw_server.client()
    bucket = f"t-{uuid.uuid4().hex[:16]}"
    client.create_bucket(Bucket=bucket)
    client.close()
    endpoint = Endpoint(endpoint_url=rgw_server.endpoint_url, region=REGION)
    pairs = [
        (rgw_server.other_access_key, rgw_server.other_secret_key),
        (rgw_server.access_key, "wrong-secret"),
        ("UNKNOWNKEY", "s3cr3t"),
    ]
    for access_key, secret_key in pairs:
        store = S3Store(endpoint, bucket, StaticCredentials(access_key, secret_key))
        with pytest.raises(errors.RepositoryDenied) as caught:
            await store.put(b"k", b"x", NOTHING, None)
        text = f"{caught.value} {caught.value!r} {store.credentials.current()!r} {store!r}"
        assert f"s3://{bucket}/k" in str(caught.value)
        assert access_key not in text
        assert secret_key not in text


async def test_an_archived_object_is_known_and_refused(moto_server: S3Server) -> None:
    client = moto_server.client()
    bucket = f"t-{uuid.uuid4().hex[:16]}"
    client.create_bucket(Bucket=bucket)
    store = make_store(moto_server, bucket)
    version = await store.put(b"k", b"cold", PutHeaders(storage_class="GLACIER"), None)
    head = await store.head(b"k")
    assert (head.archived, head.version.storage_class) == (True, "GLACIER")
    with pytest.raises(errors.ObjectArchived):
        await store.get_bytes(b"k", version, 0, 4)
    with pytest.raises(errors.ObjectArchived):
        await store.copy(b"copy", bucket, b"k", version, NOTHING, None)
    await store.restore(b"k", 2, "Standard")
    head = await store.head(b"k")
    assert head.restore is not None
    assert (head.archived, head.restore.ongoing) == (False, False)
    assert abs(head.restore.expires_ns / 1e9 - time.time() - 2 * 86400) < 3600
    assert await store.get_bytes(b"k", version, 0, 4) == b"cold"
    await store.restore(b"k", 3, "Bulk")
    await store.put(b"warm", b"warm", NOTHING, None)
    with pytest.raises(errors.RepositoryRejected):
        await store.restore(b"warm", 1, "Standard")
    with pytest.raises(errors.ObjectNotFound):
        await store.restore(b"none", 1, "Standard")
    client.close()


async def test_nobody_listening_is_unavailable(moto_server: S3Server) -> None:
    store = make_store(moto_server, "some-bucket", url="http://127.0.0.1:1")
    with pytest.raises(errors.RepositoryUnavailable, match="refused"):
        await store.head(b"k")


# --- faults on the way -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["slowdown", "internal", "reset", "html", "truncate:500"])
async def test_a_passing_fault_is_not_noticed(faulty: S3Store, proxy: FaultProxy, action: str, destination: int) -> None:
    content = os.urandom(100_000)
    version = await faulty.put(b"k", content, NOTHING, None)
    proxy.add(action, method="GET", times=2)
    await faulty.get_range(b"k", version, 1, 100_000, destination, 0)
    assert os.pread(destination, 200_000, 0) == content[1:]
    assert [entry[2] for entry in proxy.log if entry[0] == "GET"] == [action.partition(":")[0]] * 2 + [""]


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        ("slowdown", errors.RepositoryUnavailable),
        ("html", errors.RepositoryUnavailable),
        ("truncate:500", errors.RepositoryUnavailable),
        ("denied", errors.RepositoryDenied),
        ("expired", errors.RepositoryDenied),
    ],
)
async def test_a_lasting_fault_is_reported_as_what_it_is(
    moto_server: S3Server,
    nursery: trio.Nursery,
    action: str,
    kind: type[errors.RepositoryError],
    destination: int,
) -> None:
    """On one server: these answers are the proxy's own, and each takes the client's quick retries."""
    client = moto_server.client()
    client.create_bucket(Bucket=(bucket := f"t-{uuid.uuid4().hex[:16]}"))
    client.close()
    proxy = FaultProxy(moto_server.endpoint_url)
    await nursery.start(proxy.serve)
    faulty = make_store(moto_server, bucket, url=proxy.endpoint_url)
    version = await faulty.put(b"k", b"x" * 1000, NOTHING, None)
    proxy.add(action, method="GET", times=1000)
    with pytest.raises(kind, match=f"s3://{faulty.bucket}/k"):
        await faulty.get_range(b"k", version, 0, 1000, destination, 0)


async def test_an_error_inside_a_200_is_an_error(faulty: S3Store, proxy: FaultProxy) -> None:
    version = await faulty.put(b"k", b"x", NOTHING, None)
    proxy.add("late-error", method="PUT", times=1000)
    with pytest.raises(errors.RepositoryUnavailable):
        await faulty.copy(b"k2", faulty.bucket, b"k", version, NOTHING, None)


@pytest.mark.parametrize("condition", [None, ABSENT])
async def test_a_lost_answer_to_complete_is_found_out(
    faulty: S3Store, proxy: FaultProxy, client: Any, condition: Condition | None
) -> None:
    upload_id = await faulty.create_upload(b"k", NOTHING)
    part = await faulty.upload_part(b"k", upload_id, 1, b"once")
    proxy.add("lost-reply", method="POST", path="uploadId")
    version = await faulty.complete_upload(b"k", upload_id, [part], condition)
    assert (await faulty.head(b"k")).version == version
    assert body_of(client, faulty.bucket, b"k") == b"once"


async def test_a_lost_answer_to_a_create_looks_like_a_conflict_with_our_own_object(faulty: S3Store, proxy: FaultProxy) -> None:
    """The caller tells its own write by the ETag of a HEAD."""
    proxy.add("lost-reply", method="PUT")
    with pytest.raises(errors.ObjectChanged):
        await faulty.put(b"k", b"mine", NOTHING, ABSENT)
    head = await faulty.head(b"k")
    assert await faulty.get_bytes(b"k", head.version, 0, 4) == b"mine"


async def test_a_stalled_transfer_ends(s3_server: S3Server, bucket: str, proxy: FaultProxy, destination: int) -> None:
    store = make_store(s3_server, bucket, url=proxy.endpoint_url, stall_seconds=0.3)
    version = await store.put(b"k", b"x" * 1000, NOTHING, None)
    proxy.add("stall:10", method="GET")
    with pytest.raises(errors.RepositoryUnavailable, match="no answer within"):
        await store.get_range(b"k", version, 0, 1000, destination, 0)
    await store.get_range(b"k", version, 0, 1000, destination, 0)


async def test_a_cancelled_transfer_has_let_go(faulty: S3Store, proxy: FaultProxy, nursery: trio.Nursery, destination: int) -> None:
    version = await faulty.put(b"k", b"x" * 1000, NOTHING, None)
    proxy.add("hold", method="GET")
    with trio.CancelScope() as scope:

        async def cancel_once_held() -> None:
            await proxy.held.wait()
            scope.cancel()

        nursery.start_soon(cancel_once_held)
        await faulty.get_range(b"k", version, 0, 1000, destination, 0)
    assert scope.cancelled_caught
    proxy.release()
    assert await faulty.get_bytes(b"k", version, 0, 1000) == b"x" * 1000
    assert os.fstat(destination).st_size == 0


async def test_a_cancelled_upload_writes_nothing(faulty: S3Store, proxy: FaultProxy, nursery: trio.Nursery, local: Path) -> None:
    proxy.add("hold", method="PUT")
    with trio.CancelScope() as scope:

        async def cancel_once_held() -> None:
            await proxy.held.wait()
            scope.cancel()

        nursery.start_soon(cancel_once_held)
        await faulty.put(b"k", FileSlice(str(local), 0, 6 * MIB), NOTHING, None)
    assert scope.cancelled_caught
    with pytest.raises(errors.ObjectNotFound):
        await faulty.head(b"k")


# --- TLS -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate of localhost and its key, in one file."""
    key, certificate, both = (tmp_path / name for name in ("key.pem", "cert.pem", "both.pem"))
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost".split()
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    both.write_text(key.read_text() + certificate.read_text())
    return both


async def test_https_with_an_own_authority(
    moto_server: S3Server, nursery: trio.Nursery, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = moto_server.client()
    client.create_bucket(Bucket=(bucket := f"t-{uuid.uuid4().hex[:16]}"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    proxy = FaultProxy(moto_server.endpoint_url)
    await nursery.start(functools.partial(proxy.serve, tls=context))
    store = make_store(moto_server, bucket, url=proxy.endpoint_url)
    with pytest.raises(errors.RepositoryUnavailable, match="certificate"):
        await preflight(store, "", writable=True)
    assert proxy.log == []
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.with_name("cert.pem")))
    await preflight(store, "", writable=True)
    version = await store.put(b"k", b"secret", NOTHING, None)
    assert await store.get_bytes(b"k", version, 0, 6) == b"secret"
    assert body_of(client, bucket, b"k") == b"secret"
    client.close()


# --- credentials -----------------------------------------------------------------------------------------------------------


async def test_expired_credentials_are_refreshed_once_and_the_request_sent_again(
    s3_server: S3Server, bucket: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OLDKEYOLDKEYOLDKEY00")
    store = S3Store(Endpoint(endpoint_url=proxy.endpoint_url, region=REGION), bucket, Credentials(Endpoint()))
    assert (await store.credentials.snapshot()).access_key == "OLDKEYOLDKEYOLDKEY00"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    proxy.add("expired", method="PUT")
    await store.put(b"k", b"body sent twice", NOTHING, None)
    assert (await store.credentials.snapshot()).access_key == s3_server.access_key
    assert [entry[2] for entry in proxy.log] == ["expired", ""]
    head = await store.head(b"k")
    assert await store.get_bytes(b"k", head.version, 0, head.version.size) == b"body sent twice"


def policy(statement: dict[str, Any]) -> str:
    """A policy document without blanks: Ceph leaves the `+` that a form makes of a blank."""
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]}, separators=(",", ":"))


@pytest.mark.rgw
async def test_a_role_is_assumed_with_the_endpoints_own_sts(rgw_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in rgw_server.environment().items():
        monkeypatch.setenv(name, value)
    iam = rgw_server.client("iam")
    trust = {"Effect": "Allow", "Principal": {"AWS": ["arn:aws:iam:::user/u0"]}, "Action": ["sts:AssumeRole"]}
    allow = {"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::*"}
    role = iam.create_role(RoleName=f"r{uuid.uuid4().hex[:8]}", AssumeRolePolicyDocument=policy(trust))["Role"]
    iam.put_role_policy(RoleName=role["RoleName"], PolicyName="p", PolicyDocument=policy(allow))
    iam.close()
    client = rgw_server.client()
    bucket = f"t-{uuid.uuid4().hex[:16]}"
    client.create_bucket(Bucket=bucket)
    endpoint = Endpoint(endpoint_url=rgw_server.endpoint_url, region=REGION, role_arn=role["Arn"])
    store = S3Store(endpoint, bucket, Credentials(endpoint), capabilities=CAPABILITIES["radosgw"])
    assert (await store.credentials.snapshot()).token
    await store.put(b"k", b"by role", NOTHING, None)
    assert body_of(client, bucket, b"k") == b"by role"
    first = store.credentials.current()
    await store.credentials.refresh(first)
    assert store.credentials.current().token != first.token
    client.close()


async def test_many_objects_are_deleted_by_one_request(store: S3Store) -> None:
    keys = [b"d/plain", b"d/<&>'\"", "d/\u00fc \u65e5".encode(), b"d/+%2F?#", b"d/tab\tinside", b"d/never there"]
    for key in keys[:-1]:
        await store.put(key, b"x", NOTHING, None)
    await store.put(b"d/kept", b"x", NOTHING, None)
    assert await store.delete_batch(keys) == {}
    for key in keys:
        with pytest.raises(errors.ObjectNotFound):
            await store.head(key)
    assert (await store.head(b"d/kept")).version.size == 1


@pytest.mark.parametrize("action, kind", [("denied", errors.RepositoryDenied), ("html", errors.RepositoryUnavailable)])
async def test_batch_of_deletes_fails_as_a_whole_with_its_reason(
    faulty: S3Store, proxy: FaultProxy, action: str, kind: type[errors.RepositoryError]
) -> None:
    proxy.add(action, method="POST", times=100)
    with pytest.raises(kind):
        await faulty.delete_batch([b"a", b"b"])
