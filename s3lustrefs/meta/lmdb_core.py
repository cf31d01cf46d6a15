"""EngineCore: what every verb of the engine works on: the store, the clock, inode numbers, and where associations are."""

from __future__ import annotations

import time
from collections.abc import Callable

from s3lustrefs.meta import associations, namespace
from s3lustrefs.meta.location import LocationMap
from s3lustrefs.meta.schema import SUPER_NEXT_INO, Table
from s3lustrefs.meta.store import Store
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.ids import Ino


def nobody(ino: Ino) -> bool:
    return False


class EngineCore:
    """`in_use` tells whether a handle still needs an inode; with `keep_nameless`
    whoever takes a last name away purges the orphan, since only the kernel knows when that may be."""

    def __init__(
        self, store: Store, *, in_use: Callable[[Ino], bool] = nobody, keep_nameless: bool = False,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:  # fmt: skip
        """Raises: StateDirError for an unknown format."""
        self._store = store
        self._in_use = in_use
        self._keeps: Callable[[Ino], bool] = (lambda _: True) if keep_nameless else in_use
        self._now = clock_ns
        self._locations = LocationMap()
        self._next_ino = int(store.get(Table.SUPER, SUPER_NEXT_INO) or b"2")
        if not store.check_format():
            with store.begin() as txn:
                namespace.make_root(txn, clock_ns())
        self._inodes = max(1, store.count(Table.INODES) - store.count(Table.ORPHANS))
        self._locations.set_associations(associations.load(store.begin()))

    def _allocate_in(self, txn: Txn) -> Ino:
        ino = Ino(self._next_ino)
        self._next_ino += 1
        return ino

    def _save_next_ino(self, txn: Txn) -> None:
        txn.put(Table.SUPER, SUPER_NEXT_INO, str(self._next_ino).encode())

    def _txn(self) -> Txn:
        """For reading only: nothing is logged when no `with` ends it."""
        return self._store.begin()
