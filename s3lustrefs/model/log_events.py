"""The events of FSx's data repository log by their names, and how serious each is.

Source: fsx-spec section 9.6; FSx for Lustre User Guide, "Data repository event logs". That page gives the events of restores, of
names that are too long and of encryption keys no identifiers: theirs here follow the pattern of the others.

Events of FSx that have no place here: S3ImportDirectoryCreateError and S3ImportDirectoryMetadataUpdateError (names and attributes
of a page of the listing are one transaction, and what makes it fail is no directory's fault), S3ImportDeleteBucketDoesNotExist
(a bucket that is gone is noticed by its listing, before any name could go).
"""

from __future__ import annotations

from enum import Enum


class LogEvent(Enum):
    """One kind of event; the value is its name in the log."""

    IMPORT_LIST_ERROR = "S3ImportListObjectError"
    IMPORT_ACCESS_DENIED = "S3ImportAccessDenied"
    IMPORT_NO_BUCKET = "S3ImportBucketDoesNotExist"
    IMPORT_NOT_POSIX = "S3ImportObjectPathNotPosixCompliant"
    IMPORT_NAME_TOO_LONG = "S3ImportNameTooLong"
    IMPORT_TYPE_MISMATCH = "S3ImportObjectTypeMismatch"
    IMPORT_TIER = "S3ImportUnsupportedTierWarning"
    IMPORT_SYMLINK_TIER = "S3ImportSymlinkInUnsupportedTierWarning"
    IMPORT_OBJECT_DELETED = "S3ImportObjectDeleted"
    IMPORT_DELETE_DENIED = "S3ImportDeleteAccessDenied"
    EXPORT_INTERNAL = "S3ExportInternalError"
    EXPORT_ACCESS_DENIED = "S3ExportAccessDenied"
    EXPORT_PATH_TOO_LONG = "S3ExportPathSizeTooLong"
    EXPORT_FILE_TOO_LARGE = "S3ExportFileSizeTooLarge"
    EXPORT_NO_KEY = "S3ExportKMSKeyNotFound"
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
"""All others are errors, S3ImportSymlinkInUnsupportedTierWarning among them, whatever its name says."""

LEVELS = {
    "DISABLED": (False, False),
    "WARN_ONLY": (True, False),
    "ERROR_ONLY": (False, True),
    "WARN_ERROR": (True, True),
}
"""Of LogConfiguration: whether warnings and whether errors are logged."""
