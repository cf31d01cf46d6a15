"""Transaction functions of a conflict: file and object both changed. One side keeps the name, the other one is kept beside it or in
lost+found. Nothing is lost.

Where the file wins, the bucket's version becomes a file in lost+found whose bytes are still in the bucket, and the object's record
names that file: so no export replaces the object before they are here (`export_targets.dependant`), whatever happens in between.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from s3lustrefs.meta import conflict_log, journal, lost_found, records, schema, writes
from s3lustrefs.meta.location import LocationMap, path_of, walk
from s3lustrefs.meta.schema import Change, ObjectRecord, Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.association import MAX_KEY_BYTES, MAX_NAME_BYTES, Association
from s3lustrefs.model.conflict import Conflict, ConflictKind
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import NO_ASSOC, NO_INO, ContentVersion, Ino
from s3lustrefs.model.inode import Inode, InodeFlag

_NUMBER_BYTES = 6
"""Of a number that tells conflicts of one second and name apart, and a rest of the name."""


@dataclass(frozen=True, slots=True)
class Dispute:
    """What an export knows of a conflict. `time` and `host` are for names; `owner` has the directories in lost+found.

    `mode`, `uid`, `gid`, `mtime_ns` and `target` (of a symlink) are those of the bucket's version.
    """

    ino: Ino
    seen: ObjectRecord
    time: bytes
    host: bytes
    owner: tuple[int, int]
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    target: bytes = b""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What became of it, and the names that are new or stand for something else now."""

    conflict: Conflict
    names: list[tuple[Ino, bytes]] = field(default_factory=list)


