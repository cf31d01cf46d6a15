"""Transaction functions of one inode: attributes, xattrs, what writing and hydrating change."""

from __future__ import annotations

import stat
from dataclasses import dataclass

from s3lustrefs import errors
from s3lustrefs.meta import journal, records, schema
from s3lustrefs.meta.export_targets import source_of
from s3lustrefs.meta.hard_links import rely_on_other
from s3lustrefs.meta.location import LocationMap, is_lost_found
from s3lustrefs.meta.schema import Change, JournalState, ObjectRecord, Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import AssocId, ContentVersion, Ino
from s3lustrefs.model.inode import Inode, InodeFlag

_MAX_XATTR_BYTES = 65_536
_MAX_XATTR_NAMES = 65_536
"""Bytes of all names of an inode: listxattr(2) returns no more, and the kernel shows none at all of a longer list."""


TIME_MARGIN_NS = 2_000_000_000
"""Times of one object may differ by this much: some answers have whole seconds, and an event comes a little later."""


@dataclass(frozen=True, slots=True)
class AttributeChange:
    """What setattr changes; None leaves a field as it is. Times are ns since the epoch."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


def in_association(txn: Txn, locations: LocationMap, inode: Inode) -> bool:
    """Whether any name of the inode is inside an association."""
    if inode.is_dir and locations.is_root(inode.ino):
        return True
    return any(locations.of_directory(txn, parent) is not None for parent, _ in records.names_of(txn, inode))


def mark(
    txn: Txn, locations: LocationMap, inode: Inode, change: Change, now_ns: int, *, state: JournalState = JournalState.DUE
) -> None:
    """Note a change of an inode in the journal if it is exported at all; clears EXCLUDED on the caller's `inode`."""
    if inode.is_exportable and inode.nlink and in_association(txn, locations, inode):
        inode.flags &= ~InodeFlag.EXCLUDED
        journal.mark(txn, inode.ino, change, now_ns, state=state)


def set_attributes(txn: Txn, locations: LocationMap, ino: Ino, change: AttributeChange, now_ns: int) -> Inode:
    """Times alone never trigger an export, they ride along. Source: FSx for Lustre User Guide, "Automatically export updates"."""
    inode = records.get_inode(txn, ino)
    if change.mode is not None:
        inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(change.mode)
    if change.uid is not None:
        inode.uid = change.uid
    if change.gid is not None:
        inode.gid = change.gid
    if change.atime_ns is not None:
        inode.atime_ns = change.atime_ns
    if change.mtime_ns is not None:
        inode.mtime_ns = change.mtime_ns
    inode.ctime_ns = now_ns
    if change.mode is not None or change.uid is not None or change.gid is not None:
        mark(txn, locations, inode, Change.METADATA, now_ns)
    records.put_inode(txn, inode)
    return inode


def touch_atime(txn: Txn, ino: Ino, now_ns: int) -> None:
    inode = records.find_inode(txn, ino)
    if inode is not None:
        inode.atime_ns = now_ns
        records.put_inode(txn, inode)


def begin_write(txn: Txn, locations: LocationMap, ino: Ino, now_ns: int) -> Inode:
    """The first write of a handle, before any byte changes: a crash before close cannot hide that the file is dirty."""
    inode = records.get_inode(txn, ino)
    if inode.hsm & Hsm.EXISTS:
        inode.hsm |= Hsm.DIRTY
    mark(txn, locations, inode, Change.CONTENT, now_ns, state=JournalState.OPEN)
    inode.mtime_ns = inode.ctime_ns = now_ns
    records.put_inode(txn, inode)
    return inode


def end_write(txn: Txn, ino: Ino, end: int, now_ns: int, extents: bytes | None, *, start: int) -> Inode:
    """Bytes `[start, end)` are in the chunk store. `extents`: residency of a PARTIAL file that grew, since
    what lies past the archived size cannot be fetched."""
    inode = records.get_inode(txn, ino)
    if start > inode.size:
        inode.flags |= InodeFlag.SPARSE
    inode.size = max(inode.size, end)
    _put_extents(txn, inode, extents)
    inode.mtime_ns = inode.ctime_ns = now_ns
    records.put_inode(txn, inode)
    return inode


