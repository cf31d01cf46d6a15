"""Which keys can be files, and which paths overlap."""

from __future__ import annotations

import pytest

from s3lustrefs.model.association import Association, key_defect, paths_overlap


@pytest.mark.parametrize("key", [b"", b"a", b"a/b/", b"a" * 255, "ä/文".encode(), b" ", b"a..b", b".hidden"])
def test_keys_that_are_files_or_directories(key: bytes) -> None:
    assert key_defect(key) is None


@pytest.mark.parametrize(
    "key", [b"/", b"/a", b"a//b", b"a//", b".", b"a/..", b"./a", b"a\0b", b"\xff", b"a" * 256, b"x/" + b"a" * 256]
)
def test_keys_that_cannot_be_files(key: bytes) -> None:
    assert key_defect(key)


@pytest.mark.parametrize(
    ("a", "b", "overlap"),
    [("/", "/x", True), ("/x", "/x", True), ("/x", "/x/y", True), ("/x", "/xy", False), ("/x/y", "/x/z", False)],
)
def test_overlap_is_by_whole_components(a: str, b: str, overlap: bool) -> None:
    assert paths_overlap(a, b) is paths_overlap(b, a) is overlap


def test_path_and_key_are_one_to_one() -> None:
    association = Association("/a", "bucket", "p/", association_id="dra-1", imported_file_chunk_size_mib=2)
    assert association.key_of(b"x/y") == b"p/x/y"
    assert association.data_repository_path == "s3://bucket/p/"
    assert association.chunk_bytes == 2 << 20
