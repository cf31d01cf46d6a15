"""Locks between processes and between open files."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.posix.calls import fails, opened
from tests.posix.conftest import CONTENT, FileCase, Place

_HOLDER = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
kind, start, length = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if kind == "flock":
    fcntl.flock(descriptor, fcntl.LOCK_EX)
else:
    fcntl.lockf(descriptor, fcntl.LOCK_EX, length, start)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(path: Path, kind: str, start: int = 0, length: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """Another process holds an exclusive lock."""
    command = [sys.executable, "-c", _HOLDER, str(path), kind, str(start), str(length)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        yield process


def test_flock_between_processes(place: Place) -> None:
    path = place.file()
    with opened(path, os.O_RDWR) as descriptor:
        with held(path, "flock"), fails(errno.EWOULDBLOCK):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # the other process has ended, and its lock with it


def test_flock_between_open_files(file: FileCase) -> None:
    with opened(file.path, os.O_RDONLY) as one, opened(file.path, os.O_RDONLY) as two:
        fcntl.flock(one, fcntl.LOCK_SH)
        fcntl.flock(two, fcntl.LOCK_SH)
        with fails(errno.EWOULDBLOCK):
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(two, fcntl.LOCK_UN)
        fcntl.flock(one, fcntl.LOCK_EX)
        with fails(errno.EWOULDBLOCK):
            fcntl.flock(two, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert file.path.read_bytes() == CONTENT


def test_record_locks_between_processes(place: Place) -> None:
    path = place.file(content=bytes(100))
    with opened(path, os.O_RDWR) as descriptor:
        with held(path, "fcntl", 10, 20) as process:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 0, 30)
            with fails(errno.EAGAIN, errno.EACCES):
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 29)
            owner = fcntl.fcntl(descriptor, fcntl.F_GETLK, _flock_record(fcntl.F_WRLCK, 0, 100))
            assert int.from_bytes(owner[24:28], sys.byteorder) == process.pid
        fcntl.lockf(descriptor, fcntl.LOCK_EX, 0, 0)


def _flock_record(kind: int, start: int, length: int) -> bytes:
    """struct flock of 64-bit Linux."""
    order = sys.byteorder
    return kind.to_bytes(2, order) + bytes(6) + start.to_bytes(8, order) + length.to_bytes(8, order) + bytes(8)


def test_record_locks_end_with_any_close(place: Place) -> None:
    path = place.file()
    with opened(path, os.O_RDWR) as descriptor:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        os.close(os.open(path, os.O_RDONLY))  # POSIX: closing any descriptor of the file drops the process's locks
        with held(path, "fcntl"):
            assert os.pread(descriptor, 7, 0) == b"content"


@pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="needs open file description locks")
def test_locks_of_open_file_descriptions(place: Place) -> None:
    path = place.file()
    record = _flock_record(fcntl.F_WRLCK, 0, 5)
    with opened(path, os.O_RDWR) as one, opened(path, os.O_RDWR) as two:
        fcntl.fcntl(one, fcntl.F_OFD_SETLK, record)
        with fails(errno.EAGAIN, errno.EACCES):
            fcntl.fcntl(two, fcntl.F_OFD_SETLK, record)
        fcntl.fcntl(two, fcntl.F_OFD_SETLK, _flock_record(fcntl.F_WRLCK, 5, 5))
