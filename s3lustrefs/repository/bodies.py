"""Bytes between local files and requests: what the CRT reads uploads from and writes downloads to, in its own threads.

A slice is read with preadv straight into the CRT's buffer. Measured on two cores shared with the server (nginx, http), CPU s/GiB
and MB/s: parts of 8 MiB 0.69 and 1400, of 16 MiB 0.63 and 1230; the CRT's own send_filepath, which takes whole files only, 0.64 and
1620, 0.63 and 1310; bytes read first 0.90 and 1120, 0.94 and 860. Objects of 64 KiB 400 us CPU each, 300 with send_filepath.
"""

from __future__ import annotations

import errno
import os
import re

from s3lustrefs import errors
from s3lustrefs.repository.object_store import FileSlice, ObjectVersion
from s3lustrefs.repository.replies import Response, bare_etag
from s3lustrefs.repository.verification import MOST_BYTES, Md5Etags, Verification


def storage_error(error: OSError, doing: str) -> errors.StorageError:
    """Our exception for a local file that fails under a transfer."""
    kinds = {errno.ENOSPC: errors.OutOfSpace, errno.EDQUOT: errors.OutOfSpace, errno.EROFS: errors.ReadOnlyStorage}
    return kinds.get(error.errno or 0, errors.StorageError)(f"{doing}: {error.strerror}")


class SliceReader:
    """Reads a FileSlice; bytes past the end of the file are zeros. Used by one request at a time, from any thread."""

    def __init__(self, body: FileSlice) -> None:
        self._fd = os.open(body.path, os.O_RDONLY | os.O_CLOEXEC)
        self._offset = body.offset
        self._length = body.length
        self._position = 0
        self.failure: errors.StorageError | None = None

    def readinto(self, buffer: memoryview) -> int:
        wanted = min(len(buffer), self._length - self._position)
        view = memoryview(buffer)[:wanted]
        filled = 0
        while filled < wanted:
            try:
                got = os.preadv(self._fd, [view[filled:]], self._offset + self._position + filled)
            except OSError as error:
                self.failure = storage_error(error, "upload cannot be read from local storage")
                raise
            if not got:
                view[filled:] = bytes(wanted - filled)
                break
            filled += got
        self._position += wanted
        return wanted

    def read(self, size: int = -1) -> bytes:
        wanted = self._length - self._position if size < 0 else min(size, self._length - self._position)
        buffer = bytearray(wanted)
        self.readinto(memoryview(buffer))
        return bytes(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, min(self._length, base + offset))
        return self._position

    def close(self) -> None:
        os.close(self._fd)


_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class RangeSink:
    """Checks that an answer is exactly `[start, end)` of one version and takes its bytes, to a file or to memory.

    ETag and Content-Range are checked before the first byte is taken, so that no byte of another version lands anywhere. A whole
    object is also compared with its checksum, after its last byte.
    """

    def __init__(
        self, where: str, version: ObjectVersion, start: int, end: int, fd: int | None, fd_offset: int = 0,
        md5: Md5Etags | None = None,
    ) -> None:  # fmt: skip
        self._where = where
        self._version = version
        self._start = start
        self._end = end
        self._fd = fd
        self._fd_offset = fd_offset
        self._md5 = md5 or Md5Etags(known=False)
        self._taken = 0
        self._verification: Verification | None = None
        self.data = bytearray()

    @property
    def is_whole(self) -> bool:
        return (self._start, self._end) == (0, self._version.size)

    def begin(self, response: Response) -> None:
        if response.status >= 300:
            return
        self._taken = 0
        self.data.clear()
        etag = bare_etag(response.headers.get("etag", ""))
        if etag != self._version.etag:
            raise errors.ObjectChanged(f"{self._where}: has ETag {etag or 'none'} now, expected {self._version.etag}")
        self._check_range(response)
        if self.is_whole and self._end <= MOST_BYTES:
            self._verification = Verification(response.headers, etag, self._md5)

    def _check_range(self, response: Response) -> None:
        length = response.headers.get("content-length", "")
        if self.is_whole and "content-range" not in response.headers and length:
            if int(length) != self._end:
                raise errors.ObjectChanged(f"{self._where}: has {length} bytes now, expected {self._end}")
            return
        stated = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if stated is None:
            raise errors.RepositoryRejected(f"{self._where}: the endpoint ignores Range")
        first, last, total = int(stated[1]), int(stated[2]), stated[3]
        if total not in ("*", str(self._version.size)):
            raise errors.ObjectChanged(f"{self._where}: has {total} bytes now, expected {self._version.size}")
        if (first, last + 1) != (self._start, self._end):
            raise errors.RepositoryRejected(f"{self._where}: asked for bytes {self._start}-{self._end - 1}, got {first}-{last}")

    def write(self, chunk: bytes, offset: int) -> None:
        """Take the next bytes. `offset` is the CRT's own count, relative for some request types, absolute for others: not used."""
        if self._taken + len(chunk) > self._end - self._start:
            raise errors.RepositoryRejected(f"{self._where}: more bytes came than were asked for")
        if self._verification is not None:
            self._verification.update(chunk)
        if self._fd is None:
            self.data += chunk
            self._taken += len(chunk)
            return
        view = memoryview(chunk)
        while view:
            try:
                written = os.pwrite(self._fd, view, self._fd_offset + self._taken)
            except OSError as error:
                raise storage_error(error, f"{self._where}: cannot be written to local storage") from error
            self._taken += written
            view = view[written:]

    def finish(self) -> None:
        """Raises: RepositoryUnavailable when bytes are missing or wrong."""
        if self._taken != self._end - self._start:
            raise errors.RepositoryUnavailable(f"{self._where}: {self._taken} of {self._end - self._start} bytes came")
        if self._verification is not None and (defect := self._verification.defect()):
            raise errors.RepositoryUnavailable(f"{self._where}: {defect}")
