"""ListingConflicts: what a listing does about an object that changed while its name, or its file, was changed here."""

from __future__ import annotations

from s3lustrefs.meta import attributes, conflict_log, hard_links, journal, records, schema
from s3lustrefs.meta.location import LocationMap, path_of, walk
from s3lustrefs.meta.schema import ObjectRecord, Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.association import Association
from s3lustrefs.model.conflict import Conflict, ConflictKind
from s3lustrefs.model.ids import NO_INO, Ino
from s3lustrefs.model.inode import Inode


class ListingConflicts:
    """Those met while one batch of an association is applied; `met` has what is to be told."""

    def __init__(self, txn: Txn, locations: LocationMap, association: Association, now_ns: int) -> None:
        self._txn = txn
        self._locations = locations
        self._association = association
        self._now_ns = now_ns
        self.met: list[Conflict] = []

    def follow(self, old: ObjectRecord, listed: ObjectRecord) -> tuple[Inode, Inode] | None:
        """The file of `old` was renamed here, and not yet there. Without a whole copy it is whatever its object is: the inode
        before and after; None when this is no such file, or the object of another name has its content."""
        inode = records.find_inode(self._txn, old.ino) if old.ino else None
        if inode is None or not inode.nlink or inode.is_complete or (inode.source_assoc, inode.source_key) != (old.assoc, old.key):
            return None
        if walk(self._txn, Ino(self._association.root_ino), self._association.relative_of(old.key)) == inode.ino:
            return None
        if hard_links.rely_on_other(self._txn, self._locations, inode, old):
            return None
        replaced = attributes.replace_content(self._txn, inode.ino, listed, self._now_ns)
        return None if replaced is None else (inode, replaced)

    def outlives(self, old: ObjectRecord) -> None:
        """The object of a file that has another name here, for good, is another one now: all of the file is here, or it will
        be found out when it is read. It must not be released any more."""
        inode = records.find_inode(self._txn, old.ino) if old.ino else None
        if inode is None or not inode.is_complete or journal.is_due(self._txn, old):
            return
        journal.detach_source(self._txn, old.ino, old.assoc, old.key, self._now_ns)

    def take_from(self, old: ObjectRecord, parent: Ino, name: bytes, etag: str, ino: Ino) -> None:
        """An object whose name was taken away here, and not yet there, has new content: that is a new file, number `ino`."""
        if old.ino:
            journal.detach_source(self._txn, old.ino, old.assoc, old.key, self._now_ns)
        if self._txn.get(Table.JOURNAL, schema.journal_object_key(old.assoc, old.key)) is not None:
            self._note(ConflictKind.DELETED_HERE, parent, name, etag, ino)

    def stays(self, inode: Inode, etag: str, kind: ConflictKind = ConflictKind.NOT_EXPORTED) -> None:
        """A change here is not exported (`kind`: or to another prefix), and the object changed too: said once for each version."""
        before = conflict_log.of_inode(self._txn, inode.ino)
        if before is None or (before.kind, before.etag) != (kind, etag):
            self._note(kind, inode.parent, inode.name, etag, inode.ino)

    def keeps_attributes(self, inode: Inode, etag: str) -> None:
        """The export policy keeps attributes here, and the file has new content from the bucket."""
        self._note(ConflictKind.ATTRIBUTES_KEPT, inode.parent, inode.name, etag, inode.ino)

    def gives_way(self, inode: Inode) -> None:
        """A file is about to lose its name to a directory in the bucket."""
        self._note(ConflictKind.DIRECTORY_THERE, inode.parent, inode.name, "", NO_INO)

    def _note(self, kind: ConflictKind, parent: Ino, name: bytes, etag: str, ino: Ino) -> None:
        path = path_of(self._txn, parent).rstrip(b"/") + b"/" + name
        conflict = Conflict(kind, self._now_ns, path.decode(errors="replace"), etag=etag, winner_ino=ino)
        conflict_log.note(self._txn, conflict)
        self.met.append(conflict)


def same_version(known: bytes, tail: bytes) -> bool:
    """Whether a stored object value and a listed one speak of the same version: equal ETag and size."""
    if known[8:] == tail:
        return True
    a = schema.decode_object(b"\0\0", known)
    b = schema.decode_object(b"\0\0", schema.pack_u64(NO_INO) + tail)
    return a.etag == b.etag and a.size == b.size
