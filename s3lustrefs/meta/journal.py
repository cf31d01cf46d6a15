"""Transaction functions of the export journal: mark, make due, settle, fail.

The journal says which inodes and keys may differ from the bucket, the objects table says what the bucket holds, the dentries
say what it should hold. An export brings one record into line, so that many changes cost one request, repeating an
export after a crash is harmless, and chains of renames end right whatever their order.
"""

from __future__ import annotations

from s3lustrefs.meta import records, schema, writes
from s3lustrefs.meta.location import LocationMap, walk
from s3lustrefs.meta.schema import Change, JournalRecord, JournalState, ObjectRecord, SentObject, Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.association import Association
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import NO_ASSOC, NO_INO, AssocId, ContentVersion, Ino
from s3lustrefs.model.inode import Inode, InodeFlag

SETTLED_NS = 2_000_000_000
"""An order is for what has been there for a while: the exporter need not wait for more changes of it."""


def mark(txn: Txn, ino: Ino, change: Change, now_ns: int, *, state: JournalState = JournalState.DUE) -> None:
    """Note that an inode differs from its objects. What is OPEN stays so until `make_due`: closed state only is exported."""
    records.put_journal(txn, _marked(txn, ino, change, now_ns, state))


def order(txn: Txn, ino: Ino, change: Change, now_ns: int) -> None:
    """The same by order: what failed before counts no more. One that is open for writing follows with its close."""
    record = _marked(txn, ino, change, now_ns - SETTLED_NS, JournalState.DUE)
    _forget_failure(record)
    records.put_journal(txn, record)


def _marked(txn: Txn, ino: Ino, change: Change, now_ns: int, state: JournalState) -> JournalRecord:
    old = records.find_journal(txn, schema.journal_ino_key(ino))
    record = old or JournalRecord(ino, NO_ASSOC, b"", state, Change.NONE, 0, now_ns)
    record.change |= change
    record.seq += 1
    if state is JournalState.OPEN:
        record.state = state
    record.terminal = False
    record.not_before_ns = 0
    return record


def _forget_failure(record: JournalRecord) -> None:
    record.attempts = 0
    record.error_code = record.error_text = ""


def mark_key_lost(txn: Txn, association: Association, key: bytes, now_ns: int, *, subtree: bool = False) -> None:
    """Note that a key lost its name. A key the bucket never had needs no note: create and delete cost nothing."""
    assoc = association.assoc_id
    if not subtree and records.find_object(txn, assoc, key) is None and not writes.noted(txn, assoc, key):
        return
    change = Change.NAME | Change.SUBTREE if subtree else Change.NAME
    old = records.find_journal(txn, schema.journal_object_key(assoc, key))
    seq = old.seq + 1 if old else 1
    since = old.since_ns if old else now_ns
    if old:
        change |= old.change  # what is below it may still have to be looked for
    records.put_journal(txn, JournalRecord(NO_INO, assoc, key, JournalState.DUE, change, seq, since))


def is_looked_after(txn: Txn, association: Association, key: bytes) -> bool:
    """Whether some record has the exporter look at a key: that of the inode of this name, or one of a name that was lost."""
    ino = walk(txn, Ino(association.root_ino), association.relative_of(key))
    if ino is not None and records.find_journal(txn, schema.journal_ino_key(ino)) is not None:
        return True
    above = [key[: at + 1] for at, sign in enumerate(key[:-1]) if sign == ord("/")]
    return any(
        records.find_journal(txn, schema.journal_object_key(association.assoc_id, each)) is not None for each in (key, *above)
    )


def is_due(txn: Txn, known: ObjectRecord) -> bool:
    """Whether an export is to come of the file of an object, or of the key if that lost its name."""
    keys = (schema.journal_ino_key(known.ino), schema.journal_object_key(known.assoc, known.key))
    return any(txn.get(Table.JOURNAL, key) is not None for key in keys)


def make_due(txn: Txn, ino: Ino, now_ns: int) -> bool:
    """The last writer closed. True when there is something to export."""
    record = records.find_journal(txn, schema.journal_ino_key(ino))
    if record is None:
        return False
    if record.state is JournalState.OPEN:
        record.state = JournalState.DUE
        record.since_ns = now_ns
        record.seq += 1
        records.put_journal(txn, record)
    return True


