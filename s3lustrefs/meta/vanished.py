"""Transaction functions about objects that a later listing no longer finds, and the names they take with them.

A listing tells which keys a span of the bucket holds; what the table knows there beyond them is only suspected, and removed
once a HEAD has confirmed it. A change made here survives the loss of its object: the export makes a new one. Where nothing is
exported, the file is no longer taken for archived, so that its bytes stay, or is LOST.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

from s3lustrefs.meta import apart, conflict_log, hard_links, journal, records, schema
from s3lustrefs.meta.listing import Sweep
from s3lustrefs.meta.location import LocationMap, is_lost_found, path_of, walk
from s3lustrefs.meta.namespace import drop_link, touch_dir
from s3lustrefs.meta.schema import ObjectRecord, Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.association import Association
from s3lustrefs.model.conflict import Conflict, ConflictKind
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import NO_INO, Ino
from s3lustrefs.model.inode import Inode, InodeFlag

_PAGE = 500
"""Records looked at in one go: 3 ms if the bucket has none of them any more."""


@dataclass(frozen=True, slots=True)
class Removed:
    """A name that went with its object; `inode` as it is afterwards (nlink 0: that was its last name)."""

    parent: Ino
    name: bytes
    inode: Inode
    is_open: bool
    """Somebody still reads it: its bytes go with the last handle."""


def suspects(
    txn: Txn, association: Association, below: bytes, span: tuple[bytes, bytes | None], listed: Container[bytes], sweep: Sweep,
    after: bytes = b"",
) -> tuple[list[bytes], bytes | None]:  # fmt: skip
    """Keys in the span that the table knows and the listing does not, out of one page of the table; `listed` are table keys.

    Also how far that page went, by the key in the table: the next one begins `after` it; None: it was the last.
    """
    found = []
    rows, after_this = _page(txn, Table.OBJECTS, association, below, span, after)
    for table_key, raw in rows:
        if table_key not in listed and table_key not in sweep.touched:
            known = schema.decode_object(table_key, raw)
            if not _is_in(span, below, known.key) or not association.is_imported(known.key):
                continue
            if not _has_outlived(txn, association, known):
                found.append(known.key)
    return found, after_this


def forget_skipped(
    txn: Txn, association: Association, below: bytes, span: tuple[bytes, bytes | None], listed: Container[bytes],
    after: bytes = b"",
) -> bytes | None:  # fmt: skip
    """Drop the notes about keys in the span that show by now, or that the listing (`listed`: table keys) no longer has, out of
    one page; how far that went, as `suspects` says."""
    rows, after_this = _page(txn, Table.SKIPPED, association, below, span, after)
    for table_key, value in rows:
        key = association.key_of(value.partition(b"\0")[2])
        shows = not key.endswith(b"/") and txn.get(Table.OBJECTS, table_key) is not None
        if _is_in(span, below, key) and (shows or table_key not in listed):
            txn.delete(Table.SKIPPED, table_key)
    return after_this


def _page(
    txn: Txn, table: Table, association: Association, below: bytes, span: tuple[bytes, bytes | None], after: bytes
) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
    """Records of keys in `(span[0], span[1]]` that begin with `below`, and perhaps some more; where the next page begins.

    Cut table keys (over 500 bytes) sort by their first bytes only, so that `_is_in` has to look at the whole key.
    """
    assoc = schema.pack_u16(association.assoc_id)
    start = assoc + (after or span[0][: schema.CUT])
    rows = txn.scan(table, assoc + below[: schema.CUT], after=start, limit=_PAGE)
    reached = rows[-1][0][2:] if len(rows) == _PAGE else None
    if span[1] is not None and rows:
        end = assoc + span[1][: schema.CUT] + b"\xff"
        if rows[-1][0] > end:
            return [row for row in rows if row[0] <= end], None
    return rows, reached


def _is_in(span: tuple[bytes, bytes | None], below: bytes, key: bytes) -> bool:
    return key.startswith(below) and key > span[0] and (span[1] is None or key <= span[1])


def remove(
    txn: Txn,
    locations: LocationMap,
    association: Association,
    key: bytes,
    now_ns: int,
    in_use: Callable[[Ino], bool],
    sweep: Sweep,
) -> Removed | Conflict | None:
    """The bucket has no object under this key. No name goes with it when there is none or it was changed here; a conflict tells
    of a change that is not exported."""
    table_key = schema.object_key(association.assoc_id, key)
    if table_key in sweep.touched:
        sweep.overtaken.add(table_key)
        return None  # written by us since it was looked for
    found = _remove(txn, locations, association, key, now_ns, in_use)
    sweep.touched.discard(table_key)  # by this, and nobody asks again: a million of them are not worth remembering
    return found


def _remove(
    txn: Txn, locations: LocationMap, association: Association, key: bytes, now_ns: int, in_use: Callable[[Ino], bool]
) -> Removed | Conflict | None:
    table_key = schema.object_key(association.assoc_id, key)
    if txn.get(Table.SKIPPED, table_key) is not None:
        txn.delete(Table.SKIPPED, table_key)
    known = records.find_object(txn, association.assoc_id, key)
    if known is not None and known.ino == NO_INO and txn.get(Table.JOURNAL, schema.journal_object_key(known.assoc, key)) is None:
        records.delete_object(txn, known.assoc, key)
    if known is not None and apart.is_left(txn, association, known):
        records.delete_object(txn, known.assoc, key)
        return None
    relative = association.relative_of(key)
    ino = walk(txn, Ino(association.root_ino), relative)
    inode = records.find_inode(txn, ino) if ino is not None else None
    if known is None or (inode is not None and txn.get(Table.JOURNAL, schema.journal_ino_key(inode.ino)) is not None):
        return None  # renamed, removed or replaced here: its export brings the rest into line
    if inode is None or known.ino != inode.ino:
        return _outlive(txn, known, now_ns)
    is_kept = bool(inode.flags & InodeFlag.EXCLUDED)
    if inode.is_dir:
        records.delete_object(txn, association.assoc_id, key)
        # What nobody has looked into may have names in the bucket.
        is_needed = is_kept or inode.flags & InodeFlag.UNLISTED or locations.is_root(inode.ino)
        if is_needed or txn.scan(Table.DENTRIES, schema.pack_u64(inode.ino), limit=1):
            return None
    elif is_kept and inode.nlink == 1:
        return _outlive(txn, known, now_ns)
    elif inode.is_file and inode.is_dirty:
        return None
    else:
        hard_links.rely_on_other(txn, locations, inode, known)
        records.delete_object(txn, association.assoc_id, key)
    directory, _, name = relative.rstrip(b"/").rpartition(b"/")
    parent = walk(txn, Ino(association.root_ino), directory)
    assert parent is not None  # it was on the way
    drop_link(txn, inode, parent, name, now_ns, in_use)
    touch_dir(txn, records.get_dir(txn, parent), now_ns, links=-1 if inode.is_dir else 0)
    if inode.nlink:
        journal.detach_source(txn, inode.ino, association.assoc_id, key, now_ns)
    return Removed(parent, name, inode, in_use(inode.ino))


def _outlive(txn: Txn, known: ObjectRecord, now_ns: int) -> Conflict | None:
    """A file was renamed or changed here, which nobody exports, and its object is gone. One that is all here stands on its own from
    now on. Of another what is known of the object stays: somebody may restore it."""
    if journal.is_due(txn, known):
        return None
    inode = records.find_inode(txn, known.ino) if known.ino else None
    if inode is None or inode.is_complete or (inode.source_assoc, inode.source_key) != (known.assoc, known.key):
        records.delete_object(txn, known.assoc, known.key)
    elif inode.hsm & Hsm.LOST:
        return None  # told before
    if inode is None or (inode.source_assoc, inode.source_key) != (known.assoc, known.key):
        return None
    journal.detach_source(txn, inode.ino, known.assoc, known.key, now_ns)
    if not inode.nlink or is_lost_found(txn, inode.parent):
        return None
    path = path_of(txn, inode.parent).rstrip(b"/") + b"/" + inode.name
    conflict = Conflict(ConflictKind.ONLY_HERE, now_ns, path.decode(errors="replace"), winner_ino=inode.ino)
    conflict_log.note(txn, conflict)
    return conflict


def _has_outlived(txn: Txn, association: Association, known: ObjectRecord) -> bool:
    """Whether the file of an object is one that `_outlive` told of, and nothing more can be learned."""
    inode = records.find_inode(txn, known.ino) if known.ino else None
    if inode is None or inode.is_complete or not inode.hsm & Hsm.LOST or apart.is_left(txn, association, known):
        return False
    is_kept = bool(inode.flags & InodeFlag.EXCLUDED)
    return is_kept or walk(txn, Ino(association.root_ino), association.relative_of(known.key)) != inode.ino
