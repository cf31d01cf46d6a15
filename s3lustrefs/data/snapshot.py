"""Snapshots: second copies of a file's content, each as of one moment, kept while that is exported.

Each has a content version of its own, which no record ever speaks of and which is never used again: the files of one that is done
with stay until the next sync of the table, and must not be seen, or removed, as those of the next. A crash leaves nothing but
chunk files which the next start removes. Where the file system can share blocks between files (XFS, btrfs) a copy costs neither
time nor room.
"""

from __future__ import annotations

import errno
import os
import random

import trio

from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.data.fence import storage_errors
from s3lustrefs.model.ids import ContentVersion
from s3lustrefs.model.inode import Inode

_APART = 1 << 31
"""Content versions count from 0 and never come here."""
_STARTS = 1 << 24
"""Each daemon counts on from one of so many numbers, since files that the one before it left may still be there."""
_STEP_BYTES = 64 << 20
_NOT_HERE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class Snapshots:
    """Those of one daemon."""

    def __init__(self, chunks: ChunkStore) -> None:
        self._chunks = chunks
        self._first = self._next = _APART | random.randrange(_STARTS)

    def new_version(self) -> ContentVersion:
        """A content version that no snapshot has had."""
        self._next += 1
        return ContentVersion(self._next - 1)

    def is_leftover(self, version: ContentVersion) -> bool:
        """Whether this is the snapshot of an earlier daemon, which nobody needs."""
        return version >= _APART and not self._first <= version < self._next

    async def take(self, inode: Inode, version: ContentVersion) -> None:
        """Copy an inode's content, all of it resident, to that version while nobody writes; what an error or cancellation leaves of
        it is condemned. Raises: OutOfSpace, ContentLost, StorageError.
        """
        try:
            for start in range(0, inode.size, inode.chunk_bytes):
                end = min(start + inode.chunk_bytes, inode.size)
                (source,) = self._chunks.slices(inode.ino, inode.content_version, inode.chunk_bytes, start, end)
                if source.path != os.devnull:
                    with self._chunks.pinned(inode.ino, version, inode.chunk_bytes, start) as (fd, _):
                        await trio.to_thread.run_sync(_copy, source.path, source.length, fd)
        except BaseException:
            self._chunks.condemn(inode.ino, version, inode.chunk_bytes, inode.size)
            raise


def _copy(path: str, length: int, target: int) -> None:
    """The file at `path`, up to `length` bytes of it; it may be shorter."""
    with storage_errors("copy", path):
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            at = 0
            while at < length:
                copied = _copy_range(source, target, at, min(_STEP_BYTES, length - at))
                if not copied:
                    return
                at += copied
        finally:
            os.close(source)


def _copy_range(source: int, target: int, at: int, length: int) -> int:
    try:
        return os.copy_file_range(source, target, length, at, at)
    except OSError as exc:
        if exc.errno not in _NOT_HERE:
            raise
    return os.pwrite(target, os.pread(source, min(length, 1 << 20), at), at)
