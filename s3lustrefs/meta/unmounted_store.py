"""UnmountedStore: the tables of a state directory that no daemon uses, for the reading verbs of the engine; nothing is changed.

Whoever asks about an unmounted file system gets its answer from the same code as about a mounted one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import dropwhile, islice
from pathlib import Path
from typing import Never

from s3lustrefs import errors
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.schema import SUPER_FORMAT, Table
from s3lustrefs.meta.store import Store
from s3lustrefs.meta.table_view import TableView, unmounted
from s3lustrefs.meta.txn import Txn


class UnmountedStore(Store):
    """A Store of which only reading works."""

    def __init__(self, state_dir: Path, view: TableView) -> None:
        self.directory = state_dir / "meta"
        self._view = view
        self.object_watchers: list[set[bytes]] = []

    def get(self, table: Table, key: bytes) -> bytes | None:
        return self._view.get(table, key)

    def get_many(self, table: Table, keys: list[bytes]) -> dict[bytes, bytes]:
        return {key: value for key in keys if (value := self._view.get(table, key)) is not None}

    def scan(self, table: Table, prefix: bytes, *, after: bytes = b"", limit: int = 0) -> list[tuple[bytes, bytes]]:
        rows = dropwhile(lambda row: row[0] <= after, self._view.rows(table, prefix)) if after else self._view.rows(table, prefix)
        return list(islice(rows, limit or None))

    def count(self, table: Table) -> int:
        return 0  # what nobody needs who only reads

    def begin(self) -> Txn:
        return Txn(self)

    def __getattr__(self, name: str) -> Never:
        raise errors.StateDirError(f"state directory {self.directory.parent} is only read, nothing changes it ({name})")


@contextmanager
def reading(state_dir: Path) -> Iterator[LmdbEngine]:
    """The engine of an unmounted file system, for reading. Raises: StateDirError, StateDirInUse."""
    with unmounted(state_dir) as view:
        if view.get(Table.SUPER, SUPER_FORMAT) is None:
            raise errors.StateDirError(f"state directory {state_dir} holds no file system yet: its first daemon died before")
        yield LmdbEngine(UnmountedStore(state_dir, view))
