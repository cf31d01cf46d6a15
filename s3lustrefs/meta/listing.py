"""Transaction functions that bring listed objects into the inode table: metadata only, idempotent, in batches.

One idempotent rule for every listed object, compared with the objects table and the dentries:
unknown object and free name: a new, cold file. Same ETag as known: nothing. Other ETag: new content of a clean file. A file
with local changes is left alone: its export will find the difference by its condition. A later listing of the same prefix (a
sweep) follows the same rule, as far as the association's policy goes; what it no longer finds is `vanished`'s matter.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from s3lustrefs.meta import attributes, conflict_log, journal, records, schema
from s3lustrefs.meta.associations import make_directory
from s3lustrefs.meta.location import LOST_FOUND, path_of, walk
from s3lustrefs.meta.namespace import purge
from s3lustrefs.meta.schema import Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.association import Association
from s3lustrefs.model.conflict import Conflict, ConflictKind
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import NO_INO, ROOT_INO, AssocId, ContentVersion, Ino
from s3lustrefs.model.inode import Inode, InodeFlag

PATH_MAX = 4096
"""A symlink's target, and so its object, is shorter than this. Source: linux/limits.h."""
DIRECTORY_WINS = "a directory of this name exists"
RESERVED = "this name is taken by the losers of conflicts"
FILE_IN_THE_WAY = "a file with local changes, or with other names, has the name of its directory"
_HIDDEN = 3
"""Examples of what a file hides."""
_NOBODY = schema.pack_u64(NO_INO)

PreparedEntry = tuple[bytes, bytes, bytes]
"""(name, inode value without parent, object value without ino): see `preparer`."""


def preparer_options(association: Association) -> dict[str, str | int | bool]:
    """What `preparer` needs to know, as JSON can carry it to the listing process."""
    return {
        "assoc_id": association.assoc_id,
        "prefix": association.prefix,
        "mode": stat.S_IFREG | association.file_mode,
        "uid": association.uid,
        "gid": association.gid,
        "chunk_bytes": association.chunk_bytes,
        "headers": association.posix_metadata != "off",
    }


def preparer(
    *, assoc_id: int, prefix: str, mode: int, uid: int, gid: int, chunk_bytes: int, headers: bool
) -> Callable[[bytes, bytes, int, bytes, int, bytes], PreparedEntry]:
    """Encoder of listed objects as table values; runs in the listing process, off the daemon's core."""
    prefix_bytes = prefix.encode()
    inode = Inode(
        Ino(0), mode, uid, gid, 1, 0, 0, 0, 0, hsm=Hsm.EXISTS | Hsm.ARCHIVED, content_version=ContentVersion(1),
        chunk_bytes=chunk_bytes, source_assoc=AssocId(assoc_id),
    )  # fmt: skip
    unknown = int(InodeFlag.HEADERS_UNKNOWN) if headers else 0
    unknown_kind = unknown | int(InodeFlag.KIND_UNKNOWN) if headers else 0
    partial = int(InodeFlag.PARTIAL)

    def prepare(relative: bytes, name: bytes, size: int, etag: bytes, mtime_ns: int, storage_class: bytes) -> PreparedEntry:
        key = prefix_bytes + relative
        flags = ((unknown_kind if size < PATH_MAX else unknown) | partial) if size else unknown
        inode.flags = flags  # type: ignore[assignment]  # a plain int packs the same and costs nothing
        inode.name = name
        inode.size = size
        inode.atime_ns = inode.mtime_ns = inode.ctime_ns = mtime_ns
        inode.source_key = key
        return name, schema.inode_tail(inode), schema.object_tail(etag, size, mtime_ns, storage_class, b"", schema.long_key(key))

    return prepare


