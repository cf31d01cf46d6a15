"""System calls that Python's `os` does not offer, or hides too much of, through libc."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
AnyPath = str | bytes | Path

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_FOLLOW = 0x400
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16
STATX_BLOCKS = 0x400
_CLOCK_REALTIME_COARSE = 5

libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


@contextlib.contextmanager
def fails(*numbers: int) -> Iterator[None]:
    """The block raises OSError with one of these errno."""
    with pytest.raises(OSError) as caught:
        yield
    names = [errno.errorcode[number] for number in numbers]
    assert errno.errorcode[caught.value.errno or 0] in names, f"{caught.value} instead of {names}"


def renameat2(old: AnyPath, new: AnyPath, flags: int) -> None:
    _checked(libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), ctypes.c_uint(flags)))


def linkat(old: AnyPath, new: AnyPath, flags: int) -> None:
    _checked(libc.linkat(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    _checked(libc.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)))


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def utimensat(path: AnyPath, atime: tuple[int, int], mtime: tuple[int, int], flags: int = 0) -> None:
    """Each time is (seconds, nanoseconds or UTIME_NOW or UTIME_OMIT)."""
    times = (_Timespec * 2)(_Timespec(*atime), _Timespec(*mtime))
    _checked(libc.utimensat(AT_FDCWD, os.fsencode(path), times, flags))


def getxattr_into(path: AnyPath, name: bytes, room: int) -> int:
    """getxattr(2) with a buffer of `room` bytes; returns the size of the value."""
    return _checked(libc.getxattr(os.fsencode(path), name, ctypes.create_string_buffer(room), ctypes.c_size_t(room)))


def listxattr_into(path: AnyPath, room: int) -> int:
    return _checked(libc.listxattr(os.fsencode(path), ctypes.create_string_buffer(room), ctypes.c_size_t(room)))


def _statx(path: AnyPath, mask: int) -> bytes:
    buffer = ctypes.create_string_buffer(256)
    _checked(libc.statx(AT_FDCWD, os.fsencode(path), 0, ctypes.c_uint(mask), buffer))
    return buffer.raw


def statx_blocks(path: AnyPath) -> int:
    """st_blocks alone, which lets the kernel answer out of its cache whatever it knows of the times."""
    return int.from_bytes(_statx(path, STATX_BLOCKS)[48:56], sys.byteorder)


def statx_mask(path: AnyPath) -> int:
    """Which fields the file system can tell, as STATX_ bits."""
    return int.from_bytes(_statx(path, 0xFFF)[:4], sys.byteorder)


# --- directory streams -----------------------------------------------------------------------------------------------------


class _Dirent(ctypes.Structure):
    _fields_ = (
        ("ino", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("length", ctypes.c_ushort),
        ("type", ctypes.c_ubyte),
        ("name", ctypes.c_char * 256),
    )


libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.POINTER(_Dirent)
libc.telldir.restype = ctypes.c_long


@dataclass(frozen=True)
class Entry:
    """One entry as readdir(3) returns it; `kind` is a DT_ constant."""

    name: bytes
    ino: int
    kind: int


class Stream:
    """opendir, readdir, telldir, seekdir, rewinddir, closedir."""

    def __init__(self, path: AnyPath) -> None:
        self._handle = libc.opendir(os.fsencode(path))
        if not self._handle:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        libc.closedir(ctypes.c_void_p(self._handle))

    def read(self) -> Entry | None:
        ctypes.set_errno(0)
        found = libc.readdir(ctypes.c_void_p(self._handle))
        if not found:
            if number := ctypes.get_errno():
                raise OSError(number, os.strerror(number))
            return None
        each = found.contents
        return Entry(bytes(each.name), each.ino, each.type)

    def rest(self) -> list[Entry]:
        found = []
        while (each := self.read()) is not None:
            found.append(each)
        return found

    def tell(self) -> int:
        return int(libc.telldir(ctypes.c_void_p(self._handle)))

    def seek(self, position: int) -> None:
        libc.seekdir(ctypes.c_void_p(self._handle), ctypes.c_long(position))

    def rewind(self) -> None:
        libc.rewinddir(ctypes.c_void_p(self._handle))


# --- file handles ------------------------------------------------------------------------------------------------------------


class FileHandle(ctypes.Structure):
    """struct file_handle, with room for any file system's."""

    _fields_ = (("size", ctypes.c_uint), ("kind", ctypes.c_int), ("handle", ctypes.c_ubyte * 128))


def name_to_handle(path: AnyPath) -> FileHandle:
    handle, mount_id = FileHandle(size=128), ctypes.c_int()
    _checked(libc.name_to_handle_at(AT_FDCWD, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount_id), 0))
    return handle


def open_by_handle(mount_point: AnyPath, handle: FileHandle, flags: int) -> int:
    mount_descriptor = os.open(mount_point, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _checked(libc.open_by_handle_at(mount_descriptor, ctypes.byref(handle), flags))
    finally:
        os.close(mount_descriptor)


# --- other users, clocks -------------------------------------------------------------------------------------------------------


def as_user(uid: int, gid: int, call: Callable[[], T]) -> T:
    """The result of a call made with another user's rights, without root's file capabilities.

    setfsuid(2) concerns one thread only, and the kernel then takes the file capabilities from it: what a child after setuid
    would see of a file system, and exceptions come back.
    """

    def run() -> T:
        libc.setfsgid(gid)
        libc.setfsuid(uid)
        assert libc.setfsuid(-1) == uid, "setfsuid did not work: not root?"
        return call()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


def tick() -> None:
    """Until the kernel's coarse clock, which stamps files, has surely moved on (it does every 1 to 10 ms)."""
    start = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
    while time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) == start:
        time.sleep(0.001)


@contextlib.contextmanager
def opened(path: AnyPath, flags: int, mode: int = 0o644) -> Iterator[int]:
    descriptor = os.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
