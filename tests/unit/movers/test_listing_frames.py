"""What a page becomes on its way to the daemon."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from s3lustrefs import errors
from s3lustrefs.model.association import Endpoint, key_defect
from s3lustrefs.movers.listing_frames import (
    LENGTH,
    Batch,
    BatchKind,
    ListingRequest,
    decode_batch,
    decode_request,
    encode_batch,
    encode_request,
    fill_batch,
    raw_entry,
)
from s3lustrefs.repository.credential_snapshot import CredentialSnapshot
from s3lustrefs.repository.list_page import Page
from s3lustrefs.repository.list_request import ListingTarget

names = st.one_of(st.binary(min_size=1, max_size=4), st.text("a./\0é\n", min_size=1, max_size=8).map(str.encode))


def page_of(keys: list[bytes]) -> Page:
    count = len(keys)
    return Page(list(keys), list(range(count)), [b"e"] * count, [7] * count, [b"STANDARD"] * count)


def batch_of(page: Page, prefix: bytes) -> Batch:
    return decode_batch(encode_batch(fill_batch(Batch(BatchKind.BULK), page, prefix, raw_entry))[LENGTH.size :])


@given(st.lists(names, unique=True, max_size=12), st.sampled_from([b"", b"p/"]))
def test_exactly_the_keys_with_a_defect_are_skipped(relatives: list[bytes], prefix: bytes) -> None:
    batch = batch_of(page_of([prefix + relative for relative in relatives]), prefix)
    assert dict(batch.skipped) == {key: defect for key in relatives if (defect := key_defect(key)) is not None}
    found = [
        (b"%s/%s" % (directory, entry[0]) if directory else entry[0], entry[1])
        for directory, group in batch.groups
        for entry in group
    ]
    found += [(marker[0] + b"/", marker[1]) for marker in batch.markers]
    assert sorted(found) == sorted((key, n) for n, key in enumerate(relatives) if key_defect(key) is None)


def test_long_name_is_skipped_and_long_path_is_not() -> None:
    long_name, long_path = b"n" * 256, b"d" * 200 + b"/" + b"n" * 200
    batch = batch_of(page_of([long_path, long_name]), b"")
    assert [key for key, _ in batch.skipped] == [long_name]
    assert [directory for directory, _ in batch.groups] == [b"d" * 200]


def test_neighbours_share_a_group_and_markers_go_apart() -> None:
    batch = batch_of(page_of([b"p/", b"p/a", b"p/b", b"p/d/", b"p/d/x", b"p/e"]), b"p/")
    assert [(directory, [entry[0] for entry in group]) for directory, group in batch.groups] == [
        (b"", [b"a", b"b"]),
        (b"d", [b"x"]),
        (b"", [b"e"]),
    ]
    assert batch.markers == [(b"", 0, b"e", 7, b"STANDARD"), (b"d", 3, b"e", 7, b"STANDARD")]


def test_request_survives_the_pipe() -> None:
    target = ListingTarget(
        "b", "é\u0301/".encode() + b"\xff/", "eu-west-1", Endpoint(endpoint_url="http://h", addressing_style="path")
    )
    request = ListingRequest(
        target, CredentialSnapshot("a", "s", "t"), workers=3, bulk=False, preparer="m:f", preparer_options={"n": 1}
    )
    assert decode_request(json.loads(encode_request(request)[LENGTH.size :])) == request


def test_error_arrives_as_its_own_class() -> None:
    sent = Batch(BatchKind.PROBE, 4, done=True, error=errors.BucketNotFound("s3://b/: gone", bucket="b"))
    error = decode_batch(encode_batch(sent)[LENGTH.size :]).error
    assert type(error) is errors.BucketNotFound
    assert (str(error), error.bucket, error.terminal) == ("s3://b/: gone", "b", True)


def test_expired_credentials_arrive_as_denied() -> None:
    """The child's own subclass is unknown here, its meaning is not."""
    expired = type("_Expired", (errors.RepositoryDenied,), {})("s3://b/: ExpiredToken", bucket="b")
    error = decode_batch(encode_batch(Batch(BatchKind.BULK, done=True, error=expired))[LENGTH.size :]).error
    assert isinstance(error, errors.RepositoryDenied)