def make_all_due(txn: Txn, now_ns: int) -> int:
    """At start: nobody has anything open, so every OPEN record is due; what it was uploading is no longer running."""
    made = 0
    for key, raw in txn.scan(Table.JOURNAL, b"I"):
        record = schema.decode_journal(key, raw)
        if record.state is JournalState.OPEN:
            record.state = JournalState.DUE
            record.since_ns = now_ns
            records.put_journal(txn, record)
            made += 1
    return made


def finish(txn: Txn, locations: LocationMap, claimed: JournalRecord) -> bool:
    """Drop a record whose export is complete, unless something changed meanwhile. True when it is gone.

    Nobody looks after a lost key from then on, nor needs to know what may have been written under it. Of an inode nothing is kept
    back any more.
    """
    key = schema.journal_key(claimed)
    record = records.find_journal(txn, key)
    if record is None:
        return True
    if record.seq != claimed.seq:
        _forget_failure(record)
        records.put_journal(txn, record)
        return False
    txn.delete(Table.JOURNAL, key)
    inode = records.find_inode(txn, record.ino) if record.ino else None
    if inode is not None and inode.flags & InodeFlag.EXCLUDED:
        inode.flags &= ~InodeFlag.EXCLUDED
        records.put_inode(txn, inode)
    if not record.ino and holder(txn, locations, record.assoc, record.key) is None:
        writes.forget(txn, record.assoc, record.key)
    return True


def postpone(
    txn: Txn, claimed: JournalRecord, not_before_ns: int, *, code: str = "", text: str = "", terminal: bool = False
) -> None:
    """Put a claimed record back, with the reason when it failed. A record that changed meanwhile is tried at once."""
    record = records.find_journal(txn, schema.journal_key(claimed))
    if record is None:
        return
    if record.seq == claimed.seq:
        record.not_before_ns = not_before_ns
        record.terminal = terminal
    if text:
        record.attempts += 1
        record.error_code = code
        record.error_text = text
    records.put_journal(txn, record)


def note_write(txn: Txn, locations: LocationMap, ino: Ino, assoc: AssocId, key: bytes, sent: SentObject) -> bool:
    """Note what is about to be written under a key; False when the key is no longer a name of this inode.

    From here on, whoever takes the name away sees the note and has the key looked after.
    """
    if holder(txn, locations, assoc, key) != ino:
        return False
    writes.note(txn, assoc, key, sent)
    return True


def settle_object(
    txn: Txn, locations: LocationMap, ino: Ino, exported: ObjectRecord, now_ns: int, *, content: bool, version: ContentVersion
) -> bool:
    """Record what an export wrote. `content`: the bytes went up (or were copied whole) and did not change meanwhile. False when
    the file has other content now than that `version`: the object is nobody's then, and to be replaced.

    The file may have lost this name while its upload ran: then the new object is noted as lost at once.
    """
    if locations.association(exported.assoc) is None:
        return True  # deleted meanwhile: the object is the bucket's
    before = records.find_object(txn, exported.assoc, exported.key)
    if before is not None and before.ino not in (NO_INO, ino):
        detach_source(txn, before.ino, exported.assoc, exported.key, now_ns)
    inode = records.find_inode(txn, ino)
    moved_on = content and inode is not None and inode.is_file and inode.content_version != version
    exported.ino = NO_INO if inode is None or moved_on else ino
    records.put_object(txn, exported)
    writes.forget(txn, exported.assoc, exported.key)
    if inode is not None and inode.is_file and not moved_on:
        if content:
            inode.flags &= ~(InodeFlag.DAMAGED | InodeFlag.WRITTEN_OFF)  # cut to what was left of it, and the bucket has that now
        _settle_source(txn, inode, exported, content=content)
    held = holder(txn, locations, exported.assoc, exported.key)
    if held != ino:
        association = locations.association(exported.assoc)
        if association is not None:
            mark_key_lost(txn, association, exported.key, now_ns)
    return not moved_on


