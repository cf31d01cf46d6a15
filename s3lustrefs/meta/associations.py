"""Transaction functions of associations: stored as JSON, linked to a directory that appears by itself."""

from __future__ import annotations

import json
import stat
from dataclasses import asdict, replace
from typing import Any

from s3lustrefs import errors
from s3lustrefs.meta import records, schema
from s3lustrefs.meta.schema import SUPER_NEXT_ASSOC, Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.association import Association, Endpoint, Policies
from s3lustrefs.model.ids import ROOT_INO, AssocId, Ino
from s3lustrefs.model.inode import Inode, InodeFlag

_DELETED = b"fsx/deleted/"


def load(txn: Txn) -> list[Association]:
    return [decode(raw) for _, raw in txn.scan(Table.ASSOCIATIONS, b"")]


def store(txn: Txn, association: Association) -> None:
    txn.put(Table.ASSOCIATIONS, schema.pack_u16(association.assoc_id), encode(association))


def allocate(txn: Txn) -> AssocId:
    number = int(txn.get(Table.SUPER, SUPER_NEXT_ASSOC) or b"1")
    txn.put(Table.SUPER, SUPER_NEXT_ASSOC, str(number + 1).encode())
    return AssocId(number)


def link(txn: Txn, association: Association, now_ns: int, allocate_ino: Any) -> Association:
    """Store a new association; its directory (and the ones above) are made if missing. Raises: ConfigError."""
    ino = ROOT_INO
    for part in association.file_system_path.encode().split(b"/"):
        if not part:
            continue
        child = records.find_child(txn, ino, part)
        if child is None:
            child = make_directory(txn, ino, part, association, now_ns, allocate_ino())
        elif not records.get_inode(txn, child).is_dir:
            raise errors.ConfigError(f"cannot link {association.file_system_path}: {part.decode()!r} exists and is not a directory")
        ino = child
    linked = replace(association, root_ino=ino)
    if linked.is_lazy:
        mark_unlisted(txn, ino)
    store(txn, linked)
    return linked


def mark_unlisted(txn: Txn, ino: Ino) -> None:
    """The bucket may have names in this directory that are not here."""
    directory = records.get_inode(txn, ino)
    directory.flags |= InodeFlag.UNLISTED
    records.put_inode(txn, directory)


def note_deletion(txn: Txn, association: Association) -> None:
    """One that the configuration asked for does not come back until the configuration says something else about it."""
    if association.configured_as:
        txn.put(Table.SUPER, _DELETED + association.file_system_path.encode(), association.configured_as.encode())


def forget_deletion(txn: Txn, file_system_path: str) -> None:
    if deleted_as(txn, file_system_path):
        txn.delete(Table.SUPER, _DELETED + file_system_path.encode())


def deleted_as(txn: Txn, file_system_path: str) -> str:
    """Fingerprint of the configuration's entry for an association that was deleted; empty: none was."""
    return (txn.get(Table.SUPER, _DELETED + file_system_path.encode()) or b"").decode()


def make_directory(
    txn: Txn, parent: Ino, name: bytes, association: Association, now_ns: int, ino: Ino, flags: InodeFlag = InodeFlag.NONE
) -> Ino:  # fmt: skip
    """A directory that exists because something below it does, with the defaults of its association; never exported for that."""
    mode = stat.S_IFDIR | association.dir_mode
    records.put_inode(
        txn, Inode(ino, mode, association.uid, association.gid, 2, 0, now_ns, now_ns, now_ns, parent=parent, name=name, flags=flags)
    )
    records.put_dentry(txn, parent, name, ino)
    above = records.get_inode(txn, parent)
    above.nlink += 1
    records.put_inode(txn, above)
    return ino


def encode(association: Association) -> bytes:
    return json.dumps(asdict(association), default=sorted).encode()  # event sets as lists


def decode(raw: bytes) -> Association:
    fields = json.loads(raw)
    fields["endpoint"] = Endpoint(**fields["endpoint"])
    _read_events(fields)
    if fields.get("configured"):
        fields["configured"] = Policies(**_read_events(fields["configured"]))
    return Association(**fields)


def _read_events(fields: dict[str, Any]) -> dict[str, Any]:
    for name in ("auto_import", "auto_export"):
        fields[name] = frozenset(fields[name])
    return fields
