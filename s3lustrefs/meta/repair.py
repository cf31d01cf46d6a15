"""Repair: makes the invariants of `schema` true again, after `check` found that they are not. For `s3lustrefs fsck --repair`.

The whole table is held in memory, about 1 KiB per inode. Nothing is made up: a record that cannot be read or contradicts the others
goes, a name that leads nowhere goes, an inode nobody names goes to `/lost+found`; each is reported.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from dataclasses import replace

from s3lustrefs import errors
from s3lustrefs.meta import associations, attributes, conflict_log, records, schema
from s3lustrefs.meta.location import LocationMap
from s3lustrefs.meta.repair_names import Names
from s3lustrefs.meta.schema import SUPER_NEXT_ASSOC, SUPER_NEXT_INO, Change, ObjectRecord, Table
from s3lustrefs.meta.store import Store
from s3lustrefs.meta.table_view import view_of
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.association import Association
from s3lustrefs.model.hsm import Hsm, violation
from s3lustrefs.model.ids import NO_ASSOC, ROOT_INO, AssocId, Ino
from s3lustrefs.model.inode import Inode, InodeFlag

_KINDS = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
_CHUNK_BYTES = 1 << 30
"""Of a file that does not say it: the default of `imported_file_chunk_size`."""


class TableRepair:
    """One run over the tables of a store that nobody else uses. `lines` tells what was done, a path first where there is one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._now_ns = time.time_ns()
        self._rows = {table: dict(view_of(store).rows(table)) for table in Table}
        self._associations: dict[AssocId, Association] = {}
        self.lines: list[str] = []

    def run(self, *, least_next_ino: int = 2) -> None:
        """Repair, in one transaction. `least_next_ino`: numbers below it must not be handed out again."""
        self._read_associations()
        inodes = self._read_inodes()
        taken = max((*inodes, least_next_ino - 1, int(self._number(SUPER_NEXT_INO, 2)) - 1))
        self._next_ino = taken + 1
        if self._number(SUPER_NEXT_INO, 2) < self._next_ino:
            self._say(f"numbers below {self._next_ino} are in use", "next inode number")
        dentries = self._read_dentries()
        self._restore_roots(inodes, dentries)
        names = Names(inodes, dentries, self._read_orphans(inodes), self._allocate, self._now_ns, self._say)
        names.repair()
        objects = {key: record for key, record in self._read_objects(inodes).items() if record.ino not in names.missing}
        for inode in inodes.values():
            self._repair_shape(inode, names)
            self._repair_source(inode, objects, inodes, names)
        self._drop_dangling(inodes)
        with self._store.begin() as txn:
            self._write(txn, names, objects)
        with self._store.begin() as txn:
            self._relink(txn)
            self._mark_dirty(txn, inodes)

    def _say(self, what: str, where: str) -> None:
        self.lines.append(f"{where}: {what}")

    def _allocate(self) -> Ino:
        self._next_ino += 1
        return Ino(self._next_ino - 1)

    def _number(self, key: bytes, default: int) -> int:
        raw = self._rows[Table.SUPER].get(key, b"")
        return int(raw) if raw.isdigit() else default

    def _drop(self, table: Table, key: bytes, why: str) -> None:
        del self._rows[table][key]
        self._say(f"record removed: {why}", f"{table.name} {key!r}")

    # --- reading ---------------------------------------------------------------------------------------------------------

    def _read_associations(self) -> None:
        for key, raw in list(self._rows[Table.ASSOCIATIONS].items()):
            try:
                association = associations.decode(raw)
            except schema.UNREADABLE:
                self._drop(Table.ASSOCIATIONS, key, "it cannot be read")
                continue
            if schema.pack_u16(association.assoc_id) != key:
                self._drop(Table.ASSOCIATIONS, key, f"it carries number {association.assoc_id}")
                continue
            self._associations[association.assoc_id] = association

    def _read_inodes(self) -> dict[Ino, Inode]:
        found = {}
        for key, raw in list(self._rows[Table.INODES].items()):
            try:
                inode = schema.decode_inode(schema.decode_u64(key), raw)
            except schema.UNREADABLE:
                self._drop(Table.INODES, key, "it cannot be read")
                continue
            if stat.S_IFMT(inode.mode) not in _KINDS:
                self._drop(Table.INODES, key, f"mode {inode.mode:o} is no kind of file")
                continue
            found[inode.ino] = inode
        return found

    def _read_dentries(self) -> dict[tuple[Ino, bytes], Ino]:
        found = {}
        for key, raw in list(self._rows[Table.DENTRIES].items()):
            if len(key) < 8 or len(raw) != 8:
                self._drop(Table.DENTRIES, key, "it cannot be read")
            else:
                found[schema.decode_u64(key[:8]), key[8:]] = schema.decode_u64(raw)
        return found

    def _restore_roots(self, inodes: dict[Ino, Inode], dentries: dict[tuple[Ino, bytes], Ino]) -> None:
        """The directory of an association that lost its name gets it back: everything below belongs there."""
        for association in filter(lambda each: each.is_linked, self._associations.values()):
            parts = [part for part in association.file_system_path.encode().split(b"/") if part]
            parent = ROOT_INO
            for part in parts[:-1]:
                parent = dentries.get((parent, part), Ino(0))
            root = inodes.get(Ino(association.root_ino))
            if parts and parent in inodes and (parent, parts[-1]) not in dentries and root is not None and root.is_dir:
                dentries[parent, parts[-1]] = root.ino
                self._say("the directory of its association has its name again", association.file_system_path)

    def _read_orphans(self, inodes: dict[Ino, Inode]) -> set[Ino]:
        for key in list(self._rows[Table.ORPHANS]):
            if len(key) != 8 or schema.decode_u64(key) not in inodes:
                self._drop(Table.ORPHANS, key, "its inode is not there")
        return {schema.decode_u64(key) for key in self._rows[Table.ORPHANS]}

    def _read_objects(self, inodes: dict[Ino, Inode]) -> dict[bytes, ObjectRecord]:
        found = {}
        for key, raw in list(self._rows[Table.OBJECTS].items()):
            try:
                record = schema.decode_object(key, raw)
            except schema.UNREADABLE:
                self._drop(Table.OBJECTS, key, "it cannot be read")
                continue
            defect = self._key_defect(record.assoc, record.key)
            if not defect and schema.object_key(record.assoc, record.key) != key:
                defect = "it carries another key"
            if not defect and record.ino >= self._next_ino:
                defect = "its inode was never handed out"
            if not defect and record.key.endswith(b"/") and record.ino in inodes and not inodes[record.ino].is_dir:
                defect = "it is of a directory, its inode is none"
            if defect:
                self._drop(Table.OBJECTS, key, defect)
            else:
                found[key] = record
        return found

    def _key_defect(self, assoc: AssocId, key: bytes) -> str:
        association = self._associations.get(assoc)
        if association is None:
            return f"there is no association {assoc}"
        return "" if association.is_imported(key) or association.is_written(key) else "its key is outside the association"

    # --- inodes ----------------------------------------------------------------------------------------------------------

    def _repair_shape(self, inode: Inode, names: Names) -> None:
        before = inode.copy()
        if not inode.is_file:
            inode.hsm = Hsm.NONE
        while violation(inode.hsm):
            inode.hsm = inode.hsm & ~(Hsm.RELEASED | Hsm.LOST) | (Hsm.EXISTS if inode.hsm & Hsm.DIRTY else Hsm.NONE)
        if inode.flags & InodeFlag.PARTIAL and not (inode.is_file and inode.size):
            inode.flags &= ~InodeFlag.PARTIAL
        if inode.is_complete:
            inode.flags &= ~InodeFlag.DAMAGED
        if inode.flags & InodeFlag.KIND_UNKNOWN and not (inode.flags & InodeFlag.HEADERS_UNKNOWN and inode.is_file):
            inode.flags &= ~InodeFlag.KIND_UNKNOWN
        if not inode.is_dir:
            inode.flags &= ~InodeFlag.UNLISTED
        if inode.is_file and not inode.chunk_bytes:
            inode.chunk_bytes = _CHUNK_BYTES
        if inode.is_symlink:
            inode.size = len(inode.target)
        while violation(inode.hsm_state()):
            inode.hsm |= Hsm.ARCHIVED | Hsm.EXISTS  # it has a source and no bytes of its own
        if inode != before:
            self._say("its flags contradicted each other", names.path(inode.ino))

    def _repair_source(self, inode: Inode, objects: dict[bytes, ObjectRecord], inodes: dict[Ino, Inode], names: Names) -> None:
        """What is not local needs an object; without one the bytes are gone."""
        if inode.source_assoc and inode.source_assoc not in self._associations:
            inode.source_assoc, inode.source_key, inode.hsm = NO_ASSOC, b"", Hsm.NONE
            self._say("its association is gone: it is a local file now", names.path(inode.ino))
        if inode.is_complete or inode.hsm & Hsm.LOST or inode.flags & InodeFlag.DAMAGED:
            return
        key = schema.object_key(inode.source_assoc, inode.source_key)
        record = objects.get(key) if inode.source_assoc else None
        if record is not None and record.ino == inode.ino:
            return
        other = inodes.get(record.ino) if record is not None else None
        if record is not None and (other is None or (other.source_assoc, other.source_key) != (record.assoc, record.key)):
            objects[key] = replace(record, ino=inode.ino)
            self._say("the record of its object named another inode", names.path(inode.ino))
        elif inode.hsm & Hsm.ARCHIVED and not inode.is_dirty:
            inode.hsm |= Hsm.LOST
            self._say("LOST unless the bucket has it: no object is recorded for what is not local", names.path(inode.ino))
        else:
            inode.flags |= InodeFlag.DAMAGED
            self._say("LOST: bytes that existed only here are gone", names.path(inode.ino))

    # --- what hangs on inodes ----------------------------------------------------------------------------------------------

    def _drop_dangling(self, inodes: dict[Ino, Inode]) -> None:
        for table in (Table.XATTRS, Table.RESIDENCY, Table.JOURNAL, Table.SKIPPED, Table.WRITES, Table.CONFLICTS):
            for key, raw in list(self._rows[table].items()):
                try:
                    defect = next(filter(None, self._row_defects(table, key, raw, inodes)), "")
                except schema.UNREADABLE:
                    defect = "it cannot be read"
                if defect:
                    self._drop(table, key, defect)

    def _row_defects(self, table: Table, key: bytes, raw: bytes, inodes: dict[Ino, Inode]) -> Iterator[str]:
        assoc = AssocId(int.from_bytes(key[:2], "big"))
        if table in (Table.XATTRS, Table.RESIDENCY):
            inode = inodes.get(schema.decode_u64(key[:8]))
            if inode is None:
                yield "its inode is not there"
            elif table is Table.XATTRS:
                if not 0 < len(key) - 8 <= 255:
                    yield "it has no name that can be"
            elif inode.is_complete or schema.decode_residency(raw)[0] != inode.content_version:
                yield "it speaks of other content"
        elif table is Table.JOURNAL:
            record = schema.decode_journal(key, raw)
            if key[:1] == b"I":
                inode = inodes.get(record.ino)
                if inode is None or not inode.nlink:
                    yield "its inode has no name"
            else:
                yield self._key_defect(record.assoc, record.key)
                if schema.journal_key(record) != key:
                    yield "it carries another key"
        elif table is Table.WRITES:
            full, _ = schema.decode_writes(raw)
            yield self._key_defect(assoc, full)
            if schema.object_key(assoc, full) != key:
                yield "it carries another key"
        elif table is Table.CONFLICTS:
            yield from conflict_log.defects(key, raw)
        elif assoc not in self._associations or b"\0" not in raw:
            yield "it has no association, or no reason"

    # --- writing ---------------------------------------------------------------------------------------------------------

    def _write(self, txn: Txn, names: Names, objects: dict[bytes, ObjectRecord]) -> None:
        rows = self._rows
        rows[Table.INODES] = {schema.pack_u64(ino): schema.encode_inode(inode) for ino, inode in names.inodes.items()}
        rows[Table.DENTRIES] = {schema.dentry_key(*place): schema.pack_u64(ino) for place, ino in names.dentries.items()}
        links = {schema.link_key(ino, *place): b"" for ino, places in names.links().items() for place in places}
        for key in rows[Table.LINKS].keys() ^ links.keys():
            self._say(f"{'was' if key in links else 'is'} no name of inode {schema.decode_u64(key[:8])}", f"LINKS {key!r}")
        rows[Table.LINKS] = links
        rows[Table.ORPHANS] = {schema.pack_u64(ino): b"" for ino in names.orphans}
        rows[Table.OBJECTS] = {key: schema.encode_object(record) for key, record in objects.items()}
        numbers = rows[Table.SUPER]
        numbers[SUPER_NEXT_INO] = str(self._next_ino).encode()
        highest = max(self._associations, default=0)
        numbers[SUPER_NEXT_ASSOC] = str(max(highest + 1, self._number(SUPER_NEXT_ASSOC, 1))).encode()
        for table in Table:
            old = dict(view_of(self._store).rows(table))
            for key, value in rows[table].items():
                if old.get(key) != value:
                    txn.put(table, key, value)
            for key in old.keys() - rows[table].keys():
                txn.delete(table, key)

    def _relink(self, txn: Txn) -> None:
        """An association's directory is where its path leads."""
        for association in [each for each in self._associations.values() if each.is_linked]:
            try:
                linked = associations.link(txn, association, self._now_ns, self._allocate)
            except errors.ConfigError as exc:
                self._say(f"cannot be repaired: {exc}", association.file_system_path)
                continue
            self._associations[association.assoc_id] = linked
            if linked.root_ino != association.root_ino:
                self._say("its association had another directory", association.file_system_path)
        txn.put(Table.SUPER, SUPER_NEXT_INO, str(self._next_ino).encode())

    def _mark_dirty(self, txn: Txn, inodes: dict[Ino, Inode]) -> None:
        """No change is hidden from the exporter."""
        locations = LocationMap()
        locations.set_associations(self._associations.values())
        for ino, inode in inodes.items():
            if not (inode.is_file and inode.is_dirty and inode.nlink) or inode.flags & InodeFlag.EXCLUDED:
                continue
            if records.find_journal(txn, schema.journal_ino_key(ino)) is None and attributes.in_association(txn, locations, inode):
                attributes.mark(txn, locations, inode, Change.CONTENT, self._now_ns)
                self._say("was changed and not due for export", f"inode {ino} {inode.name.decode(errors='replace')}")


