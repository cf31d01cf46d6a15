"""Txn: one transaction of the store, what all transaction functions of this room get.

Put and delete take effect at once and are undone when the block raises; what a block did is in the log when it is left. It runs on
the trio thread without a checkpoint in it, so nobody sees it half done.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from s3lustrefs.meta import redo_log
from s3lustrefs.meta.overlay import MISSING, Group
from s3lustrefs.meta.schema import Table

if TYPE_CHECKING:
    from s3lustrefs.meta.store import Store


class Txn:
    """See the module docstring. Used for reading only, it needs no `with`."""

    __slots__ = ("_changes", "_store", "_undo")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changes: list[redo_log.Change] = []
        self._undo: list[tuple[Group, bytes, object]] = []

    def get(self, table: Table, key: bytes) -> bytes | None:
        return self._store.get(table, key)

    def scan(self, table: Table, prefix: bytes, *, after: bytes = b"", limit: int = 0) -> list[tuple[bytes, bytes]]:
        return self._store.scan(table, prefix, after=after, limit=limit)

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        self._change(table, key, value)

    def delete(self, table: Table, key: bytes) -> None:
        self._change(table, key, None)

    def get_many(self, table: Table, keys: list[bytes]) -> dict[bytes, bytes]:
        """Those of the keys that exist; in a GROUPED table they share their first 8 bytes."""
        return self._store.get_many(table, keys)

    def put_many(self, table: Table, items: list[tuple[bytes, bytes]]) -> None:
        """The same as many `put`s at a third of their cost; in a GROUPED table the keys share their first 8 bytes."""
        group = self._store.active.group(table, items[0][0])
        find = group.get
        self._undo += [(group, key, find(key, MISSING)) for key, _ in items]
        group.update(items)
        self._changes += [(table, key, value) for key, value in items]

    def _change(self, table: Table, key: bytes, value: bytes | None) -> None:
        if table is Table.OBJECTS or table is Table.WRITES:
            for touched in self._store.object_watchers:
                touched.add(key)
        group = self._store.active.group(table, key)
        self._undo.append((group, key, group.get(key, MISSING)))
        group[key] = value
        self._changes.append((table, key, value))

    def __enter__(self) -> Txn:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None and self._changes:
                self._store.append(self._changes)
        except BaseException:
            self._roll_back()
            raise
        if kind is not None:
            self._roll_back()

    def _roll_back(self) -> None:
        for group, key, old in reversed(self._undo):
            if old is MISSING:
                group.take_back(key)
            else:
                group[key] = old  # type: ignore[assignment]
