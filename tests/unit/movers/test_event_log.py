"""Which events are logged at which level, under which name, and what a line looks like."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from s3lustrefs import errors
from s3lustrefs.control import fsx_caches
from s3lustrefs.meta import listing
from s3lustrefs.model.association import key_defect
from s3lustrefs.model.file_system import FileSystemRecord
from s3lustrefs.model.log_events import LogEvent
from s3lustrefs.movers import event_log


@pytest.fixture(autouse=True)
def quiet_afterwards() -> Iterator[None]:
    yield
    event_log.follow(lambda: None)


def at_level(level: str | None) -> None:
    settings = {} if level is None else {"LustreConfiguration": {"LogConfiguration": {"Level": level}}}
    event_log.follow(lambda: FileSystemRecord("fs-1", 1, "r", settings))


@pytest.mark.parametrize(
    ("level", "logged"),
    [(None, []), ("DISABLED", []), ("WARN_ONLY", ["WARNING"]), ("ERROR_ONLY", ["ERROR"]), ("WARN_ERROR", ["WARNING", "ERROR"])],
)
def test_level_of_the_file_system_decides(level: str | None, logged: list[str], caplog: pytest.LogCaptureFixture) -> None:
    at_level(level)
    event_log.note(LogEvent.EXPORT_OUTSIDE, path="/x")
    event_log.note(LogEvent.EXPORT_BUSY, path="/x")
    assert [record.levelname for record in caplog.records] == logged


def test_file_cache_logs_everything_as_its_description_says(caplog: pytest.LogCaptureFixture) -> None:
    lustre = {"PerUnitStorageThroughput": 1000, "DeploymentType": "CACHE_1"}
    settings = {"StorageCapacity": 1200, "SubnetIds": [], "LustreConfiguration": lustre}
    record = FileSystemRecord("fc-00000001", 1, "r", settings)
    assert fsx_caches.described(record, [])["LustreConfiguration"]["LogConfiguration"] == {"Level": "WARN_ERROR"}
    event_log.follow(lambda: record)
    event_log.note(LogEvent.EXPORT_OUTSIDE, path="/x")
    event_log.note(LogEvent.EXPORT_BUSY, path="/x")
    assert [each.levelname for each in caplog.records] == ["WARNING", "ERROR"]


def test_line_is_one_line_whatever_the_names_are(caplog: pytest.LogCaptureFixture) -> None:
    at_level("WARN_ERROR")
    event_log.note(LogEvent.EXPORT_BUSY, path="/a/b-c.txt", key=b"p/x\ny", reason='no "way"', ino=7, empty="")
    assert caplog.records[0].getMessage() == (
        'event=S3ExportResourceBusy path=/a/b-c.txt key="p/x\\ny" reason="no \\"way\\"" ino=7 empty=""'
    )


@pytest.mark.parametrize(
    ("error", "export", "restore", "listed"),
    [
        (errors.RepositoryDenied("x"), "S3ExportAccessDenied", "S3RestoreAccessDenied", "S3ImportAccessDenied"),
        (errors.BucketNotFound("x"), "S3ExportInternalError", "S3RestoreBucketDoesNotExist", "S3ImportBucketDoesNotExist"),
        (errors.RepositoryUnavailable("x"), "S3ExportInternalError", None, "S3ImportListObjectError"),
        (errors.EncryptionKeyNotFound("x"), "S3ExportKMSKeyNotFound", None, "S3ImportListObjectError"),
        (errors.ObjectNotFound("x"), "S3ExportLocalObjectReleaseWithoutS3Source", "S3RestoreObjectDoesNotExist", None),
        (errors.KeyNotExportable("x"), "S3ExportPathSizeTooLong", None, None),
        (errors.ObjectTooLarge("x"), "S3ExportFileSizeTooLarge", None, None),
        (errors.ObjectArchived("x"), None, "S3RestoreUnsupportedTierWarning", None),
        (errors.OutOfSpace("x"), "InternalAutoExportError", "NoDiskSpace", "NoDiskSpace"),
        (errors.ReadOnlyStorage("x"), "InternalAutoExportError", None, ""),
    ],
)
def test_errors_have_the_names_of_fsx(error: errors.S3LustreError, export: str, restore: str, listed: str | None) -> None:
    if export:
        assert event_log.of_export(error).value == export
    found = event_log.of_restore(error)
    assert (found.value if found else None) == restore
    if listed is not None:
        met = event_log.of_listing(error)
        assert (met.value if met else "") == listed


def test_skipped_keys_are_clashes_or_no_paths(caplog: pytest.LogCaptureFixture) -> None:
    at_level("ERROR_ONLY")
    event_log.note_skipped(b"a", listing.DIRECTORY_WINS)
    event_log.note_skipped(b"a//b", "has an empty path component")
    event_log.note_skipped(b"d/", listing.MARKER_HAS_CONTENT)
    event_log.note_skipped(b"n" * 256, key_defect(b"n" * 256) or "")
    names = [record.getMessage().split()[0] for record in caplog.records]
    assert names == [
        "event=S3ImportObjectTypeMismatch", "event=S3ImportObjectPathNotPosixCompliant", "event=S3ImportNameTooLong",
    ]  # fmt: skip
