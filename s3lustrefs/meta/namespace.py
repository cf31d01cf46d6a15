"""Transaction functions of the namespace: create, link, unlink, rename, readdir. Pure over the transaction; time is an argument.

Whatever changes a name or what it stands for notes it in the journal in the same transaction, if the place is in an association.
"""

from __future__ import annotations

import stat
from collections.abc import Callable

from s3lustrefs import errors
from s3lustrefs.meta import journal, records, schema
from s3lustrefs.meta.location import LocationMap, check_entry, is_lost_found
from s3lustrefs.meta.schema import FORMAT_VERSION, SUPER_FORMAT, Change, JournalState, Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import NO_INO, ROOT_INO, Ino
from s3lustrefs.model.inode import Inode

_MAX_LINKS = 65_000
"""As ext4."""
_SCRATCH_CHUNK_BYTES = 1 << 30
"""For files outside every association: the default of ImportedFileChunkSize."""
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


def make_root(txn: Txn, now_ns: int) -> None:
    """The first transaction of a new table."""
    txn.put(Table.SUPER, SUPER_FORMAT, str(FORMAT_VERSION).encode())
    records.put_inode(txn, Inode(ROOT_INO, stat.S_IFDIR | 0o755, 0, 0, 2, 0, now_ns, now_ns, now_ns))


def create(txn: Txn, locations: LocationMap, parent: Ino, name: bytes, inode: Inode, *, open_for_write: bool) -> Inode:
    """Add a new inode (its `ino` is already allocated) under a name. Times come from `inode.ctime_ns`.

    `open_for_write`: a handle stays open, so that the export waits for its close.
    Raises: AlreadyExists, StaleInode, NotADirectory, NameTooLong, InvalidName; NotPermitted among the losers of conflicts.
    """
    records.check_name(name)
    directory = records.get_dir(txn, parent)
    if not directory.nlink:
        raise errors.NotFound(f"directory {parent} was removed")
    if records.find_child(txn, parent, name) is not None:
        raise errors.AlreadyExists(f"{name!r} exists in inode {parent}")
    location = locations.of_name(txn, parent, name)
    if location is None:
        check_entry(txn, parent, name)
    inode.parent, inode.name = parent, name
    if directory.mode & stat.S_ISGID:
        inode.gid = directory.gid
        if inode.is_dir:
            inode.mode |= stat.S_ISGID
    if inode.is_file and not inode.chunk_bytes:
        inode.chunk_bytes = location.association.chunk_bytes if location else _SCRATCH_CHUNK_BYTES
    records.put_inode(txn, inode)
    records.put_dentry(txn, parent, name, inode.ino)
    touch_dir(txn, directory, inode.ctime_ns, links=1 if inode.is_dir else 0)
    if location is not None and inode.is_exportable:
        state = JournalState.OPEN if open_for_write else JournalState.DUE
        journal.mark(txn, inode.ino, Change.CONTENT | Change.NAME, inode.ctime_ns, state=state)
    return inode


def link(txn: Txn, locations: LocationMap, ino: Ino, parent: Ino, name: bytes, now_ns: int) -> Inode:
    """Raises: NotPermitted for directories and among the losers of conflicts; AlreadyExists, TooManyLinks, StaleInode."""
    records.check_name(name)
    if locations.of_name(txn, parent, name) is None:
        check_entry(txn, parent, name)
    inode = records.get_inode(txn, ino)
    directory = records.get_dir(txn, parent)
    if not directory.nlink:
        raise errors.NotFound(f"directory {parent} was removed")
    if inode.is_dir:
        raise errors.NotPermitted("a directory cannot have a second name")
    if inode.nlink >= _MAX_LINKS:
        raise errors.TooManyLinks(f"inode {ino} has {inode.nlink} names")
    if not inode.nlink:
        raise errors.NotFound(f"inode {ino} was unlinked")
    if records.find_child(txn, parent, name) is not None:
        raise errors.AlreadyExists(f"{name!r} exists in inode {parent}")
    records.put_dentry(txn, parent, name, ino)
    txn.put(Table.LINKS, schema.link_key(ino, parent, name), b"")
    inode.nlink += 1
    inode.ctime_ns = now_ns
    records.put_inode(txn, inode)
    touch_dir(txn, directory, now_ns)
    if locations.of_directory(txn, parent) is not None and inode.is_exportable:
        journal.mark(txn, ino, Change.NAME, now_ns)
    return inode