class Resolver:
    """Settles one conflict inside a transaction."""

    def __init__(
        self, txn: Txn, locations: LocationMap, association: Association, dispute: Dispute, now_ns: int, allocate: Callable[[], Ino]
    ) -> None:
        self._txn = txn
        self._locations = locations
        self._association = association
        self._dispute = dispute
        self._seen = dispute.seen
        self._now_ns = now_ns
        self._allocate = allocate
        self._names: list[tuple[Ino, bytes]] = []

    def resolve(self) -> Resolved | None:
        """As the policy of the association says. None when the local file no longer has the name."""
        relative = self._association.relative_of(self._seen.key)
        above, _, name = relative.rpartition(b"/")
        parent = walk(self._txn, Ino(self._association.root_ino), above)
        inode = records.find_inode(self._txn, self._dispute.ino)
        if parent is None or inode is None or records.find_child(self._txn, parent, name) != inode.ino:
            return None
        self._detach_others(inode)
        path = path_of(self._txn, parent).rstrip(b"/") + b"/" + name
        policies = {"keep-both": self._keep_both, "bucket-wins": self._bucket_wins, "file-wins": self._file_wins}
        conflict = policies[self._association.on_conflict](inode, parent, name, path)
        conflict_log.note(self._txn, conflict)
        writes.forget(self._txn, self._seen.assoc, self._seen.key)  # what the key holds is known now
        return Resolved(conflict, self._names)

    def _detach_others(self, inode: Inode) -> None:
        """Another file had its archived copy there, in a version that is gone."""
        before = records.find_object(self._txn, self._seen.assoc, self._seen.key)
        if before is not None and before.ino not in (NO_INO, inode.ino):
            journal.detach_source(self._txn, before.ino, before.assoc, before.key, self._now_ns)

    # --- policies --------------------------------------------------------------------------------------------------------

    def _keep_both(self, inode: Inode, parent: Ino, name: bytes, path: bytes) -> Conflict:
        tail = b".conflict-" + self._dispute.time + b"-" + self._dispute.host
        other = lost_found.free_name(self._txn, parent, name, tail, self._room(name, tail))
        self._move(inode, (parent, name), (parent, other))
        journal.detach_source(self._txn, inode.ino, self._seen.assoc, self._seen.key, self._now_ns)
        journal.mark(self._txn, inode.ino, Change.CONTENT | Change.NAME, self._now_ns)
        winner = self._import(parent, name)
        return self._conflict(ConflictKind.KEPT_BOTH, path, path[: -len(name)] + other, winner, inode.ino)

    def _bucket_wins(self, inode: Inode, parent: Ino, name: bytes, path: bytes) -> Conflict:
        place = self._shelf(path)
        self._move(inode, (parent, name), (place.directory, place.name))
        journal.detach_source(self._txn, inode.ino, self._seen.assoc, self._seen.key, self._now_ns)
        loser = records.get_inode(self._txn, inode.ino)
        if loser.hsm & Hsm.LOST and loser.is_dirty and not loser.is_complete:
            # What of it was not fetched in time is gone; what was changed here is kept.
            loser.source_assoc, loser.source_key, loser.hsm = NO_ASSOC, b"", Hsm.NONE
            loser.flags |= InodeFlag.DAMAGED
        lost_found.keep_local(self._txn, self._locations, loser, self._now_ns)
        winner = self._import(parent, name)
        return self._conflict(ConflictKind.BUCKET_WON, path, self._path(place), winner, inode.ino)

    def _file_wins(self, inode: Inode, parent: Ino, name: bytes, path: bytes) -> Conflict:
        place = self._shelf(path)
        loser = self._theirs(place)
        journal.detach_source(self._txn, inode.ino, self._seen.assoc, self._seen.key, self._now_ns)
        lost_found.put_name(self._txn, loser, place.directory, place.name, self._now_ns)
        self._names.append((place.directory, place.name))
        self._seen.ino = NO_INO if loser.is_complete else loser.ino
        records.put_object(self._txn, self._seen)
        return self._conflict(ConflictKind.FILE_WON, path, self._path(place), inode.ino, loser.ino)

    # --- steps -----------------------------------------------------------------------------------------------------------

    def _room(self, name: bytes, tail: bytes) -> int:
        """Bytes that the name of ours may have, so that its key is not too long for an export. Where that of its directory leaves
        no room, nothing helps, and it stays here."""
        room = MAX_KEY_BYTES - (len(self._seen.key) - len(name))
        return min(room, MAX_NAME_BYTES) if room > len(tail) + _NUMBER_BYTES else MAX_NAME_BYTES

    def _move(self, inode: Inode, old: tuple[Ino, bytes], new: tuple[Ino, bytes]) -> None:
        """Give a name of an inode to another place; the old one is about to be somebody else's."""
        records.put_dentry(self._txn, *new, inode.ino)
        if (inode.parent, inode.name) == old:
            inode.parent, inode.name = new
        else:
            self._txn.delete(Table.LINKS, schema.link_key(inode.ino, *old))
            self._txn.put(Table.LINKS, schema.link_key(inode.ino, *new), b"")
        records.put_inode(self._txn, inode)
        self._names += [old, new]

    def _import(self, parent: Ino, name: bytes) -> Ino:
        """The bucket's version takes the name, as a new cold file."""
        association, seen = self._association, self._seen
        known = association.posix_metadata != "off"
        flags = InodeFlag.HEADERS_UNKNOWN if known else InodeFlag.NONE
        winner = Inode(
            self._allocate(), stat.S_IFREG | association.file_mode, association.uid, association.gid, 1, seen.size,
            seen.mtime_ns, seen.mtime_ns, self._now_ns, parent=parent, name=name, hsm=Hsm.EXISTS | Hsm.ARCHIVED,
            flags=flags | (InodeFlag.PARTIAL if seen.size else InodeFlag.NONE), content_version=ContentVersion(1),
            chunk_bytes=association.chunk_bytes, source_assoc=seen.assoc, source_key=seen.key,
        )  # fmt: skip
        records.put_inode(self._txn, winner)
        records.put_dentry(self._txn, parent, name, winner.ino)
        seen.ino = winner.ino
        records.put_object(self._txn, seen)
        return winner.ino

    def _theirs(self, place: lost_found.Shelf) -> Inode:
        """The bucket's version as a file in lost+found, its bytes still to be fetched."""
        dispute, seen = self._dispute, self._seen
        loser = Inode(
            self._allocate(), lost_found.private(dispute.mode), dispute.uid, dispute.gid, 1, seen.size, dispute.mtime_ns,
            dispute.mtime_ns, self._now_ns, content_version=ContentVersion(1), target=dispute.target,
        )  # fmt: skip
        if loser.is_file:
            loser.chunk_bytes = self._association.chunk_bytes
        if loser.is_file and seen.size:
            loser.flags = InodeFlag.PARTIAL
            loser.hsm = Hsm.EXISTS | Hsm.ARCHIVED | Hsm.NORELEASE
            loser.source_assoc, loser.source_key = seen.assoc, seen.key
        return loser

    def _shelf(self, path: bytes) -> lost_found.Shelf:
        place = lost_found.shelf(self._txn, path, self._dispute.time, self._dispute.owner, self._now_ns, self._allocate)
        self._names += place.made
        return place

    def _path(self, place: lost_found.Shelf) -> bytes:
        return path_of(self._txn, place.directory) + b"/" + place.name

    def _conflict(self, kind: ConflictKind, path: bytes, loser: bytes, winner_ino: Ino, loser_ino: Ino) -> Conflict:
        return Conflict(
            kind,
            self._now_ns,
            path.decode(errors="replace"),
            loser.decode(errors="replace"),
            self._seen.etag,
            winner_ino,
            loser_ino,
        )
