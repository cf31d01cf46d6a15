"""MetadataEngine: what the rest of the program may ask of the inode table, in file-system verbs.

Each verb is one atomic transaction that is in the log when it returns; only `sync` waits for a disk. Callers treat every
verb as a checkpoint, although an engine on this host may never wait, and build no atomicity out of two verbs. What a verb
returns is a copy: changing it changes nothing. Times are ns since the epoch. No errno: our exceptions only.

Every verb that writes raises OutOfSpace when the log cannot take it; nothing has changed then. A verb that is given an inode
number raises StaleInode when there is no such inode, unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from s3lustrefs.meta.attributes import AttributeChange
from s3lustrefs.meta.conflicts import Dispute, Resolved
from s3lustrefs.meta.export_orders import Ordered, Standing
from s3lustrefs.meta.export_targets import ExportView
from s3lustrefs.meta.listing import Applied, PreparedEntry, Sweep
from s3lustrefs.meta.location import Location
from s3lustrefs.meta.schema import Change, JournalRecord, ObjectRecord, SentObject
from s3lustrefs.meta.vanished import Removed
from s3lustrefs.model.association import Association, Lifecycle
from s3lustrefs.model.conflict import Conflict
from s3lustrefs.model.file_system import Asked, FileSystemRecord
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import AssocId, ContentVersion, Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.model.task import TaskFailure, TaskRecord


class MetadataEngine(Protocol):
    """One suite, `tests/contract/test_engine.py`, holds every engine to this."""

    # --- look-up ------------------------------------------------------------------------------------------------------

    async def lookup(self, parent: Ino, name: bytes) -> Inode:
        """The inode of a dentry. Raises: NotFound, NameTooLong, InvalidName."""

    async def get(self, ino: Ino) -> Inode:
        """Raises: StaleInode."""

    async def readdir(self, ino: Ino, after: bytes, limit: int) -> list[tuple[bytes, Inode]]:
        """Up to `limit` entries in name order whose names sort after `after` (empty: from the first)."""

    async def resolve(self, path: bytes) -> Inode:
        """The inode at an absolute path inside the mount, symlinks not followed. Raises: NotFound."""

    async def path_of(self, ino: Ino) -> bytes:
        """Absolute path inside the mount, by primary names. Raises: StaleInode; NotFound for an orphan."""

    async def locate(self, inode: Inode) -> Location | None:
        """Where the primary name of an inode stands; None outside every association, and for an orphan."""

    async def create(
        self, parent: Ino, name: bytes, mode: int, uid: int, gid: int, *,
        rdev: int = 0, target: bytes = b"", open_for_write: bool = False,
    ) -> Inode:  # fmt: skip
        """A new inode of any type under a new name; due for export at once, or with `open_for_write` at its close.

        Raises: AlreadyExists, NotADirectory, NotFound (the directory was removed), NameTooLong, InvalidName.
        """

    async def link(self, ino: Ino, parent: Ino, name: bytes) -> Inode:
        """One more name. Raises: NotPermitted for a directory; AlreadyExists, TooManyLinks, NotADirectory, NotFound."""

    async def unlink(self, parent: Ino, name: bytes) -> Inode:
        """Remove a name of anything but a directory; returns the inode as it is then (nlink 0: that was the last).

        An inode without names is an orphan while it is in use, else gone. Raises: NotFound, IsADirectory.
        """

    async def rmdir(self, parent: Ino, name: bytes) -> Inode:
        """Raises: NotFound, NotADirectory, NotEmpty; NotPermitted for a linked directory."""

    async def rename(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int = 0) -> Inode | None:
        """rename(2) with RENAME_NOREPLACE and RENAME_EXCHANGE; returns what was replaced, as it is then.

        Raises: NotFound, AlreadyExists, IsADirectory, NotADirectory, NotEmpty, NameTooLong, InvalidName, InvalidArgument (below
        itself, unknown flags), NotPermitted (is or contains a linked directory).
        """

    async def orphans(self) -> list[Inode]:
        """Inodes without a name that were in use when they lost it."""

    async def purge_orphan(self, ino: Ino) -> Inode | None:
        """Remove an orphan for good; None when it is none."""

    # --- attributes -----------------------------------------------------------------------------------------------------

    async def set_attributes(self, ino: Ino, change: AttributeChange) -> Inode:
        """Mode and owner make the inode due; times ride along with the next export."""

    async def touch_atime(self, ino: Ino) -> None:
        """Sets the access time to now; an inode that is gone is fine."""

    async def begin_write(self, ino: Ino) -> Inode:
        """The first write of a handle, before any byte changes: the file is dirty and waits for its close."""

    async def end_write(self, ino: Ino, end: int, extents: bytes | None = None, *, start: int = 0) -> Inode:
        """Bytes `[start, end)` are written; `extents`: new residency of a PARTIAL file that grew."""

    async def set_size(self, ino: Ino, size: int, extents: bytes | None = None, *, still_open: bool) -> Inode:
        """Truncate or extend; due at once unless some handle that wrote is `still_open`."""

    async def make_due(self, ino: Ino) -> bool:
        """The last writer closed; whether there is anything to export."""

    async def get_xattr(self, ino: Ino, name: bytes) -> bytes:
        """Raises: NoAttribute."""

    async def list_xattrs(self, ino: Ino) -> list[bytes]:
        """Names in order; none for an inode that is gone."""

    async def set_xattr(self, ino: Ino, name: bytes, value: bytes) -> None:
        """Raises: InvalidArgument (too large), TooManyAttributes."""

    async def remove_xattr(self, ino: Ino, name: bytes) -> None:
        """Raises: NoAttribute."""

    # --- residency -----------------------------------------------------------------------------------------------------

    async def get_residency(self, inode: Inode) -> bytes:
        """Encoded extents of a PARTIAL inode's present content version; empty: nothing is resident."""

    async def put_residency(self, ino: Ino, version: ContentVersion, extents: bytes, *, complete: bool) -> Inode | None:
        """Remember what is resident of a content version; None when there is other content now, or all of it already."""

    async def release_content(self, ino: Ino, *, even_pinned: bool = False) -> Inode:
        """Forget the resident bytes of an archived, clean file. `even_pinned`: they are bad. Raises: NotPermitted."""

    # --- export ----------------------------------------------------------------------------------------------------------

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

    # --- HSM requests --------------------------------------------------------------------------------------------------

    async def order_archive(self, ino: Ino) -> bool:
        """Have a file exported whatever the policy says; False when the bucket has it as it is here.

        Raises: NotPermitted with the reason; NotInRepository; InvalidArgument: not a file.
        """

    async def order_remove(self, ino: Ino, version: ContentVersion) -> bool:
        """Have a file's objects deleted, whatever the policy says; it is local only from now on. False: it has none.

        `version`: the content that is known to be on disk. Raises: NotPermitted (not all of it is local, or it is damaged), InUse
        (an export is to come, or it has other content by now), InvalidArgument.
        """

    async def set_hsm_flags(self, ino: Ino, add: Hsm, drop: Hsm) -> Inode:
        """Raises: InvalidArgument for an illegal combination; NotPermitted for one that could cost bytes."""

    # --- import ------------------------------------------------------------------------------------------------------------

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
        self, association: Association, below: bytes, span: tuple[bytes, bytes | None], listed: Iterable[bytes], sweep: Sweep
    ) -> list[bytes]:
        """Known keys in `(span[0], span[1]]` (None: no limit) that begin with `below` and are not among those listed there."""

    async def remove_vanished(self, association: Association, key: bytes, sweep: Sweep) -> Removed | None:
        """The bucket has no object under a key (a HEAD said so): its unchanged name goes too. None: no name went."""

    async def replace_content(self, ino: Ino, seen: ObjectRecord) -> Inode | None:
        """The bucket has another version of a clean file's object; None when the file is dirty or gone."""

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
        """The bucket no longer has the object a clean file was imported from; an inode that is gone is fine."""

    async def apply_headers(
        self, ino: Ino, etag: str, change: AttributeChange, target: bytes | None, version_id: str = ""
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
        self, association: Association, below: bytes, span: tuple[bytes, bytes | None], listed: Callable[[], Container[bytes]]
    ) -> None:
        """Drop the notes about keys in `(span[0], span[1]]` that begin with `below` and show by now, or were not listed."""

    async def hidden_below(self, inode: Inode) -> list[tuple[bytes, str]]:
        """(relative key, reason) of some keys that a file keeps from being shown, since it has the name of their directory."""

    # --- associations ------------------------------------------------------------------------------------------------------

    def associations(self) -> list[Association]:
        """All that are linked, by number."""

    def all_associations(self) -> list[Association]:
        """Those, too, that are not linked yet, or not any more."""

    def association(self, assoc: AssocId) -> Association | None:
        """One that is linked; None: no such number, or nothing belongs to it yet, or any more."""

    async def link_association(self, association: Association) -> Association:
        """Store an association, a new one under a number given here, and make its directory. From now on names in it are keys.

        Raises: ConfigError when something that is no directory is in the way.
        """

    async def update_association(self, association: Association, asked: Asked | None = None) -> None:
        """Replace the settings of an association; `asked`: the request that did it. Raises: NotInRepository when it is gone, or
        being deleted."""

    async def add_association(self, association: Association, asked: Asked | None, tags: Mapping[str, str]) -> Association:
        """Store a new association under a number given here, without linking anything."""

    async def move_association(self, assoc: AssocId, lifecycle: Lifecycle, failure: str = "") -> Association | None:
        """Take an association to its next state, see `model.association_lifecycle`. None: gone, or that cannot follow."""

    @property
    def unlink_steps(self) -> Sequence[str]:
        """What `unlink_step` can do, in the order in which it is to be done."""

    async def unlink_step(self, association: Association, step: str, after: bytes, limit: int) -> bytes | None:
        """Take one page of the table's rows out of an association that is DELETING; what to go on after, None at the end."""

    async def remove_entries(self, directory: Ino, names: Sequence[bytes]) -> list[Removed]:
        """Remove files, and directories that are empty, which are in no association. What is in use, or not there, stays so."""

    async def forget_association(self, association: Association) -> bool:
        """The end of an association; False while some row of the table speaks of it."""

    def is_deleted(self, file_system_path: str, configured_as: str) -> bool:
        """Whether an association that was configured just so was deleted since."""

    async def keep_local(self, directory: Ino, after: bytes, limit: int) -> tuple[bytes | None, list[Ino]]:
        """A page of a directory that was linked: its files are not to be exported for that. The name to go on after, None at the
        end; and its subdirectories."""

    # --- what the FSx API alone knows --------------------------------------------------------------------------------------

    def file_system(self) -> FileSystemRecord | None:
        """None: no mount has made it yet."""

    async def update_file_system(self, record: FileSystemRecord, asked: Asked | None = None) -> None:
        """Make or replace it; `asked`: the request that did it."""

    def tags(self, resource: str) -> dict[str, str]:
        """Of a resource by its id, in the order of their keys."""

    async def set_tags(self, resource: str, tags: Mapping[str, str]) -> None:
        """Replace all tags of a resource."""

    def find_asked(self, token: str) -> Asked | None:
        """The request that was done under a ClientRequestToken, if it is among the last thousand or so."""

    # --- data repository tasks ---------------------------------------------------------------------------------------------

    def tasks(self) -> list[TaskRecord]:
        """All that are remembered: those that have not ended, and the newest of the others."""

    async def create_task(self, record: TaskRecord, tags: Mapping[str, str], asked: Asked | None = None) -> list[str]:
        """Store a new task; `asked`: the request that made it. Ids of old tasks that are forgotten for it."""

    async def update_task(self, record: TaskRecord, failures: Sequence[TaskFailure] = ()) -> None:
        """Replace a task, and add to what it failed at."""

    async def note_task_failures(self, task_id: str, failures: Sequence[TaskFailure]) -> None:
        """What a task failed at; one of the same order is replaced."""

    async def task_failures(self, task_id: str, after: int, limit: int) -> list[TaskFailure]:
        """Up to `limit` of them, by their order, which is above `after`."""

    async def forget_task_failures(self, task_id: str, after: int, limit: int) -> bool:
        """Drop up to `limit` whose order is above `after`; whether there may be more."""

    async def order_exports(self, directory: Ino, after: bytes, limit: int) -> list[Ordered]:
        """Have what differs from the bucket exported, whatever the policy: up to `limit` names that sort after `after`."""

    async def order_export(self, parent: Ino, name: bytes) -> Ordered:
        """The same for one name. Raises: NotFound."""

    async def order_again(self, ino: Ino) -> Standing:
        """The same for all names of an inode; OUTSIDE when it is gone."""

    async def withdraw_order(self, ino: Ino, order: Change = Change.HSM_ORDERED) -> None:
        """Take one of the orders back: without any, the policy counts for what is not being exported yet. No order is fine."""

    # --- the whole table ---------------------------------------------------------------------------------------------------

    async def sync(self) -> None:
        """Everything so far, and the content it speaks of, survives a power cut. Raises: StorageError."""

    async def wait_room(self) -> None:
        """Bulk work waits here while the table cannot keep up."""

    @property
    def inode_count(self) -> int:
        """How many inodes have a name."""