def _put_extents(txn: Txn, inode: Inode, extents: bytes | None) -> None:
    if extents is not None and not inode.is_complete:
        txn.put(Table.RESIDENCY, schema.pack_u64(inode.ino), schema.encode_residency(inode.content_version, extents))


def set_size(
    txn: Txn, locations: LocationMap, ino: Ino, size: int, now_ns: int, extents: bytes | None, *, state: JournalState
) -> Inode:
    """Truncate or extend. An empty file has nothing that could be missing, and starts a new content version: the bytes of the
    old one stay until this record is durable, with nobody waiting for that."""
    inode = records.get_inode(txn, ino)
    if inode.hsm & Hsm.EXISTS:
        inode.hsm |= Hsm.DIRTY
    if size > inode.size:
        inode.flags |= InodeFlag.SPARSE
    if not size and inode.size:
        inode.content_version = ContentVersion(inode.content_version + 1)
    inode.size = size
    _put_extents(txn, inode, extents)
    if not size:
        inode.flags &= ~(InodeFlag.PARTIAL | InodeFlag.SPARSE | InodeFlag.DAMAGED)
        txn.delete(Table.RESIDENCY, schema.pack_u64(ino))
    mark(txn, locations, inode, Change.CONTENT, now_ns, state=state)
    if state is JournalState.DUE:
        journal.make_due(txn, ino, now_ns)  # no handle will close and do it
    inode.mtime_ns = inode.ctime_ns = now_ns
    records.put_inode(txn, inode)
    return inode


# --- residency ---------------------------------------------------------------------------------------------------------


def get_residency(txn: Txn, inode: Inode) -> bytes:
    """Encoded extents of a PARTIAL inode; empty: nothing resident."""
    raw = txn.get(Table.RESIDENCY, schema.pack_u64(inode.ino))
    if raw is None:
        return b""
    version, extents = schema.decode_residency(raw)
    return extents if version == inode.content_version else b""


def put_residency(txn: Txn, ino: Ino, version: ContentVersion, extents: bytes, *, complete: bool) -> Inode | None:
    """Remember which bytes are resident; the bytes must be durable before. None when the content has moved on."""
    inode = records.find_inode(txn, ino)
    if inode is None or inode.content_version != version or inode.is_complete:
        return None
    key = schema.pack_u64(ino)
    if complete:
        inode.flags &= ~InodeFlag.PARTIAL
        inode.hsm &= ~Hsm.LOST  # every byte is here: whoever said that there is no object was wrong
        if not inode.source_assoc:
            inode.hsm &= ~(Hsm.EXISTS | Hsm.ARCHIVED | Hsm.DIRTY)
        txn.delete(Table.RESIDENCY, key)
        records.put_inode(txn, inode)
    else:
        txn.put(Table.RESIDENCY, key, schema.encode_residency(version, extents))
    return inode


def release_content(txn: Txn, ino: Ino, *, even_pinned: bool = False) -> Inode:
    """Forget all resident bytes of an archived clean file. Raises: NotPermitted."""
    inode = records.get_inode(txn, ino)
    kept = Hsm.DIRTY | Hsm.LOST | (Hsm.NONE if even_pinned else Hsm.NORELEASE)
    if not inode.hsm & Hsm.ARCHIVED or inode.hsm & kept or not inode.source_assoc:
        raise errors.NotPermitted("only an archived, clean file can be released")
    if inode.size:
        inode.flags = (inode.flags | InodeFlag.PARTIAL) & ~InodeFlag.SPARSE
        inode.content_version = ContentVersion(inode.content_version + 1)
    txn.delete(Table.RESIDENCY, schema.pack_u64(ino))
    records.put_inode(txn, inode)
    return inode