@dataclass(slots=True)
class Applied:
    """What one batch did, for progress and for the kernel's caches."""

    new: int = 0
    changed: list[Ino] = field(default_factory=list)
    replaced: list[tuple[Ino, bytes]] = field(default_factory=list)
    """Dentries that now name something else."""
    made: set[Ino] = field(default_factory=set)
    """New directories."""
    grown: set[Ino] = field(default_factory=set)
    """Older directories whose link count went up, since they got new directories."""
    appeared: list[tuple[Ino, bytes]] = field(default_factory=list)
    """Of a sweep: new names, which the kernel may remember as absent."""
    outdated: list[Inode] = field(default_factory=list)
    """Changed files as they were before: their bytes are of no more use."""
    conflicts: list[Conflict] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is different when an association is listed again: the events to act on, and objects (by table key) that
    changed here since the listing began, of which it may tell an old story."""

    events: frozenset[str]
    touched: set[bytes]


class ListingApplier:
    """Applies prepared groups of one association. `allocate` hands out an inode number inside the transaction."""

    def __init__(
        self,
        txn: Txn,
        association: Association,
        now_ns: int,
        allocate: Callable[[], Ino],
        in_use: Callable[[Ino], bool],
        sweep: Sweep | None = None,
    ) -> None:
        self._txn = txn
        self._association = association
        self._prefix = schema.pack_u16(association.assoc_id) + association.prefix.encode()
        self._now_ns = now_ns
        self._allocate = allocate
        self._in_use = in_use
        self._sweep = sweep
        self._takes_new = sweep is None or "NEW" in sweep.events
        self._takes_changed = sweep is None or "CHANGED" in sweep.events
        self.applied = Applied()
        self._reserved = LOST_FOUND if association.root_ino == ROOT_INO else None

    def group(self, directory: bytes, entries: Sequence[PreparedEntry]) -> None:
        """Files of one directory. A name that a server listed twice counts once."""
        if self._reserved is not None:
            entries = self._without_reserved(directory, entries)
        if not entries:
            return
        if len({entry[0] for entry in entries}) < len(entries):
            entries = list({entry[0]: entry for entry in entries}.values())
        base = self._prefix + (directory + b"/" if directory else b"")
        objects = [self._object_key(base + entry[0]) for entry in entries]
        known = self._txn.get_many(Table.OBJECTS, objects)
        differing = [
            (object_key, known.get(object_key), entry)
            for object_key, entry in zip(objects, entries, strict=True)
            if not self._is_known(object_key, known.get(object_key), entry[2])
            and not self._is_followed(object_key, known.get(object_key), entry[2])
        ]
        # A directory is made for what is new in it only: one that was moved away here still has its objects in the bucket.
        if not differing:
            return
        parent = self._directory_for_new(directory)
        if parent is None:
            if self._takes_new:
                for _, _, (name, _, _) in differing:
                    self.skip(directory + b"/" + name, FILE_IN_THE_WAY)
            return
        parent_key = schema.pack_u64(parent)
        taken = self._txn.get_many(Table.DENTRIES, [parent_key + entry[0] for _, _, entry in differing])
        fresh = []
        for object_key, seen, entry in differing:
            dentry = parent_key + entry[0]
            if dentry in taken:
                if seen is None or self._takes_changed:
                    self._observe_changed(taken[dentry], object_key, entry[2], directory, entry[0])
            elif self._takes_new or (seen is not None and self._takes_changed):
                ino = self._allocate()
                if seen is not None:
                    self._take_from(object_key, seen, parent, entry, ino)
                fresh.append((dentry, object_key, schema.pack_u64(ino), entry))
        self._insert(parent_key, fresh)

    def _without_reserved(self, directory: bytes, entries: Sequence[PreparedEntry]) -> Sequence[PreparedEntry]:
        """Nobody's object is shown among the losers of conflicts, which are local."""
        if not directory:
            refused = [name for name, _, _ in entries if name == self._reserved]
        elif directory.partition(b"/")[0] == self._reserved:
            refused = [directory + b"/" + name for name, _, _ in entries]
        else:
            return entries
        for relative in refused:
            self.skip(relative, RESERVED)
        return [entry for entry in entries if not directory and entry[0] != self._reserved]

    def _is_known(self, object_key: bytes, seen: bytes | None, listed: bytes) -> bool:
        """Whether there is nothing to do about a listed object."""
        if seen is not None and _same_version(seen, listed):
            return True
        return self._sweep is not None and object_key in self._sweep.touched

    def _directory_for_new(self, path: bytes) -> Ino | None:
        if not self._takes_new:
            return walk(self._txn, Ino(self._association.root_ino), path)
        return self.directory(path)

    def _is_followed(self, object_key: bytes, seen: bytes | None, listed: bytes) -> bool:
        """The object of a file that was renamed here, and not yet there, has new content. Without a whole copy of the old one the
        file is whatever its object is."""
        if seen is None or seen[:8] == _NOBODY or not self._takes_changed:
            return False
        old = schema.decode_object(object_key, seen)
        inode = records.find_inode(self._txn, old.ino)
        if inode is None or not inode.nlink or inode.is_complete or (inode.source_assoc, inode.source_key) != (old.assoc, old.key):
            return False
        relative = old.key[len(self._association.prefix.encode()) :]
        if walk(self._txn, Ino(self._association.root_ino), relative) == inode.ino:
            return False
        new = schema.decode_object(object_key, seen[:8] + listed)
        if attributes.replace_content(self._txn, inode.ino, new, self._now_ns) is None:
            return False
        self.applied.changed.append(inode.ino)
        self.applied.outdated.append(inode)
        return True

    def _take_from(self, object_key: bytes, seen: bytes, parent: Ino, entry: PreparedEntry, ino: Ino) -> None:
        """An object whose name was taken away here, and not yet there, has new content: that is a new file, number `ino`."""
        old = schema.decode_object(object_key, seen)
        if old.ino:
            journal.detach_source(self._txn, old.ino, old.assoc, old.key, self._now_ns)
        if self._txn.get(Table.JOURNAL, schema.journal_object_key(old.assoc, old.key)) is not None:
            etag = schema.decode_object(object_key, _NOBODY + entry[2]).etag
            self._note(ConflictKind.DELETED_HERE, parent, entry[0], etag, ino)

    def _note(self, kind: ConflictKind, parent: Ino, name: bytes, etag: str, ino: Ino) -> None:
        path = path_of(self._txn, parent).rstrip(b"/") + b"/" + name
        conflict = Conflict(kind, self._now_ns, path.decode(errors="replace"), etag=etag, winner_ino=ino)
        conflict_log.note(self._txn, conflict)
        self.applied.conflicts.append(conflict)

    def _object_key(self, plain: bytes) -> bytes:
        if len(plain) <= schema.LONGEST_TABLE_KEY:
            return plain
        return schema.object_key(self._association.assoc_id, plain[2:])

    def _insert(self, parent_key: bytes, fresh: list[tuple[bytes, bytes, bytes, PreparedEntry]]) -> None:
        """New files of one directory: (dentry key, object key, ino key, entry)."""
        if fresh:
            if self._sweep is not None:
                self._announce(schema.decode_u64(parent_key), [entry[0] for _, _, _, entry in fresh])
                for key in self._txn.get_many(Table.SKIPPED, [key for _, key, _, _ in fresh]):
                    self._txn.delete(Table.SKIPPED, key)
            self._txn.put_many(Table.INODES, [(ino, parent_key + entry[1]) for _, _, ino, entry in fresh])
            self._txn.put_many(Table.DENTRIES, [(dentry, ino) for dentry, _, ino, _ in fresh])
            self._txn.put_many(Table.OBJECTS, [(key, ino + entry[2]) for _, key, ino, entry in fresh])
            self.applied.new += len(fresh)

    def _announce(self, parent: Ino, names: list[bytes]) -> None:
        """A directory that somebody may have listed gets these names."""
        inode = records.get_inode(self._txn, parent)
        inode.mtime_ns = inode.ctime_ns = self._now_ns
        records.put_inode(self._txn, inode)
        self.applied.grown.add(parent)
        self.applied.appeared += [(parent, name) for name in names]

    def _observe_changed(self, taken: bytes, object_key: bytes, object_tail: bytes, directory: bytes, name: bytes) -> None:
        ino = schema.decode_u64(taken)
        inode = records.find_inode(self._txn, ino)
        if inode is not None and inode.is_dir:
            self.skip(directory + b"/" + name if directory else name, DIRECTORY_WINS)
            return
        seen = schema.decode_object(object_key, schema.pack_u64(ino) + object_tail)
        if self._txn.get(Table.JOURNAL, schema.journal_ino_key(ino)) is None:
            if attributes.replace_content(self._txn, ino, seen, self._now_ns) is not None:
                self.applied.changed.append(ino)
                if inode is not None:
                    self.applied.outdated.append(inode)
            elif inode is not None and inode.flags & InodeFlag.EXCLUDED:
                self._note_excluded(inode, seen.etag)

    def _note_excluded(self, inode: Inode, etag: str) -> None:
        """The export policy keeps a change here, and the object changed too: said once for each version."""
        before = conflict_log.of_inode(self._txn, inode.ino)
        if before is None or (before.kind, before.etag) != (ConflictKind.NOT_EXPORTED, etag):
            self._note(ConflictKind.NOT_EXPORTED, inode.parent, inode.name, etag, inode.ino)

    def directory(self, path: bytes) -> Ino | None:
        """The directory at a relative path, made with its parents where missing; None: a changed file is in the way."""
        ino = Ino(self._association.root_ino)
        if not path:
            return ino
        if path.partition(b"/")[0] == self._reserved:
            return None
        at = b""
        for name in path.split(b"/"):
            child = records.find_child(self._txn, ino, name)
            at = at + b"/" + name if at else name
            if child is not None:
                inode = records.get_inode(self._txn, child)
                if inode.is_dir:
                    ino = child
                    continue
                if not self._move_aside(inode, at):
                    return None
            ino = self._make_directory(ino, name)
        return ino

    def _move_aside(self, inode: Inode, path: bytes) -> bool:
        """A clean file `a` gives way to the directory `a/`, so that the outcome does not depend on the listing's order."""
        if inode.nlink > 1:
            return False
        if inode.is_dirty or self._txn.get(Table.JOURNAL, schema.journal_ino_key(inode.ino)) is not None or self._in_use(inode.ino):
            return False
        self.applied.replaced.append((inode.parent, inode.name))
        if self._sweep is not None:
            self._note(ConflictKind.DIRECTORY_THERE, inode.parent, inode.name, "", NO_INO)
        records.delete_dentry(self._txn, inode.parent, inode.name)
        purge(self._txn, inode)
        self.skip(path, DIRECTORY_WINS)
        return True

    def _make_directory(self, parent: Ino, name: bytes) -> Ino:
        ino = make_directory(self._txn, parent, name, self._association, self._now_ns, self._allocate())
        self.applied.made.add(ino)
        if self._sweep is not None:
            self._announce(parent, [name])
        if parent not in self.applied.made:
            self.applied.grown.add(parent)
        return ino

    def marker(self, path: bytes, size: int, etag: bytes, mtime_ns: int, storage_class: bytes) -> None:
        """A `dir/` object: the directory exists, and its headers are still to be asked for."""
        key = self._prefix[2:] + path + b"/" if path else self._prefix[2:]
        table_key = schema.object_key(self._association.assoc_id, key)
        tail = schema.object_tail(etag, size, mtime_ns, storage_class, b"", schema.long_key(key))
        if not key or self._is_known(table_key, self._txn.get(Table.OBJECTS, table_key), tail):
            return
        if path.partition(b"/")[0] == self._reserved:
            self.skip(path + b"/", RESERVED)
            return
        ino = self._directory_for_new(path)
        if ino is None:
            if self._takes_new:
                self.skip(path + b"/", FILE_IN_THE_WAY)
            return
        self._txn.put(Table.OBJECTS, table_key, schema.pack_u64(ino) + tail)
        inode = records.get_inode(self._txn, ino)
        if self._association.posix_metadata != "off" and self._txn.get(Table.JOURNAL, schema.journal_ino_key(ino)) is None:
            inode.flags |= InodeFlag.HEADERS_UNKNOWN
            inode.mtime_ns = mtime_ns
            records.put_inode(self._txn, inode)
            self.applied.changed.append(ino)

    def skip(self, relative: bytes, reason: str) -> None:
        """Remember a key that cannot be a file, and why."""
        key = self._prefix[2:] + relative
        value = reason.encode() + b"\0" + relative
        self._txn.put(Table.SKIPPED, schema.object_key(self._association.assoc_id, key), value)


