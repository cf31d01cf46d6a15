"""The one table exception -> errno, and the guard around every handler.

pyfuse3 ends the mount when a handler raises anything but FUSEError, so the guard lets nothing else through.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pyfuse3

from s3lustrefs import errors

log = logging.getLogger(__name__)

ERRNO: dict[type[errors.S3LustreError], tuple[int, int]] = {
    errors.NotFound: (errno.ENOENT, logging.DEBUG),
    errors.AlreadyExists: (errno.EEXIST, logging.DEBUG),
    errors.NotADirectory: (errno.ENOTDIR, logging.DEBUG),
    errors.IsADirectory: (errno.EISDIR, logging.DEBUG),
    errors.NotEmpty: (errno.ENOTEMPTY, logging.DEBUG),
    errors.InvalidName: (errno.EINVAL, logging.DEBUG),
    errors.NameTooLong: (errno.ENAMETOOLONG, logging.DEBUG),
    errors.TooManyLinks: (errno.EMLINK, logging.DEBUG),
    errors.InvalidArgument: (errno.EINVAL, logging.DEBUG),
    errors.NotPermitted: (errno.EPERM, logging.DEBUG),
    errors.InUse: (errno.EBUSY, logging.DEBUG),
    errors.QueueFull: (errno.EAGAIN, logging.INFO),
    errors.StaleInode: (errno.ESTALE, logging.INFO),
    errors.StaleEntry: (errno.ESTALE, logging.DEBUG),
    errors.NotSupported: (errno.EOPNOTSUPP, logging.DEBUG),
    errors.ReadOnly: (errno.EROFS, logging.DEBUG),
    errors.NoAttribute: (errno.ENODATA, logging.DEBUG),
    errors.TooManyAttributes: (errno.ENOSPC, logging.DEBUG),
    errors.OutOfSpace: (errno.ENOSPC, logging.ERROR),
    errors.ReadOnlyStorage: (errno.EROFS, logging.ERROR),
    errors.ContentLost: (errno.EIO, logging.ERROR),
    errors.StorageError: (errno.EIO, logging.ERROR),
    errors.RepositoryUnavailable: (errno.EIO, logging.WARNING),
    errors.RepositoryDenied: (errno.EACCES, logging.WARNING),
    errors.ObjectRefused: (errno.EACCES, logging.WARNING),
    errors.BucketNotFound: (errno.EIO, logging.WARNING),
    errors.ObjectNotFound: (errno.EIO, logging.WARNING),
    errors.AssociationGone: (errno.ENODATA, logging.INFO),
    errors.ObjectChanged: (errno.ESTALE, logging.WARNING),
    errors.ObjectArchived: (errno.ENODATA, logging.INFO),
    errors.KeyNotExportable: (errno.EINVAL, logging.WARNING),
    errors.ObjectTooLarge: (errno.EFBIG, logging.WARNING),
    errors.RepositoryRejected: (errno.EIO, logging.ERROR),
    errors.NotInRepository: (errno.EINVAL, logging.DEBUG),
    errors.TaskFailed: (errno.EIO, logging.ERROR),
    errors.TableCorrupt: (errno.EIO, logging.CRITICAL),
    errors.ConfigError: (errno.EINVAL, logging.ERROR),
    errors.MountPointError: (errno.EINVAL, logging.ERROR),
    errors.FuseUnavailable: (errno.EIO, logging.ERROR),
    errors.StateDirError: (errno.EIO, logging.ERROR),
    errors.DaemonUnreachable: (errno.EIO, logging.ERROR),
}


def errno_of(exc: errors.S3LustreError) -> tuple[int, int]:
    """(errno, log level) of the nearest class in the table; EIO where there is none."""
    for cls in type(exc).__mro__:
        if cls in ERRNO:
            return ERRNO[cls]
    return errno.EIO, logging.ERROR


def guarded(name: str, handler: Callable[..., Awaitable[Any]], counts: Counter[str]) -> Callable[..., Awaitable[Any]]:
    """The handler, counted, with every error turned into FUSEError."""

    async def call(*args: Any) -> Any:
        counts[name] += 1
        try:
            return await handler(*args)
        except pyfuse3.FUSEError:
            raise
        except errors.S3LustreError as exc:
            number, level = errno_of(exc)
            log.log(level, "request failed op=%s args=%s errno=%s error=%s", name, args[:2], errno.errorcode[number], exc)
            raise pyfuse3.FUSEError(number) from exc
        except Exception as exc:  # the one place that may: anything else would end the mount
            log.exception("request failed unexpectedly op=%s args=%s", name, args[:2])
            raise pyfuse3.FUSEError(errno.EIO) from exc

    return call
