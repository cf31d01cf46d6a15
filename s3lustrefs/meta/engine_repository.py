"""RepositoryEngine: what movers may ask of the inode table to bring it and the buckets into line."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from s3lustrefs.meta.attributes import AttributeChange
from s3lustrefs.meta.conflicts import Dispute, Resolved
from s3lustrefs.meta.export_targets import ExportView
from s3lustrefs.meta.listing import Applied, PreparedEntry, Sweep
from s3lustrefs.meta.schema import JournalRecord, ObjectRecord, SentObject
from s3lustrefs.meta.vanished import Removed
from s3lustrefs.model.association import Association
from s3lustrefs.model.conflict import Conflict
from s3lustrefs.model.ids import AssocId, ContentVersion, Ino
from s3lustrefs.model.inode import Inode


class RepositoryEngine(Protocol):
    """See `engine` for what all verbs have in common."""

    # --- export -----------------------------------------------------------------------------------------------------------

    async def due(self, after: bytes, limit: int) -> list[tuple[bytes, JournalRecord]]:
        """Up to `limit` journal records, whatever their state, with their keys, in key order after `after`."""

    async def find_journal(self, ino: Ino) -> JournalRecord | None:
        """The record of an inode."""

    async def find_lost_key(self, assoc: AssocId, key: bytes) -> JournalRecord | None:
        """The record of an object key that lost its name."""

    async def make_all_due(self) -> int:
        """At start, when nobody has anything open: how many records that makes due."""

    async def export_view(self, ino: Ino) -> ExportView | None:
        """What an inode should be in the buckets, consistently; None when it is gone."""

    async def source_of(self, inode: Inode) -> ObjectRecord | None:
        """The object that holds the archived content, if there is one."""

    async def dependant(self, known: ObjectRecord | None, ino: Ino) -> Inode | None:
        """An inode other than `ino` that still needs this object for bytes that are not local."""

    async def find_object(self, assoc: AssocId, key: bytes) -> ObjectRecord | None:
        """What the bucket holds under a key, as last seen."""

    async def holder(self, assoc: AssocId, key: bytes) -> Ino | None:
        """The inode whose name maps to this key now."""

    async def expand_directory(self, claimed: JournalRecord, after: bytes, limit: int) -> bytes | None:
        """Make up to `limit` children of a moved directory due; the name to go on after, None at the end."""

    async def expand_prefix(self, association: Association, claimed: JournalRecord, after: bytes, limit: int) -> bytes | None:
        """Note up to `limit` objects below a lost prefix as lost; where to go on, None at the end."""

    async def end_expansion(self, claimed: JournalRecord) -> None:
        """Everything below is noted: only the directory itself remains of the record."""

    async def note_write(self, ino: Ino, assoc: AssocId, key: bytes, sent: SentObject) -> bool:
        """Before a request that writes an object: what it writes. False when the key is no longer a name of the inode."""

    async def noted_writes(self, assoc: AssocId, key: bytes) -> list[SentObject]:
        """What requests may have written under a key since the bucket's answer about it was last recorded."""

    async def settle_object(self, ino: Ino, exported: ObjectRecord, *, content: bool, version: ContentVersion) -> bool:
        """Record what an export wrote; `content`: the bytes as they are now. False when the file has other content than that
        `version` by now, so that the object has to be written once more."""

    async def observe_object(self, seen: ObjectRecord) -> None:
        """What an unanswered request of ours wrote is there: nobody's content, but known."""

    async def free_object(self, assoc: AssocId, key: bytes, ino: Ino) -> bool:
        """Before an object is written over or deleted for `ino`: no other file has it as its archived copy from now on. False, and
        nothing has changed, while one still needs it for bytes that are not here."""

    async def forget_object(self, assoc: AssocId, key: bytes, *, with_writes: bool = False) -> None:
        """The bucket no longer has the object the table knows. `with_writes`: nor anything a request of ours may have written."""

    async def finish(self, claimed: JournalRecord) -> bool:
        """Drop a record whose export is complete; False when something changed meanwhile and it stays."""

    async def exclude(self, claimed: JournalRecord) -> None:
        """The policy keeps this change local."""

    async def postpone(
        self, claimed: JournalRecord, delay_seconds: float, *, code: str = "", text: str = "", terminal: bool = False
    ) -> None:
        """Put a claimed record back, with the reason if it failed."""

    # --- import -----------------------------------------------------------------------------------------------------------

    async def apply_listing(
        self, association: Association, groups: Sequence[tuple[bytes, Sequence[PreparedEntry]]],
        markers: Iterable[tuple[bytes, int, bytes, int, bytes]] = (), skipped: Iterable[tuple[bytes, str]] = (),
        directories: Iterable[bytes] = (), sweep: Sweep | None = None, touched: Container[bytes] = (),
    ) -> Applied:  # fmt: skip
        """One batch of a listing; repeating it changes nothing. `sweep`: not the first listing of these keys. Without one,
        `touched`: objects (by table key) that were changed here since it began."""

    async def note_listed(self, association: Association, relative: bytes) -> Ino | None:
        """All names that the bucket has in a directory are in the table; its number, if that was not known before."""

    def sweep(
        self, events: frozenset[str], *, is_told: bool = False, new_since_ns: int = 0
    ) -> AbstractContextManager[Sweep]:  # fmt: skip
        """To be entered before a listing is asked for, and held until its last batch is applied. `is_told`: not a listing,
        but what events tell, which may be newer than a listing under way. Unknown objects older than `new_since_ns` are not new."""

    async def vanished_suspects(
        self, association: Association, below: bytes, span: tuple[bytes, bytes | None], listed: Container[bytes], sweep: Sweep,
        after: bytes = b"",
    ) -> tuple[list[bytes], bytes | None]:  # fmt: skip
        """Known keys in `(span[0], span[1]]` (None: no limit) that begin with `below` and are not among those listed there (by
        table key), out of some hundred records; and what to go on `after`, None at the end: all up to there have been looked at,
        and the first 440 bytes of it are those of an object key."""

    async def remove_vanished(self, association: Association, key: bytes, sweep: Sweep) -> Removed | Conflict | None:
        """The bucket has no object under a key (a HEAD said so): its unchanged name goes too. None or a conflict: no name went; the
        file of that object was renamed or changed here, where it is not exported, and that is told once."""

    async def replace_content(self, ino: Ino, seen: ObjectRecord) -> Inode | None:
        """The bucket has another version of an object of a clean file. The file that is this version now: this one, or a new one
        whose name leaves the file, since that keeps its content under others (hard_links). None when the file is dirty or gone, or
        needs that object no more, as one that is all here under another name: then it stays as it is.
        """

    async def doubt_headers(self, assoc: AssocId, key: bytes, told_ns: int, margin_ns: int) -> Inode | None:
        """The bucket told at `told_ns` of the version that is known: its attributes are asked for again if that is later than
        what is known by more than the margin, and nothing changed here. The inode then, else None."""

    async def resolve_conflict(self, association: Association, dispute: Dispute) -> Resolved | None:
        """File and object both changed: the association's policy says who keeps the name, and the other one is kept elsewhere.

        None when the local file no longer has the name.
        """

    async def note_conflict(self, conflict: Conflict) -> None:
        """Count and remember a conflict in which no version had to move."""

    async def conflicts(self, limit: int) -> tuple[int, list[Conflict]]:
        """How many there were, and the latest, newest first."""

    async def conflict_of(self, ino: Ino) -> Conflict | None:
        """The latest conflict that a file won or lost."""

    async def remove_loser(self, parent: Ino, name: bytes, *, is_vanished: bool = False) -> Removed | None:
        """Take away a file or an empty directory in lost+found. None: there is no such, or its bytes are still to be fetched;
        from an object that `is_vanished` they never will be."""

    async def object_vanished(self, ino: Ino) -> None:
        """The bucket no longer has the object a clean file was imported from: it relies on that of another name, or has lost it. An
        inode that is gone is fine."""

    async def apply_headers(
        self, ino: Ino, etag: str, change: AttributeChange, target: bytes | None, version_id: str = "", storage_class: str = ""
    ) -> Inode | None:  # fmt: skip
        """What a HEAD said; `target`: it is a symlink. None when inode or object moved on meanwhile."""

    async def unknown_headers(self, after: Ino, limit: int) -> tuple[list[Inode], Ino, bool]:
        """Inodes above `after` with unknown headers, from at most `limit` records; the last looked at; whether there are more."""

    async def skipped(self, association: Association) -> list[tuple[bytes, str]]:
        """(relative key, reason) of every key that could not become a file."""

    async def skipped_page(self, association: Association, below: bytes, after: bytes, limit: int) -> list[tuple[bytes, str]]:
        """Up to `limit` of those whose first 440 bytes begin as those of `below`, and which come behind the key `after`."""

    async def skipped_reason(self, association: Association, relative: bytes) -> str:
        """Why the object with this key does not show; empty when it does, or is not known."""

    async def forget_skipped(
        self, association: Association, below: bytes, span: tuple[bytes, bytes | None], listed: Container[bytes],
        after: bytes = b"",
    ) -> bytes | None:  # fmt: skip
        """Drop the notes about keys in `(span[0], span[1]]` that begin with `below` and show by now, or were not listed (by
        table key), out of some hundred; what to go on `after`, None at the end."""

    async def hidden_below(self, inode: Inode) -> list[tuple[bytes, str]]:
        """(relative key, reason) of some keys that a file keeps from being shown, since it has the name of their directory."""
