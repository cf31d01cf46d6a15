"""Reading and writing single records by their model type; the vocabulary of all transaction functions."""

from __future__ import annotations

from s3lustrefs import errors
from s3lustrefs.meta import schema
from s3lustrefs.meta.schema import JournalRecord, ObjectRecord, Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.association import MAX_NAME_BYTES
from s3lustrefs.model.ids import AssocId, Ino
from s3lustrefs.model.inode import Inode


def find_inode(txn: Txn, ino: Ino) -> Inode | None:
    raw = txn.get(Table.INODES, schema.pack_u64(ino))
    return None if raw is None else schema.decode_inode(ino, raw)


def get_inode(txn: Txn, ino: Ino) -> Inode:
    """Raises: StaleInode when the number is not (or no longer) in the table."""
    raw = txn.get(Table.INODES, schema.pack_u64(ino))
    if raw is None:
        raise errors.StaleInode(f"inode {ino} is gone")
    return schema.decode_inode(ino, raw)


def put_inode(txn: Txn, inode: Inode) -> None:
    txn.put(Table.INODES, schema.pack_u64(inode.ino), schema.encode_inode(inode))


def get_dir(txn: Txn, ino: Ino) -> Inode:
    """Raises: StaleInode, NotADirectory."""
    inode = get_inode(txn, ino)
    if not inode.is_dir:
        raise errors.NotADirectory(f"inode {ino} is not a directory")
    return inode


def find_child(txn: Txn, parent: Ino, name: bytes) -> Ino | None:
    raw = txn.get(Table.DENTRIES, schema.dentry_key(parent, name))
    return None if raw is None else schema.decode_u64(raw)


def get_child(txn: Txn, parent: Ino, name: bytes) -> Inode:
    """Raises: NotFound, NameTooLong."""
    ino = find_child(txn, parent, name)
    if ino is None:
        check_name(name)
        raise errors.NotFound(f"no {name!r} in inode {parent}")
    return get_inode(txn, ino)


def check_name(name: bytes) -> None:
    """Raises: NameTooLong, InvalidName."""
    if len(name) > MAX_NAME_BYTES:
        raise errors.NameTooLong(f"name of {len(name)} bytes (at most {MAX_NAME_BYTES})")
    if name in (b"", b".", b"..") or b"/" in name:
        raise errors.InvalidName(f"{name!r} cannot be a name")


def put_dentry(txn: Txn, parent: Ino, name: bytes, ino: Ino) -> None:
    txn.put(Table.DENTRIES, schema.dentry_key(parent, name), schema.pack_u64(ino))


def delete_dentry(txn: Txn, parent: Ino, name: bytes) -> None:
    txn.delete(Table.DENTRIES, schema.dentry_key(parent, name))


def find_object(txn: Txn, assoc: AssocId, key: bytes) -> ObjectRecord | None:
    table_key = schema.object_key(assoc, key)
    raw = txn.get(Table.OBJECTS, table_key)
    return None if raw is None else schema.decode_object(table_key, raw)


def put_object(txn: Txn, record: ObjectRecord) -> None:
    txn.put(Table.OBJECTS, schema.object_key(record.assoc, record.key), schema.encode_object(record))


def delete_object(txn: Txn, assoc: AssocId, key: bytes) -> None:
    txn.delete(Table.OBJECTS, schema.object_key(assoc, key))


def find_journal(txn: Txn, table_key: bytes) -> JournalRecord | None:
    raw = txn.get(Table.JOURNAL, table_key)
    return None if raw is None else schema.decode_journal(table_key, raw)


def put_journal(txn: Txn, record: JournalRecord) -> None:
    txn.put(Table.JOURNAL, schema.journal_key(record), schema.encode_journal(record))


def names_of(txn: Txn, inode: Inode) -> list[tuple[Ino, bytes]]:
    """Every (parent, name) of an inode, the primary one first; empty for the root and for orphans."""
    if not inode.parent:
        return []
    names = [(inode.parent, inode.name)]
    if inode.nlink > 1 and not inode.is_dir:
        prefix = schema.pack_u64(inode.ino)
        names += [(schema.decode_u64(k[8:16]), k[16:]) for k, _ in txn.scan(Table.LINKS, prefix)]
    return names