def unlink(txn: Txn, locations: LocationMap, parent: Ino, name: bytes, now_ns: int, in_use: Callable[[Ino], bool]) -> Inode:
    """Remove a name of anything but a directory. An inode without names becomes an orphan while `in_use`, else it is gone.

    Returns the inode as it is afterwards (nlink 0: last name gone). Raises: NotFound, IsADirectory.
    """
    inode = records.get_child(txn, parent, name)
    if inode.is_dir:
        raise errors.IsADirectory(f"{name!r} is a directory")
    _lose_name(txn, locations, inode, parent, name, now_ns)
    drop_link(txn, inode, parent, name, now_ns, in_use)
    touch_dir(txn, records.get_dir(txn, parent), now_ns)
    return inode


def rmdir(txn: Txn, locations: LocationMap, parent: Ino, name: bytes, now_ns: int, in_use: Callable[[Ino], bool]) -> Inode:
    """Raises: NotFound, NotADirectory, NotEmpty; NotPermitted for a directory that is linked to a repository."""
    inode = records.get_child(txn, parent, name)
    _check_removable_dir(txn, locations, inode)
    _lose_name(txn, locations, inode, parent, name, now_ns)
    drop_link(txn, inode, parent, name, now_ns, in_use)
    touch_dir(txn, records.get_dir(txn, parent), now_ns, links=-1)
    return inode


def _check_removable_dir(txn: Txn, locations: LocationMap, inode: Inode) -> None:
    if not inode.is_dir:
        raise errors.NotADirectory(f"{inode.name!r} is not a directory")
    if txn.scan(Table.DENTRIES, schema.pack_u64(inode.ino), limit=1):
        raise errors.NotEmpty(f"{inode.name!r} is not empty")
    if locations.is_root(inode.ino):
        raise errors.NotPermitted(f"{inode.name!r} is linked to a data repository; delete the association first")


def _lose_name(
    txn: Txn, locations: LocationMap, inode: Inode, parent: Ino, name: bytes, now_ns: int, *, subtree: bool = False
) -> None:
    """Note in the journal that the key of this name has lost its file."""
    location = locations.of_name(txn, parent, name)
    if location is None or not inode.is_exportable:
        return
    key = location.key + b"/" if inode.is_dir else location.key
    journal.mark_key_lost(txn, location.association, key, now_ns, subtree=subtree)


def drop_link(txn: Txn, inode: Inode, parent: Ino, name: bytes, now_ns: int, in_use: Callable[[Ino], bool]) -> None:
    """Remove one dentry and account for it in the inode; `inode` is updated in place."""
    records.delete_dentry(txn, parent, name)
    inode.ctime_ns = now_ns
    if not inode.is_dir and inode.nlink > 1:
        inode.nlink -= 1
        _remove_one_name(txn, inode, parent, name)
        records.put_inode(txn, inode)
        return
    inode.nlink = 0
    inode.parent, inode.name = NO_INO, b""
    txn.delete(Table.JOURNAL, schema.journal_ino_key(inode.ino))
    if in_use(inode.ino):
        records.put_inode(txn, inode)
        txn.put(Table.ORPHANS, schema.pack_u64(inode.ino), b"")
    else:
        purge(txn, inode)


def _remove_one_name(txn: Txn, inode: Inode, parent: Ino, name: bytes) -> None:
    if (inode.parent, inode.name) != (parent, name):
        txn.delete(Table.LINKS, schema.link_key(inode.ino, parent, name))
        return
    (key, _), *_ = txn.scan(Table.LINKS, schema.pack_u64(inode.ino), limit=1)
    txn.delete(Table.LINKS, key)
    inode.parent, inode.name = schema.decode_u64(key[8:16]), key[16:]