def _same_version(known: bytes, tail: bytes) -> bool:
    """Whether a stored object value and a listed one speak of the same version: equal ETag and size."""
    a = schema.decode_object(b"\0\0", known)
    b = schema.decode_object(b"\0\0", schema.pack_u64(NO_INO) + tail)
    return a.etag == b.etag and a.size == b.size


def skipped(txn: Txn, association: Association) -> list[tuple[bytes, str]]:
    """(relative key, reason) of every key that could not become a file."""
    found = []
    for _, value in txn.scan(Table.SKIPPED, schema.pack_u16(association.assoc_id)):
        reason, _, relative = value.partition(b"\0")
        found.append((relative, reason.decode()))
    return found


def hidden_by(txn: Txn, association: Association, inode: Inode, relative: bytes) -> list[tuple[bytes, str]]:
    """(relative key, reason) of objects that cannot be shown because of what has their name here, or that of their directory."""
    key = schema.object_key(association.assoc_id, association.key_of(relative))
    if inode.is_dir:
        own = txn.get(Table.SKIPPED, key)
        values = [own] if own is not None else []
    else:
        values = [value for _, value in txn.scan(Table.SKIPPED, key + b"/", limit=_HIDDEN)]
    parts = [value.partition(b"\0") for value in values]
    return [(hidden, reason.decode()) for reason, _, hidden in parts]


def unknown_headers(txn: Txn, after: Ino, limit: int) -> tuple[list[Inode], Ino, bool]:
    """Inodes above `after` whose headers nobody asked for yet, from at most `limit` records; the last one looked at; and
    whether there are more."""
    rows = txn.scan(Table.INODES, b"", after=schema.pack_u64(after), limit=limit)
    found = [
        schema.decode_inode(schema.decode_u64(key), raw) for key, raw in rows if schema.inode_flags(raw) & InodeFlag.HEADERS_UNKNOWN
    ]
    return found, schema.decode_u64(rows[-1][0]) if rows else after, len(rows) == limit