def replace_content(txn: Txn, ino: Ino, seen: ObjectRecord, now_ns: int) -> Inode | None:
    """The bucket has another version of a clean file's object: new size and time, nothing resident. None when dirty or gone.

    Attributes that were changed here and are not exported, yet or ever, stay; also those of a file whose name alone was: nobody
    noted which it was.
    """
    inode = records.find_inode(txn, ino)
    if inode is None or inode.is_dirty or not inode.is_file:
        return None
    seen.ino = ino
    records.put_object(txn, seen)
    inode.size = seen.size
    inode.mtime_ns = seen.mtime_ns
    inode.ctime_ns = now_ns
    inode.content_version = ContentVersion(inode.content_version + 1)
    inode.flags &= ~(InodeFlag.SPARSE | InodeFlag.DAMAGED | InodeFlag.WRITTEN_OFF)
    pending = records.find_journal(txn, schema.journal_ino_key(ino))
    is_given_here = bool(inode.flags & InodeFlag.EXCLUDED) or is_lost_found(txn, inode.parent)
    if not is_given_here and not (pending is not None and pending.change & Change.METADATA):
        inode.flags |= InodeFlag.HEADERS_UNKNOWN
    inode.flags = inode.flags | InodeFlag.PARTIAL if seen.size else inode.flags & ~InodeFlag.PARTIAL
    inode.hsm = (inode.hsm | Hsm.EXISTS | Hsm.ARCHIVED) & ~Hsm.LOST
    inode.source_assoc, inode.source_key = seen.assoc, seen.key
    txn.delete(Table.RESIDENCY, schema.pack_u64(ino))
    records.put_inode(txn, inode)
    return inode


def reimport(txn: Txn, locations: LocationMap, ino: Ino, seen: ObjectRecord, now_ns: int) -> Inode | None:
    """`replace_content` for whoever looked at the object alone: a whole file that has another name by now stays as it is."""
    inode = records.find_inode(txn, ino)
    if (
        inode is not None
        and inode.is_complete
        and not inode.is_dirty
        and journal.holder(txn, locations, seen.assoc, seen.key) != ino
    ):
        journal.detach_source(txn, ino, seen.assoc, seen.key, now_ns)
        return None
    return replace_content(txn, ino, seen, now_ns)


def lose_object(txn: Txn, locations: LocationMap, ino: Ino, now_ns: int) -> None:
    """The bucket no longer has a clean file's object: missing bytes are lost for good, unless that of another name has them;
    resident ones stay.

    It is not exported again of itself: somebody wanted the object gone. What is known of the object stays, so that the next
    sweep can take the name with it, and an export make a new object.
    """
    inode = records.find_inode(txn, ino)
    source = source_of(txn, inode) if inode is not None else None
    if inode is None or not inode.source_assoc or (source is not None and rely_on_other(txn, locations, inode, source)):
        return
    if inode.hsm & Hsm.ARCHIVED:
        inode.hsm |= Hsm.LOST
    inode.ctime_ns = now_ns
    records.put_inode(txn, inode)


def unknown_headers(txn: Txn, after: Ino, limit: int) -> tuple[list[Inode], Ino, bool]:
    """Inodes above `after` whose headers nobody asked for yet, from at most `limit` records; the last one looked at; and
    whether there are more."""
    rows = txn.scan(Table.INODES, b"", after=schema.pack_u64(after), limit=limit)
    found = [
        schema.decode_inode(schema.decode_u64(key), raw) for key, raw in rows if schema.inode_flags(raw) & InodeFlag.HEADERS_UNKNOWN
    ]
    return found, schema.decode_u64(rows[-1][0]) if rows else after, len(rows) == limit


