"""Page: one ListObjectsV2 reply, parsed into columns.

Columns (a list of keys, a list of sizes, ...) instead of a record per object: nearly all work is then done by C code over
whole lists. A page whose objects are written alike is taken from the parser's own events, at a third of what a tree costs
per key; any other goes through the tree.
"""

from __future__ import annotations

import calendar
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise, repeat
from typing import Any
from urllib.parse import unquote_to_bytes
from xml.parsers import expat

STANDARD = b"STANDARD"
MEMO_ENTRIES = 20_000
_TAGS = ("Key", "Size", "ETag", "LastModified", "StorageClass")
_SEPARATOR = "\x01"
"""Between namespace and name of an element. No XML document can have it in a text, so that it tells one from the other."""
_BLANKS = " \t\r\n"
"""Those between elements become part of the next text: a page that has any among its objects is left to the tree."""


class MalformedPage(ValueError):
    """The reply is no complete ListObjectsV2 page: cut off, an error document, or not XML. Never leaves this room."""


@dataclass(slots=True)
class Page:
    """One reply. The columns have one item per object, in the server's order; keys are whole, ETags without quotes."""

    keys: list[bytes] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    etags: list[bytes] = field(default_factory=list)
    mtimes_ns: list[int] = field(default_factory=list)
    storage_classes: list[bytes] = field(default_factory=list)
    common_prefixes: list[bytes] = field(default_factory=list)
    token: str | None = None
    """Continuation token, None on the last page."""
    span: tuple[bytes, bytes | None] | None = None
    """Of a bulk listing: the keys in `(span[0], span[1]]` are these and no others; None at the end: no limit."""

    def objects(self) -> Iterable[tuple[bytes, int, bytes, int, bytes]]:
        """The columns as one tuple per object, (key, size, etag, mtime_ns, storage class)."""
        return zip(self.keys, self.sizes, self.etags, self.mtimes_ns, self.storage_classes, strict=True)

    def columns(self) -> tuple[list[Any], ...]:
        """The per-object columns, in the order of `objects`."""
        return self.keys, self.sizes, self.etags, self.mtimes_ns, self.storage_classes

    def keep(self, start: int, end: int) -> None:
        """Drop all objects outside `[start, end)` by position."""
        if start or end < len(self.keys):
            for column in self.columns():
                column[:] = column[start:end]

    def keep_positions(self, positions: list[int]) -> None:
        """Drop all objects but these."""
        for column in self.columns():
            column[:] = [column[n] for n in positions]


class _Minutes(dict[str, int]):
    """`2026-03-01T01:02` → ns since the epoch. Objects written together share their minute, so most look-ups hit."""

    def __missing__(self, text: str) -> int:
        if len(self) >= MEMO_ENTRIES:
            self.clear()
        moment = (int(text[:4]), int(text[5:7]), int(text[8:10]), int(text[11:13]), int(text[14:16]), 0)
        value = self[text] = calendar.timegm(moment) * 10**9
        return value


class _Seconds(dict[str, int]):
    """`:03.250Z` → ns; any number of decimals, or none."""

    def __missing__(self, text: str) -> int:
        if len(self) >= MEMO_ENTRIES:
            self.clear()
        whole, _, fraction = text[1:].rstrip("Z").partition(".")
        value = self[text] = int(whole) * 10**9 + int(fraction[:9].ljust(9, "0"))
        return value


class _StorageClasses(dict[str | None, bytes]):
    """Class name → bytes; a server that gives none means STANDARD. A bucket has a handful of classes."""

    def __missing__(self, text: str | None) -> bytes:
        if len(self) >= MEMO_ENTRIES:
            self.clear()
        value = self[text] = text.encode() if text else STANDARD
        return value


_minutes, _seconds, _storage_classes = _Minutes(), _Seconds(), _StorageClasses()


def parse_mtime(text: str) -> int:
    """LastModified of a listing (`2026-03-01T01:02:03.000Z`) in ns since the epoch. Raises: ValueError."""
    return _minutes[text[:16]] + _seconds[text[16:]]


def decode_texts(texts: list[str | None], url_encoded: bool) -> list[bytes]:
    """Keys or prefixes as the server means them.

    With `EncodingType=url` a blank arrives as `+` (Amazon) or `%20` (others) and a plus always as `%2B`; without it
    both characters stand for themselves. Ceph encodes `/` too. Element text None is an empty key. An encoded reply has no
    bare newline, so that one call can decode all texts at once.
    """
    if not texts:
        return []
    if not url_encoded:
        return [(text or "").encode() for text in texts]
    joined = "\n".join([text or "" for text in texts]).replace("%2F", "/").replace("+", " ")
    if "%0A" in joined or "%0a" in joined:
        return [unquote_to_bytes(text) for text in joined.split("\n")]
    return (unquote_to_bytes(joined) if "%" in joined else joined.encode()).split(b"\n")


