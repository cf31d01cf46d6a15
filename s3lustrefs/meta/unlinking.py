"""Transaction functions that make an association's files ordinary local ones, and its local files the association's.

Each works on a page of at most `limit` rows and returns where the next one begins, None at the end. All can be repeated from the
beginning at any time: a row that was dealt with is not found again, or found to be right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from s3lustrefs import errors
from s3lustrefs.meta import attributes, namespace, records, schema
from s3lustrefs.meta.location import LOST_FOUND, LocationMap
from s3lustrefs.meta.schema import Change, JournalState, Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.meta.vanished import Removed
from s3lustrefs.model.association import Association
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import NO_ASSOC, ROOT_INO, AssocId, Ino
from s3lustrefs.model.inode import Inode, InodeFlag

_ARCHIVE = Hsm.EXISTS | Hsm.ARCHIVED | Hsm.DIRTY | Hsm.LOST
_OF_THE_BUCKET = InodeFlag.HEADERS_UNKNOWN | InodeFlag.KIND_UNKNOWN | InodeFlag.EXCLUDED
OF_KEYS = (Table.OBJECTS, Table.SKIPPED, Table.WRITES)
"""Tables whose keys begin with the association's number."""


# --- away from the bucket ------------------------------------------------------------------------------------------------


def forget_keys(
    txn: Txn, locations: LocationMap, association: Association, after: bytes, limit: int, now_ns: int, *, table: Table
) -> bytes | None:  # fmt: skip
    """What one of the tables knows of objects, of keys that do not show, or of requests; files let go of their objects before."""
    rows = txn.scan(table, schema.pack_u16(association.assoc_id), after=after, limit=limit)
    for table_key, raw in rows:
        if table is Table.OBJECTS:
            _part(txn, locations, association, schema.decode_u64(raw[:8]), now_ns)
        txn.delete(table, table_key)
    return rows[-1][0] if len(rows) == limit else None


def forget_sources(
    txn: Txn, locations: LocationMap, association: Association, after: bytes, limit: int, now_ns: int
) -> bytes | None:  # fmt: skip
    """Files whose source is an object that was not known any more, in inode order."""
    rows = txn.scan(Table.INODES, b"", after=after, limit=limit)
    for key, raw in rows:
        if schema.inode_source_assoc(raw) == association.assoc_id:
            _part(txn, locations, association, schema.decode_u64(key), now_ns)
    return rows[-1][0] if len(rows) == limit else None


def _part(txn: Txn, locations: LocationMap, association: Association, ino: Ino, now_ns: int) -> None:
    """The file of an object: with all its bytes here it becomes an ordinary one, else it keeps what it has and says so."""
    inode = records.find_inode(txn, ino) if ino else None
    if inode is None or inode.source_assoc != association.assoc_id:
        return
    inode.flags &= ~_OF_THE_BUCKET
    if _has_other_source(txn, locations, inode):
        records.put_inode(txn, inode)
        return
    inode.source_assoc = NO_ASSOC
    if inode.is_complete:
        inode.source_key = b""
        inode.hsm &= ~_ARCHIVE
        attributes.mark(txn, locations, inode, Change.CONTENT, now_ns)
    else:
        inode.source_key = f"s3://{association.bucket}/".encode() + inode.source_key
        inode.hsm |= Hsm.EXISTS | Hsm.ARCHIVED | Hsm.LOST
    records.put_inode(txn, inode)


def _has_other_source(txn: Txn, locations: LocationMap, inode: Inode) -> bool:
    """A name in another association may have an object of the same content."""
    for parent, name in records.names_of(txn, inode):
        location = locations.of_name(txn, parent, name)
        other = records.find_object(txn, location.association.assoc_id, location.key) if location else None
        if other is not None and other.ino == inode.ino:
            inode.source_assoc, inode.source_key = other.assoc, other.key
            return True
    return False


def forget_exports(
    txn: Txn, locations: LocationMap, association: Association, after: bytes, limit: int, now_ns: int
) -> bytes | None:  # fmt: skip
    """Journal records of keys that were lost in it, and of inodes that are in no association now. What is still open for writing
    keeps its record until its close, and has nothing to export then."""
    rows = txn.scan(Table.JOURNAL, b"", after=after, limit=limit)
    for key, raw in rows:
        record = schema.decode_journal(key, raw)
        if not record.ino:
            if record.assoc == association.assoc_id:
                txn.delete(Table.JOURNAL, key)
        elif record.state is JournalState.DUE:
            inode = records.find_inode(txn, record.ino)
            if inode is None or not attributes.in_association(txn, locations, inode):
                txn.delete(Table.JOURNAL, key)
    return rows[-1][0] if len(rows) == limit else None


def has_rows(txn: Txn, assoc: AssocId) -> bool:
    """Whether some row still speaks of keys of this association."""
    return any(txn.scan(table, schema.pack_u16(assoc), limit=1) for table in OF_KEYS) or bool(
        txn.scan(Table.JOURNAL, b"K" + schema.pack_u16(assoc), limit=1)
    )


def remove_entries(
    txn: Txn,
    locations: LocationMap,
    directory: Ino,
    names: Sequence[bytes],
    now_ns: int,
    in_use: Callable[[Ino], bool],
) -> list[Removed]:
    """Take away files, and directories that are empty; the others stay, and so does what is in an association."""
    removed = []
    if locations.of_directory(txn, directory) is not None:
        return []
    for name in names:
        if directory == ROOT_INO and name == LOST_FOUND:
            continue
        try:
            inode = records.get_child(txn, directory, name)
            remove = namespace.rmdir if inode.is_dir else namespace.unlink
            gone = remove(txn, locations, directory, name, now_ns, in_use)
        except (errors.NotFound, errors.NotEmpty, errors.NotPermitted):
            continue
        removed.append(Removed(directory, name, gone, in_use(gone.ino)))
    return removed


# --- what was there before ---------------------------------------------------------------------------------------------------


def keep_local(txn: Txn, directory: Ino, after: bytes, limit: int) -> tuple[bytes | None, list[Ino]]:
    """Files that were in a directory before it was linked stay local until somebody changes them, or exports them by a task: only
    changes made after the association are exported. Also returns the subdirectories met.

    Source: fsx-spec section 6.1.
    """
    prefix = schema.pack_u64(directory)
    rows = txn.scan(Table.DENTRIES, prefix, after=prefix + after if after else b"", limit=limit)
    below = []
    for _, value in rows:
        inode = records.find_inode(txn, schema.decode_u64(value))
        if inode is None:
            continue
        if inode.is_dir:
            below.append(inode.ino)
        elif inode.is_file and inode.is_dirty and not inode.flags & InodeFlag.EXCLUDED:
            if txn.get(Table.JOURNAL, schema.journal_ino_key(inode.ino)) is None:
                inode.flags |= InodeFlag.EXCLUDED
                records.put_inode(txn, inode)
    return (rows[-1][0][8:] if len(rows) == limit else None), below
