"""Damage: which content lost bytes on its way to the disk. Remembered before any record that speaks of these bytes is durable.

A note is for one content version and stays until that content is gone: emptied, deleted, or dropped to be fetched again.
"""

from __future__ import annotations

from s3lustrefs.meta import records, schema
from s3lustrefs.meta.schema import Table
from s3lustrefs.meta.store import Store
from s3lustrefs.model.ids import ContentVersion, Ino


class Damage:
    """The DAMAGE table of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def note(self, ino: Ino, version: ContentVersion, reason: str) -> None:
        """Joins the sync or checkpoint under way. Raises: OutOfSpace, StorageError."""
        self._store.put_through(Table.DAMAGE, schema.damage_key(ino, version), reason.encode())

    def clear(self, ino: Ino) -> None:
        """Nobody can ask for that content any more. Raises: OutOfSpace, StorageError."""
        rows = self._store.scan(Table.DAMAGE, schema.pack_u64(ino))
        if rows:
            with self._store.begin() as txn:
                for key, _ in rows:
                    txn.delete(Table.DAMAGE, key)

    def noted(self) -> list[tuple[Ino, ContentVersion, str]]:
        """Every note whose content is still there; the others are dropped."""
        found = []
        with self._store.begin() as txn:
            for key, reason in txn.scan(Table.DAMAGE, b""):
                ino, version = schema.decode_damage_key(key)
                inode = records.find_inode(txn, ino)
                if inode is None or inode.content_version != version or not inode.size:
                    txn.delete(Table.DAMAGE, key)
                else:
                    found.append((ino, version, reason.decode(errors="replace")))
        return found
