"""LmdbEngine: the single-host metadata engine. Each verb is one transaction over `store`, run inline on the trio thread.

Inline because a verb costs 3 to 30 us and never waits for a disk (see `store`), less than handing it to a thread (65 us).
"""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from s3lustrefs import errors
from s3lustrefs.meta import (
    associations,
    attributes,
    conflicts,
    export_targets,
    journal,
    listing,
    location,
    namespace,
    records,
    schema,
    vanished,
    writes,
)
from s3lustrefs.meta.attributes import AttributeChange
from s3lustrefs.meta.export_targets import ExportView
from s3lustrefs.meta.listing import Applied, ListingApplier, PreparedEntry, Sweep
from s3lustrefs.meta.location import Location, LocationMap
from s3lustrefs.meta.schema import (
    SUPER_NEXT_INO,
    JournalRecord,
    JournalState,
    ObjectRecord,
    SentObject,
    Table,
)
from s3lustrefs.meta.store import Store
from s3lustrefs.meta.txn import Txn
from s3lustrefs.meta.vanished import Removed
from s3lustrefs.model.association import Association
from s3lustrefs.model.ids import ROOT_INO, AssocId, ContentVersion, Ino
from s3lustrefs.model.inode import Inode


def nobody(ino: Ino) -> bool:
    return False


