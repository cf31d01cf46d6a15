"""Residency: which blocks of one content version are local, as sorted, disjoint, non-adjacent block extents.

Pure: no I/O. Byte arguments are half-open extents of the file, block extents are half-open too.
INVARIANT 1: starts[i] < ends[i] < starts[i + 1].
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from s3lustrefs import errors
from s3lustrefs.model.ids import ContentVersion

BLOCK_BYTES = 1 << 20
"""Unit of residency: small enough that a random read fetches little, large enough that the record of a TiB stays small."""


def blocks_of(size: int) -> int:
    """How many blocks `size` bytes take, the last one perhaps in part."""
    return -(-size // BLOCK_BYTES)


class Residency:
    """The resident blocks of one content version. It knows no file size: callers pass the current one."""

    __slots__ = ("_ends", "_starts", "content_version")

    def __init__(self, content_version: ContentVersion, extents: Iterable[tuple[int, int]] = ()) -> None:
        self.content_version = content_version
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in extents:
            self.add(start, end)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Residency):
            return NotImplemented
        return self.content_version == other.content_version and self.extents() == other.extents()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Residency({self.content_version}, {self.extents()})"

    def extents(self) -> list[tuple[int, int]]:
        """The resident block extents, ascending."""
        return list(zip(self._starts, self._ends, strict=True))

    def copy(self) -> Residency:
        twin = Residency(self.content_version)
        twin._starts, twin._ends = self._starts.copy(), self._ends.copy()
        return twin

    def add(self, start_block: int, end_block: int) -> None:
        """Blocks `[start_block, end_block)` are resident now."""
        if start_block >= end_block:
            return
        first = bisect_left(self._ends, start_block)
        last = bisect_right(self._starts, end_block)
        if first < last:
            start_block = min(start_block, self._starts[first])
            end_block = max(end_block, self._ends[last - 1])
        self._starts[first:last] = [start_block]
        self._ends[first:last] = [end_block]

    def remove(self, start_block: int, end_block: int) -> None:
        """Blocks `[start_block, end_block)` are missing now."""
        kept = [(s, min(e, start_block)) for s, e in self.extents()] + [(max(s, end_block), e) for s, e in self.extents()]
        self._starts, self._ends = [], []
        for start, end in sorted(kept):
            self.add(start, end)

    def truncate(self, size: int) -> None:
        """The file has `size` bytes now: blocks wholly past its end are forgotten. A block cut in two stays as it was."""
        limit = blocks_of(size)
        keep = bisect_left(self._starts, limit)
        del self._starts[keep:], self._ends[keep:]
        if keep and self._ends[-1] > limit:
            self._ends[-1] = limit

    def complete(self, size: int) -> bool:
        """Every byte of a file of `size` bytes is resident."""
        return size == 0 or (bool(self._starts) and self._starts[0] == 0 and self._ends[0] >= blocks_of(size))

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """The block extents that must be fetched before bytes `[start, end)` can be read, ascending."""
        if start >= end:
            return []
        gaps = []
        position, limit = start // BLOCK_BYTES, blocks_of(end)
        index = bisect_right(self._ends, position)
        while position < limit:
            have = self._starts[index] if index < len(self._starts) else limit
            if position < have:
                gaps.append((position, min(have, limit)))
            if index == len(self._starts):
                break
            position = self._ends[index]
            index += 1
        return gaps

    def resident_bytes(self, size: int) -> int:
        """How many bytes of a file of `size` bytes are resident."""
        ends = sum(min(end * BLOCK_BYTES, size) for end in self._ends)
        return ends - sum(min(start * BLOCK_BYTES, size) for start in self._starts)

    def encode(self) -> bytes:
        """Content version, then per extent the gap before it and its length, as little-endian base-128 numbers."""
        out = bytearray()
        _put(out, self.content_version)
        position = 0
        for start, end in zip(self._starts, self._ends, strict=True):
            _put(out, start - position)
            _put(out, end - start)
            position = end
        return bytes(out)

    @classmethod
    def decode(cls, record: bytes) -> Residency:
        """Inverse of `encode`. Raises: TableCorrupt."""
        numbers = _numbers(record)
        if len(numbers) % 2 == 0:
            raise errors.TableCorrupt(f"residency record has {len(numbers)} numbers, which is not one and pairs")
        residency = cls(ContentVersion(numbers[0]))
        position = 0
        for at in range(1, len(numbers), 2):
            gap, length = numbers[at : at + 2]
            if not length or (not gap and at > 1):
                raise errors.TableCorrupt("residency record has an empty or an adjacent extent")
            residency._starts.append(position + gap)
            position += gap + length
            residency._ends.append(position)
        return residency


def _put(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _numbers(record: bytes) -> list[int]:
    numbers = []
    number = shift = 0
    for byte in record:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(number)
            number = shift = 0
    if shift:
        raise errors.TableCorrupt("residency record ends inside a number")
    return numbers