def observe_object(txn: Txn, locations: LocationMap, seen: ObjectRecord, now_ns: int) -> None:
    """Record an object that an unanswered request of ours wrote: of an earlier state, perhaps of another file.

    It is nobody's content, only what the next request under this key has to be conditional on.
    """
    association = locations.association(seen.assoc)
    if association is None:
        return
    before = records.find_object(txn, seen.assoc, seen.key)
    if before is not None and before.ino:
        detach_source(txn, before.ino, seen.assoc, seen.key, now_ns)
    seen.ino = NO_INO
    records.put_object(txn, seen)
    writes.forget(txn, seen.assoc, seen.key)
    if holder(txn, locations, seen.assoc, seen.key) is None:
        mark_key_lost(txn, association, seen.key, now_ns)


def _settle_source(txn: Txn, inode: Inode, exported: ObjectRecord, *, content: bool) -> None:
    source = records.find_object(txn, inode.source_assoc, inode.source_key) if inode.source_assoc else None
    old_source_ok = source is not None and source.ino == inode.ino and (source.assoc, source.key) != (exported.assoc, exported.key)
    if content or not old_source_ok or not inode.is_complete:
        inode.source_assoc, inode.source_key = exported.assoc, exported.key
    inode.hsm |= Hsm.EXISTS | Hsm.ARCHIVED
    inode.hsm = inode.hsm & ~(Hsm.DIRTY | Hsm.LOST) if content else inode.hsm | Hsm.DIRTY
    records.put_inode(txn, inode)


def detach_source(txn: Txn, ino: Ino, assoc: AssocId, key: bytes, now_ns: int) -> None:
    """An object holds something else, or is gone: the inode it belonged to no longer has an archived copy there.

    A file all of whose bytes are here is exported again under the names it has; another one has lost what is missing.
    """
    inode = records.find_inode(txn, ino)
    if inode is None or (inode.source_assoc, inode.source_key) != (assoc, key):
        return
    if not inode.is_complete:
        inode.hsm |= Hsm.LOST
    else:
        inode.source_assoc, inode.source_key = NO_ASSOC, b""
        inode.hsm &= ~(Hsm.EXISTS | Hsm.ARCHIVED | Hsm.DIRTY | Hsm.LOST)
        if inode.nlink:
            mark(txn, ino, Change.CONTENT, now_ns)
    records.put_inode(txn, inode)


def free_object(txn: Txn, assoc: AssocId, key: bytes, ino: Ino, now_ns: int) -> bool:
    """Before an object is written over or deleted for `ino`: another file no longer counts on it, so that nobody releases the
    bytes that were fetched because it goes. False while they are not all here (yet, or again).
    """
    known = records.find_object(txn, assoc, key)
    if known is None or known.ino in (NO_INO, ino):
        return True
    other = records.find_inode(txn, known.ino)
    if other is not None and (other.source_assoc, other.source_key) == (assoc, key):
        if not other.is_complete and not other.hsm & Hsm.LOST:
            return False
        detach_source(txn, other.ino, assoc, key, now_ns)
    known.ino = NO_INO
    records.put_object(txn, known)
    return True


def forget_object(txn: Txn, assoc: AssocId, key: bytes, now_ns: int, *, with_writes: bool = False) -> None:
    """The bucket no longer has the object the table knows.

    What took its place may be from a request of ours that was cut off, so the notes of requests stay, unless (`with_writes`)
    nothing is under the key any more.
    """
    if with_writes:
        writes.forget(txn, assoc, key)
    before = records.find_object(txn, assoc, key)
    if before is not None:
        if before.ino:
            detach_source(txn, before.ino, assoc, key, now_ns)
        records.delete_object(txn, assoc, key)


def holder(txn: Txn, locations: LocationMap, assoc: AssocId, key: bytes) -> Ino | None:
    """The inode whose name maps to this key now, if any. A FIFO, socket or device of that name is nobody's object."""
    association = locations.association(assoc)
    if association is None:
        return None
    relative = association.relative_of(key)
    ino = walk(txn, Ino(association.root_ino), relative)
    if ino is None:
        return None
    is_dir = relative.endswith(b"/") or not relative
    inode = records.find_inode(txn, ino)
    return ino if inode is not None and inode.is_dir == is_dir and inode.is_exportable else None


def due(txn: Txn, after: bytes, limit: int) -> list[tuple[bytes, JournalRecord]]:
    """Up to `limit` records in key order after a key, whatever their state."""
    return [(k, schema.decode_journal(k, v)) for k, v in txn.scan(Table.JOURNAL, b"", after=after, limit=limit)]
