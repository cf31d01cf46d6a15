"""Transaction functions of files with several names. In the bucket each name is an object of its own, so what others do to one of
them concerns that name alone: the file keeps its content under all the other names.

Nobody here would show the content of the other objects, and the next export would replace it unseen, if the whole file followed one
of them. Only where nothing else has the content that the other names would keep, the file follows: then there is none to be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from s3lustrefs.meta import journal, records, schema
from s3lustrefs.meta.location import LocationMap
from s3lustrefs.meta.namespace import drop_link
from s3lustrefs.meta.schema import Change, ObjectRecord, Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.association import Association
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import ContentVersion, Ino
from s3lustrefs.model.inode import Inode, InodeFlag


def set_apart(
    txn: Txn, locations: LocationMap, inode: Inode, seen: ObjectRecord, now_ns: int, allocate: Callable[[], Ino]
) -> Inode | None:
    """The file that is to have the content of `seen`, a new version of an object of `inode`: a new one that takes its name from the
    others; or `inode` itself. None: it has lost that name here, and needs the object no more.

    The new one has everything of the old one but its content, which is for the caller to replace.
    """
    if inode.nlink < 2 or not inode.is_file or _is_known(txn, inode, seen):
        return inode
    is_kept = rely_on_other(txn, locations, inode, seen) or inode.is_complete
    if inode.is_dirty:
        return inode
    if not is_kept:
        _forget_others(txn, locations, inode, seen)
        return inode
    place = _place_of(txn, locations, inode, seen)
    if place is None:
        journal.detach_source(txn, inode.ino, seen.assoc, seen.key, now_ns)
        return None
    apart = inode.copy()
    drop_link(txn, inode, *place, now_ns, lambda _: True)
    journal.detach_source(txn, inode.ino, seen.assoc, seen.key, now_ns)
    apart.ino, apart.nlink, apart.content_version = allocate(), 1, ContentVersion(0)
    apart.parent, apart.name = place
    apart.flags &= ~InodeFlag.EXCLUDED
    apart.source_assoc, apart.source_key = seen.assoc, seen.key
    records.put_inode(txn, apart)
    records.put_dentry(txn, *place, apart.ino)
    for key, value in txn.scan(Table.XATTRS, schema.pack_u64(inode.ino)):
        txn.put(Table.XATTRS, schema.pack_u64(apart.ino) + key[8:], value)
    pending = records.find_journal(txn, schema.journal_ino_key(inode.ino))
    if pending is not None and pending.change & Change.METADATA:
        journal.mark(txn, apart.ino, Change.METADATA, now_ns)  # attributes that were given here go with both
    return apart


def _forget_others(txn: Txn, locations: LocationMap, inode: Inode, seen: ObjectRecord) -> None:
    """The whole file follows one object. Those of other names count as unknown, so that no export replaces them unseen, and a
    listing finds that they are other files."""
    for _, _, other in _objects_of(txn, locations, inode):
        if (other.assoc, other.key) != (seen.assoc, seen.key):
            records.delete_object(txn, other.assoc, other.key)


def _is_known(txn: Txn, inode: Inode, seen: ObjectRecord) -> bool:
    known = records.find_object(txn, seen.assoc, seen.key)
    return known is not None and known.ino == inode.ino and (known.etag, known.size) == (seen.etag, seen.size)


def _objects_of(txn: Txn, locations: LocationMap, inode: Inode) -> Iterator[tuple[Ino, Association, ObjectRecord]]:
    """(directory, association, object) of each name whose object is known as the file's."""
    for parent, name in records.names_of(txn, inode):
        location = locations.of_name(txn, parent, name)
        found = records.find_object(txn, location.association.assoc_id, location.key) if location is not None else None
        if location is not None and found is not None and found.ino == inode.ino:
            yield parent, location.association, found


def _place_of(txn: Txn, locations: LocationMap, inode: Inode, seen: ObjectRecord) -> tuple[Ino, bytes] | None:
    """Which name of a file an object is."""
    for parent, name in records.names_of(txn, inode):
        location = locations.of_name(txn, parent, name)
        if location is None or location.association.assoc_id != seen.assoc:
            continue
        if seen.key in (location.key, location.imported_key):
            return parent, name
    return None


def rely_on_other(txn: Txn, locations: LocationMap, inode: Inode, gone: ObjectRecord) -> bool:
    """An object was replaced, or is gone. Whether the file's archived copy is another one, from now on or already; `inode` is
    updated in place."""
    if not inode.source_assoc or not inode.is_file:
        return False
    if (inode.source_assoc, inode.source_key) != (gone.assoc, gone.key):
        return True
    other = _other_copy(txn, locations, inode)
    if other is None:
        return False
    inode.source_assoc, inode.source_key = other.assoc, other.key
    if not inode.flags & InodeFlag.WRITTEN_OFF:
        inode.hsm &= ~Hsm.LOST
    records.put_inode(txn, inode)
    return True


def _other_copy(txn: Txn, locations: LocationMap, inode: Inode) -> ObjectRecord | None:
    """The object of another name that has the same content as the source: bytes of two versions are never mixed."""
    source = records.find_object(txn, inode.source_assoc, inode.source_key)
    for parent, association, other in _objects_of(txn, locations, inode):
        if (other.assoc, other.key) == (inode.source_assoc, inode.source_key):
            continue
        is_same = source is not None and source.ino == inode.ino and (other.etag, other.size) == (source.etag, source.size)
        if is_same or (other.size == inode.size and not _may_be_behind(txn, inode, parent, association)):
            return other
    return None


def _may_be_behind(txn: Txn, inode: Inode, parent: Ino, association: Association) -> bool:
    """Whether the object of a name may be older than the file: it is still to be exported, or was kept from it by policy. ETags do
    not tell, since a copy of a large object has another one."""
    pending = records.find_journal(txn, schema.journal_ino_key(inode.ino))
    if pending is not None and (pending.change & ~Change.METADATA or not {"NEW", "CHANGED"} <= association.auto_export):
        return True
    while parent:  # a directory that was moved: what is below it is not in the journal yet
        moved = records.find_journal(txn, schema.journal_ino_key(parent))
        if moved is not None and moved.change & Change.SUBTREE:
            return True
        parent = records.get_inode(txn, parent).parent
    return bool(inode.flags & InodeFlag.EXCLUDED)
