"""Overlay: changes that are not in LMDB yet, kept so that both single keys and ranges are found quickly."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice

from s3lustrefs.meta.schema import GROUPED, Table

MISSING = object()
"""Answer for a key the overlay says nothing about; None means that the key is deleted."""


class Group(dict[bytes, bytes | None]):
    """Changed keys of one table, or of one directory in a GROUPED table.

    INVARIANT: `_order` holds the first `len(_order)` keys that were inserted, sorted. Keys leave only by `take_back`.
    """

    __slots__ = ("_order",)

    def __init__(self) -> None:
        super().__init__()
        self._order: list[bytes] = []

    def take_back(self, key: bytes) -> None:
        """Forget a key again, as if it had never changed."""
        del self[key]
        self._order.clear()

    def ordered(self) -> list[bytes]:
        """All keys, sorted. Few new ones since the last call cost little: a nearly sorted list is sorted in one pass."""
        if len(self._order) < len(self):
            self._order.extend(islice(self, len(self._order), None))
            self._order.sort()
        return self._order

    def within(self, start: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes | None]]:
        """Changes of keys that begin with `prefix` and are >= `start`, in key order. The group must not change meanwhile."""
        keys = self.ordered()
        for at in range(bisect_left(keys, start), len(keys)):
            key = keys[at]
            if not key.startswith(prefix):
                return
            yield key, self[key]


class Overlay:
    """Groups of all tables: per table, by the first 8 key bytes in GROUPED tables."""

    __slots__ = ("groups",)

    def __init__(self) -> None:
        self.groups: list[dict[bytes, Group]] = [{} for _ in Table]

    def __bool__(self) -> bool:
        return any(self.groups)

    def group(self, table: Table, key: bytes) -> Group:
        """The group a key belongs to, made if need be."""
        groups = self.groups[table]
        prefix = key[:8] if table in GROUPED else b""
        found = groups.get(prefix)
        if found is None:
            found = groups[prefix] = Group()
        return found

    def find_group(self, table: Table, key: bytes) -> Group | None:
        return self.groups[table].get(key[:8] if table in GROUPED else b"")

    def find(self, table: Table, key: bytes) -> bytes | object | None:
        """The value, None when deleted here, or MISSING."""
        group = self.groups[table].get(key[:8] if table in GROUPED else b"")
        return MISSING if group is None else group.get(key, MISSING)


def ranked(
    rank: int, items: Iterator[tuple[bytes, bytes]] | Iterator[tuple[bytes, bytes | None]]
) -> Iterator[tuple[bytes, int, bytes | None]]:
    """Items for a merge of layers: of equal keys the one of the lowest rank comes first, and values are never compared."""
    for key, value in items:
        yield key, rank, value
