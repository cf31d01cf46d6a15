"""LinkingVerbs: the engine's verbs about associations themselves, from their making to their end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from s3lustrefs import errors
from s3lustrefs.meta import associations, control_records, schema, unlinking
from s3lustrefs.meta.lmdb_core import EngineCore
from s3lustrefs.meta.location import LocationMap
from s3lustrefs.meta.schema import Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.meta.vanished import Removed
from s3lustrefs.model import association_lifecycle as life
from s3lustrefs.model.association import Association, Lifecycle
from s3lustrefs.model.file_system import Asked
from s3lustrefs.model.ids import NO_ASSOC, AssocId, Ino

_Step = Callable[[Txn, LocationMap, Association, bytes, int, int], bytes | None]

_STEPS: Mapping[str, _Step] = {
    **{table.name.lower(): partial(unlinking.forget_keys, table=table) for table in unlinking.OF_KEYS},
    "sources": unlinking.forget_sources,
    "exports": unlinking.forget_exports,
}


class LinkingVerbs(EngineCore):
    """See `engine_linking.LinkingEngine` for the contract."""

    def associations(self) -> list[Association]:
        return [each for each in self._locations.associations() if each.is_linked]

    def all_associations(self) -> list[Association]:
        return self._locations.associations()

    def association(self, assoc: AssocId) -> Association | None:
        return self._locations.association(assoc)

    async def add_association(self, association: Association, asked: Asked | None, tags: Mapping[str, str]) -> Association:
        with self._store.begin() as txn:
            added = replace(association, assoc_id=associations.allocate(txn))
            associations.store(txn, added)
            control_records.store_tags(txn, added.association_id, tags)
            control_records.remember(txn, asked)
        self._replace(added)
        return added

    async def link_association(self, association: Association) -> Association:
        first = self._next_ino
        with self._store.begin() as txn:
            if association.assoc_id == NO_ASSOC:
                association = replace(association, assoc_id=associations.allocate(txn))
            linked = associations.link(txn, association, self._now(), lambda: self._allocate_in(txn))
            associations.forget_deletion(txn, association.file_system_path)
            self._save_next_ino(txn)
        self._inodes += self._next_ino - first
        self._replace(linked)
        return linked

    async def update_association(self, association: Association, asked: Asked | None = None) -> None:
        before = self._stored(association.assoc_id)
        if before is None or (before.lifecycle == "DELETING" and association.lifecycle != "DELETING"):
            raise errors.NotInRepository(f"association {association.association_id or association.assoc_id} is gone")
        with self._store.begin() as txn:
            associations.store(txn, association)
            control_records.remember(txn, asked)
        self._replace(association)

    async def move_association(self, assoc: AssocId, lifecycle: Lifecycle, failure: str = "") -> Association | None:
        before = self._stored(assoc)
        if before is None or not life.may_follow(before.lifecycle, lifecycle):
            return None
        after = life.moved(before, lifecycle, failure)
        with self._store.begin() as txn:
            associations.store(txn, after)
        self._replace(after)
        return after

    @property
    def unlink_steps(self) -> Sequence[str]:
        return tuple(_STEPS)

    async def unlink_step(self, association: Association, step: str, after: bytes, limit: int) -> bytes | None:
        with self._store.begin() as txn:
            return _STEPS[step](txn, self._locations, association, after, limit, self._now())

    async def remove_entries(self, directory: Ino, names: Sequence[bytes]) -> list[Removed]:
        with self._store.begin() as txn:
            removed = unlinking.remove_entries(txn, self._locations, directory, names, self._now(), self._in_use)
        self._inodes -= sum(not each.inode.nlink for each in removed)
        return removed

    async def forget_association(self, association: Association) -> bool:
        assoc = association.assoc_id
        if unlinking.has_rows(self._txn(), assoc):
            return False
        with self._store.begin() as txn:
            txn.delete(Table.ASSOCIATIONS, schema.pack_u16(assoc))
            control_records.store_tags(txn, association.association_id, {})
            associations.note_deletion(txn, association)
        self._locations.set_associations(each for each in self._locations.associations() if each.assoc_id != assoc)
        return True

    def is_deleted(self, file_system_path: str, configured_as: str) -> bool:
        return associations.deleted_as(self._txn(), file_system_path) == configured_as

    async def keep_local(self, directory: Ino, after: bytes, limit: int) -> tuple[bytes | None, list[Ino]]:
        with self._store.begin() as txn:
            return unlinking.keep_local(txn, directory, after, limit)

    def _stored(self, assoc: AssocId) -> Association | None:
        return next((each for each in self._locations.associations() if each.assoc_id == assoc), None)

    def _replace(self, association: Association) -> None:
        others = [each for each in self._locations.associations() if each.assoc_id != association.assoc_id]
        self._locations.set_associations(sorted([*others, association], key=lambda each: each.assoc_id))
