"""Transaction functions of HSM requests that are durable: archiving and removing by order, and the flags people set.

An order is a bit of a journal record (`Change.HSM_ORDERED`): it survives a crash, and the exporter does it as it does any change.
The removal of an archived copy detaches the file first, in the transaction that orders the delete, so that nobody takes the missing
object for a deleted file, whenever we die.
"""

from __future__ import annotations

from s3lustrefs import errors
from s3lustrefs.meta import attributes, export_targets, journal, records, schema
from s3lustrefs.meta.location import LocationMap
from s3lustrefs.meta.schema import Change, JournalRecord, JournalState, Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.hsm import Hsm, Request, refusal, violation
from s3lustrefs.model.ids import NO_ASSOC, NO_INO, ContentVersion, Ino
from s3lustrefs.model.inode import Inode, InodeFlag


def order_archive(txn: Txn, locations: LocationMap, ino: Ino, now_ns: int) -> bool:
    """Have a file exported whatever the policy says; False when the bucket has it as it is here.

    One that is open for writing follows with its close. Raises: NotPermitted, NotInRepository.
    """
    inode = _file(txn, ino)
    pending = records.find_journal(txn, schema.journal_ino_key(ino))
    is_clean = inode.hsm & Hsm.ARCHIVED and not inode.is_dirty and not inode.hsm & Hsm.LOST
    if is_clean and pending is None and not inode.flags & InodeFlag.EXCLUDED:
        return False
    if reason := refusal(Request.ARCHIVE, inode.hsm_state()):
        raise errors.NotPermitted(reason)
    if inode.hsm & Hsm.LOST and not inode.is_complete:
        raise errors.NotPermitted("its archived copy is lost, and not all of it is local")
    if not inode.nlink or not attributes.in_association(txn, locations, inode):
        raise errors.NotInRepository("it is in no association: there is no bucket to archive it in")
    if inode.hsm & Hsm.LOST:
        inode.hsm |= Hsm.DIRTY  # whatever is under the key, nobody vouches for it: the bytes here have to go up
    changes = Change.NAME | Change.METADATA | Change.HSM_ORDERED
    if inode.is_dirty:
        changes |= Change.CONTENT
    inode.flags &= ~InodeFlag.EXCLUDED
    journal.order(txn, ino, changes, now_ns)
    records.put_inode(txn, inode)
    return True


def order_remove(txn: Txn, locations: LocationMap, ino: Ino, version: ContentVersion, now_ns: int) -> bool:
    """A file has no archived copy any more, and what it had is to be deleted in the bucket; False when it had none.

    It stays here, and is archived again when it changes or somebody orders it. `version` is the content that is on disk: bytes that
    have come since may not be. Raises: NotPermitted, InUse.
    """
    inode = _file(txn, ino)
    if reason := refusal(Request.REMOVE, inode.hsm_state()):
        raise errors.NotPermitted(reason)
    if not inode.source_assoc and not inode.hsm & Hsm.EXISTS:
        return False
    if not inode.is_complete:
        raise errors.NotPermitted("not all of it is local: restore it first")
    if txn.get(Table.DAMAGE, schema.damage_key(ino, inode.content_version)) is not None:
        raise errors.NotPermitted("bytes of it never reached the disk: the archived copy may be the only good one")
    if inode.content_version != version:
        raise errors.InUse("it changed hands meanwhile: try again")
    if records.find_journal(txn, schema.journal_ino_key(ino)) is not None:
        raise errors.InUse("its changes are being exported: drain it first")
    view = export_targets.view(txn, locations, ino)
    copies = {(t.known.assoc, t.known.key): t.known for t in view.targets if t.known and t.known.ino == ino} if view else {}
    source = export_targets.source_of(txn, inode)
    if source is not None:
        association = locations.association(source.assoc)
        if association is not None and not association.is_written(source.key):
            raise errors.NotPermitted("its archived copy is the object it was imported from, which nothing here deletes")
        copies[source.assoc, source.key] = source
    for (assoc, key), known in copies.items():
        known.ino = NO_INO
        records.put_object(txn, known)
        old = records.find_journal(txn, schema.journal_object_key(assoc, key))
        change = Change.NAME | Change.HSM_ORDERED | (old.change if old else Change.NONE)
        seq = old.seq + 1 if old else 1
        due = JournalRecord(NO_INO, assoc, key, JournalState.DUE, change, seq, now_ns - journal.SETTLED_NS)
        records.put_journal(txn, due)
    _forget_copy(txn, locations, inode)
    return True


