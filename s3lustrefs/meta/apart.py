"""What became of imported objects in an association that exports to another prefix (`Association.export_prefix`).

Such an object is changed by others only. Its record stays when its file is changed, renamed or removed here, so that no import
takes it for news. Whether a file still is the imported object, its source tells; of a directory or symlink, that it was exported.
"""

from __future__ import annotations

from s3lustrefs.meta import records
from s3lustrefs.meta.location import walk
from s3lustrefs.meta.schema import ObjectRecord
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.association import Association
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode


def is_parted(txn: Txn, association: Association, inode: Inode, key: bytes) -> bool:
    """Whether the inode that has the name of an imported object has more to it than that object: then what becomes of the object
    is no concern of this name. Never where exports go to the imported objects themselves."""
    if not association.export_prefix or not association.is_imported(key):
        return False
    if inode.is_file:
        waits_for_it = inode.is_left_behind and not inode.is_dirty
        return not waits_for_it and (inode.source_assoc, inode.source_key) != (association.assoc_id, key)
    exported = records.find_object(txn, association.assoc_id, association.export_key_of(association.relative_of(key)))
    return exported is not None and exported.ino == inode.ino


def is_left(txn: Txn, association: Association, known: ObjectRecord) -> bool:
    """Whether nobody here is the imported object any more that a record speaks of."""
    if not known.ino or not association.export_prefix or not association.is_imported(known.key):
        return False
    inode = records.find_inode(txn, known.ino)
    if inode is None or is_parted(txn, association, inode, known.key):
        return True
    return not inode.is_file and walk(txn, Ino(association.root_ino), association.relative_of(known.key)) != inode.ino
