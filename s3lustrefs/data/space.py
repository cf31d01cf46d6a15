"""Byte budget and choice of victims: decides, never deletes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from s3lustrefs.model.ids import Ino


@dataclass(frozen=True, slots=True)
class Space:
    """What the targets hold and could hold, in bytes. `available_bytes` is what can be written without releasing anything."""

    capacity_bytes: int
    used_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file with resident bytes. `evictable`: archived, clean, not pinned and not open for anything that needs its bytes."""

    ino: Ino
    atime_ns: int
    resident_bytes: int
    evictable: bool


@dataclass(frozen=True, slots=True)
class SpaceBudget:
    """When to make room, how much, and what still fits.

    Watermarks are fractions of the capacity: above `high` room is made until `low` is reached, so that evictions come in
    batches. `reserve_bytes` stays free on the targets' file systems even where no cache size is configured, because the
    inode table usually lives there too.
    """

    high: float = 0.9
    low: float = 0.8
    reserve_bytes: int = 64 << 20

    def bytes_to_free(self, space: Space) -> int:
        """How much must be evicted now; 0 below the high watermark."""
        # Room taken by other users of a shared file system is not ours: a disk full of their data must not keep us empty.
        capacity = min(space.capacity_bytes, space.used_bytes + space.available_bytes)
        if space.used_bytes <= self.high * capacity:
            return 0
        return space.used_bytes - int(self.low * capacity)

    def fits(self, space: Space, size: int) -> bool:
        """Whether `size` more bytes can be written without evicting anything."""
        return size <= space.available_bytes - min(self.reserve_bytes, space.capacity_bytes // 20)


def choose_victims(candidates: Iterable[Candidate], need_bytes: int) -> list[Ino]:
    """Evictable files, least recently used first, that together free at least `need_bytes`, or all there are."""
    victims = []
    for candidate in sorted(candidates, key=lambda candidate: candidate.atime_ns):
        if need_bytes <= 0:
            break
        if candidate.evictable and candidate.resident_bytes:
            victims.append(candidate.ino)
            need_bytes -= candidate.resident_bytes
    return victims
