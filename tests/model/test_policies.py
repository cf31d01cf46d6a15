"""The check of what an export policy keeps out of a bucket can fail."""

from __future__ import annotations

import pytest

from tests.model.bucket_reference import StoredObject
from tests.model.policies import EVERYTHING, check_kept
from tests.model.reference_tree import Inode

_HEADERS = {"file-permissions": "0100644", "file-owner": "0", "file-group": "0", "file-mtime": "7ns"}


def _object(key: str, body: bytes) -> StoredObject:
    return StoredObject(key, body, _HEADERS)


def _tree(**files: bytes) -> Inode:
    """Files below `one`."""
    root = Inode("dir", 0o755)
    folder = root.children["one"] = Inode("dir", 0o755, association="one")
    for name, body in files.items():
        folder.children[name] = Inode("file", 0o644, mtime_ns=7, data=bytearray(body), header_mtimes={7})
    return root


BEFORE = {"one/old": b"old", "one/gone": b"gone"}


@pytest.mark.parametrize(
    ("policy", "found", "fault"),
    [
        ("none", BEFORE, ""),
        ("none", {**BEFORE, "one/new": b"new"}, "one/new: appeared"),
        ("none", {"one/old": b"old"}, "one/gone: is gone"),
        ("none", {**BEFORE, "one/old": b"changed"}, "one/old: has changed"),
        ("new", {**BEFORE, "one/new": b"new"}, ""),
        ("changed", {**BEFORE, "one/old": b"changed"}, ""),
        ("changed", {**BEFORE, "one/old": b"torn"}, "one/old: 4 bytes"),
        ("deleted", {"one/old": b"old"}, ""),
        ("deleted", BEFORE, "one/gone: nobody has this name"),
        ("new+changed", {**BEFORE, "one/old": b"changed", "one/new": b"new"}, ""),
        ("new+changed", {**BEFORE, "one/old": b"changed"}, "one/new: missing"),
        ("new+changed", {**BEFORE, "one/new": b"new"}, "one/old: 3 bytes"),
        (EVERYTHING, {"one/old": b"changed", "one/new": b"new"}, ""),
        (EVERYTHING, {**BEFORE, "one/old": b"changed", "one/new": b"new"}, "one/gone: nobody has this name"),
    ],
)
def test_what_a_policy_excludes_must_not_have_happened(policy: str, found: dict[str, bytes], fault: str) -> None:
    before, now = ({key: _object(key, body) for key, body in objects.items()} for objects in (BEFORE, found))
    tree = _tree(old=b"changed", new=b"new")
    if not fault:
        check_kept(before, now, tree, policy)
        return
    with pytest.raises(AssertionError, match=fault):
        check_kept(before, now, tree, policy)
