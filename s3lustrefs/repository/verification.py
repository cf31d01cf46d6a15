"""Verification: whether the bytes of a whole object are the ones the endpoint keeps a sum of.

What an answer offers, best first: a checksum of the full object (Amazon keeps CRC64NVME unless the writer chose another one), and
the ETag, which is the MD5 sum of an object written in one piece and not encrypted with keys of KMS or the client. There is nothing
to compare for a part of an object, and for a checksum or ETag made of those of parts: for these TLS must do.

CRC64NVME costs 2 us, CRC32 22 us, MD5 85 us for 64 KiB.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from typing import Protocol

from awscrt import checksums

log = logging.getLogger(__name__)

MOST_BYTES = 8 << 20
"""Larger objects are fetched in several requests."""

CHECKSUM_MODE = ("x-amz-checksum-mode", "ENABLED")
"""The header that asks for checksums."""

_MD5 = re.compile(r"[0-9a-f]{32}")


class Sum(Protocol):
    """Fed with the bytes in order; `digest` may be asked for once."""

    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc:
    def __init__(self, function: Callable[[bytes, int], int], length: int) -> None:
        self._function = function
        self._length = length
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._length, "big")


_SUMS: Mapping[str, Callable[[], Sum]] = {
    "crc64nvme": lambda: _Crc(checksums.crc64nvme, 8),
    "crc32c": lambda: _Crc(checksums.crc32c, 4),
    "crc32": lambda: _Crc(checksums.crc32, 4),
    "sha256": hashlib.sha256,
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
}


class Md5Etags:
    """Whether a bucket's 32-digit ETags are MD5 sums: known from the probe, or else from the first one looked at."""

    def __init__(self, known: bool) -> None:
        self.are_md5: bool | None = True if known else None

    def accepts(self, etag: str, digest: bytes) -> bool:
        same = etag == digest.hex()
        if self.are_md5 is None:
            self.are_md5 = same
            if not same:
                log.info("etags are no md5 sums here, contents are not compared with them etag=%s", etag)
        return same or not self.are_md5


class Verification:
    """Takes the bytes of one answer and compares them with what its headers state."""

    def __init__(self, headers: Mapping[str, str], etag: str, md5: Md5Etags) -> None:
        self._md5 = md5
        self._etag = etag
        self._sum: Sum | None = None
        self._stated = b""
        self._name = ""
        if headers.get("x-amz-checksum-type", "FULL_OBJECT") == "FULL_OBJECT":
            self._take_checksum(headers)
        if self._sum is None and md5.are_md5 is not False and _MD5.fullmatch(etag) and not _is_encrypted(headers):
            self._sum = hashlib.md5(usedforsecurity=False)
            self._name = "MD5"

    def _take_checksum(self, headers: Mapping[str, str]) -> None:
        for name, make in _SUMS.items():
            stated = headers.get(f"x-amz-checksum-{name}", "")
            if stated and "-" not in stated:
                self._sum, self._stated, self._name = make(), base64.b64decode(stated), name.upper()
                return

    def update(self, data: bytes) -> None:
        if self._sum is not None:
            self._sum.update(data)

    def defect(self) -> str:
        """What is wrong with the bytes, or an empty string."""
        if self._sum is None:
            return ""
        digest = self._sum.digest()
        fine = digest == self._stated if self._stated else self._md5.accepts(self._etag, digest)
        return "" if fine else f"the bytes that came do not have the {self._name} sum that the endpoint states"


def _is_encrypted(headers: Mapping[str, str]) -> bool:
    """With keys that make the ETag something else than an MD5 sum."""
    return (
        headers.get("x-amz-server-side-encryption", "AES256") != "AES256"
        or "x-amz-server-side-encryption-customer-algorithm" in headers
    )
