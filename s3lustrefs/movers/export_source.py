"""What an export starts from: the object that has a file's archived content, and what it carries beside it."""

from __future__ import annotations

from s3lustrefs import errors
from s3lustrefs.meta.export_targets import ExportView, Target
from s3lustrefs.meta.schema import Change, JournalRecord, ObjectRecord
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import AssocId
from s3lustrefs.model.inode import InodeFlag
from s3lustrefs.repository.object_store import ObjectHead, ObjectStore


def place_of(view: ExportView) -> tuple[AssocId, bytes] | None:
    """The key that a file's archived content is at, to be copied from. A symlink is never copied: its target is in the table."""
    return (view.source.assoc, view.source.key) if view.source is not None and view.inode.is_file else None


def event_of(view: ExportView, target: Target) -> str:
    """What the export policy calls this. A file that was imported is not new, wherever it is exported to."""
    return "CHANGED" if target.known is not None or view.is_imported_as(target) else "NEW"


def is_as_imported(view: ExportView, target: Target, record: JournalRecord) -> bool:
    """Whether there is nothing to export apart from what was imported: the name is back where it was, say."""
    # What the policy of another day kept back is a change, too.
    is_kept = bool(view.inode.flags & InodeFlag.EXCLUDED)
    is_changed = is_kept or record.change & (Change.METADATA | Change.CONTENT) or view.inode.hsm & Hsm.DIRTY
    return target.known is None and not is_changed and view.is_imported_as(target)


async def head_if(store: ObjectStore, key: bytes, known: ObjectRecord | None) -> ObjectHead | None:
    """What an object to be replaced carries; None when there is none (any more)."""
    if known is None:
        return None
    try:
        return await store.head(key)
    except errors.ObjectNotFound:
        return None