class LmdbEngine:
    """See `engine.MetadataEngine` for the contract. `in_use` tells whether a handle still needs an inode; with `keep_nameless`
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
        self._locations.set_associations(self._stored_associations())

    def _allocate_in(self, txn: Txn) -> Ino:
        ino = Ino(self._next_ino)
        self._next_ino += 1
        return ino

    def _save_next_ino(self, txn: Txn) -> None:
        txn.put(Table.SUPER, SUPER_NEXT_INO, str(self._next_ino).encode())

    # --- look-up ------------------------------------------------------------------------------------------------------

    async def lookup(self, parent: Ino, name: bytes) -> Inode:
        return records.get_child(self._txn(), parent, name)

    async def get(self, ino: Ino) -> Inode:
        return records.get_inode(self._txn(), ino)

    async def readdir(self, ino: Ino, after: bytes, limit: int) -> list[tuple[bytes, Inode]]:
        return namespace.readdir(self._txn(), ino, after, limit)

    async def resolve(self, path: bytes) -> Inode:
        """Inode at an absolute path inside the mount, symlinks not followed. Raises: NotFound."""
        ino = location.walk(self._txn(), ROOT_INO, path)
        if ino is None:
            raise errors.NotFound(f"no such path: {path.decode(errors='replace')}")
        return records.get_inode(self._txn(), ino)

    async def path_of(self, ino: Ino) -> bytes:
        return location.path_of(self._txn(), ino)

    async def locate(self, inode: Inode) -> Location | None:
        """Where the primary name of an inode stands, or None outside every association."""
        if inode.is_dir:
            return self._locations.of_directory(self._txn(), inode.ino)
        return self._locations.of_name(self._txn(), inode.parent, inode.name) if inode.parent else None

    def _txn(self) -> Txn:
        """For reading only: nothing is logged when no `with` ends it."""
        return self._store.begin()

    # --- names --------------------------------------------------------------------------------------------------------

    async def create(
        self,
        parent: Ino,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        *,
        rdev: int = 0,
        target: bytes = b"",
        open_for_write: bool = False,
    ) -> Inode:
        now = self._now()
        size = len(target)
        with self._store.begin() as txn:
            inode = Inode(
                self._allocate_in(txn), mode, uid, gid, 2 if stat.S_ISDIR(mode) else 1, size, now, now, now, rdev, target=target
            )
            self._save_next_ino(txn)
            made = namespace.create(txn, self._locations, parent, name, inode, open_for_write=open_for_write)
        self._inodes += 1
        return made

    async def link(self, ino: Ino, parent: Ino, name: bytes) -> Inode:
        with self._store.begin() as txn:
            return namespace.link(txn, self._locations, ino, parent, name, self._now())

    async def unlink(self, parent: Ino, name: bytes) -> Inode:
        with self._store.begin() as txn:
            gone = namespace.unlink(txn, self._locations, parent, name, self._now(), self._keeps)
        return self._count_gone(gone)

    async def rmdir(self, parent: Ino, name: bytes) -> Inode:
        with self._store.begin() as txn:
            gone = namespace.rmdir(txn, self._locations, parent, name, self._now(), self._keeps)
        return self._count_gone(gone)

    async def rename(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int = 0) -> Inode | None:
        try:
            with self._store.begin() as txn:
                gone = namespace.rename(txn, self._locations, parent, name, new_parent, new_name, self._now(), self._keeps, flags)
        except BaseException:
            self._locations.forget_paths()
            raise
        return self._count_gone(gone) if gone is not None else None

    def _count_gone(self, inode: Inode) -> Inode:
        if not inode.nlink:
            self._inodes -= 1
        return inode

    async def orphans(self) -> list[Inode]:
        found = [records.find_inode(self._txn(), schema.decode_u64(k)) for k, _ in self._store.scan(Table.ORPHANS, b"")]
        return [i for i in found if i is not None]

    async def purge_orphan(self, ino: Ino) -> Inode | None:
        """Remove an orphan for good; None when it is not one."""
        if self._store.get(Table.ORPHANS, schema.pack_u64(ino)) is None:
            return None
        with self._store.begin() as txn:
            inode = records.find_inode(txn, ino)
            if inode is not None:
                namespace.purge(txn, inode)
            return inode

    # --- attributes -----------------------------------------------------------------------------------------------------

    async def set_attributes(self, ino: Ino, change: AttributeChange) -> Inode:
        with self._store.begin() as txn:
            return attributes.set_attributes(txn, self._locations, ino, change, self._now())

    async def touch_atime(self, ino: Ino) -> None:
        with self._store.begin() as txn:
            attributes.touch_atime(txn, ino, self._now())

    async def begin_write(self, ino: Ino) -> Inode:
        with self._store.begin() as txn:
            return attributes.begin_write(txn, self._locations, ino, self._now())

    async def end_write(self, ino: Ino, end: int, extents: bytes | None = None, *, start: int = 0) -> Inode:
        with self._store.begin() as txn:
            return attributes.end_write(txn, ino, end, self._now(), extents, start=start)

    async def set_size(self, ino: Ino, size: int, extents: bytes | None = None, *, still_open: bool) -> Inode:
        state = JournalState.OPEN if still_open else JournalState.DUE
        with self._store.begin() as txn:
            return attributes.set_size(txn, self._locations, ino, size, self._now(), extents, state=state)

    async def make_due(self, ino: Ino) -> bool:
        with self._store.begin() as txn:
            return journal.make_due(txn, ino, self._now())

    async def get_xattr(self, ino: Ino, name: bytes) -> bytes:
        return attributes.get_xattr(self._txn(), ino, name)

    async def list_xattrs(self, ino: Ino) -> list[bytes]:
        return attributes.list_xattrs(self._txn(), ino)

    async def set_xattr(self, ino: Ino, name: bytes, value: bytes) -> None:
        with self._store.begin() as txn:
            attributes.set_xattr(txn, ino, name, value, self._now())

    async def remove_xattr(self, ino: Ino, name: bytes) -> None:
        with self._store.begin() as txn:
            attributes.remove_xattr(txn, ino, name, self._now())

    # --- residency -----------------------------------------------------------------------------------------------------

    async def get_residency(self, inode: Inode) -> bytes:
        return attributes.get_residency(self._txn(), inode)

    async def put_residency(self, ino: Ino, version: ContentVersion, extents: bytes, *, complete: bool) -> Inode | None:
        with self._store.begin() as txn:
            return attributes.put_residency(txn, ino, version, extents, complete=complete)

    async def release_content(self, ino: Ino) -> Inode:
        with self._store.begin() as txn:
            return attributes.release_content(txn, ino)

    # --- export ----------------------------------------------------------------------------------------------------------

    async def due(self, after: bytes, limit: int) -> list[tuple[bytes, JournalRecord]]:
        return journal.due(self._txn(), after, limit)

    async def find_journal(self, ino: Ino) -> JournalRecord | None:
        return records.find_journal(self._txn(), schema.journal_ino_key(ino))

    async def find_lost_key(self, assoc: AssocId, key: bytes) -> JournalRecord | None:
        return records.find_journal(self._txn(), schema.journal_object_key(assoc, key))

    async def make_all_due(self) -> int:
        with self._store.begin() as txn:
            return journal.make_all_due(txn, self._now())

    async def export_view(self, ino: Ino) -> ExportView | None:
        return export_targets.view(self._txn(), self._locations, ino)

    async def source_of(self, inode: Inode) -> ObjectRecord | None:
        return export_targets.source_of(self._txn(), inode)

    async def dependant(self, known: ObjectRecord | None, ino: Ino) -> Inode | None:
        return export_targets.dependant(self._txn(), known, ino)

    async def find_object(self, assoc: AssocId, key: bytes) -> ObjectRecord | None:
        return records.find_object(self._txn(), assoc, key)

    async def holder(self, assoc: AssocId, key: bytes) -> Ino | None:
        return journal.holder(self._txn(), self._locations, assoc, key)

    async def expand_directory(self, ino: Ino, after: bytes, limit: int) -> bytes | None:
        with self._store.begin() as txn:
            return export_targets.expand_directory(txn, ino, after, limit, self._now())

    async def expand_prefix(self, association: Association, prefix: bytes, after: bytes, limit: int) -> bytes | None:
        with self._store.begin() as txn:
            return export_targets.expand_prefix(txn, association, prefix, after, limit, self._now())

    async def end_expansion(self, claimed: JournalRecord) -> None:
        with self._store.begin() as txn:
            export_targets.end_expansion(txn, claimed)

    async def note_write(self, ino: Ino, assoc: AssocId, key: bytes, sent: SentObject) -> bool:
        with self._store.begin() as txn:
            return journal.note_write(txn, self._locations, ino, assoc, key, sent)

    async def noted_writes(self, assoc: AssocId, key: bytes) -> list[SentObject]:
        return writes.noted(self._txn(), assoc, key)

    async def settle_object(self, ino: Ino, exported: ObjectRecord, *, content: bool) -> None:
        with self._store.begin() as txn:
            journal.settle_object(txn, self._locations, ino, exported, self._now(), content=content)

    async def observe_object(self, seen: ObjectRecord) -> None:
        with self._store.begin() as txn:
            journal.observe_object(txn, self._locations, seen, self._now())

    async def forget_object(self, assoc: AssocId, key: bytes, *, with_writes: bool = False) -> None:
        with self._store.begin() as txn:
            journal.forget_object(txn, assoc, key, self._now(), with_writes=with_writes)

    async def finish(self, claimed: JournalRecord) -> bool:
        with self._store.begin() as txn:
            return journal.finish(txn, claimed)

    async def exclude(self, claimed: JournalRecord) -> None:
        with self._store.begin() as txn:
            export_targets.exclude(txn, claimed)

    async def postpone(
        self, claimed: JournalRecord, delay_seconds: float, *, code: str = "", text: str = "", terminal: bool = False
    ) -> None:
        not_before = self._now() + int(delay_seconds * 1e9)
        with self._store.begin() as txn:
            journal.postpone(txn, claimed, not_before, code=code, text=text, terminal=terminal)

    # --- import ------------------------------------------------------------------------------------------------------------

    async def apply_listing(
        self,
        association: Association,
        groups: Sequence[tuple[bytes, Sequence[PreparedEntry]]],
        markers: Iterable[tuple[bytes, int, bytes, int, bytes]] = (),
        skipped: Iterable[tuple[bytes, str]] = (),
        directories: Iterable[bytes] = (),
        sweep: Sweep | None = None,
    ) -> Applied:
        """One prepared batch; `directories` are relative paths known only by what is below them."""
        first = self._next_ino
        with self._store.begin() as txn:
            applier = ListingApplier(txn, association, self._now(), lambda: self._allocate_in(txn), self._in_use, sweep)
            for path in directories:
                applier.directory(path)
            for marker in markers:
                applier.marker(*marker)
            for path, entries in groups:
                applier.group(path, entries)
            for key, reason in skipped:
                applier.skip(key, reason)
            self._save_next_ino(txn)
        self._inodes += self._next_ino - first - len(applier.applied.replaced)
        return applier.applied

    @contextmanager
    def sweep(self, events: frozenset[str]) -> Iterator[Sweep]:
        touched: set[bytes] = set()
        self._store.object_watchers.append(touched)
        try:
            yield Sweep(events, touched)
        finally:
            self._store.object_watchers = [other for other in self._store.object_watchers if other is not touched]

    async def vanished_suspects(
        self, association: Association, span: tuple[bytes, bytes | None], listed: Iterable[bytes], sweep: Sweep
    ) -> list[bytes]:
        keys = {schema.object_key(association.assoc_id, key) for key in listed}
        return vanished.suspects(self._txn(), association, span, keys, sweep)

    async def remove_vanished(self, association: Association, key: bytes, sweep: Sweep) -> Removed | None:
        with self._store.begin() as txn:
            removed = vanished.remove(txn, self._locations, association, key, self._now(), self._in_use, sweep)
        self._inodes -= removed is not None and not removed.inode.nlink
        return removed

    async def replace_content(self, ino: Ino, seen: ObjectRecord) -> Inode | None:
        with self._store.begin() as txn:
            return attributes.replace_content(txn, ino, seen, self._now())

    async def keep_both(self, association: Association, ino: Ino, seen: ObjectRecord, suffix: bytes) -> tuple[Ino, bytes] | None:
        with self._store.begin() as txn:
            place = conflicts.keep_both(txn, association, ino, seen, suffix, self._now(), lambda: self._allocate_in(txn))
            self._save_next_ino(txn)
        self._inodes += place is not None
        return place

    async def object_vanished(self, ino: Ino) -> None:
        """The bucket no longer has the object a clean file was imported from."""
        with self._store.begin() as txn:
            attributes.lose_object(txn, ino, self._now())

    async def apply_headers(self, ino: Ino, etag: str, change: AttributeChange, target: bytes | None) -> Inode | None:
        with self._store.begin() as txn:
            return attributes.apply_headers(txn, ino, etag, change, target)

    async def unknown_headers(self, after: Ino, limit: int) -> tuple[list[Inode], Ino, bool]:
        return listing.unknown_headers(self._txn(), after, limit)

    async def skipped(self, association: Association) -> list[tuple[bytes, str]]:
        return listing.skipped(self._txn(), association)

    # --- associations ------------------------------------------------------------------------------------------------------

    def _stored_associations(self) -> list[Association]:
        return associations.load(self._store.begin())

    def associations(self) -> list[Association]:
        return self._locations.associations()

    def association(self, assoc: AssocId) -> Association | None:
        return self._locations.association(assoc)

    async def link_association(self, association: Association) -> Association:
        """Store a new association (its `assoc_id` is given here) and make its directory. Raises: ConfigError."""
        first = self._next_ino
        with self._store.begin() as txn:
            numbered = replace(association, assoc_id=associations.allocate(txn))
            linked = associations.link(txn, numbered, self._now(), lambda: self._allocate_in(txn))
            self._save_next_ino(txn)
        self._inodes += self._next_ino - first
        self._locations.set_associations([*self._locations.associations(), linked])
        return linked

    async def update_association(self, association: Association) -> None:
        with self._store.begin() as txn:
            associations.store(txn, association)
        others = [a for a in self._locations.associations() if a.assoc_id != association.assoc_id]
        self._locations.set_associations(sorted([*others, association], key=lambda a: a.assoc_id))

    # --- durability -----------------------------------------------------------------------------------------------------------

    async def sync(self) -> None:
        await self._store.sync()

    async def wait_room(self) -> None:
        await self._store.wait_room()

    @property
    def inode_count(self) -> int:
        return self._inodes
