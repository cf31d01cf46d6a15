"""MetadataEngine: what the rest of the program may ask of the inode table, in file-system verbs.

Each verb is one atomic transaction that is in the log when it returns; only `sync` waits for a disk. Callers treat every
verb as a checkpoint, although an engine on this host may never wait, and build no atomicity out of two verbs. What a verb
returns is a copy: changing it changes nothing. Times are ns since the epoch. No errno: our exceptions only.

Every verb that writes raises OutOfSpace when the log cannot take it; nothing has changed then. A verb that is given an inode
number raises StaleInode when there is no such inode, unless it says otherwise.

The protocol has a part for each matter, in a module of its own beside this one, as the engine of this host has (`lmdb_engine`):
who works on one matter alone says so by its type.
"""

from __future__ import annotations

from typing import Protocol

from s3lustrefs.meta.attributes import AttributeChange
from s3lustrefs.meta.engine_control import ControlEngine
from s3lustrefs.meta.engine_hsm import HsmEngine
from s3lustrefs.meta.engine_linking import LinkingEngine
from s3lustrefs.meta.engine_repository import RepositoryEngine
from s3lustrefs.meta.engine_tasks import TaskEngine
from s3lustrefs.meta.location import Location
from s3lustrefs.model.ids import ContentVersion, Ino
from s3lustrefs.model.inode import Inode


class MetadataEngine(RepositoryEngine, LinkingEngine, ControlEngine, HsmEngine, TaskEngine, Protocol):
    """One suite, `tests/contract/test_engine.py`, holds every engine to this."""

    # --- names ------------------------------------------------------------------------------------------------------------

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

    # --- attributes -------------------------------------------------------------------------------------------------------

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

    # --- residency --------------------------------------------------------------------------------------------------------

    async def get_residency(self, inode: Inode) -> bytes:
        """Encoded extents of a PARTIAL inode's present content version; empty: nothing is resident."""

    async def put_residency(self, ino: Ino, version: ContentVersion, extents: bytes, *, complete: bool) -> Inode | None:
        """Remember what is resident of a content version; None when there is other content now, or all of it already."""

    async def release_content(self, ino: Ino, *, even_pinned: bool = False) -> Inode:
        """Forget the resident bytes of an archived, clean file. `even_pinned`: they are bad. Raises: NotPermitted."""

    # --- the whole table --------------------------------------------------------------------------------------------------

    async def sync(self) -> None:
        """Everything so far, and the content it speaks of, survives a power cut. Raises: StorageError."""

    async def wait_room(self) -> None:
        """Bulk work waits here while the table cannot keep up."""

    @property
    def inode_count(self) -> int:
        """How many inodes have a name."""
