"""Replies as the products send them, byte-exact keys."""

from __future__ import annotations

from collections.abc import Callable
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3lustrefs.repository import list_page
from s3lustrefs.repository.list_page import MalformedPage, Page, decode_texts, parse_mtime, parse_page, parse_tree

OBJECT = (
    "<Contents><Key>{key}</Key><LastModified>2026-03-01T01:02:03Z</LastModified><ETag>{etag}</ETag><Size>5</Size>{extra}</Contents>"
)


UNKNOWN_ENTITY = OBJECT.format(key="&nbsp;", etag="1", extra="<StorageClass>STANDARD</StorageClass>")
AMAZON = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


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
        b'<!DOCTYPE html PUBLIC "a" "b"><html>please&nbsp;wait</html>',
        f'<!DOCTYPE x PUBLIC "a" "b"><ListBucketResult {AMAZON}>{UNKNOWN_ENTITY * 2}</ListBucketResult>'.encode(),
        document(OBJECT.format(key="a", etag="1", extra=""))[:-30],
        document("<Contents><Key>a</Key></Contents>"),
        document(head="<IsTruncated>true</IsTruncated>"),
    ],
)
def test_anything_but_a_whole_page_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedPage):
        parse_page(body)


def test_objects_written_alike_need_no_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = "<ChecksumAlgorithm>CRC32</ChecksumAlgorithm><Owner><ID>x</ID></Owner><StorageClass>GLACIER</StorageClass>"
    rows = "".join(OBJECT.format(key=f"a%2B{n}", etag="&quot;1&quot;", extra=extra) for n in range(3))
    head = "<Name>b</Name><Prefix></Prefix><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>"
    body = f"<ListBucketResult {AMAZON}>{head}{rows}<NextContinuationToken>t=</NextContinuationToken></ListBucketResult>".encode()
    expected = parse_tree(body)
    monkeypatch.delattr(list_page, "parse_tree")
    assert parse_page(body) == expected
    assert expected.keys == [b"a+0", b"a+1", b"a+2"] and expected.token == "t=" and expected.storage_classes == [b"GLACIER"] * 3


TEXTS = st.sampled_from(
    ["a", "Key", "Contents", "", " ", "\n", "a b", "%20", "+", "ä", "&", "5", "2026-03-01T01:02:03Z", "x" * 9000]
)
DATES = st.sampled_from(["2026-03-01T01:02:03Z", "2026-03-01T01:02:03.5Z", "yesterday", ""])
ELEMENTS = st.sampled_from(
    [("Key", TEXTS), ("Size", st.sampled_from(["0", "5", " 5", "x", ""])), ("ETag", TEXTS), ("LastModified", DATES),
     ("StorageClass", TEXTS), ("Owner", TEXTS)]
)  # fmt: skip


@st.composite
def listings(draw: st.DrawFn) -> bytes:
    """Objects that are written alike, but for one or two of them perhaps."""
    blank = draw(st.sampled_from(["", "", "", "\n  "]))

    def element(name: str, text: str) -> str:
        return f"<{name}>{escape(text)}</{name}>{blank}"

    order = draw(st.permutations(["Key", "Size", "ETag", "LastModified", "StorageClass"]))
    usual = {"Key": "k", "Size": "5", "ETag": '"e"', "LastModified": "2026-03-01T01:02:03Z", "StorageClass": "STANDARD"}
    objects = [[(name, usual[name]) for name in order] for _ in range(draw(st.integers(0, 5)))]
    for _ in range(draw(st.integers(0, 2))):
        if objects:
            chosen = draw(st.sampled_from(objects))
            name, texts = draw(ELEMENTS)
            at = draw(st.integers(0, len(chosen)))
            chosen[at : at + draw(st.integers(0, 1))] = draw(st.sampled_from([[], [(name, draw(texts))]]))
    rows = ["".join(element(*each) for each in fields) for fields in objects]
    rows = [f"<Contents>{blank}{row}</Contents>{blank}" for row in rows]
    head = [("EncodingType", draw(st.sampled_from(["url", ""]))), ("IsTruncated", draw(st.sampled_from(["true", "false", ""])))]
    tail = [("NextContinuationToken", draw(st.sampled_from(["t", "", "a b"]))), ("Prefix", draw(TEXTS))]
    if draw(st.booleans()):
        head, tail = tail, head
    prefixes = draw(st.sampled_from(["", "", "", "<CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes>"]))
    parts = [*(element(*each) for each in head), *rows, *(element(*each) for each in tail), prefixes]
    return f"<ListBucketResult {draw(st.sampled_from([AMAZON, AMAZON, '']))}>{blank}{''.join(parts)}</ListBucketResult>".encode()


def parsed(parse: Callable[[bytes], Page], body: bytes) -> Page | None:
    try:
        return parse(body)
    except MalformedPage:
        return None


@given(listings())
def test_a_page_without_a_tree_is_the_same_page(body: bytes) -> None:
    assert parsed(parse_page, body) == parsed(parse_tree, body)


def test_the_reason_for_a_refusal_is_the_one_that_holds() -> None:
    with pytest.raises(MalformedPage, match="^a <Error> document instead of a listing$"):
        parse_page(b"<Error><Code>InternalError</Code></Error>")
    with pytest.raises(MalformedPage, match="^not a whole XML document"):
        parse_page(b"<ListBucketResult>")
    with pytest.raises(MalformedPage, match="^an object without key, size or date"):
        parse_page(document("<Contents><Key>a</Key></Contents>"))
