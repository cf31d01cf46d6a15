"""Which keys can be files, and which paths overlap."""

from __future__ import annotations

import pytest

from s3lustrefs.model.association import Association, key_defect, paths_overlap
from s3lustrefs.model.association_rules import export_path_defect, export_prefix_of


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
    assert association.export_key_of(b"x/y") == b"p/x/y" and association.relative_of(b"p/x/y") == b"x/y"
    assert association.is_imported(b"p/x") and association.is_written(b"p/x") and not association.is_imported(b"q/x")
    assert association.side_of(b"p/x") == association


@pytest.mark.parametrize(("prefix", "export"), [("in/", "out/"), ("in/", "in/out/"), ("", "out/")])
def test_exported_apart_each_key_is_of_one_side(prefix: str, export: str) -> None:
    association = Association("/", "bucket", prefix, export_prefix=export)
    imported, exported = association.key_of(b"x/y"), association.export_key_of(b"x/y")
    assert (imported, exported) == (f"{prefix}x/y".encode(), f"{export}x/y".encode())
    assert association.relative_of(imported) == association.relative_of(exported) == b"x/y"
    assert association.is_imported(imported) and not association.is_written(imported)
    assert association.is_written(exported) and not association.is_imported(exported)
    assert association.side_of(imported) == association
    side = association.side_of(exported)
    assert side.key_of(b"x/y") == side.export_key_of(b"x/y") == exported


@pytest.mark.parametrize(
    ("given", "prefix", "defect", "export"),
    [
        ("s3://bucket/out", "in/", None, "out/"),
        ("s3://bucket/in/out/", "in/", None, "in/out/"),
        ("s3://bucket/out", "", None, "out/"),
        ("s3://bucket/in", "in/", None, ""),
        ("s3://bucket", "", None, ""),
        ("s3://bucket/inn", "in/", None, "inn/"),
        ("s3://bucket/a", "a/b/", "contains what is imported", ""),
        ("s3://bucket", "in/", "contains what is imported", ""),
        ("s3://other/out", "in/", "must be in the bucket", ""),
        ("bucket/out", "in/", "is not of the form", ""),
    ],
)
def test_path_to_export_to_does_not_contain_what_is_imported(given: str, prefix: str, defect: str | None, export: str) -> None:
    found = export_path_defect(given, "bucket", prefix)
    if defect is not None:
        assert found is not None and defect in found
    else:
        assert found is None and export_prefix_of(given, prefix) == export
