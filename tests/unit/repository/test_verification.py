"""Bytes of whole objects are compared with every kind of sum an endpoint may state, and with nothing that only looks like one."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Mapping

import pytest
from awscrt import checksums

from s3lustrefs import errors
from s3lustrefs.repository.bodies import RangeSink
from s3lustrefs.repository.object_store import ObjectVersion
from s3lustrefs.repository.replies import Response
from s3lustrefs.repository.verification import Md5Etags

BODY = b"some content" * 100
MD5 = hashlib.md5(BODY).hexdigest()
OTHER = "0" * 32


def take(body: bytes, headers: Mapping[str, str], etag: str, md5: Md5Etags | None = None) -> None:
    """Raises: whatever the sink raises for this answer."""
    sink = RangeSink("s3://b/k", ObjectVersion(etag, len(BODY)), 0, len(BODY), None, md5=md5)
    sink.begin(Response(200, {"etag": f'"{etag}"', "content-length": str(len(BODY)), **headers}))
    sink.write(body[:100], 0)
    sink.write(body[100:], 100)
    sink.finish()


def wrong(body: bytes = BODY) -> bytes:
    return body[:-1] + b"?"


def stated(number: int, length: int) -> str:
    return base64.b64encode(number.to_bytes(length, "big")).decode()


@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-checksum-crc64nvme": stated(checksums.crc64nvme(BODY), 8), "x-amz-checksum-type": "FULL_OBJECT"},
        {"x-amz-checksum-crc32": stated(zlib.crc32(BODY), 4)},
        {"x-amz-checksum-crc32c": stated(checksums.crc32c(BODY), 4)},
        {"x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(BODY).digest()).decode()},
        {"x-amz-checksum-sha1": base64.b64encode(hashlib.sha1(BODY).digest()).decode()},
    ],
    ids=lambda headers: next(iter(headers)),
)
def test_checksum_of_the_full_object(headers: Mapping[str, str]) -> None:
    take(BODY, headers, "any-etag")
    with pytest.raises(errors.RepositoryUnavailable, match="do not have the"):
        take(wrong(), headers, "any-etag")


def test_md5_etag() -> None:
    take(BODY, {}, MD5, Md5Etags(known=True))
    with pytest.raises(errors.RepositoryUnavailable, match="MD5"):
        take(wrong(), {}, MD5, Md5Etags(known=True))


def test_etags_that_are_no_md5_sums_are_found_out_at_the_first_and_left_alone() -> None:
    md5 = Md5Etags(known=False)
    take(BODY, {}, OTHER, md5)
    take(BODY, {}, OTHER, md5)
    assert md5.are_md5 is False


def test_etags_are_believed_from_the_first_that_was_right() -> None:
    md5 = Md5Etags(known=False)
    take(BODY, {}, MD5, md5)
    with pytest.raises(errors.RepositoryUnavailable):
        take(wrong(), {}, MD5, md5)


@pytest.mark.parametrize(
    ("etag", "headers"),
    [
        (f"{OTHER}-3", {}),
        (OTHER, {"x-amz-server-side-encryption": "aws:kms"}),
        (OTHER, {"x-amz-server-side-encryption-customer-algorithm": "AES256"}),
        (f"{OTHER}-3", {"x-amz-checksum-crc32": "AAAAAA==-3", "x-amz-checksum-type": "COMPOSITE"}),
    ],
    ids=["multipart", "kms", "customer key", "checksum of parts"],
)
def test_what_only_looks_like_a_sum(etag: str, headers: Mapping[str, str]) -> None:
    take(BODY, headers, etag, Md5Etags(known=True))


def test_a_repeated_request_starts_over() -> None:
    sink = RangeSink("s3://b/k", ObjectVersion(MD5, len(BODY)), 0, len(BODY), None, md5=Md5Etags(known=True))
    answer = Response(200, {"etag": MD5, "content-length": str(len(BODY))})
    sink.begin(answer)
    sink.write(b"half of something", 0)
    sink.begin(answer)
    sink.write(BODY, 0)
    sink.finish()


def test_a_whole_object_of_another_length_is_another_object() -> None:
    sink = RangeSink("s3://b/k", ObjectVersion(MD5, len(BODY)), 0, len(BODY), None)
    with pytest.raises(errors.ObjectChanged):
        sink.begin(Response(200, {"etag": MD5, "content-length": "7"}))
