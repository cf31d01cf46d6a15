"""FSx's data repository event log: lines `event=NAME word="..." ...` in daemon.log, as far as the LogConfiguration asks for them.

Movers note here what they record as failed anyway. FSx sends these events to CloudWatch; here they go where all else goes, under a
logger of their own. As in FSx they are off until somebody sets a level (`aws fsx update-file-system`); always on in a file cache.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from s3lustrefs import errors
from s3lustrefs.meta import listing
from s3lustrefs.model.association import TOO_LONG
from s3lustrefs.model.file_system import FileSystemRecord
from s3lustrefs.model.log_events import LEVELS, WARNINGS, LogEvent

LOGGER = "s3lustrefs.events"
events = logging.getLogger(LOGGER)


class _Wanted:
    """Which events the file system wants: asked for each, so that a change counts at once."""

    def __init__(self) -> None:
        self.record: Callable[[], FileSystemRecord | None] = lambda: None

    def __contains__(self, event: LogEvent) -> bool:
        record = self.record()
        warnings, failures = LEVELS.get(record.log_level, (False, False)) if record else (False, False)
        return warnings if event in WARNINGS else failures


_wanted = _Wanted()


def follow(record: Callable[[], FileSystemRecord | None]) -> None:
    """Whose LogConfiguration counts from now on: that of the one file system this process serves."""
    _wanted.record = record


def note(event: LogEvent, **fields: object) -> None:
    """One event; values are quoted as JSON where they are not plain words."""
    if event in _wanted:
        words = " ".join(f"{name}={_word(value)}" for name, value in fields.items())
        events.log(logging.WARNING if event in WARNINGS else logging.ERROR, "event=%s %s", event.value, words)


def _word(value: object) -> str:
    text = value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)
    return text if text and all(sign.isalnum() or sign in "/._-:@" for sign in text) else json.dumps(text)


# --- which event an error is ---------------------------------------------------------------------------------------------------


def note_skipped(key: bytes, reason: str) -> None:
    """A key of the bucket, relative to its association's prefix, that does not show here."""
    if reason != listing.MARKER_HAS_CONTENT:
        event = LogEvent.IMPORT_TYPE_MISMATCH if reason in listing.CLASHES else LogEvent.IMPORT_NOT_POSIX
        note(LogEvent.IMPORT_NAME_TOO_LONG if reason.endswith(TOO_LONG) else event, key=key, reason=reason)


_LISTINGS: tuple[tuple[type[errors.S3LustreError], LogEvent], ...] = (
    (errors.RepositoryDenied, LogEvent.IMPORT_ACCESS_DENIED),
    (errors.BucketNotFound, LogEvent.IMPORT_NO_BUCKET),
    (errors.RepositoryError, LogEvent.IMPORT_LIST_ERROR),
    (errors.OutOfSpace, LogEvent.NO_SPACE),
)


def note_listing(error: errors.S3LustreError, **fields: object) -> None:
    """A bucket could not be listed, or what it listed could not be taken into the table."""
    event = of_listing(error)
    if event is not None:
        note(event, **fields, reason=error)


def of_listing(error: errors.S3LustreError) -> LogEvent | None:
    """An import or sweep that failed; None: FSx has no event for this."""
    return next((event for kind, event in _LISTINGS if isinstance(error, kind)), None)


def note_headers(key: bytes, error: errors.S3LustreError) -> None:
    """The attributes of an object that was listed could not be had."""
    if isinstance(error, errors.RepositoryDenied):
        note(LogEvent.IMPORT_ACCESS_DENIED, key=key, reason=error)


def note_archived(storage_class: str, *, is_symlink: bool, **where: object) -> None:
    """A file was imported that cannot be read before its object is restored; or a symlink, which shows as a file until then."""
    note(LogEvent.IMPORT_SYMLINK_TIER if is_symlink else LogEvent.IMPORT_TIER, **where, tier=storage_class)


def note_unanswered(key: bytes, error: errors.S3LustreError, *, is_gone: bool) -> None:
    """The bucket does not say what it has under a key. `is_gone`: nothing, it seems."""
    if isinstance(error, errors.RepositoryDenied):
        note(LogEvent.IMPORT_DELETE_DENIED if is_gone else LogEvent.IMPORT_ACCESS_DENIED, key=key, reason=error)


_EXPORTS: tuple[tuple[type[errors.S3LustreError], LogEvent], ...] = (
    (errors.RepositoryDenied, LogEvent.EXPORT_ACCESS_DENIED),
    (errors.KeyNotExportable, LogEvent.EXPORT_PATH_TOO_LONG),
    (errors.ObjectTooLarge, LogEvent.EXPORT_FILE_TOO_LARGE),
    (errors.ObjectNotFound, LogEvent.EXPORT_NO_SOURCE),
    (errors.EncryptionKeyNotFound, LogEvent.EXPORT_NO_KEY),
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


def note_restore(ino: int, error: errors.S3LustreError) -> None:
    """Content that somebody waits for, or has ordered, could not be fetched."""
    event = of_restore(error)
    if event is not None:
        note(event, ino=ino, key=getattr(error, "key", ""), reason=error)


def of_restore(error: errors.S3LustreError) -> LogEvent | None:
    """Content that could not be fetched; None: FSx has no event for this, which is tried again."""
    return next((event for kind, event in _RESTORES if isinstance(error, kind)), None)
