"""The events of FSx's data repository log by their names, how serious each is, and which one an error is.

Source: fsx-spec section 9.6; FSx for Lustre User Guide, "Data repository event logs". That page gives the events of restores no
identifiers: theirs here follow the pattern of the others.
"""

from __future__ import annotations

from enum import Enum

from s3lustrefs import errors


class LogEvent(Enum):
    """One kind of event; the value is its name in the log."""

    IMPORT_LIST_ERROR = "S3ImportListObjectError"
    IMPORT_ACCESS_DENIED = "S3ImportAccessDenied"
    IMPORT_NO_BUCKET = "S3ImportBucketDoesNotExist"
    IMPORT_NOT_POSIX = "S3ImportObjectPathNotPosixCompliant"
    IMPORT_TYPE_MISMATCH = "S3ImportObjectTypeMismatch"
    IMPORT_TIER = "S3ImportUnsupportedTierWarning"
    EXPORT_INTERNAL = "S3ExportInternalError"
    EXPORT_ACCESS_DENIED = "S3ExportAccessDenied"
    EXPORT_PATH_TOO_LONG = "S3ExportPathSizeTooLong"
    EXPORT_FILE_TOO_LARGE = "S3ExportFileSizeTooLarge"
    EXPORT_BUSY = "S3ExportResourceBusy"
    EXPORT_NO_SOURCE = "S3ExportLocalObjectReleaseWithoutS3Source"
    EXPORT_OUTSIDE = "S3ExportLocalObjectNotMatchDra"
    AUTO_EXPORT_INTERNAL = "InternalAutoExportError"
    REPORT_UPLOAD = "S3CompletionReportUploadFailure"
    REPORT_INVALID = "S3CompletionReportValidateFailure"
    RESTORE_ACCESS_DENIED = "S3RestoreAccessDenied"
    RESTORE_TIER = "S3RestoreUnsupportedTierWarning"
    RESTORE_NO_OBJECT = "S3RestoreObjectDoesNotExist"
    RESTORE_NO_BUCKET = "S3RestoreBucketDoesNotExist"
    NO_SPACE = "NoDiskSpace"


WARNINGS = frozenset({LogEvent.IMPORT_TIER, LogEvent.EXPORT_NO_SOURCE, LogEvent.EXPORT_OUTSIDE, LogEvent.RESTORE_TIER})
"""All others are errors."""

LEVELS = {
    "DISABLED": (False, False),
    "WARN_ONLY": (True, False),
    "ERROR_ONLY": (False, True),
    "WARN_ERROR": (True, True),
}
"""Of LogConfiguration: whether warnings and whether errors are logged."""


def of_listing(error: errors.S3LustreError) -> LogEvent:
    """A bucket that could not be listed."""
    if isinstance(error, errors.RepositoryDenied):
        return LogEvent.IMPORT_ACCESS_DENIED
    return LogEvent.IMPORT_NO_BUCKET if isinstance(error, errors.BucketNotFound) else LogEvent.IMPORT_LIST_ERROR


_EXPORTS: tuple[tuple[type[errors.S3LustreError], LogEvent], ...] = (
    (errors.RepositoryDenied, LogEvent.EXPORT_ACCESS_DENIED),
    (errors.KeyNotExportable, LogEvent.EXPORT_PATH_TOO_LONG),
    (errors.ObjectTooLarge, LogEvent.EXPORT_FILE_TOO_LARGE),
    (errors.ObjectNotFound, LogEvent.EXPORT_NO_SOURCE),
    (errors.RepositoryError, LogEvent.EXPORT_INTERNAL),
)


def of_export(error: errors.S3LustreError) -> LogEvent:
    """A file that could not be exported."""
    return next((event for kind, event in _EXPORTS if isinstance(error, kind)), LogEvent.AUTO_EXPORT_INTERNAL)


_RESTORES: tuple[tuple[type[errors.S3LustreError], LogEvent], ...] = (
    (errors.RepositoryDenied, LogEvent.RESTORE_ACCESS_DENIED),
    (errors.ObjectArchived, LogEvent.RESTORE_TIER),
    (errors.ObjectNotFound, LogEvent.RESTORE_NO_OBJECT),
    (errors.BucketNotFound, LogEvent.RESTORE_NO_BUCKET),
    (errors.OutOfSpace, LogEvent.NO_SPACE),
)


def of_restore(error: errors.S3LustreError) -> LogEvent | None:
    """Content that could not be fetched; None: FSx has no event for this, which is tried again."""
    return next((event for kind, event in _RESTORES if isinstance(error, kind)), None)
