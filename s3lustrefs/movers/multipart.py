"""Multipart: large files go up in parts, large objects are copied in parts, several at a time.

That parts are about to go up is noted in the table before (`sent_objects`), so that an upload cut off by a crash is aborted by
the next attempt. The upload is completed only when every part was read from unchanged content: a write cancels it first.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable

import trio

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.failpoints import failpoint
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.repository.object_store import Condition, FileSlice, ObjectStore, ObjectVersion, PutHeaders, UploadedPart

log = logging.getLogger(__name__)

_PARTS_AT_ONCE = 6
_MAX_PARTS = 10_000
_PART_BYTES = 16 << 20
_COPY_PART_BYTES = 1 << 30
_ABORT_SECONDS = 10.0


class Multipart:
    """Uploads and copies in parts."""

    def __init__(self, chunks: ChunkStore) -> None:
        self._chunks = chunks
        self.sent_bytes: dict[Ino, int] = {}
        """Of uploads under way."""

    async def upload(
        self, store: ObjectStore, inode: Inode, key: bytes, headers: PutHeaders, condition: Condition | None
    ) -> ObjectVersion:
        """Raises: ObjectChanged when the condition does not hold at completion; RepositoryError."""
        part_bytes = part_size(inode.size, _PART_BYTES)

        async def part(upload_id: str, number: int, start: int, end: int) -> UploadedPart:
            uploaded = await store.upload_part(key, upload_id, number, await self.body(inode, start, end))
            self.sent_bytes[inode.ino] = self.sent_bytes.get(inode.ino, 0) + end - start
            return uploaded

        try:
            return await self._in_parts(store, key, headers, condition, inode.size, part_bytes, part)
        finally:
            self.sent_bytes.pop(inode.ino, None)

    async def copy(
        self, store: ObjectStore, key: bytes, bucket: str, source_key: bytes, source: ObjectVersion, headers: PutHeaders,
        condition: Condition | None,
    ) -> ObjectVersion:  # fmt: skip
        async def part(upload_id: str, number: int, start: int, end: int) -> UploadedPart:
            return await store.copy_part(key, upload_id, number, bucket, source_key, source, start, end)

        part_bytes = part_size(source.size, _COPY_PART_BYTES)
        return await self._in_parts(store, key, headers, condition, source.size, part_bytes, part)

    async def _in_parts(
        self, store: ObjectStore, key: bytes, headers: PutHeaders, condition: Condition | None,
        size: int, part_bytes: int, part: Callable[[str, int, int, int], Awaitable[UploadedPart]],
    ) -> ObjectVersion:  # fmt: skip
        upload_id = await store.create_upload(key, headers)
        failpoint("multipart.created")
        completed = False
        try:
            parts = await _gather_parts(upload_id, size, part_bytes, part)
            failpoint("multipart.complete.before")
            written = await store.complete_upload(key, upload_id, parts, condition)
            failpoint("multipart.completed")
            completed = True
        finally:
            if not completed:
                await self._abort(store, key, upload_id)
        return written

    async def _abort(self, store: ObjectStore, key: bytes, upload_id: str) -> None:
        """Bounded, also while being cancelled. What is still there then is found by the next attempt."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _ABORT_SECONDS):
            try:
                await store.abort_upload(key, upload_id)
            except errors.RepositoryError as exc:
                log.warning("multipart upload left behind key=%r upload_id=%s error=%s", key, upload_id, exc)

    async def body(self, inode: Inode, start: int, end: int) -> FileSlice | bytes:
        """Bytes `[start, end)` as a request takes them: from the file they are in, if they are in one."""
        slices = self._chunks.slices(inode.ino, inode.content_version, inode.chunk_bytes, start, end)
        if len(slices) == 1:
            return FileSlice(*slices[0])
        return bytes(await self._chunks.read(inode.ino, inode.content_version, inode.chunk_bytes, start, end))

    async def etag_of(self, inode: Inode, threshold: int) -> str:
        """The ETag our own upload of these bytes has on servers whose ETags are MD5s. Reads the whole file."""
        if inode.size <= threshold:
            return (await self._md5(inode, 0, inode.size)).hexdigest()
        part_bytes = part_size(inode.size, _PART_BYTES)
        digests = [
            (await self._md5(inode, at, min(at + part_bytes, inode.size))).digest() for at in range(0, inode.size, part_bytes)
        ]
        return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"

    async def _md5(self, inode: Inode, start: int, end: int) -> hashlib._Hash:
        digest = hashlib.md5(usedforsecurity=False)
        for at in range(start, end, 1 << 20):
            digest.update(
                await self._chunks.read(inode.ino, inode.content_version, inode.chunk_bytes, at, min(at + (1 << 20), end))
            )
            await trio.lowlevel.checkpoint()
        return digest


def part_size(size: int, least: int) -> int:
    """Bytes per part: at least `least`, doubled until 10,000 parts are enough."""
    part = least
    while part * _MAX_PARTS < size:
        part *= 2
    return part


async def _gather_parts(
    upload_id: str, size: int, part_bytes: int, part: Callable[[str, int, int, int], Awaitable[UploadedPart]]
) -> list[UploadedPart]:
    parts: dict[int, UploadedPart] = {}
    limiter = trio.CapacityLimiter(_PARTS_AT_ONCE)

    async def one(number: int, start: int, end: int) -> None:
        try:
            parts[number] = await part(upload_id, number, start, end)
            failpoint("multipart.part")
        finally:
            limiter.release_on_behalf_of(number)

    try:
        async with trio.open_nursery() as nursery:
            for number, start in enumerate(range(0, size, part_bytes), 1):
                await limiter.acquire_on_behalf_of(number)
                nursery.start_soon(one, number, start, min(start + part_bytes, size))
    except* errors.S3LustreError as group:
        first = group.exceptions[0]
        raise first from None
    return [parts[n] for n in sorted(parts)]
