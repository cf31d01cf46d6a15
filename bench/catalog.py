"""Objects of the stub server as they stand in list pages, rendered before the first request so that a page is one slice."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote_from_bytes
from xml.sax.saxutils import escape

_MODIFIED = "2024-05-01T12:34:56.000Z"


class Listed(NamedTuple):
    """One object: everything a listing says of it."""

    key: bytes
    size: int
    etag: str


class Catalog:
    """Sorted objects and their rendered `<Contents>` elements, one behind the other."""

    def __init__(self, objects: Iterable[Listed]) -> None:
        self._objects = sorted(objects)
        self.keys = [listed.key for listed in self._objects]
        self._offsets = array("Q", [0])
        rendered = bytearray()
        for listed in self._objects:
            rendered += _contents(listed)
            self._offsets.append(len(rendered))
        self._rendered = bytes(rendered)

    def find(self, key: bytes) -> Listed | None:
        at = bisect_left(self.keys, key)
        return self._objects[at] if at < len(self.keys) and self.keys[at] == key else None

    def page(self, prefix: bytes, delimiter: bytes, after: bytes, token: str, max_keys: int) -> bytes:
        """One ListObjectsV2 answer with encoding-type=url. Source: Amazon S3 API Reference, "ListObjectsV2"."""
        low = max(bisect_left(self.keys, prefix), bisect_right(self.keys, after), int(token or 0))
        high = bisect_left(self.keys, _successor(prefix)) if prefix else len(self.keys)
        if delimiter:
            body, count, next_ = self._grouped(prefix, delimiter, low, high, max_keys)
        else:
            next_ = max(low, min(high, low + max_keys))
            body, count = self._rendered[self._offsets[low] : self._offsets[next_]] if low < next_ else b"", next_ - low
        more = next_ < high
        head = (
            '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>bench</Name><Prefix>{quote_from_bytes(prefix)}</Prefix><KeyCount>{count}</KeyCount>"
            f"<MaxKeys>{max_keys}</MaxKeys><EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>"
        )
        if more:
            head += f"<NextContinuationToken>{next_}</NextContinuationToken>"
        return head.encode() + body + b"</ListBucketResult>"

    def _grouped(self, prefix: bytes, delimiter: bytes, low: int, high: int, max_keys: int) -> tuple[bytes, int, int]:
        body, count = bytearray(), 0
        while low < high and count < max_keys:
            cut = self.keys[low].find(delimiter, len(prefix))
            if cut < 0:
                body += self._rendered[self._offsets[low] : self._offsets[low + 1]]
                low += 1
            else:
                group = self.keys[low][: cut + len(delimiter)]
                body += f"<CommonPrefixes><Prefix>{quote_from_bytes(group)}</Prefix></CommonPrefixes>".encode()
                low = bisect_left(self.keys, _successor(group))
            count += 1
        return bytes(body), count, low


def generated(count: int) -> Iterator[Listed]:
    """`count` objects of a plausible tree: directories of 1000 files, ten to a directory above."""
    for number in range(count):
        run, part = divmod(number // 1000, 10)
        key = b"run-%04d/part-%04d/sample-%07d.bin" % (run, part, number)
        yield Listed(key, 8192 + number * 7919 % 1_000_003, f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128):032x}")


def flat(count: int) -> Iterator[Listed]:
    """`count` objects in one directory, and one whose key is not UTF-8."""
    yield Listed(b"flat/\xff", 1, "f" * 32)
    for number in range(count):
        yield Listed(b"flat/%07d" % number, 1 + number, f"{number:032x}")


def served(root: Path) -> Iterator[Listed]:
    """The files below `root`, with the ETags nginx gives them."""
    for path in root.rglob("*"):
        if path.is_file():
            status = path.stat()
            yield Listed(os.fsencode(path.relative_to(root)), status.st_size, f"{int(status.st_mtime):x}-{status.st_size:x}")


def _contents(listed: Listed) -> bytes:
    return (
        f"<Contents><Key>{quote_from_bytes(listed.key)}</Key><LastModified>{_MODIFIED}</LastModified>"
        f"<ETag>&quot;{escape(listed.etag)}&quot;</ETag><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>"
        f"<ChecksumType>FULL_OBJECT</ChecksumType><Size>{listed.size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    ).encode()


def _successor(prefix: bytes) -> bytes:
    """The smallest key after everything that begins with `prefix`."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