def purge(txn: Txn, inode: Inode) -> None:
    """Remove an inode without names from every table. Its object, if the bucket still has one, is now deliberately absent."""
    key = schema.pack_u64(inode.ino)
    txn.delete(Table.INODES, key)
    txn.delete(Table.ORPHANS, key)
    txn.delete(Table.RESIDENCY, key)
    for xattr, _ in txn.scan(Table.XATTRS, key):
        txn.delete(Table.XATTRS, xattr)
    if inode.source_assoc:
        source = records.find_object(txn, inode.source_assoc, inode.source_key)
        if source is not None and source.ino == inode.ino:
            source.ino = NO_INO
            records.put_object(txn, source)


def rename(
    txn: Txn,
    locations: LocationMap,
    parent: Ino,
    name: bytes,
    new_parent: Ino,
    new_name: bytes,
    now_ns: int,
    in_use: Callable[[Ino], bool],
    flags: int = 0,
) -> Inode | None:
    """Move a name, atomically replacing what it lands on. Returns the replaced inode as it is afterwards, if any.

    Source: rename(2). Raises: NotFound, AlreadyExists (NOREPLACE), IsADirectory, NotADirectory, NotEmpty,
    InvalidArgument (into its own descendant, unknown flags), NotPermitted (a linked directory; to the losers of conflicts).
    """
    if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
        raise errors.InvalidArgument(f"rename flags {flags:#x} are not supported")
    records.check_name(new_name)
    inode = records.get_child(txn, parent, name)
    new_dir = records.get_dir(txn, new_parent)
    if not new_dir.nlink:
        raise errors.NotFound(f"directory {new_parent} was removed")
    _check_movable(txn, locations, inode, new_parent)
    is_loser = _check_lost_found(txn, locations, (parent, name), (new_parent, new_name), flags)
    victim_ino = records.find_child(txn, new_parent, new_name)
    victim = records.get_inode(txn, victim_ino) if victim_ino is not None else None
    if victim is not None and flags & RENAME_NOREPLACE:
        raise errors.AlreadyExists(f"{new_name!r} exists")
    if victim is not None and victim.ino == inode.ino:
        return None  # two names of one file: rename(2) does nothing
    if flags & RENAME_EXCHANGE:
        _exchange(txn, locations, inode, parent, name, victim, new_parent, new_name, now_ns)
        return None
    if victim is not None:
        _replace_victim(txn, locations, inode, victim, new_parent, new_name, now_ns, in_use)
    _lose_name(txn, locations, inode, parent, name, now_ns, subtree=inode.is_dir)
    records.delete_dentry(txn, parent, name)
    if is_loser:
        inode.hsm &= ~Hsm.NORELEASE
    _take_name(txn, locations, inode, (parent, name), new_parent, new_name, now_ns)
    moved_dir = 1 if inode.is_dir else 0
    touch_dir(txn, records.get_dir(txn, parent), now_ns, links=-moved_dir)
    touch_dir(txn, records.get_dir(txn, new_parent), now_ns, links=moved_dir)
    return victim


def _check_lost_found(txn: Txn, locations: LocationMap, old: tuple[Ino, bytes], new: tuple[Ino, bytes], flags: int) -> bool:
    """Losers of conflicts can be taken away, nothing can be put among them. Whether this takes one away. Raises: NotPermitted."""
    if locations.of_name(txn, *new) is None:
        check_entry(txn, *new)
    if locations.of_name(txn, *old) is not None:
        return False
    is_loser = is_lost_found(txn, old[0])
    if flags & RENAME_EXCHANGE or not is_loser:
        check_entry(txn, *old)
    return is_loser


def _check_movable(txn: Txn, locations: LocationMap, inode: Inode, new_parent: Ino) -> None:
    if not inode.is_dir:
        return
    if locations.is_root(inode.ino) or locations.has_root_below(txn, inode.ino):
        raise errors.NotPermitted(f"{inode.name!r} is, or contains, a directory linked to a data repository")
    above = new_parent
    while above != ROOT_INO:
        if above == inode.ino:
            raise errors.InvalidArgument("a directory cannot move into itself")
        above = records.get_inode(txn, above).parent or ROOT_INO


