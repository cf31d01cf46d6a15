"""The fence between the operating system's storage errors and ours: the only place that turns OSError into errors.*."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from s3lustrefs import errors

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def storage_errors(doing: str, path: str) -> Iterator[None]:
    """Raise our error for an OSError inside; `doing` and `path` become part of the message.

    Raises: OutOfSpace, ReadOnlyStorage, StorageError.
    """
    try:
        yield
    except OSError as exc:
        raise translated(exc, doing, path) from exc


def translated(exc: OSError, doing: str, path: str) -> errors.StorageError:
    """Our error for an OSError."""
    message = f"cannot {doing} {path}: {exc.strerror or exc}"
    if exc.errno in _FULL:
        return errors.OutOfSpace(message)
    if exc.errno == errno.EROFS:
        return errors.ReadOnlyStorage(message)
    return errors.StorageError(message)
