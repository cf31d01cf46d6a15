"""Transaction functions of ordered exports: what of a directory differs from the bucket is exported, whatever the policy says.

An order is a bit of the journal record (`Change.TASK_ORDERED`), so it survives a crash, and the exporter does it as it does any
change. Nothing is asked of the bucket: what the table knows of it decides, which a conditional request then proves.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from s3lustrefs.meta import journal, namespace, records, schema
from s3lustrefs.meta.location import Location, LocationMap
from s3lustrefs.meta.schema import Change, JournalState, Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode, InodeFlag


class Standing(Enum):
    """What an order of one name comes to."""

    CLEAN = "the bucket has it as it is here"
    ORDERED = "it is due now"
    BUSY = "it is open for writing"
    LOST = "its archived copy is gone, and not all of its bytes are here"
    OUTSIDE = "it is in no association"
    LOCAL = "it is never exported: a FIFO, socket or device, or marked never_archive"


_GRAVEST = (Standing.BUSY, Standing.LOST, Standing.ORDERED, Standing.LOCAL, Standing.CLEAN)
"""Of several names of one inode."""


class Ordered(NamedTuple):
    """One name, and what became of its order."""

    name: bytes
    inode: Inode
    standing: Standing


def order_page(txn: Txn, locations: LocationMap, directory: Ino, after: bytes, limit: int, now_ns: int) -> list[Ordered]:
    """Order up to `limit` names of a directory that sort after `after`; none where there is no directory."""
    children = namespace.readdir(txn, directory, after, limit)
    return _order(txn, locations, directory, children, now_ns)


def order_name(txn: Txn, locations: LocationMap, parent: Ino, name: bytes, now_ns: int) -> Ordered:
    """Raises: NotFound."""
    return _order(txn, locations, parent, [(name, records.get_child(txn, parent, name))], now_ns)[0]


def order_inode(txn: Txn, locations: LocationMap, ino: Ino, now_ns: int) -> Standing:
    """Order one inode under all of its names. OUTSIDE: it is gone, or no name of it is in an association."""
    inode = records.find_inode(txn, ino)
    names = records.names_of(txn, inode) if inode is not None and inode.nlink else []
    found = {_order(txn, locations, parent, [(name, records.get_inode(txn, ino))], now_ns)[0].standing for parent, name in names}
    return next((each for each in _GRAVEST if each in found), Standing.OUTSIDE)


def _order(txn: Txn, locations: LocationMap, parent: Ino, children: Sequence[tuple[bytes, Inode]], now_ns: int) -> list[Ordered]:
    places = [_place(txn, locations, parent, name, inode) for name, inode in children]
    keys = dict.fromkeys(_table_key(place, key) for place, (_, inode) in _inside(places, children) for key in _keys(place, inode))
    known = txn.get_many(Table.OBJECTS, list(keys)) if keys else {}
    ordered = []
    for place, (name, inode) in zip(places, children, strict=True):
        if not inode.is_exportable or inode.hsm & Hsm.NOARCHIVE:
            ordered.append(Ordered(name, inode, Standing.LOCAL))
        elif place is None:
            ordered.append(Ordered(name, inode, Standing.OUTSIDE))
        else:
            exported, imported = (known.get(_table_key(place, key)) for key in _keys(place, inode))
            ordered.append(Ordered(name, inode, _order_one(txn, place, inode, exported, imported, now_ns)))
    return ordered


def _place(txn: Txn, locations: LocationMap, parent: Ino, name: bytes, inode: Inode) -> Location | None:
    return locations.of_name(txn, parent, name) if inode.is_exportable else None


def _inside(
    places: Sequence[Location | None], children: Sequence[tuple[bytes, Inode]]
) -> list[tuple[Location, tuple[bytes, Inode]]]:
    return [(place, child) for place, child in zip(places, children, strict=True) if place is not None]


def _keys(place: Location, inode: Inode) -> tuple[bytes, bytes]:
    """What it is exported to, and what it is imported from."""
    end = b"/" if inode.is_dir else b""
    return place.key + end, place.imported_key + end


def _table_key(place: Location, key: bytes) -> bytes:
    return schema.object_key(place.association.assoc_id, key)


def _order_one(txn: Txn, place: Location, inode: Inode, known: bytes | None, imported: bytes | None, now_ns: int) -> Standing:
    pending = records.find_journal(txn, schema.journal_ino_key(inode.ino))
    if pending is None and not inode.flags & InodeFlag.EXCLUDED and _is_there(txn, place, inode, known, imported):
        return Standing.CLEAN
    if pending is not None and pending.state is JournalState.OPEN:
        return Standing.BUSY
    if inode.hsm & Hsm.LOST and not inode.is_complete:
        return Standing.LOST
    if inode.flags & InodeFlag.EXCLUDED:
        inode.flags &= ~InodeFlag.EXCLUDED
        records.put_inode(txn, inode)
    content = Change.CONTENT if inode.hsm & Hsm.LOST else Change.NONE
    journal.order(txn, inode.ino, Change.NAME | Change.METADATA | Change.TASK_ORDERED | content, now_ns)
    return Standing.ORDERED


def _is_there(txn: Txn, place: Location, inode: Inode, known: bytes | None, imported: bytes | None) -> bool:
    """Whether the bucket has an unchanged name: where it is exported to, or, if it never was, where it was imported from.

    A directory is also there if something below it is: nobody made an object for one that an import made, and none is made
    for it as long as nothing but its content changes.
    """
    if inode.is_dir:
        return known is not None or imported is not None or any(_has_below(txn, place, key) for key in {*_keys(place, inode)})
    if inode.is_file and (inode.is_dirty or inode.hsm & Hsm.LOST):
        return False
    if known is None and inode.is_file and inode.source_key != place.imported_key:
        return False
    held = imported if known is None else known
    return held is not None and schema.decode_u64(held[:8]) == inode.ino


def _has_below(txn: Txn, place: Location, key: bytes) -> bool:
    return bool(txn.scan(Table.OBJECTS, schema.pack_u16(place.association.assoc_id) + key[: schema.CUT], limit=1))


def withdraw(txn: Txn, ino: Ino, order: Change) -> None:
    """Who gave this `order` takes it back; an attempt that is under way is not disturbed."""
    record = records.find_journal(txn, schema.journal_ino_key(ino))
    if record is not None and record.change & order:
        record.change &= ~order
        record.not_before_ns = 0
        records.put_journal(txn, record)