def import_again(store: Store) -> None:
    """At the next mount every association is listed as if for the first time: what the table lost comes back from the bucket."""
    with store.begin() as txn:
        for association in associations.load(txn):
            associations.store(txn, replace(association, import_state="PENDING"))
            if association.is_lazy and association.is_linked:
                _list_again(txn, Ino(association.root_ino))


def _list_again(txn: Txn, root: Ino) -> None:
    """Of a file cache: each directory when somebody looks into it."""
    stack = [root]
    while stack:
        ino = stack.pop()
        associations.mark_unlisted(txn, ino)
        for _, value in txn.scan(Table.DENTRIES, schema.pack_u64(ino)):
            child = records.find_inode(txn, schema.decode_u64(value))
            if child is not None and child.is_dir:
                stack.append(child.ino)


def forget_content(txn: Txn, inode: Inode) -> None:
    """Local bytes are gone, the bucket has them: nothing is resident of a fresh content version."""
    inode.flags = (inode.flags | InodeFlag.PARTIAL) & ~(InodeFlag.SPARSE | InodeFlag.DAMAGED)
    txn.delete(Table.RESIDENCY, schema.pack_u64(inode.ino))
    records.put_inode(txn, inode)


def revert(txn: Txn, inode: Inode, known: ObjectRecord) -> None:
    """Changes made here are gone in part: the bucket's version is the file again, whole."""
    inode.size = known.size
    inode.hsm = (inode.hsm | Hsm.EXISTS | Hsm.ARCHIVED) & ~(Hsm.DIRTY | Hsm.LOST)
    forget_content(txn, inode)
    if not inode.size:
        inode.flags &= ~InodeFlag.PARTIAL
        records.put_inode(txn, inode)


def damage(txn: Txn, inode: Inode, extents: bytes) -> None:
    """Bytes that existed only here are gone; `extents` are still here (data/residency)."""
    inode.flags |= InodeFlag.PARTIAL | InodeFlag.DAMAGED
    txn.put(Table.RESIDENCY, schema.pack_u64(inode.ino), schema.encode_residency(inode.content_version, extents))
    records.put_inode(txn, inode)
