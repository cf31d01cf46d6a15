"""Replies as the products send them, byte-exact keys."""

from __future__ import annotations

import pytest

from s3lustrefs.repository.list_page import MalformedPage, decode_texts, parse_mtime, parse_page

OBJECT = (
    "<Contents><Key>{key}</Key><LastModified>2026-03-01T01:02:03Z</LastModified><ETag>{etag}</ETag><Size>5</Size>{extra}</Contents>"
)


def document(*contents: str, head: str = "<IsTruncated>false</IsTruncated>") -> bytes:
    return f"<ListBucketResult>{head}{''.join(contents)}</ListBucketResult>".encode()


@pytest.mark.parametrize(
    ("text", "encoded", "key"),
    [
        ("a+b", True, b"a b"),
        ("a%20b", True, b"a b"),
        ("a%2Bb", True, b"a+b"),
        ("a%252Fb", True, b"a%2Fb"),
        ("a%2Fb%2fc", True, b"a/b/c"),
        ("a%0Ab", True, b"a\nb"),
        ("%01%EF%BF%BE", True, b"\x01\xef\xbf\xbe"),
        ("é", True, "é".encode()),
        ("a+b%20c", False, b"a+b%20c"),
        ("a\nb", False, b"a\nb"),
    ],
)
def test_key_is_decoded_as_the_reply_says(text: str, encoded: bool, key: bytes) -> None:
    assert decode_texts(["x", text, None, "y"], encoded) == [b"x", key, b"", b"y"]


def test_element_some_objects_lack_does_not_shift_the_others() -> None:
    body = document(
        OBJECT.format(key="a", etag='"1"', extra=""),
        OBJECT.format(key="b", etag="2", extra="<StorageClass>GLACIER</StorageClass>"),
        OBJECT.format(key="c", etag="&quot;3&quot;", extra="<Owner><ID>x</ID></Owner>"),
    )
    page = parse_page(body)
    assert list(zip(page.keys, page.etags, page.storage_classes, strict=True)) == [
        (b"a", b"1", b"STANDARD"),
        (b"b", b"2", b"GLACIER"),
        (b"c", b"3", b"STANDARD"),
    ]


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-03-01T01:02:03.000Z", 1772326923 * 10**9),
        ("2026-03-01T01:02:03.123456789Z", 1772326923 * 10**9 + 123456789),
        ("2024-02-29T23:59:59.5Z", 1709251199 * 10**9 + 500_000_000),
    ],
)
def test_date_keeps_its_fraction(text: str, ns: int) -> None:
    assert parse_mtime(text) == ns


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        b"<Error><Code>InternalError</Code></Error>",
        document(OBJECT.format(key="a", etag="1", extra=""))[:-30],
        document("<Contents><Key>a</Key></Contents>"),
        document(head="<IsTruncated>true</IsTruncated>"),
    ],
)
def test_anything_but_a_whole_page_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedPage):
        parse_page(body)
