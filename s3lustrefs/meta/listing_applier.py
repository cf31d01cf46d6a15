"""Transaction functions that bring listed objects into the inode table: metadata only, idempotent, in batches.

One idempotent rule for every listed object, compared with the objects table and the dentries:
unknown object and free name: a new, cold file. Same ETag as known: nothing. Other ETag: new content of a clean file. A file
with local changes is left alone: its export will find the difference by its condition. So is an object that a request of ours
may have written, while nobody knows (`writes`): the exporter finds out. A later listing of the same prefix (a
sweep) follows the same rule, as far as the association's policy goes; what it no longer finds is `vanished`'s matter.
In a file cache a sweep leaves directories alone that nobody has looked into: their names come when somebody does.

No object is hidden by another in silence: what cannot show is in the table SKIPPED, with the reason, until it shows or is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

from s3lustrefs.meta import apart, attributes, hard_links, journal, records, schema
from s3lustrefs.meta.associations import make_directory
from s3lustrefs.meta.listing import (
    DIRECTORY_WINS,
    FILE_IN_THE_WAY,
    MARKER_HAS_CONTENT,
    PATH_MAX,
    RESERVED,
    SPECIAL_FILE_WINS,
    Applied,
    PreparedEntry,
    Sweep,
)
from s3lustrefs.meta.listing_conflicts import ListingConflicts, same_version
from s3lustrefs.meta.location import LOST_FOUND, LocationMap, walk
from s3lustrefs.meta.namespace import purge
from s3lustrefs.meta.schema import ObjectRecord, Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.association import Association
from s3lustrefs.model.conflict import ConflictKind
from s3lustrefs.model.ids import NO_INO, ROOT_INO, Ino
from s3lustrefs.model.inode import Inode, InodeFlag

_NOBODY = schema.pack_u64(NO_INO)


class ListingApplier:
    """Applies prepared groups of one association. `allocate` hands out an inode number inside the transaction."""

    def __init__(
        self,
        txn: Txn,
        locations: LocationMap,
        association: Association,
        now_ns: int,
        allocate: Callable[[], Ino],
        in_use: Callable[[Ino], bool],
        sweep: Sweep | None = None,
        touched: Container[bytes] = (),
    ) -> None:
        self._txn = txn
        self._locations = locations
        self._association = association
        self._prefix = schema.pack_u16(association.assoc_id) + association.prefix.encode()
        self._now_ns = now_ns
        self._allocate = allocate
        self._in_use = in_use
        self._sweep = sweep
        self._touched = touched if sweep is None else sweep.touched
        self._new_since_ns = sweep.new_since_ns - attributes.TIME_MARGIN_NS if sweep is not None and sweep.new_since_ns else 0
        self._takes_new = sweep is None or "NEW" in sweep.events
        self._takes_changed = sweep is None or "CHANGED" in sweep.events
        self._conflicts = ListingConflicts(txn, locations, association, now_ns)
        self.applied = Applied(conflicts=self._conflicts.met)
        self._reserved = LOST_FOUND if association.root_ino == ROOT_INO else None

    def group(self, directory: bytes, entries: Sequence[PreparedEntry]) -> None:
        """Files of one directory. A name that a server listed twice counts once."""
        if self._reserved is not None:
            entries = self._without_reserved(directory, entries)
        if not entries:
            return
        if len({entry[0] for entry in entries}) < len(entries):
            entries = list({entry[0]: entry for entry in entries}.values())
        base = self._prefix[2:] + (directory + b"/" if directory else b"")
        objects = schema.object_keys(self._association.assoc_id, [base + entry[0] for entry in entries])
        known = self._txn.get_many(Table.OBJECTS, objects)
        in_doubt = self._in_doubt(objects)
        differing = [
            (object_key, seen, entry)
            for object_key, entry in zip(objects, entries, strict=True)
            # Nearly always nothing differs, which is seen here in a third of the time that the calls take.
            if ((seen := known.get(object_key)) is None or seen[8:] != entry[2])
            and not self._is_known(object_key, seen, entry[2])
            and object_key not in in_doubt
            and not self._is_followed(object_key, seen, entry[2])
        ]
        # A directory is made for what is new in it only: one that was moved away here still has its objects in the bucket.
        if not differing or not self._may_look_into(directory):
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
            if seen is not None and seen[:8] != taken.get(dentry, _NOBODY):
                self._conflicts.outlives(schema.decode_object(object_key, seen))
            if dentry in taken:
                may = seen is None or self._takes_changed
                if not may or not self._observe_changed(taken[dentry], object_key, seen, entry[2], directory, entry[0]):
                    continue
            elif not self._takes_new and (seen is None or not self._takes_changed):
                continue
            ino = self._allocate()
            if dentry not in taken and seen is not None:
                etag = schema.decode_object(object_key, _NOBODY + entry[2]).etag
                self._conflicts.take_from(schema.decode_object(object_key, seen), parent, entry[0], etag, ino)
            fresh.append((dentry, object_key, schema.pack_u64(ino), entry))
        self._insert(parent_key, fresh)

    def _without_reserved(self, directory: bytes, entries: Sequence[PreparedEntry]) -> Sequence[PreparedEntry]:
        """Nobody's object is shown among the losers of conflicts, which are local."""
        if directory and directory.partition(b"/")[0] != self._reserved:
            return entries
        for name, _, _ in entries:
            if directory or name == self._reserved:
                self.skip(directory + b"/" + name if directory else name, RESERVED)
        return [entry for entry in entries if not directory and entry[0] != self._reserved]

    def _is_known(self, object_key: bytes, seen: bytes | None, listed: bytes) -> bool:
        """Whether there is nothing to do about a listed object."""
        if seen is not None and same_version(seen, listed):
            if seen[8:] != listed:
                self._look_closer(object_key, seen, listed)
            return True
        if seen is None and schema.tail_mtime_ns(listed) < self._new_since_ns:
            return True
        if object_key not in self._touched:
            return False
        if self._sweep is not None:
            self._sweep.overtaken.add(object_key)
        return True

    def _look_closer(self, object_key: bytes, seen: bytes, listed: bytes) -> None:
        """The same bytes, but written anew since, perhaps with other attributes; or moved to another storage class."""
        if self._sweep is None or object_key in self._sweep.touched or not self._takes_changed:
            return
        known, found = schema.decode_object(object_key, seen), schema.decode_object(object_key, _NOBODY + listed)
        if known.storage_class != found.storage_class:
            known.storage_class = found.storage_class
            records.put_object(self._txn, known)
        if known.mtime_ns != found.mtime_ns and self._association.posix_metadata != "off":
            doubted = attributes.doubt_headers(self._txn, known.assoc, known.key, found.mtime_ns, attributes.TIME_MARGIN_NS)
            if doubted is not None:
                self.applied.doubted.append(doubted)

    def _in_doubt(self, objects: list[bytes]) -> set[bytes]:
        """Those which a request of ours may have written, as long as the exporter is going to find out. Mostly there are none, and
        looking for one says so quickly."""
        if not self._txn.scan(Table.WRITES, self._prefix[:2], limit=1):
            return set()
        noted = self._txn.get_many(Table.WRITES, objects)
        if self._sweep is not None and self._sweep.is_certain:
            for key in noted:
                self._txn.delete(Table.WRITES, key)
            return set()
        keys = {key: schema.decode_writes(value)[0] for key, value in noted.items()}
        return {key for key, name in keys.items() if journal.is_looked_after(self._txn, self._association, name)}

    def _directory_for_new(self, path: bytes) -> Ino | None:
        if not self._takes_new:
            return walk(self._txn, Ino(self._association.root_ino), path + b"/")
        return self.directory(path)

    def _may_look_into(self, path: bytes) -> bool:
        """Whether names in a directory are the business of this listing. Of one that a sweep may not look into, the first
        directory on the way that is missing is made."""
        if self._sweep is None or not self._association.is_lazy:
            return True
        ino = Ino(self._association.root_ino)
        for name in [part for part in path.split(b"/") if part]:
            if self._is_unlisted(ino):
                return False
            child = records.find_child(self._txn, ino, name)
            if child is not None and not records.get_inode(self._txn, child).is_dir:
                return True  # what a file in the way means is decided where the directory is needed
            if child is None:
                if self._takes_new:
                    self._make_directory(ino, name)
                return False
            ino = child
        return not self._is_unlisted(ino)

    def _is_unlisted(self, ino: Ino) -> bool:
        return bool(records.get_inode(self._txn, ino).flags & InodeFlag.UNLISTED)

    def _is_followed(self, object_key: bytes, seen: bytes | None, listed: bytes) -> bool:
        """Whether the object is that of a file which was renamed here and takes the new content with it."""
        if seen is None or not self._takes_changed:
            return False
        old, new = schema.decode_object(object_key, seen), schema.decode_object(object_key, seen[:8] + listed)
        before, after = self._conflicts.follow(old, new) or (None, None)
        if before is None or after is None:
            return False
        self.applied.changed.append(after.ino)
        self.applied.outdated.append(before)
        self._ask_for_headers(after)
        return True

    def _insert(self, parent_key: bytes, fresh: list[tuple[bytes, bytes, bytes, PreparedEntry]]) -> None:
        """New files of one directory: (dentry key, object key, ino key, entry)."""
        if fresh:
            if self._sweep is not None:
                self._announce(schema.decode_u64(parent_key), [entry[0] for _, _, _, entry in fresh])
            self._txn.put_many(Table.INODES, [(ino, parent_key + entry[1]) for _, _, ino, entry in fresh])
            self._txn.put_many(Table.DENTRIES, [(dentry, ino) for dentry, _, ino, _ in fresh])
            objects = [(key, ino + entry[2]) for _, key, ino, entry in fresh]
            if self._sweep is not None and self._sweep.is_told:
                for key, value in objects:
                    self._txn.put(Table.OBJECTS, key, value)
            else:
                self._txn.put_many(Table.OBJECTS, objects)
            self.applied.new += len(fresh)

    def _announce(self, parent: Ino, names: list[bytes]) -> None:
        """A directory that somebody may have listed gets these names."""
        inode = records.get_inode(self._txn, parent)
        inode.mtime_ns = inode.ctime_ns = self._now_ns
        records.put_inode(self._txn, inode)
        self.applied.grown.add(parent)
        self.applied.appeared += [(parent, name) for name in names]

    def _observe_changed(
        self, taken: bytes, object_key: bytes, known: bytes | None, object_tail: bytes, directory: bytes, name: bytes
    ) -> bool:
        """True when the name is free now: the kernel takes no other kind of file under the number of a symlink."""
        ino = schema.decode_u64(taken)
        inode = records.get_inode(self._txn, ino)
        relative = directory + b"/" + name if directory else name
        if inode.is_dir or not inode.is_exportable:
            reason = DIRECTORY_WINS if inode.is_dir else SPECIAL_FILE_WINS
            self.skip(relative, reason)
            journal.forget_object(self._txn, self._association.assoc_id, self._prefix[2:] + relative, self._now_ns)
            return False
        seen = schema.decode_object(object_key, taken + object_tail)
        if apart.is_parted(self._txn, self._association, inode, seen.key):
            self._conflicts.stays(inode, seen.etag, ConflictKind.EXPORTED_APART)
            return False
        if inode.is_symlink and self._is_only_the_object(inode, seen.key):
            return self._drop_name(inode)
        if self._txn.get(Table.JOURNAL, schema.journal_ino_key(ino)) is None:
            is_kept = bool(inode.flags & InodeFlag.EXCLUDED)
            is_its_object = inode.is_left_behind or (known is not None and known[:8] == taken)
            if is_kept and not is_its_object:  # renamed to where somebody put an object
                self._conflicts.stays(inode, seen.etag)
            elif (replaced := self._replace(inode, seen)) is not None:
                self._ask_for_headers(replaced)
                if is_kept:
                    self._conflicts.keeps_attributes(inode, seen.etag)
            elif is_kept:
                self._conflicts.stays(inode, seen.etag)
        return False

    def _replace(self, inode: Inode, seen: ObjectRecord) -> Inode | None:
        """Give a file what its object has now; the file that is so then, see `hard_links.set_apart`. None: it stays as it is."""
        changed = hard_links.set_apart(self._txn, self._locations, inode, seen, self._now_ns, self._allocate) or inode
        replaced = attributes.replace_content(self._txn, changed.ino, seen, self._now_ns)
        if replaced is None:
            return None
        self.applied.changed.append(replaced.ino)
        if replaced.ino == inode.ino:
            self.applied.outdated.append(inode)
        else:
            self.applied.replaced.append((replaced.parent, replaced.name))
            self.applied.grown.add(inode.ino)
        return replaced

    def _ask_for_headers(self, changed: Inode) -> None:
        if not changed.flags & InodeFlag.HEADERS_UNKNOWN:
            return
        if self._association.posix_metadata == "off":
            changed.flags &= ~InodeFlag.HEADERS_UNKNOWN
        elif 0 < changed.size < PATH_MAX:
            changed.flags |= InodeFlag.KIND_UNKNOWN
            self.applied.replaced.append((changed.parent, changed.name))  # it may be a symlink now
        records.put_inode(self._txn, changed)

    def _is_only_the_object(self, inode: Inode, key: bytes) -> bool:
        """Whether the bucket has under this key all there is to know about a file or symlink, so that it may go."""
        known = self._txn.get(Table.OBJECTS, schema.object_key(self._association.assoc_id, key))
        if apart.is_parted(self._txn, self._association, inode, key):
            return False
        changed_here = (inode.is_file and inode.is_dirty) or bool(inode.flags & InodeFlag.EXCLUDED)
        journalled = self._txn.get(Table.JOURNAL, schema.journal_ino_key(inode.ino)) is not None
        is_held = known is not None and known[:8] == schema.pack_u64(inode.ino)
        return is_held and not changed_here and not journalled and inode.nlink == 1 and not self._in_use(inode.ino)

    def _drop_name(self, inode: Inode) -> bool:
        self.applied.replaced.append((inode.parent, inode.name))
        self.applied.removed += 1
        records.delete_dentry(self._txn, inode.parent, inode.name)
        purge(self._txn, inode)
        if inode.is_file:
            self.applied.outdated.append(inode)
        return True

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
        key = self._prefix[2:] + path
        if not self._is_only_the_object(inode, key):
            return False
        if self._sweep is not None:
            self._conflicts.gives_way(inode)
        self._drop_name(inode)
        # Nothing is known of it, so that it shows again once the directory is gone, and no export here replaces it unseen.
        records.delete_object(self._txn, self._association.assoc_id, key)
        self.skip(path, DIRECTORY_WINS)
        return True

    def _make_directory(self, parent: Ino, name: bytes) -> Ino:
        flags = InodeFlag.NONE
        if self._association.is_lazy:
            flags |= InodeFlag.UNLISTED
            if self._association.posix_metadata != "off":  # no listing of its parent shows whether it has an object
                flags |= InodeFlag.HEADERS_UNKNOWN
        ino = make_directory(self._txn, parent, name, self._association, self._now_ns, self._allocate(), flags)
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
        if size:
            self.skip(path + b"/" if path else b"", MARKER_HAS_CONTENT)
        if not key or self._is_known(table_key, self._txn.get(Table.OBJECTS, table_key), tail) or self._in_doubt([table_key]):
            return
        if path.partition(b"/")[0] == self._reserved:
            self.skip(path + b"/", RESERVED)
            return
        if path and not self._may_look_into(path.rpartition(b"/")[0]):
            return
        ino = self._directory_for_new(path)
        if ino is None:
            if self._takes_new:
                self.skip(path + b"/", FILE_IN_THE_WAY)
            return
        self._txn.put(Table.OBJECTS, table_key, schema.pack_u64(ino) + tail)
        inode = records.get_inode(self._txn, ino)
        is_given_here = inode.flags & InodeFlag.EXCLUDED or self._txn.get(Table.JOURNAL, schema.journal_ino_key(ino)) is not None
        is_given_here = is_given_here or apart.is_parted(self._txn, self._association, inode, key)
        if self._association.posix_metadata != "off" and not is_given_here:
            inode.flags |= InodeFlag.HEADERS_UNKNOWN
            inode.mtime_ns = mtime_ns
            records.put_inode(self._txn, inode)
            self.applied.changed.append(ino)

    def skip(self, relative: bytes, reason: str) -> None:
        """Remember a key that cannot be a file, and why."""
        key = self._prefix[2:] + relative
        table_key = schema.object_key(self._association.assoc_id, key)
        value = reason.encode() + b"\0" + relative
        if self._txn.get(Table.SKIPPED, table_key) != value:
            self._txn.put(Table.SKIPPED, table_key, value)
            self.applied.skipped.append((relative, reason))
