"""SentObjects: our own objects are known as such even when the answer to the request that wrote them never came.

What an export sends is noted in the table before the request. Whoever then meets an unexpected object under that key asks here
whether it is what was sent; and uploads in parts that were cut off are found and dropped.
"""

from __future__ import annotations

import logging

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.schema import SentObject
from s3lustrefs.model.ids import AssocId
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.export_order import sync_together
from s3lustrefs.repository import posix_headers
from s3lustrefs.repository.object_store import ObjectHead, ObjectStore

log = logging.getLogger(__name__)

Tags = tuple[tuple[str, str], ...]


class SentObjects:
    """Callers hold the key's lock."""

    def __init__(self, engine: MetadataEngine) -> None:
        self._engine = engine

    async def note(
        self, inode: Inode, assoc: AssocId, key: bytes, size: int, *, in_parts: bool = False, tags: Tags = (), copy_of: str = ""
    ) -> bool:  # fmt: skip
        """What is about to be written under a key. False: the key is no longer a name of the inode, nothing may be sent."""
        headers = posix_headers.encode(inode.mode, inode.uid, inode.gid, inode.atime_ns, inode.mtime_ns)
        noted = await self._engine.note_write(inode.ino, assoc, key, SentObject(size, headers, in_parts, tags, copy_of))
        try:
            await sync_together(self._engine)  # after a power cut, too, the object must be known as ours, and its file be there
        except errors.StorageError as exc:
            # A disk that keeps nothing any more is the best reason to go on: the bucket will have the bytes.
            log.warning("export of what is not durable here ino=%d error=%s", inode.ino, exc)
        failpoint("sent.noted")
        return noted

    async def wrote(self, assoc: AssocId, key: bytes, head: ObjectHead) -> bool:
        """Whether an object is what one of our requests sent."""
        return bool(await self._matching(assoc, key, head))

    async def copied(self, assoc: AssocId, key: bytes, head: ObjectHead, etag: str) -> bool:
        """Whether an object is our copy of the one with this ETag, and can be nothing else that we sent."""
        matching = await self._matching(assoc, key, head)
        return bool(matching) and all(sent.copy_of == etag for sent in matching)

    async def _matching(self, assoc: AssocId, key: bytes, head: ObjectHead) -> list[SentObject]:
        noted = await self._engine.noted_writes(assoc, key)
        return [s for s in noted if head.version.size == s.size and s.headers.items() <= head.metadata.items()]

    async def drop_uploads(self, store: ObjectStore, assoc: AssocId, key: bytes) -> None:
        """Abort uploads in parts that a crash, or a failed abort, left unfinished under a key. Raises: RepositoryError."""
        if any(sent.in_parts for sent in await self._engine.noted_writes(assoc, key)):
            for upload_id in await store.unfinished_uploads(key):
                log.info("unfinished upload dropped key=%r upload_id=%s", key, upload_id)
                await store.abort_upload(key, upload_id)