def _replace_victim(
    txn: Txn,
    locations: LocationMap,
    inode: Inode,
    victim: Inode,
    parent: Ino,
    name: bytes,
    now_ns: int,
    in_use: Callable[[Ino], bool],
) -> None:
    if inode.is_dir:
        _check_removable_dir(txn, locations, victim)
        touch_dir(txn, records.get_dir(txn, parent), now_ns, links=-1)
    elif victim.is_dir:
        raise errors.IsADirectory(f"{name!r} is a directory")
    if victim.is_exportable and not (inode.is_exportable and inode.is_dir == victim.is_dir):
        _lose_name(txn, locations, victim, parent, name, now_ns)
    drop_link(txn, victim, parent, name, now_ns, in_use)


def _take_name(
    txn: Txn, locations: LocationMap, inode: Inode, old: tuple[Ino, bytes], parent: Ino, name: bytes, now_ns: int
) -> None:
    """Give an inode the name (parent, name) in place of `old`, whose dentry is already gone or taken."""
    records.put_dentry(txn, parent, name, inode.ino)
    if (inode.parent, inode.name) == old:
        inode.parent, inode.name = parent, name
    else:
        txn.delete(Table.LINKS, schema.link_key(inode.ino, *old))
        txn.put(Table.LINKS, schema.link_key(inode.ino, parent, name), b"")
    inode.ctime_ns = now_ns
    records.put_inode(txn, inode)
    if inode.is_dir:
        locations.forget_paths()
    if locations.of_directory(txn, parent) is not None and inode.is_exportable:
        change = Change.NAME | Change.SUBTREE if inode.is_dir else Change.NAME
        if inode.is_file and inode.is_dirty and records.find_journal(txn, schema.journal_ino_key(inode.ino)) is None:
            change |= Change.CONTENT
        journal.mark(txn, inode.ino, change, now_ns)


def _exchange(
    txn: Txn,
    locations: LocationMap,
    a: Inode,
    a_parent: Ino,
    a_name: bytes,
    b: Inode | None,
    b_parent: Ino,
    b_name: bytes,
    now_ns: int,
) -> None:
    if b is None:
        raise errors.NotFound(f"no {b_name!r} to exchange with")
    _check_movable(txn, locations, b, a_parent)
    _lose_name(txn, locations, a, a_parent, a_name, now_ns, subtree=a.is_dir)
    _lose_name(txn, locations, b, b_parent, b_name, now_ns, subtree=b.is_dir)
    _take_name(txn, locations, a, (a_parent, a_name), b_parent, b_name, now_ns)
    _take_name(txn, locations, b, (b_parent, b_name), a_parent, a_name, now_ns)
    shift = (1 if b.is_dir else 0) - (1 if a.is_dir else 0)
    touch_dir(txn, records.get_dir(txn, a_parent), now_ns, links=shift if a_parent != b_parent else 0)
    if a_parent != b_parent:
        touch_dir(txn, records.get_dir(txn, b_parent), now_ns, links=-shift)


def touch_dir(txn: Txn, directory: Inode, now_ns: int, *, links: int = 0) -> None:
    directory.mtime_ns = directory.ctime_ns = now_ns
    directory.nlink += links
    records.put_inode(txn, directory)


def readdir(txn: Txn, ino: Ino, after: bytes, limit: int) -> list[tuple[bytes, Inode]]:
    """Up to `limit` entries whose names sort after `after`, with their inodes."""
    prefix = schema.pack_u64(ino)
    start = prefix + after if after else b""
    found = []
    for key, value in txn.scan(Table.DENTRIES, prefix, after=start, limit=limit):
        raw = txn.get(Table.INODES, value)
        if raw is not None:
            found.append((key[8:], schema.decode_inode(schema.decode_u64(value), raw)))
    return found
