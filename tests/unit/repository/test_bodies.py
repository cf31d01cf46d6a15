"""Slices of files as request bodies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3lustrefs import errors
from s3lustrefs.repository.bodies import RangeSink, SliceReader, storage_error
from s3lustrefs.repository.object_store import FileSlice, ObjectVersion
from s3lustrefs.repository.replies import Response

CONTENT = bytes(range(256)) * 4


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bodies") / "file"
    path.write_bytes(CONTENT)
    return path


@given(offset=st.integers(0, 1200), length=st.integers(0, 1200), step=st.integers(1, 700), again=st.integers(0, 1200))
def test_any_slice_is_read_in_any_steps_and_again_from_anywhere(
    path: Path, offset: int, length: int, step: int, again: int
) -> None:
    expected = CONTENT[offset : offset + length].ljust(length, b"\0")
    reader = SliceReader(FileSlice(str(path), offset, length))
    try:
        for start in (0, min(again, length)):
            reader.seek(start)
            read = bytearray()
            buffer = bytearray(b"\xff" * step)
            while got := reader.readinto(memoryview(buffer)):
                read += buffer[:got]
            assert read == expected[start:]
        assert reader.seek(0, os.SEEK_END) == length
        assert reader.read() == b""
    finally:
        reader.close()


def test_a_failing_file_is_remembered(tmp_path: Path) -> None:
    reader = SliceReader(FileSlice(str(tmp_path), 0, 10))
    try:
        with pytest.raises(IsADirectoryError):
            reader.read()
        assert isinstance(reader.failure, errors.StorageError)
    finally:
        reader.close()


@pytest.mark.parametrize(
    ("number", "kind"), [(28, errors.OutOfSpace), (122, errors.OutOfSpace), (30, errors.ReadOnlyStorage), (5, errors.StorageError)]
)
def test_local_failures_keep_their_kind(number: int, kind: type[errors.StorageError]) -> None:
    assert type(storage_error(OSError(number, os.strerror(number)), "x")) is kind


def test_a_sink_starts_over_when_the_request_does() -> None:
    sink = RangeSink("s3://b/k", ObjectVersion("t", 10), 2, 6, None)
    answer = Response(206, {"etag": '"t"', "content-range": "bytes 2-5/10"})
    sink.begin(answer)
    sink.write(b"ab", 0)
    with pytest.raises(errors.RepositoryUnavailable, match="2 of 4 bytes"):
        sink.finish()
    sink.begin(answer)
    sink.write(b"abcd", 0)
    sink.finish()
    assert bytes(sink.data) == b"abcd"
    with pytest.raises(errors.RepositoryRejected, match="more bytes"):
        sink.write(b"e", 4)
