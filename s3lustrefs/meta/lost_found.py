"""Transaction functions of `.s3lustrefs-lost+found`, where losers of conflicts stay under the path they had.

What is there is local only. Nobody but the conflicts puts anything there. Its directories can be passed but not listed by others
than the owner of the mount; a loser can be read only by its owner, since the directories that protected it are not there.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from s3lustrefs import errors
from s3lustrefs.meta import location, records, schema
from s3lustrefs.meta.location import LOST_FOUND, LocationMap
from s3lustrefs.meta.namespace import drop_link, touch_dir
from s3lustrefs.meta.schema import Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.meta.vanished import Removed
from s3lustrefs.model.association import MAX_NAME_BYTES
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import ROOT_INO, Ino
from s3lustrefs.model.inode import Inode

_DIR_MODE = stat.S_IFDIR | 0o711
_OWNER_ONLY = 0o700


@dataclass(slots=True)
class Shelf:
    """A free place for a loser, and the names that had to be made for it."""

    directory: Ino
    name: bytes
    made: list[tuple[Ino, bytes]] = field(default_factory=list)


def numbered(name: bytes, tail: bytes = b"", most_bytes: int = MAX_NAME_BYTES) -> Iterator[bytes]:
    """NAME+TAIL, then NAME+TAIL-2, -3 and so on, with NAME cut where the whole would be longer than that."""
    number = 1
    while True:
        end = tail if number == 1 else tail + b"-%d" % number
        yield _cut(name, most_bytes - len(end)) + end
        number += 1


def _cut(name: bytes, most_bytes: int) -> bytes:
    """The beginning of a name. Between two characters: what is not UTF-8 could not be exported."""
    while 0 < most_bytes < len(name) and name[most_bytes] & 0xC0 == 0x80:
        most_bytes -= 1
    return name[:most_bytes]


def free_name(txn: Txn, directory: Ino, name: bytes, tail: bytes, most_bytes: int = MAX_NAME_BYTES) -> bytes:
    """The first of `numbered` that the directory does not have."""
    return next(each for each in numbered(name, tail, most_bytes) if records.find_child(txn, directory, each) is None)


def shelf(txn: Txn, path: bytes, stamp: bytes, owner: tuple[int, int], now_ns: int, allocate: Callable[[], Ino]) -> Shelf:
    """A place for the loser of an absolute path, its directories made where missing. A second loser gets the time as suffix.

    Raises: NotADirectory when somebody's file has the name of the whole.
    """
    taken = records.find_child(txn, ROOT_INO, LOST_FOUND)
    if taken is not None and not records.get_inode(txn, taken).is_dir:
        raise errors.NotADirectory(f"/{LOST_FOUND.decode()} is not a directory: rename it, the losers of conflicts go there")
    found = Shelf(ROOT_INO, b"")
    *above, name = [LOST_FOUND, *filter(None, path.split(b"/"))]
    for part in above:
        _descend(txn, found, part, owner, now_ns, allocate)
    is_free = records.find_child(txn, found.directory, name) is None
    found.name = name if is_free else free_name(txn, found.directory, name, b"." + stamp)
    return found


def _descend(txn: Txn, found: Shelf, part: bytes, owner: tuple[int, int], now_ns: int, allocate: Callable[[], Ino]) -> None:
    """Into the directory of that name, made if need be; where a loser that was a file has it, into one with a number."""
    for name in numbered(part):
        child = records.find_child(txn, found.directory, name)
        if child is None:
            child = allocate()
            uid, gid = owner
            inode = Inode(child, _DIR_MODE, uid, gid, 2, 0, now_ns, now_ns, now_ns, parent=found.directory, name=name)
            put_name(txn, inode, found.directory, name, now_ns)
            found.made.append((found.directory, name))
        elif not records.get_inode(txn, child).is_dir:
            continue
        found.directory = child
        return


def put_name(txn: Txn, inode: Inode, parent: Ino, name: bytes, now_ns: int) -> None:
    """A new inode under its first name."""
    inode.parent, inode.name = parent, name
    records.put_inode(txn, inode)
    records.put_dentry(txn, parent, name, inode.ino)
    touch_dir(txn, records.get_dir(txn, parent), now_ns, links=1 if inode.is_dir else 0)


def private(mode: int) -> int:
    """The mode of a loser: for its owner only, who can read it."""
    return mode if stat.S_ISLNK(mode) else stat.S_IFMT(mode) | mode & _OWNER_ONLY | stat.S_IRUSR


def keep_local(txn: Txn, locations: LocationMap, inode: Inode, now_ns: int) -> None:
    """An inode has just come here: nothing of it is exported any more, save under other names that it has elsewhere."""
    if not inode.is_complete:
        inode.hsm |= Hsm.NORELEASE  # what is fetched of it now must still be there when its object goes
    inode.ctime_ns = now_ns
    if inode.nlink == 1:
        inode.mode = private(inode.mode)
    if all(locations.of_directory(txn, parent) is None for parent, _ in records.names_of(txn, inode)):
        txn.delete(Table.JOURNAL, schema.journal_ino_key(inode.ino))
    records.put_inode(txn, inode)


def remove(txn: Txn, parent: Ino, name: bytes, now_ns: int, in_use: Callable[[Ino], bool], *, is_vanished: bool) -> Removed | None:
    """Take away one loser, or an empty directory here; None when it is not there, not empty, or still to be fetched from an
    object that has not `is_vanished`."""
    ino = records.find_child(txn, parent, name)
    inode = records.find_inode(txn, ino) if ino is not None else None
    if inode is None or not (location.is_lost_found(txn, inode.ino) or location.is_lost_found(txn, parent)):
        return None
    if inode.is_dir and txn.scan(Table.DENTRIES, schema.pack_u64(inode.ino), limit=1):
        return None
    if waits_for_fetch(txn, inode) and not is_vanished:
        return None
    drop_link(txn, inode, parent, name, now_ns, in_use)
    touch_dir(txn, records.get_dir(txn, parent), now_ns, links=-1 if inode.is_dir else 0)
    return Removed(parent, name, inode, in_use(inode.ino))


def waits_for_fetch(txn: Txn, inode: Inode) -> bool:
    """Whether only the bucket has all of its bytes yet: they come before its object is replaced."""
    if inode.is_complete or not inode.source_assoc:
        return False
    source = records.find_object(txn, inode.source_assoc, inode.source_key)
    return source is not None and source.ino == inode.ino