def apply_headers(
    txn: Txn, ino: Ino, etag: str, change: AttributeChange, target: bytes | None, version_id: str = "", storage_class: str = ""
) -> Inode | None:  # fmt: skip
    """What a HEAD of the object of this ETag said (empty: there is no object to ask); `target` given: it is a symlink. None when
    inode or object moved on meanwhile.

    A field the headers do not have keeps its value: defaults for a new object, the old ones for a changed object. A file that was
    written meanwhile keeps its times, and its kind.
    Source: FSx for Lustre User Guide, "Automatically import updates from your S3 bucket".
    """
    inode = records.find_inode(txn, ino)
    if inode is None or not inode.flags & InodeFlag.HEADERS_UNKNOWN:
        return inode
    if inode.is_file:
        source = source_of(txn, inode)
        if etag != (source.etag if source else ""):
            return None
        is_new_class = source is not None and storage_class not in ("", source.storage_class)  # which no event tells
        if source is not None and (version_id or is_new_class):  # which no listing tells
            source.version_id = version_id or source.version_id
            source.storage_class = storage_class or source.storage_class
            records.put_object(txn, source)
    if change.mode is not None:
        inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(change.mode)
    inode.uid = inode.uid if change.uid is None else change.uid
    inode.gid = inode.gid if change.gid is None else change.gid
    is_written = inode.is_file and inode.is_dirty
    if not is_written:
        inode.atime_ns = inode.atime_ns if change.atime_ns is None else change.atime_ns
        inode.mtime_ns = inode.mtime_ns if change.mtime_ns is None else change.mtime_ns
    inode.flags &= ~(InodeFlag.HEADERS_UNKNOWN | InodeFlag.KIND_UNKNOWN)
    if target is not None and inode.is_file and not is_written:
        inode.mode = stat.S_IFLNK | 0o777
        inode.target, inode.size, inode.chunk_bytes = target, len(target), 0
        inode.flags &= ~InodeFlag.PARTIAL
        inode.hsm = Hsm.NONE
        txn.delete(Table.RESIDENCY, schema.pack_u64(ino))
    records.put_inode(txn, inode)
    return inode


def doubt_headers(txn: Txn, assoc: AssocId, key: bytes, told_ns: int, margin_ns: int) -> Inode | None:
    """The bucket told of the known version again. The first time about an object of ours that is its time, which the answer to
    our request did not have; later it was written anew with the same bytes, and may have other headers."""
    known = records.find_object(txn, assoc, key)
    if known is None or (known.mtime_ns and told_ns <= known.mtime_ns + margin_ns):
        return None
    is_ours = not known.mtime_ns
    known.mtime_ns = told_ns
    records.put_object(txn, known)
    inode = records.find_inode(txn, known.ino) if known.ino else None
    if is_ours or inode is None or (inode.is_file and inode.is_dirty) or inode.flags & InodeFlag.EXCLUDED:
        return None
    if txn.get(Table.JOURNAL, schema.journal_ino_key(inode.ino)) is not None:
        return None
    inode.flags |= InodeFlag.HEADERS_UNKNOWN
    records.put_inode(txn, inode)
    return inode


# --- xattrs ----------------------------------------------------------------------------------------------------------------


def get_xattr(txn: Txn, ino: Ino, name: bytes) -> bytes:
    value = txn.get(Table.XATTRS, schema.pack_u64(ino) + name)
    if value is None:
        raise errors.NoAttribute(f"inode {ino} has no attribute {name!r}")
    return value


def list_xattrs(txn: Txn, ino: Ino) -> list[bytes]:
    return [key[8:] for key, _ in txn.scan(Table.XATTRS, schema.pack_u64(ino))]


def set_xattr(txn: Txn, ino: Ino, name: bytes, value: bytes, now_ns: int) -> None:
    """Raises: InvalidArgument, TooManyAttributes beyond the limits of xattr(7)."""
    inode = records.get_inode(txn, ino)
    if len(value) > _MAX_XATTR_BYTES or len(name) > 255:
        raise errors.InvalidArgument(f"attribute {name[:40]!r} is too large")
    key = schema.pack_u64(ino) + name
    if txn.get(Table.XATTRS, key) is None:
        listed = sum(len(other) + 1 for other in [*list_xattrs(txn, ino), name])
        if listed > _MAX_XATTR_NAMES:
            raise errors.TooManyAttributes(f"the names of all attributes of inode {ino} would take {listed} bytes")
    txn.put(Table.XATTRS, key, value)
    inode.ctime_ns = now_ns
    records.put_inode(txn, inode)


def remove_xattr(txn: Txn, ino: Ino, name: bytes, now_ns: int) -> None:
    get_xattr(txn, ino, name)
    txn.delete(Table.XATTRS, schema.pack_u64(ino) + name)
    inode = records.get_inode(txn, ino)
    inode.ctime_ns = now_ns
    records.put_inode(txn, inode)