def parse_page(body: bytes) -> Page:
    """Parse one reply. Raises: MalformedPage."""
    events: list[str] = []
    parser = expat.ParserCreate(namespace_separator=_SEPARATOR)
    parser.buffer_text = True
    # expat calls the list's own method: no tree is built, and no statement runs per element.
    parser.CharacterDataHandler = parser.EndElementHandler = events.append
    unknown: list[object] = []
    parser.SkippedEntityHandler = lambda *entity: unknown.append(entity)
    try:
        parser.Parse(body, True)
    except expat.ExpatError:
        return parse_tree(body)  # which says what is wrong
    page = None if unknown else _page_of_alike(events)
    return page if page is not None else parse_tree(body)


def _page_of_alike(events: list[str]) -> Page | None:
    """A page out of its texts and the names of its elements, each as it ends, in the order of the document. None unless all objects
    have the same elements in the same order, as nearly every server writes them, and there are no subdirectories.

    Raises: MalformedPage.
    """
    space = events[-1].removesuffix("ListBucketResult")
    ends = f"{space}Contents"
    count = events.count(ends)
    if count < 2 or not space.endswith(_SEPARATOR) or f"{space}CommonPrefixes" in events:
        return None
    first = events.index(ends)
    width = events.index(ends, first + 1) - first
    start, end = first + 1 - width, first + 1 + (count - 1) * width
    objects, rest = events[start:end], events[: max(start, 0)] + events[end:]
    names = [(at, name) for at, name in enumerate(objects[:width]) if _SEPARATOR in name]
    are_alike = start >= 0 and all(objects[at::width].count(name) == count and name not in rest for at, name in names)
    joined = "".join(objects)
    if not are_alike or joined.count(_SEPARATOR) != count * len(names) or any(blank in joined for blank in _BLANKS):
        return None
    places = {name.removeprefix(space): at for at, name in names}
    if len(places) < len(names) or not all(places.get(tag, 0) and _SEPARATOR not in objects[places[tag] - 1] for tag in _TAGS):
        return None
    texts = {name.removeprefix(space): text.strip() for text, name in pairwise(["", *rest]) if _SEPARATOR not in text}
    columns: list[list[str | None]] = [list(objects[places[tag] - 1 :: width]) for tag in _TAGS]
    page = _converted(columns, texts.get("EncodingType") == "url")
    if texts.get("IsTruncated", "").lower() == "true":
        page.token = _token(texts.get("NextContinuationToken"))
    return page


def parse_tree(body: bytes) -> Page:
    """As `parse_page`, of any document, at three times the cost. Raises: MalformedPage."""
    try:
        root = ET.fromstring(body)
    except ET.ParseError as exc:
        raise MalformedPage(f"not a whole XML document: {exc}") from exc
    space, _, name = root.tag.rpartition("}")
    if name != "ListBucketResult":
        raise MalformedPage(f"a <{name}> document instead of a listing")
    if space:
        space += "}"
    url_encoded = root.findtext(space + "EncodingType") == "url"
    page = _columns(root, space, url_encoded)
    prefixes = [element.findtext(space + "Prefix") for element in root.findall(space + "CommonPrefixes")]
    page.common_prefixes = decode_texts(prefixes, url_encoded)
    if (root.findtext(space + "IsTruncated") or "").strip().lower() == "true":
        page.token = _token(root.findtext(space + "NextContinuationToken"))
    return page


def _token(text: str | None) -> str:
    if not text:
        raise MalformedPage("a truncated page without a continuation token")
    return text


def _columns(root: ET.Element, space: str, url_encoded: bool) -> Page:
    contents = root.findall(space + "Contents")
    if not contents:
        return Page()
    columns = [[element.text for element in root.iter(space + tag)] for tag in _TAGS]
    count = len(contents)
    if not columns[4]:
        columns[4] = list(repeat(None, count))
    if any(len(column) != count for column in columns):
        # An element some objects have and others have not: the columns must be taken object by object.
        columns = [[element.findtext(space + tag) for element in contents] for tag in _TAGS]
    return _converted(columns, url_encoded)


def _converted(columns: list[list[str | None]], url_encoded: bool) -> Page:
    keys, sizes, etags, dates, classes = columns
    try:
        return Page(
            keys=decode_texts(keys, url_encoded),
            sizes=[int(size) for size in sizes],  # type: ignore[arg-type]
            etags=[(etag or "").replace('"', "").encode() for etag in etags],
            mtimes_ns=[_minutes[date[:16]] + _seconds[date[16:]] for date in dates],  # type: ignore[index]
            storage_classes=[_storage_classes[name] for name in classes],
        )
    except (ValueError, AttributeError, TypeError) as exc:
        raise MalformedPage(f"an object without key, size or date: {exc}") from exc
