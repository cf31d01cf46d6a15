"""HsmVerbs: the engine's verbs about what HSM commands order."""

from __future__ import annotations

from s3lustrefs.meta import hsm_orders
from s3lustrefs.meta.lmdb_core import EngineCore
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import ContentVersion, Ino
from s3lustrefs.model.inode import Inode


class HsmVerbs(EngineCore):
    """See `engine_hsm.HsmEngine` for the contract."""

    async def order_archive(self, ino: Ino) -> bool:
        with self._store.begin() as txn:
            return hsm_orders.order_archive(txn, self._locations, ino, self._now())

    async def order_remove(self, ino: Ino, version: ContentVersion) -> bool:
        with self._store.begin() as txn:
            return hsm_orders.order_remove(txn, self._locations, ino, version, self._now())

    async def set_hsm_flags(self, ino: Ino, add: Hsm, drop: Hsm) -> Inode:
        with self._store.begin() as txn:
            return hsm_orders.set_flags(txn, self._locations, ino, add, drop, self._now())
