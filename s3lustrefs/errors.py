"""Every exception we raise, grouped by the phase that raises it.

Classes say what happened and carry the thing it happened to; they never carry an errno. `fuse/errno_map` and
`control/faults` turn them into what the caller of each door understands.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


class S3LustreError(Exception):
    """Base of everything we raise on purpose; the message names the thing, the reason and, where there is one, the remedy.

    `terminal` says that trying again cannot help until somebody changes something; `code` is the FSx failure code
    (fsx-spec section 9.5), or our own where FSx has none, recorded per file that cannot be exported.
    """

    terminal = False
    code = "InternalError"


# --- configuration and start: told to the person at the terminal, exit status 1 ----------------------------------------


class UsageError(S3LustreError):
    """Something the user gave us cannot be used; nothing was changed."""


class ConfigError(UsageError):
    """A mount option, configuration file or association rule is wrong."""


class MountPointError(UsageError):
    """The mount point is missing, not a directory, not empty, or already mounted."""


class FuseUnavailable(UsageError):
    """/dev/fuse or fusermount3 is missing, so that nothing can be mounted on this host."""


class StateDirError(UsageError):
    """The state directory cannot be used: in use, read-only, full, or of an unknown format."""


class StateDirInUse(StateDirError):
    """Another process has the state directory: a daemon, or one that looks at it."""


class DaemonUnreachable(UsageError):
    """No daemon answers for this mount."""


class NoDaemon(DaemonUnreachable):
    """Nobody listens on the control socket: the file system is not mounted."""


class ControlFault(UsageError):
    """The daemon refuses a request, in its own words. `fault` is the fault's name on the wire, `members` what else it carries."""

    def __init__(self, message: str, *, fault: str, members: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(message)
        self.fault = fault
        self.members = members


# --- the inode table -----------------------------------------------------------------------------------------------------


class MetadataError(S3LustreError):
    """Base of what a file-system verb can answer instead of a result."""


class NotFound(MetadataError):
    """No dentry of this name, or no inode of this number that was ever handed out."""


class AlreadyExists(MetadataError):
    """The name is taken."""


class NotADirectory(MetadataError):
    """A directory was needed."""


class IsADirectory(MetadataError):
    """A directory is the wrong thing here."""


class NotEmpty(MetadataError):
    """The directory still has entries."""


class InvalidName(MetadataError):
    """The name cannot be a dentry: empty, `.`, `..`, or with a slash."""


class NameTooLong(MetadataError):
    """The name has more than 255 bytes."""


class TooManyLinks(MetadataError):
    """The inode has as many names as it can have."""


class InvalidArgument(MetadataError):
    """The request contradicts itself: a directory moved below itself, a negative size."""


class NotPermitted(MetadataError):
    """The operation is never allowed on this object, whoever asks."""


class InUse(MetadataError):
    """Somebody uses what would have to be left alone for this; later it may be possible."""


class QueueFull(MetadataError):
    """So many requests are waiting that no more are taken; later they are."""


class StaleInode(MetadataError):
    """The kernel or a handle speaks of an inode or content version that is gone."""


class StaleEntry(StaleInode):
    """The kernel has to look a name up again: what it leads to is not, or no longer, what the kernel takes it for."""


class NotSupported(MetadataError):
    """Nothing of this kind can be kept here, such as an attribute of a foreign name space."""


class ReadOnly(MetadataError):
    """The file system is mounted read-only."""


class NoAttribute(MetadataError):
    """No extended attribute of this name."""


class TooManyAttributes(MetadataError):
    """The extended attributes of an inode could not be listed any more."""


class TableCorrupt(S3LustreError):
    """The inode table or its log breaks an invariant; `s3lustrefs fsck` says which."""


# --- bytes on local storage ------------------------------------------------------------------------------------------------


class StorageError(S3LustreError):
    """A storage target failed (EIO)."""

    code = "LocalStorageError"


class OutOfSpace(StorageError):
    """A storage target or the byte budget is full of content that must not be dropped."""


class ReadOnlyStorage(StorageError):
    """A storage target is mounted read-only."""


class ContentLost(StorageError):
    """Bytes that existed only here are gone: a disk failed under them, or fsck found them missing. Nobody is served or sent
    anything in their place."""

    terminal = True
    code = "ContentLost"


# --- the repository (S3) -----------------------------------------------------------------------------------------------------


class RepositoryError(S3LustreError):
    """Base of what the bucket answered; carries bucket and key."""

    code = "S3Error"

    def __init__(self, message: str, *, bucket: str = "", key: str = "") -> None:
        super().__init__(message)
        self.bucket = bucket
        self.key = key


class RepositoryUnavailable(RepositoryError):
    """Throttled, 5xx, timed out, unreachable or cut off: the same request may work later."""


class RepositoryDenied(RepositoryError):
    """403: the credentials may not do this, or are missing, wrong or expired beyond refresh."""

    terminal = True
    code = "S3AccessDenied"


class ObjectRefused(RepositoryDenied):
    """The endpoint does not say what it has under this one key (403, or 400 for a customer's own encryption key), but does so for
    others."""


class BucketNotFound(RepositoryError):
    """The bucket does not exist (or is not visible to these credentials)."""

    terminal = True


class ObjectNotFound(RepositoryError):
    """No object of this key (or this version)."""

    terminal = True
    code = "S3ObjectNotFound"


class AssociationGone(RepositoryError):
    """The association that led to a file's bytes was deleted before they came here."""

    terminal = True
    code = "AssociationDeleted"


class ObjectChanged(RepositoryError):
    """A condition failed: the object is no longer the one we last saw."""

    code = "S3FileDeleted"


class ObjectArchived(RepositoryError):
    """The object sits in an archive storage class and must be restored first."""

    terminal = True
    code = "S3ObjectInUnsupportedTier"


class KeyNotExportable(RepositoryError):
    """The path cannot be an object key: over 1,024 bytes or not UTF-8."""

    terminal = True
    code = "PathSizeTooLong"


class ObjectTooLarge(RepositoryError):
    """The file is larger than an object may be (5 TiB)."""

    terminal = True
    code = "FileSizeTooLarge"


class RepositoryRejected(RepositoryError):
    """The endpoint refused the request as wrong (400, 501): the message has its own words."""

    terminal = True


class EncryptionKeyNotFound(RepositoryRejected):
    """The key of KMS that the bucket encrypts with does not exist (in its Region), is disabled, or is being deleted."""


class NotInRepository(S3LustreError):
    """The path belongs to no association, so there is nothing to archive, restore or export."""


class TaskFailed(S3LustreError):
    """A data repository task cannot be done as it was asked for; what it had done by then stays."""


def again(error: S3LustreError) -> S3LustreError:
    """A fresh exception for each who waited: raising one object in several tasks mixes up their tracebacks."""
    if isinstance(error, RepositoryError):
        return type(error)(str(error), bucket=error.bucket, key=error.key)
    return type(error)(str(error))
