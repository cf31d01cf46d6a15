"""The same version of an object as the bucket names it and as the table records it."""

from __future__ import annotations

from s3lustrefs import errors
from s3lustrefs.meta.schema import ObjectRecord
from s3lustrefs.model.ids import NO_INO, AssocId, Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.repository.object_store import ObjectHead, ObjectStore, ObjectVersion


def record_of(assoc: AssocId, key: bytes, version: ObjectVersion, ino: Ino = NO_INO) -> ObjectRecord:
    """What the bucket said of a version, as a record."""
    v = version
    return ObjectRecord(assoc, key, ino, v.etag, v.size, v.mtime_ns, v.version_id, v.storage_class)


def version_of(record: ObjectRecord) -> ObjectVersion:
    """A recorded version, as requests name it."""
    return ObjectVersion(record.etag, record.size, record.mtime_ns, record.version_id, record.storage_class)


async def head_of_source(store: ObjectStore, source: ObjectRecord) -> tuple[ObjectHead, bool]:
    """What a copy is to carry, and whether that is the current version: one that was replaced can be copied while it is kept.

    Raises: ObjectChanged, ObjectNotFound when it is gone.
    """
    try:
        head = await store.head(source.key)
        if head.version.etag == source.etag:
            return head, True
        changed: errors.RepositoryError = errors.ObjectChanged(
            f"{source.key.decode()} is no longer the version it was", key=source.key.decode()
        )
    except errors.ObjectNotFound as exc:
        changed = exc
    if not version_of(source).is_kept:
        raise changed
    try:
        return await store.head(source.key, version_id=source.version_id), False
    except (errors.ObjectNotFound, errors.RepositoryDenied, errors.RepositoryRejected):
        raise changed from None


def no_source(inode: Inode) -> errors.S3LustreError:
    """Why there is nothing to fetch the missing bytes of a file from."""
    if inode.is_left_behind:
        return errors.AssociationGone(f"only {inode.source_key.decode(errors='replace')} has its bytes; its association is gone")
    return errors.StaleInode(f"inode {inode.ino} no longer has an archived copy")
