"""POSIX attributes survive the way through user metadata, and what others wrote is read as FSx reads it."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3lustrefs.repository.posix_headers import OURS, PosixHeaders, decode, encode, foreign

IDS = st.integers(0, 0xFFFF_FFFE)
TIMES = st.integers(-(1 << 63), (1 << 63) - 1)


@given(st.integers(0, 0o7777), IDS, IDS, TIMES, TIMES)
def test_what_is_encoded_is_decoded(permissions: int, uid: int, gid: int, atime_ns: int, mtime_ns: int) -> None:
    metadata = encode(stat.S_IFREG | permissions, uid, gid, atime_ns, mtime_ns)
    kept = permissions & ~stat.S_ISUID
    assert decode(metadata) == PosixHeaders(kept, False, uid, gid, atime_ns, mtime_ns)
    assert foreign(metadata) == {}


@given(st.dictionaries(st.sampled_from(sorted(OURS)), st.text()))
def test_garbage_is_ignored_and_never_raises(metadata: dict[str, str]) -> None:
    headers = decode(metadata)
    for number in (headers.permissions, headers.uid, headers.gid):
        assert number is None or 0 <= number <= 0xFFFF_FFFE


def test_the_form_on_the_wire_is_that_of_fsx() -> None:
    assert encode(0o100777, 6666, 6666, 1, 1595002920000000000) == {
        "file-permissions": "0100777",
        "file-owner": "6666",
        "file-group": "6666",
        "file-atime": "1ns",
        "file-mtime": "1595002920000000000ns",
        "user-agent": "aws-fsx-lustre",
    }


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1595002920000000000ns", 1595002920000000000),
        ("1595002920000", 1595002920000000000),
        ("-5", -5_000_000),
        ("0", 0),
        ("", None),
        ("1595002920.5", None),
        ("1595002920s", None),
        ("99999999999999999999ns", None),
        ("9999999999999999999", None),
        ("١٢٣", None),
    ],
)
def test_times(text: str, ns: int | None) -> None:
    assert decode({"file-mtime": text}).mtime_ns == ns


@pytest.mark.parametrize("text", ["", "-1", "4294967295", "1.0", "root", "0x10", "99999999999"])
def test_owners_that_are_none(text: str) -> None:
    assert decode({"file-owner": text, "file-group": "7"}) == PosixHeaders(gid=7)


def test_one_bad_value_does_not_spoil_the_others() -> None:
    assert decode({"file-permissions": "rwx", "file-owner": "1", "file-mtime": "5"}) == PosixHeaders(uid=1, mtime_ns=5_000_000)


def test_the_slash_decides_what_is_a_directory_and_type_bits_what_is_a_symlink() -> None:
    assert decode({"file-permissions": "0100664"}).mode(b"d/", 0o755, 0o700) == stat.S_IFDIR | 0o664
    assert decode({"file-permissions": "0040755"}).mode(b"f", 0o755, 0o700) == stat.S_IFREG | 0o755
    assert decode({"file-permissions": "0120777"}).mode(b"l", 0o755, 0o700) == stat.S_IFLNK | 0o777
    assert decode({}).mode(b"f", 0o640, 0o750) == stat.S_IFREG | 0o640
    assert decode({}).mode(b"d/", 0o640, 0o750) == stat.S_IFDIR | 0o750


def test_set_user_id_is_dropped_and_set_group_id_kept() -> None:
    assert decode({"file-permissions": "0107755"}).permissions == 0o3755


def test_foreign_metadata_is_what_is_not_ours() -> None:
    assert foreign({**encode(0o100644, 0, 0, 0, 0), "project": "x", "file-color": "red"}) == {"project": "x", "file-color": "red"}
