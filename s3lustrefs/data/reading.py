"""Reading one piece of a chunk file into a buffer: from the page cache on the trio thread, or from the disk in another.

`RWF_NOWAIT` answers EAGAIN instead of waiting for the disk, so that trying costs nothing and the page cache is read at
memory speed; a file system that does not know the flag is read in threads, save tmpfs, which has no disk to wait for.
Source: man 2 preadv2.
"""

from __future__ import annotations

import errno
import os

from s3lustrefs.data.fence import storage_errors
from s3lustrefs.data.layout import Piece
from s3lustrefs.data.open_chunks import OpenChunk

_READAHEAD_BYTES = 1 << 20
"""Asked of the disk beyond a sequential read that missed the page cache. With a device's readahead at the kernel's default of
128 KiB this gave 2.4 instead of 2.0 GB/s here; at 8 MiB it changed nothing, and asking for 8 MiB more cost a third."""

_NEAR_BYTES = 4 << 20
"""How far from the last read a read still counts as sequential: FUSE readahead sends several requests, in any order."""


class Reading:
    """One piece on its way into `buffer`, which is zeroed and exactly as long as the piece."""

    __slots__ = ("_buffer", "_done", "_sequential", "chunk", "piece")

    def __init__(self, chunk: OpenChunk, piece: Piece, buffer: memoryview) -> None:
        self.chunk = chunk
        self.piece = piece
        self._buffer = buffer
        self._done = 0
        last = chunk.read_position
        self._sequential = last is not None and abs(piece.offset - last) <= _NEAR_BYTES
        chunk.read_position = piece.offset + piece.length

    def fill_nowait(self) -> bool:
        """Take what the page cache has; True when that was all there is. Never waits for the disk. Raises: StorageError."""
        with storage_errors("read", self.chunk.path):
            try:
                self._fill(0 if self.chunk.in_memory else os.RWF_NOWAIT)
            except OSError as exc:
                if exc.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                    raise
                return False
        return True

    def fill(self) -> None:
        """Read the rest, waiting for the disk: in a thread, with the chunk pinned. Raises: StorageError."""
        with storage_errors("read", self.chunk.path):
            if self._sequential:
                start = self.piece.offset + self._done
                ahead = self.piece.length - self._done + _READAHEAD_BYTES
                os.posix_fadvise(self.chunk.fd, start, ahead, os.POSIX_FADV_WILLNEED)
            self._fill(0)

    def _fill(self, flags: int) -> None:
        while self._done < self.piece.length:
            count = os.preadv(self.chunk.fd, [self._buffer[self._done :]], self.piece.offset + self._done, flags)
            if not count:
                return
            self._done += count
