"""A second copy of a file's content, as of one moment, kept under a content version of its own while it is exported.

No record ever speaks of that version, so that a crash leaves nothing but chunk files which the next start removes. Where the file
system can share blocks between files (XFS, btrfs) the copy costs neither time nor room.
"""

from __future__ import annotations

import errno
import os

import trio

from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.data.fence import storage_errors
from s3lustrefs.model.ids import ContentVersion, Ino

_APART = 1 << 31
"""Content versions count from 0 and never come here."""
_STEP_BYTES = 64 << 20
_NOT_HERE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def version_of(version: ContentVersion) -> ContentVersion:
    """Where the snapshot of this content is kept."""
    return ContentVersion(version | _APART)


async def take(chunks: ChunkStore, ino: Ino, version: ContentVersion, chunk_bytes: int, size: int) -> None:
    """Copy the first `size` bytes, all of them resident, while nobody writes. Raises: OutOfSpace, ContentLost, StorageError."""
    for start in range(0, size, chunk_bytes):
        (source,) = chunks.slices(ino, version, chunk_bytes, start, min(start + chunk_bytes, size))
        if source.path != os.devnull:
            with chunks.pinned(ino, version_of(version), chunk_bytes, start) as (fd, _):
                await trio.to_thread.run_sync(_copy, source.path, source.length, fd)


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
