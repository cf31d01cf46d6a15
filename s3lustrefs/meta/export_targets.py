"""Transaction functions that tell the exporter what a journal record asks for, and that break large records into small ones."""

from __future__ import annotations

from dataclasses import dataclass

from s3lustrefs.meta import journal, records, schema, writes
from s3lustrefs.meta.location import Location, LocationMap
from s3lustrefs.meta.schema import Change, JournalRecord, ObjectRecord, Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.association import Association
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode, InodeFlag


@dataclass(frozen=True, slots=True)
class Target:
    """One object that an inode should be: a name of it inside an association."""

    association: Association
    key: bytes
    known: ObjectRecord | None
    """What the bucket holds under this key, as last seen."""
    imported: ObjectRecord | None = None
    """What this name was imported from, where exports go to another key than that."""


@dataclass(frozen=True, slots=True)
class ExportView:
    """One consistent look at an inode to be exported."""

    inode: Inode
    targets: list[Target]
    source: ObjectRecord | None
    """The object that holds its archived content, if any."""

    def is_imported_as(self, target: Target) -> bool:
        """Whether the inode is what this name was imported from, and its content still is there alone."""
        imported = target.imported
        if imported is None or imported.ino != self.inode.ino:
            return False
        return not self.inode.is_file or self.source == imported


def view(txn: Txn, locations: LocationMap, ino: Ino) -> ExportView | None:
    """None when the inode is gone."""
    inode = records.find_inode(txn, ino)
    if inode is None:
        return None
    targets = []
    for location in _locations(txn, locations, inode):
        association, end = location.association, b"/" if inode.is_dir else b""
        known = records.find_object(txn, association.assoc_id, location.key + end)
        apart = bool(association.export_prefix)
        imported = records.find_object(txn, association.assoc_id, location.imported_key + end) if apart else None
        targets.append(Target(association, location.key + end, known, imported))
    return ExportView(inode, targets, source_of(txn, inode))


def _locations(txn: Txn, locations: LocationMap, inode: Inode) -> list[Location]:
    if inode.is_dir and locations.is_root(inode.ino):
        return []  # the linked directory itself is never an object (fsx-spec section 6.1)
    found = [locations.of_name(txn, parent, name) for parent, name in records.names_of(txn, inode)]
    return [f for f in found if f is not None]


def source_of(txn: Txn, inode: Inode) -> ObjectRecord | None:
    """The object record an inode's archived content is pinned to; None when it has none (any more)."""
    if not inode.source_assoc:
        return None
    source = records.find_object(txn, inode.source_assoc, inode.source_key)
    return source if source is not None and source.ino == inode.ino else None


def dependant(txn: Txn, assoc_key: ObjectRecord | None, ino: Ino) -> Inode | None:
    """Another inode that still needs this object, because not all of its bytes are local."""
    if assoc_key is None or assoc_key.ino in (0, ino):
        return None
    other = records.find_inode(txn, assoc_key.ino)
    if other is None or other.is_complete:
        return None
    return other if (other.source_assoc, other.source_key) == (assoc_key.assoc, assoc_key.key) else None


def expand_directory(txn: Txn, claimed: JournalRecord, after: bytes, limit: int) -> bytes | None:
    """Mark up to `limit` children of a moved directory, as due since it was; the name to go on after, None at the end."""
    prefix = schema.pack_u64(claimed.ino)
    children = txn.scan(Table.DENTRIES, prefix, after=prefix + after if after else b"", limit=limit)
    for _, value in children:
        child = records.find_inode(txn, schema.decode_u64(value))
        if child is None or not child.is_exportable:
            continue
        pending = records.find_journal(txn, schema.journal_ino_key(child.ino))
        if child.is_dir:
            journal.mark(txn, child.ino, Change.NAME | Change.SUBTREE, claimed.since_ns)
        elif pending is None or pending.state is schema.JournalState.DUE:
            change = Change.NAME | Change.CONTENT if child.is_file and child.is_dirty else Change.NAME
            journal.mark(txn, child.ino, change, claimed.since_ns)
    return children[-1][0][8:] if len(children) == limit else None


def expand_prefix(txn: Txn, association: Association, claimed: JournalRecord, after: bytes, limit: int) -> bytes | None:
    """Note up to `limit` objects below a lost prefix as lost since it was; the table key to go on after, None at the end."""
    prefix, since_ns = claimed.key, claimed.since_ns
    for key in writes.below(txn, association.assoc_id, prefix) if not after else ():
        if key != prefix:
            journal.mark_key_lost(txn, association, key, since_ns)
    found = txn.scan(Table.OBJECTS, schema.pack_u16(association.assoc_id) + prefix[: schema.CUT], after=after, limit=limit)
    for table_key, value in found:
        record = schema.decode_object(table_key, value)
        if record.key.startswith(prefix) and record.key != prefix:
            journal.mark_key_lost(txn, association, record.key, since_ns)
    return found[-1][0] if len(found) == limit else None


def end_expansion(txn: Txn, claimed: JournalRecord) -> None:
    """Everything below is noted: only the directory itself, or its marker, remains of the record."""
    key = schema.journal_key(claimed)
    record = records.find_journal(txn, key)
    if record is None or record.seq != claimed.seq:
        return
    record.change &= ~Change.SUBTREE
    records.put_journal(txn, record)


def exclude(txn: Txn, locations: LocationMap, claimed: JournalRecord) -> None:
    """The policy keeps this change local: no export, and no import undoes it."""
    if journal.finish(txn, locations, claimed) and claimed.ino:
        inode = records.find_inode(txn, claimed.ino)
        if inode is not None:
            inode.flags |= InodeFlag.EXCLUDED
            records.put_inode(txn, inode)