def _forget_copy(txn: Txn, locations: LocationMap, inode: Inode) -> None:
    """What changed here and is to be exported still is; nothing else is by itself."""
    inode.source_assoc, inode.source_key = NO_ASSOC, b""
    inode.hsm &= ~(Hsm.EXISTS | Hsm.ARCHIVED | Hsm.DIRTY | Hsm.LOST)
    inode.flags &= ~InodeFlag.WRITTEN_OFF
    is_pending = records.find_journal(txn, schema.journal_ino_key(inode.ino)) is not None
    if not is_pending and attributes.in_association(txn, locations, inode):
        inode.flags |= InodeFlag.EXCLUDED
    records.put_inode(txn, inode)


def set_flags(txn: Txn, locations: LocationMap, ino: Ino, add: Hsm, drop: Hsm, now_ns: int) -> Inode:
    """Set and clear flags. Raises: InvalidArgument for an illegal combination; NotPermitted for one that could cost bytes."""
    inode = _file(txn, ino)
    wanted = (inode.hsm | add) & ~drop
    shown = wanted | (inode.hsm_state() & Hsm.RELEASED)
    if defect := violation(shown) or ("archived without exists" if wanted & Hsm.ARCHIVED and not wanted & Hsm.EXISTS else None):
        raise errors.InvalidArgument(f"illegal combination: {defect}")
    source = export_targets.source_of(txn, inode)
    if wanted & ~inode.hsm & Hsm.ARCHIVED and source is None:
        raise errors.NotPermitted("no object is known that holds it: `lfs hsm_archive` makes one")
    if inode.hsm & ~wanted & Hsm.DIRTY and source is not None:
        raise errors.NotPermitted("its changes are only here: `lfs hsm_archive` archives them")
    if inode.hsm & ~wanted & Hsm.LOST and not inode.is_complete and source is None:
        raise errors.NotPermitted("no object is known that has what is not local")
    if inode.hsm & ~wanted & Hsm.ARCHIVED:
        return _detach(txn, locations, inode, wanted)
    was = inode.hsm
    inode.hsm = wanted
    if wanted & ~was & Hsm.LOST:
        inode.flags |= InodeFlag.WRITTEN_OFF  # what the file system found lost by itself is asked for again when it is read
    elif not wanted & Hsm.LOST:
        inode.flags &= ~InodeFlag.WRITTEN_OFF
    if wanted & ~was & Hsm.DIRTY:
        attributes.mark(txn, locations, inode, Change.CONTENT, now_ns)
    elif was & ~wanted & Hsm.NOARCHIVE and inode.flags & InodeFlag.EXCLUDED:
        change = Change.CONTENT if inode.is_dirty else Change.NONE
        attributes.mark(txn, locations, inode, Change.NAME | Change.METADATA | change, now_ns)
    records.put_inode(txn, inode)
    return inode


def _detach(txn: Txn, locations: LocationMap, inode: Inode, wanted: Hsm) -> Inode:
    """The flag `archived` goes: the object stays in the bucket, but is nobody's copy."""
    if not inode.is_complete:
        raise errors.InvalidArgument("illegal combination: released without archived")
    source = export_targets.source_of(txn, inode)
    if source is not None:
        source.ino = NO_INO
        records.put_object(txn, source)
    _forget_copy(txn, locations, inode)
    inode.hsm |= wanted & ~(Hsm.DIRTY | Hsm.LOST)
    records.put_inode(txn, inode)
    return inode


def _file(txn: Txn, ino: Ino) -> Inode:
    inode = records.get_inode(txn, ino)
    if not inode.is_file:
        raise errors.InvalidArgument("not a regular file")
    return inode
