"""ExportOutcome: what is written down before a request that writes, and after its answer, whatever that was.

A condition that failed means somebody else's change, or an earlier request of ours whose answer got lost: the object tells.
"""

from __future__ import annotations

import logging
from typing import NoReturn

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine_repository import RepositoryEngine
from s3lustrefs.meta.export_targets import Target
from s3lustrefs.model.ids import ContentVersion
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.disputes import Disputes
from s3lustrefs.movers.export_order import NotYet
from s3lustrefs.movers.kept_tags import KeptTags
from s3lustrefs.movers.multipart import Multipart
from s3lustrefs.movers.object_versions import record_of
from s3lustrefs.movers.sent_objects import SentObjects, Tags
from s3lustrefs.repository import posix_headers
from s3lustrefs.repository.object_store import ObjectHead, ObjectVersion

log = logging.getLogger(__name__)

MULTIPART_BYTES = 16 << 20
"""Larger files go up in parts of this size."""


class ExportOutcome:
    """Callers hold the lock of the target's key."""

    def __init__(
        self, engine: RepositoryEngine, sent: SentObjects, multipart: Multipart, disputes: Disputes, tags: KeptTags
    ) -> None:
        self._engine = engine
        self._sent = sent
        self._multipart = multipart
        self._disputes = disputes
        self._tags = tags
        self.settled_objects = 0

    async def settle(
        self, inode: Inode, target: Target, written: ObjectVersion, *, content: bool, version: ContentVersion | None = None
    ) -> None:
        """`version`: of the content, where `inode` has that of a snapshot. Raises: NotYet when the bucket has given the file other
        content meanwhile."""
        exported = record_of(target.association.assoc_id, target.key, written, inode.ino)
        failpoint("settle.before")
        wanted = inode.content_version if version is None else version
        is_current = await self._engine.settle_object(inode.ino, exported, content=content, version=wanted)
        failpoint("settle.after")
        self.settled_objects += 1
        if not is_current:
            raise NotYet(0.0)

    async def note(
        self, inode: Inode, target: Target, *, in_parts: bool = False, tags: Tags = (), copy_of: str = ""
    ) -> None:  # fmt: skip
        """Raises: NotYet when the file has lost this name."""
        size = len(inode.target) if inode.is_symlink else inode.size if inode.is_file else 0
        assoc, key = target.association.assoc_id, target.key
        if not await self._sent.note(inode, assoc, key, size, in_parts=in_parts, tags=tags, copy_of=copy_of):
            raise NotYet(0.0)

    async def resolve(self, inode: Inode, target: Target, head: ObjectHead) -> None:
        """A condition failed. The object may be our own: written before a crash, or the reply got lost."""
        if await self._is_our_content(inode, head):
            await self.settle_found(inode, target, head)
        elif target.known is not None and head.version.etag == target.known.etag:
            raise errors.RepositoryUnavailable(
                f"{target.key.decode()}: the endpoint says that the object changed, which it did not"
            )
        elif await self._sent.wrote(target.association.assoc_id, target.key, head):
            await self.observe(target, head)
        else:
            await self.conflict(inode, target, head)

    async def settle_found(self, inode: Inode, target: Target, head: ObjectHead) -> None:
        """The right bytes are there already. Raises: NotYet when they have older attributes: those are next."""
        await self._tags.put_back(target, head)
        await self.settle(inode, target, head.version, content=True)
        if not _has_attributes(head, inode):
            raise NotYet(0.0)

    async def observe(self, target: Target, head: ObjectHead) -> None:
        """An earlier request of ours wrote this: the next attempt may replace it. Raises: NotYet."""
        await self._tags.put_back(target, head)
        await self._engine.observe_object(record_of(target.association.assoc_id, target.key, head.version))
        raise NotYet(0.0)

    async def _is_our_content(self, inode: Inode, head: ObjectHead) -> bool:
        """Equal bytes: proven by the ETag where it is an MD5, else by size and every POSIX header, nanoseconds included."""
        if head.version.size != inode.size:
            return False
        digest = await self._multipart.etag_of(inode, MULTIPART_BYTES)
        if head.version.etag == digest:
            return True
        looks_like_md5 = len(head.version.etag.partition("-")[0]) == 32
        return not looks_like_md5 and _has_attributes(head, inode)

    async def conflict(self, inode: Inode, target: Target, head: ObjectHead) -> NoReturn:
        """Raises: NotYet, RepositoryError, StorageError."""
        log.warning("conflict ino=%d key=%r bucket_etag=%s", inode.ino, target.key, head.version.etag)
        await self._disputes.resolve(inode, target, head)
        raise NotYet(0.0)


def _has_attributes(head: ObjectHead, inode: Inode) -> bool:
    """Whether an object has every POSIX header of an inode, nanoseconds included."""
    mine = posix_headers.encode(inode.mode, inode.uid, inode.gid, inode.atime_ns, inode.mtime_ns)
    return mine.items() <= head.metadata.items()
