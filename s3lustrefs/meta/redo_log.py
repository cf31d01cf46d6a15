"""Redo log: changes reach a file before the reply, so that a killed daemon loses nothing it acknowledged.

One segment is a run of records: length u32, CRC-32 u32, payload. A payload is a run of changes (table u8, key length
u16, value length u32 or DELETED, key, value), or a barrier: BARRIER u8, segment u64, offset u64.

What survives what. A killed process: every record, since it is in the page cache. A power cut: the kernel may have
written a late record of the log but not the file content that the record speaks of, so records count only up to the
newest barrier that is on disk. A barrier is written after all content written before its position was synced.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from s3lustrefs import errors
from s3lustrefs.durable_files import sync_directory
from s3lustrefs.meta.schema import Table

_HEAD = struct.Struct(">II")
_CHANGE = struct.Struct(">BHI")
_BARRIER = struct.Struct(">BQQ")
_DELETED = 0xFFFFFFFF
_BARRIER_TAG = 0xFF

Change = tuple[Table, bytes, bytes | None]


def encode_changes(changes: Iterable[Change]) -> bytes:
    """The payload of one transaction. None as value means the key is deleted."""
    parts: list[bytes] = []
    pack = _CHANGE.pack
    for table, key, value in changes:
        if value is None:
            parts += (pack(table, len(key), _DELETED), key)
        else:
            parts += (pack(table, len(key), len(value)), key, value)
    return b"".join(parts)


def decode_changes(payload: bytes) -> Iterator[Change]:
    at = 0
    while at < len(payload):
        table, key_len, value_len = _CHANGE.unpack_from(payload, at)
        at += _CHANGE.size
        key = payload[at : at + key_len]
        at += key_len
        if value_len == _DELETED:
            yield Table(table), key, None
        else:
            yield Table(table), key, payload[at : at + value_len]
            at += value_len


class Segment:
    """The segment being written. Only the trio thread appends; any thread may sync."""

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.number = number
        self.size = 0
        self._torn = False
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def append(self, payload: bytes) -> None:
        """Write one record. Raises: OutOfSpace, ReadOnlyStorage, StorageError; the segment is then as it was before."""
        record = _HEAD.pack(len(payload), zlib.crc32(payload)) + payload
        try:
            if self._torn:
                self._cut()
            written = os.write(self._fd, record)
            while written < len(record):
                written += os.write(self._fd, record[written:])
        except OSError as exc:
            # Reading a log ends at a half record: nothing may come after it.
            self._torn = True
            with suppress(OSError):
                self._cut()
            raise log_error(exc, "append to", self.path) from exc
        self.size += len(record)

    def _cut(self) -> None:
        os.ftruncate(self._fd, self.size)
        self._torn = False

    def append_barrier(self, segment: int, offset: int) -> None:
        self.append(_BARRIER.pack(_BARRIER_TAG, segment, offset))

    def sync(self) -> None:
        """Raises: StorageError."""
        try:
            os.fdatasync(self._fd)
        except OSError as exc:
            raise log_error(exc, "bring to disk the log in", self.path.parent) from exc

    def close(self) -> None:
        os.close(self._fd)


def log_error(exc: OSError, doing: str, path: Path) -> errors.StorageError:
    """Our error for what the file system of the state directory answered."""
    message = f"cannot {doing} {path}: {exc.strerror}"
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.OutOfSpace(f"{message}; free space on the file system of the state directory")
    if exc.errno == errno.EROFS:
        return errors.ReadOnlyStorage(f"{message}; make the file system of the state directory writable again")
    return errors.StorageError(f"{message}; the file system of the state directory fails")


def sync_older(directory: Path, number: int) -> None:
    """Bring to disk the segments before `number`, which a checkpoint that failed has left. Raises: StorageError.

    A barrier speaks for them, so they are on disk before it is even written: the kernel may write the later one of two files first.
    """
    for other, path in segments(directory):
        if other < number:
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fdatasync(fd)
                finally:
                    os.close(fd)
            except OSError as exc:
                raise log_error(exc, "bring to disk the log in", directory) from exc


def start_segment(directory: Path, number: int) -> Segment:
    """An empty segment whose name is on disk. Raises: OutOfSpace, ReadOnlyStorage, StorageError."""
    try:
        segment = Segment(segment_path(directory, number), number)
        try:
            sync_directory(directory)
        except OSError:
            segment.close()
            raise
    except OSError as exc:
        raise log_error(exc, "start a log segment in", directory) from exc
    return segment


def remove_segments(directory: Path, before: int) -> None:
    """Drop the segments whose records are in the table. Raises: ReadOnlyStorage, StorageError."""
    for number, path in segments(directory):
        if number < before:
            try:
                path.unlink()
            except OSError as exc:
                raise log_error(exc, "remove", path) from exc


def segment_path(directory: Path, number: int) -> Path:
    return directory / f"log.{number:016x}"


def segments(directory: Path) -> list[tuple[int, Path]]:
    """Segments on disk in order."""
    return sorted((int(p.name[4:], 16), p) for p in directory.glob("log.*"))


def read_segment(path: Path) -> Iterator[tuple[int, bytes]]:
    """Records of the valid head of a segment as (offset after it, payload); ends silently at a torn tail."""
    raw = path.read_bytes()
    at = 0
    while at + _HEAD.size <= len(raw):
        length, crc = _HEAD.unpack_from(raw, at)
        payload = raw[at + _HEAD.size : at + _HEAD.size + length]
        if not length or len(payload) < length or zlib.crc32(payload) != crc:
            return
        at += _HEAD.size + length
        yield at, payload


def defects(directory: Path, first: int, *, trust_page_cache: bool) -> list[str]:
    """What neither a death nor a power cut explains: lost segments and, within one boot, damaged records."""
    usable = _usable(directory, first, trust_page_cache=trust_page_cache)
    after = usable[-1][0] + 1 if usable else first
    found = []
    if trust_page_cache and usable and (at := _damage(usable[-1][1])) is not None:
        found.append(f"log segment {usable[-1][1]}: the record at byte {at} is damaged")
    elif any(number >= after for number, _ in segments(directory)) or (not usable and first):
        found.append(f"log segment {segment_path(directory, after)} is missing")
    return found


def _usable(directory: Path, first: int, *, trust_page_cache: bool) -> list[tuple[int, Path]]:
    """The segments that follow one another from `first` on, up to the first one that is damaged."""
    found: list[tuple[int, Path]] = []
    for number, path in segments(directory):
        if number == first + len(found):
            found.append((number, path))
            if trust_page_cache and _damage(path) is not None:
                break
    return found


def _damage(path: Path) -> int | None:
    """Where a whole record is that cannot be read, or zeros before something else: not the half record of a process that died."""
    end = max((end for end, _ in read_segment(path)), default=0)
    rest = path.read_bytes()[end:]
    if len(rest) <= _HEAD.size:
        return None
    length, _ = _HEAD.unpack_from(rest)
    return end if _HEAD.size + length <= len(rest) and any(rest) else None


def replay(directory: Path, first: int, *, trust_page_cache: bool) -> Iterator[Change]:
    """Changes to apply after a crash, oldest first, from segment `first` on.

    `trust_page_cache` is True when only the process died (same boot) and False after a power cut, when records
    past the newest barrier are dropped. Ends before the first of `defects`: no change counts without those before it.
    """
    parts = [(n, list(read_segment(path))) for n, path in _usable(directory, first, trust_page_cache=trust_page_cache)]
    limit = (1 << 63, 0)
    if not trust_page_cache:
        limit = (0, 0)
        for _, records in parts:
            for _, payload in records:
                if payload[0] == _BARRIER_TAG:
                    limit = _BARRIER.unpack(payload)[1:]
    for number, records in parts:
        for end, payload in records:
            if payload[0] != _BARRIER_TAG and (number, end) <= limit:
                yield from decode_changes(payload)


def current_boot_id() -> str:
    """Tells a process that died (same boot) from a power cut (another boot)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
