"""The fence between the operating system's storage errors and ours: the only place that turns OSError into errors.*."""

from __future__ import annotations

import errno
from types import TracebackType

from s3lustrefs import errors

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class storage_errors:
    """Raise our error for an OSError inside; `doing` and `path` become part of the message.

    A class of its own, since every read and write passes several: contextlib's generators cost four times as much.
    Raises: OutOfSpace, ReadOnlyStorage, StorageError.
    """

    __slots__ = ("_doing", "_path")

    def __init__(self, doing: str, path: str) -> None:
        self._doing = doing
        self._path = path

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(exc, OSError):
            raise translated(exc, self._doing, self._path) from exc


def translated(exc: OSError, doing: str, path: str) -> errors.StorageError:
    """Our error for an OSError, with what to do about it."""
    message = f"cannot {doing} {path}: {exc.strerror or exc}"
    if exc.errno in _FULL:
        return errors.OutOfSpace(f"{message}; free space on its file system")
    if exc.errno == errno.EROFS:
        return errors.ReadOnlyStorage(f"{message}; make its file system writable again")
    return errors.StorageError(f"{message}; look after that disk (dmesg)" if exc.errno == errno.EIO else message)
