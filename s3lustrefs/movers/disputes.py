"""Disputes: what an export does when the bucket is not as the table says, since somebody else changed it.

A change here against a change there is a conflict, and the association's policy says who keeps the name. A change against a
deletion survives, whoever made it. What follows its object does so without asking.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.conflicts import Dispute
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.export_targets import Target
from s3lustrefs.meta.listing import PATH_MAX, Sweep, preparer, preparer_options
from s3lustrefs.meta.schema import Change, ObjectRecord
from s3lustrefs.model.association import EVENTS
from s3lustrefs.model.conflict import Conflict, ConflictKind
from s3lustrefs.model.events import DentryInvalidation, InodeInvalidation, Invalidation
from s3lustrefs.model.ids import AssocId
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.importer import announce
from s3lustrefs.movers.object_versions import record_of
from s3lustrefs.movers.refresher import Refresher
from s3lustrefs.movers.removals import Removals
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.sent_objects import SentObjects
from s3lustrefs.repository import posix_headers
from s3lustrefs.repository.object_store import ObjectHead

log = logging.getLogger(__name__)


class Disputes:
    """Callers hold the lock of the key."""

    def __init__(
        self,
        engine: MetadataEngine,
        removals: Removals,
        repositories: Repositories,
        refresher: Refresher,
        notify: Callable[[Invalidation], None],
    ) -> None:
        self._engine = engine
        self._removals = removals
        self._repositories = repositories
        self._refresher = refresher
        self._notify = notify
        self._sent = SentObjects(engine)

    async def resolve(self, inode: Inode, target: Target, head: ObjectHead) -> None:
        """File and object both changed. Raises: RepositoryError, StorageError; NotADirectory where lost+found cannot be made."""
        if await self._is_unchanged(inode, target):
            # Only attributes were changed here, and they go with the new content.
            await self._refresher.refresh(inode.ino, (target.association.assoc_id, target.key))
            return
        resolved = await self._engine.resolve_conflict(target.association, await self._dispute(inode, target, head))
        if resolved is None:
            return
        failpoint("conflict.recorded")
        conflict = resolved.conflict
        log.warning("conflict kept kind=%s path=%s other=%s", conflict.kind, conflict.path, conflict.loser)
        for parent, name in resolved.names:
            self._notify(DentryInvalidation(parent, name))
            self._notify(InodeInvalidation(parent, content=False))
        self._notify(InodeInvalidation(inode.ino, content=False))

    async def _is_unchanged(self, inode: Inode, target: Target) -> bool:
        """Whether the object had the content that the file still has."""
        if not inode.is_file or inode.is_dirty:
            return False
        if (inode.source_assoc, inode.source_key) == (target.association.assoc_id, target.key):
            return True
        if inode.nlink == 1 or target.known is None or target.known.ino != inode.ino:
            return False
        record = await self._engine.find_journal(inode.ino)
        return record is None or not record.change & Change.CONTENT

    async def _dispute(self, inode: Inode, target: Target, head: ObjectHead) -> Dispute:
        association, version = target.association, head.version
        posix = posix_headers.decode(head.metadata)
        link = b""
        if association.on_conflict == "file-wins" and posix.is_symlink and 0 < version.size < PATH_MAX:
            link = await self._repositories.of(association.assoc_id).get_bytes(target.key, version, 0, version.size)
        known = replace(posix if association.posix_metadata != "off" else posix_headers.PosixHeaders(), is_symlink=bool(link))
        return Dispute(
            inode.ino,
            record_of(association.assoc_id, target.key, version),
            time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()).encode(),
            socket.gethostname().encode(),
            (os.geteuid(), os.getegid()),
            known.mode(target.key, association.file_mode, association.dir_mode),
            association.uid if known.uid is None else known.uid,
            association.gid if known.gid is None else known.gid,
            version.mtime_ns if known.mtime_ns is None else known.mtime_ns,
            link,
        )

    async def deleted_there(self, inode: Inode, target: Target) -> None:
        """The object was deleted, the file was changed: it has been exported again."""
        if target.known is None or target.known.ino != inode.ino:
            return
        path = (await self._engine.path_of(inode.ino)).decode(errors="replace")
        await self._engine.note_conflict(Conflict(ConflictKind.DELETED_THERE, time.time_ns(), path, winner_ino=inode.ino))
        log.warning("conflict kept kind=%s path=%s", ConflictKind.DELETED_THERE, path)

    async def follow(self, inode: Inode) -> bool:
        """The object that a file relies on was replaced or is gone. Whether the file is the new version now, or relies on that of
        another name; or, wholly here, on none, since the name of the object left it."""
        before = await self._engine.source_of(inode)
        await self._refresher.refresh(inode.ino)
        after = await self._engine.source_of(await self._engine.get(inode.ino))
        return after != before and (after is not None or inode.is_complete)

    async def vanished(self, inode: Inode) -> None:
        """The object of a file was deleted before all of it was here. A loser of which nothing will come is none."""
        removed = await self._engine.remove_loser(inode.parent, inode.name, is_vanished=True)
        if removed is None:
            return
        log.info("loser dropped, its object is gone ino=%d name=%r", inode.ino, inode.name)
        self._removals.follow(removed.parent, [removed])

    async def leave(self, source: ObjectRecord) -> None:
        """Forget where a file came from that is wholly here, unless that is as it was. What is there now is a file, too."""
        try:
            head = await self._repositories.of(source.assoc).head(source.key)
        except errors.ObjectNotFound:
            head = None
        if head is not None and head.version.etag == source.etag:
            return
        if head is not None and not await self._sent.wrote(source.assoc, source.key, head):
            await self.bring_back(source.assoc, source.key, head)
        if await self._engine.find_object(source.assoc, source.key) == source:
            await self._engine.forget_object(source.assoc, source.key)

    async def bring_back(self, assoc: AssocId, key: bytes, head: ObjectHead) -> None:
        """The object of a name that was taken away here was changed in the bucket: it is a new file, whatever auto_import says."""
        found = self._engine.association(assoc)
        if found is None:
            return
        association, relative = found.side_of(key), found.relative_of(key)
        directory, _, name = relative.rpartition(b"/")
        v = head.version
        what = v.size, v.etag.encode(), v.mtime_ns, v.storage_class.encode()
        sweep = Sweep(frozenset(EVENTS), set(), is_told=True, is_certain=True)
        if name:
            prepare = preparer(**preparer_options(association))  # type: ignore[arg-type]
            groups = [(directory, [prepare(relative, name, *what)])]
            applied = await self._engine.apply_listing(association, groups, sweep=sweep)
        else:
            applied = await self._engine.apply_listing(association, [], [(directory, *what)], sweep=sweep)
        failpoint("conflict.back")
        for old in applied.outdated:
            self._removals.drop_content(old)
        announce(applied, self._notify)
