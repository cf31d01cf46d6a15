"""Transaction function of a conflict: the bucket's version keeps the name, the local one moves beside it. Nothing is lost."""

from __future__ import annotations

import stat
from collections.abc import Callable

from s3lustrefs.meta import journal, records, schema
from s3lustrefs.meta.location import walk
from s3lustrefs.meta.schema import Change, ObjectRecord, Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.association import MAX_NAME_BYTES, Association
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import ContentVersion, Ino
from s3lustrefs.model.inode import Inode, InodeFlag


def conflict_name(name: bytes, suffix: bytes) -> bytes:
    """`NAME.conflict-<UTC time>-<host>`, with NAME cut where the whole would be too long for a name."""
    tail = b".conflict-" + suffix
    return name[: MAX_NAME_BYTES - len(tail)] + tail


def keep_both(
    txn: Txn, association: Association, ino: Ino, seen: ObjectRecord, suffix: bytes, now_ns: int, allocate: Callable[[], Ino]
) -> tuple[Ino, bytes] | None:
    """Give the key's name to the bucket's version as a new cold file; the local file gets a conflict name and is due.

    Returns (parent, name) of the name that changed hands, or None when the local file no longer has it.
    """
    relative = seen.key[len(association.prefix.encode()) :]
    above, _, name = relative.rpartition(b"/")
    parent = walk(txn, Ino(association.root_ino), above)
    inode = records.find_inode(txn, ino)
    if parent is None or inode is None or records.find_child(txn, parent, name) != ino:
        return None
    other = conflict_name(name, suffix)
    _move_name(txn, inode, parent, name, other)
    journal.detach_source(txn, ino, seen.assoc, seen.key, now_ns)
    journal.mark(txn, ino, Change.CONTENT | Change.NAME, now_ns)
    fresh = allocate()
    flags = InodeFlag.NONE if association.posix_metadata == "off" else InodeFlag.HEADERS_UNKNOWN
    records.put_inode(
        txn,
        Inode(
            fresh, stat.S_IFREG | association.file_mode, association.uid, association.gid, 1, seen.size,
            seen.mtime_ns, seen.mtime_ns, now_ns, parent=parent, name=name, hsm=Hsm.EXISTS | Hsm.ARCHIVED,
            flags=flags | (InodeFlag.PARTIAL if seen.size else InodeFlag.NONE), content_version=ContentVersion(1),
            chunk_bytes=association.chunk_bytes, source_assoc=seen.assoc, source_key=seen.key,
        ),
    )  # fmt: skip
    records.put_dentry(txn, parent, name, fresh)
    seen.ino = fresh
    records.put_object(txn, seen)
    return parent, name


def _move_name(txn: Txn, inode: Inode, parent: Ino, name: bytes, other: bytes) -> None:
    records.put_dentry(txn, parent, other, inode.ino)
    if (inode.parent, inode.name) == (parent, name):
        inode.name = other
    else:
        txn.delete(Table.LINKS, schema.link_key(inode.ino, parent, name))
        txn.put(Table.LINKS, schema.link_key(inode.ino, parent, other), b"")
    records.put_inode(txn, inode)
