"""Round trips of every value, at its limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3lustrefs.meta import schema
from s3lustrefs.meta.schema import Change, JournalRecord, JournalState, ObjectRecord, SentObject
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import AssocId, ContentVersion, Ino
from s3lustrefs.model.inode import Inode, InodeFlag

U16, U32, U64 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
TIME = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)

PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple)

INODES = st.builds(
    Inode, U64, U32, U32, U32, U32, U64, TIME, TIME, TIME, U64, U64, st.binary(max_size=255), st.integers(0, 127).map(Hsm),
    st.integers(0, 15).map(InodeFlag), U32, U64, U16, st.binary(max_size=1024), st.binary(max_size=4095),
)  # fmt: skip


@given(INODES)
def test_inode(inode: Inode) -> None:
    raw = schema.encode_inode(inode)
    assert schema.decode_inode(inode.ino, raw) == inode
    assert schema.inode_flags(raw) == inode.flags
    assert schema.pack_u64(inode.parent) + schema.inode_tail(inode) == raw


@given(
    st.builds(
        ObjectRecord, U16, st.binary(min_size=1, max_size=1024), U64, st.text("0123456789abcdef-", max_size=40), U64, TIME,
        st.text("abc.", max_size=60), st.sampled_from(["STANDARD", "GLACIER", "DEEP_ARCHIVE"]),
    )
)  # fmt: skip
def test_object(record: ObjectRecord) -> None:
    key = schema.object_key(record.assoc, record.key)
    assert len(key) <= 511
    assert schema.decode_object(key, schema.encode_object(record)) == record


@given(
    st.builds(
        JournalRecord, U64, U16, st.binary(max_size=1024), st.sampled_from(JournalState), st.integers(0, 15).map(Change),
        U64, TIME, TIME, U32, st.booleans(), TEXT, TEXT,
    )
)  # fmt: skip
def test_journal(record: JournalRecord) -> None:
    if not record.ino and not record.key:
        return
    key = schema.journal_key(record)
    assert len(key) <= 511
    assert schema.decode_journal(key, schema.encode_journal(record)) == record


@given(
    st.binary(max_size=1024),
    st.lists(st.builds(SentObject, U64, st.dictionaries(TEXT, TEXT, max_size=3), st.booleans(), PAIRS, TEXT), max_size=4),
)
def test_writes(key: bytes, sent: list[SentObject]) -> None:
    assert schema.decode_writes(schema.encode_writes(key, sent)) == (key, sent)


@given(U32, st.binary(max_size=50))
def test_residency(version: int, extents: bytes) -> None:
    assert schema.decode_residency(schema.encode_residency(ContentVersion(version), extents)) == (version, extents)


def test_long_keys_sort_with_their_neighbours_and_never_collide() -> None:
    keys = [b"a" * 440 + bytes([n]) * 200 for n in range(50)]
    table_keys = [schema.object_key(AssocId(1), key) for key in keys]
    assert len(set(table_keys)) == 50
    assert all(schema.object_key(AssocId(1), b"a" * 439) < key < schema.object_key(AssocId(1), b"b") for key in table_keys)


@pytest.mark.parametrize("ino", [1, 255, 256, 2**63])
def test_numbers_sort_as_keys(ino: int) -> None:
    assert schema.pack_u64(ino) < schema.pack_u64(ino + 1)
    assert schema.decode_u64(schema.pack_u64(ino)) == Ino(ino)
