from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3lustrefs import errors
from s3lustrefs.data.residency import BLOCK_BYTES, Residency, blocks_of
from s3lustrefs.model.ids import ContentVersion

V = ContentVersion(3)

extents = st.tuples(st.integers(0, 40), st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))
steps = st.lists(st.one_of(extents, st.integers(0, 50 * BLOCK_BYTES)), max_size=30)


def replay(steps: list[tuple[int, int] | int]) -> tuple[Residency, set[int]]:
    """The same steps on a Residency and on a plain set of block numbers; a bare number is a truncate to that size."""
    residency, blocks = Residency(V), set[int]()
    for step in steps:
        if isinstance(step, int):
            residency.truncate(step)
            blocks = {block for block in blocks if block * BLOCK_BYTES < step}
        else:
            residency.add(*step)
            blocks.update(range(*step))
    return residency, blocks


def runs(blocks: set[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if found and found[-1][1] == block:
            found[-1] = (found[-1][0], block + 1)
        else:
            found.append((block, block + 1))
    return found


@given(steps, st.integers(0, 55 * BLOCK_BYTES), st.integers(0, 55 * BLOCK_BYTES))
def test_any_sequence_of_steps_matches_a_set_of_blocks(steps: list[tuple[int, int] | int], start: int, end: int) -> None:
    residency, blocks = replay(steps)
    assert residency.extents() == runs(blocks)
    wanted = set(range(start // BLOCK_BYTES, blocks_of(end))) if start < end else set[int]()
    assert residency.missing(start, end) == runs(wanted - blocks)
    assert residency.complete(end) == blocks.issuperset(range(blocks_of(end)))
    assert residency.resident_bytes(end) == sum(
        min((block + 1) * BLOCK_BYTES, end) - block * BLOCK_BYTES for block in blocks if block * BLOCK_BYTES < end
    )


@given(steps)
def test_encoding_is_undone_by_decoding(steps: list[tuple[int, int] | int]) -> None:
    residency, _ = replay(steps)
    assert Residency.decode(residency.encode()) == residency


def test_a_copy_does_not_follow_its_origin() -> None:
    origin = Residency(V, [(0, 2)])
    twin = origin.copy()
    origin.add(4, 5)
    assert twin.extents() == [(0, 2)]


def test_another_content_version_is_not_equal() -> None:
    assert Residency(V, [(0, 2)]) != Residency(ContentVersion(4), [(0, 2)])


def test_the_record_of_a_wholly_resident_tebibyte_is_small() -> None:
    assert len(Residency(V, [(0, 1 << 20)]).encode()) <= 6


@pytest.mark.parametrize("record", [b"", b"\x80", b"\x01\x02", b"\x01\x00\x00", b"\x01\x00\x01\x00\x01"])
def test_a_record_that_was_never_encoded_is_corrupt(record: bytes) -> None:
    with pytest.raises(errors.TableCorrupt):
        Residency.decode(record)
