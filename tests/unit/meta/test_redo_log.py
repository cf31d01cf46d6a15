"""The log by itself: what comes back from files that end anywhere, and what counts after a power cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3lustrefs.meta import redo_log
from s3lustrefs.meta.redo_log import Change, Segment, decode_changes, encode_changes, replay, segment_path
from s3lustrefs.meta.schema import Table

TRANSACTIONS: list[list[Change]] = [
    [(Table.INODES, b"k1", b"v1")],
    [(Table.INODES, b"k2", b"v2"), (Table.DENTRIES, b"parent--name", None)],
    [(Table.SUPER, b"", b"")],
]


def write(directory: Path, number: int, *transactions: list[Change]) -> Segment:
    segment = Segment(segment_path(directory, number), number)
    for changes in transactions:
        segment.append(encode_changes(changes))
    return segment


def flat(transactions: list[list[Change]]) -> list[Change]:
    return [change for changes in transactions for change in changes]


def test_changes_survive_encoding() -> None:
    assert list(decode_changes(encode_changes(flat(TRANSACTIONS)))) == flat(TRANSACTIONS)


def test_segments_are_replayed_in_order_from_the_first_that_counts(tmp_path: Path) -> None:
    for number, changes in zip((15, 16, 17), TRANSACTIONS, strict=True):
        write(tmp_path, number, changes).close()
    assert list(replay(tmp_path, 15, trust_page_cache=True)) == flat(TRANSACTIONS)
    assert list(replay(tmp_path, 16, trust_page_cache=True)) == flat(TRANSACTIONS[1:])


def test_nothing_counts_after_a_segment_that_is_missing(tmp_path: Path) -> None:
    for number, changes in zip((1, 2, 4), TRANSACTIONS, strict=True):
        write(tmp_path, number, changes).close()
    assert list(replay(tmp_path, 1, trust_page_cache=True)) == flat(TRANSACTIONS[:2])
    assert redo_log.defects(tmp_path, 1, trust_page_cache=True) == [f"log segment {segment_path(tmp_path, 3)} is missing"]
    assert redo_log.defects(tmp_path, 0, trust_page_cache=False) == [f"log segment {segment_path(tmp_path, 0)} is missing"]
    assert redo_log.defects(tmp_path, 4, trust_page_cache=True) == []


def test_half_a_record_at_the_end_is_no_defect_and_a_damaged_one_is(tmp_path: Path) -> None:
    segment = write(tmp_path, 1, *TRANSACTIONS[:2])
    size = segment.size
    segment.append(encode_changes(TRANSACTIONS[2]))
    segment.close()
    whole = segment.path.read_bytes()
    write(tmp_path, 2, TRANSACTIONS[0]).close()
    for cut in range(size, len(whole)):
        segment.path.write_bytes(whole[:cut])
        assert redo_log.defects(tmp_path, 1, trust_page_cache=True) == []
    segment.path.write_bytes(whole[: size - 1] + b"?" + whole[size:])
    assert len(redo_log.defects(tmp_path, 1, trust_page_cache=True)) == 1
    assert redo_log.defects(tmp_path, 1, trust_page_cache=False) == [], "a power cut explains it"
    assert list(replay(tmp_path, 1, trust_page_cache=True)) == TRANSACTIONS[0], "nothing of the next segment counts"


def test_log_torn_at_any_byte_gives_whole_transactions_only(tmp_path: Path) -> None:
    segment = Segment(segment_path(tmp_path, 1), 1)
    ends = [0]
    for changes in TRANSACTIONS:
        segment.append(encode_changes(changes))
        ends.append(segment.size)
    segment.close()
    whole = segment.path.read_bytes()
    for length in range(len(whole) + 1):
        segment.path.write_bytes(whole[:length])
        count = sum(end <= length for end in ends) - 1
        assert list(replay(tmp_path, 1, trust_page_cache=True)) == flat(TRANSACTIONS[:count]), length


def test_damaged_record_ends_the_segment(tmp_path: Path) -> None:
    segment = write(tmp_path, 1, *TRANSACTIONS)
    segment.close()
    whole = bytearray(segment.path.read_bytes())
    for at in range(len(whole)):
        damaged = bytes(whole[:at]) + bytes([whole[at] ^ 0x40]) + bytes(whole[at + 1 :])
        segment.path.write_bytes(damaged)
        found = list(replay(tmp_path, 1, trust_page_cache=True))
        assert found in [flat(TRANSACTIONS[:n]) for n in range(len(TRANSACTIONS))], at


def test_after_a_power_cut_records_count_up_to_the_newest_barrier(tmp_path: Path) -> None:
    first = write(tmp_path, 1, TRANSACTIONS[0])
    assert list(replay(tmp_path, 1, trust_page_cache=False)) == []
    first.append_barrier(1, first.size)
    first.append(encode_changes(TRANSACTIONS[1]))
    assert list(replay(tmp_path, 1, trust_page_cache=False)) == TRANSACTIONS[0]
    second = write(tmp_path, 2, TRANSACTIONS[2])
    assert list(replay(tmp_path, 1, trust_page_cache=False)) == TRANSACTIONS[0]
    second.append_barrier(2, 0)
    assert list(replay(tmp_path, 1, trust_page_cache=False)) == flat(TRANSACTIONS[:2])
    second.append_barrier(2, second.size)
    assert list(replay(tmp_path, 1, trust_page_cache=False)) == flat(TRANSACTIONS)
    assert list(replay(tmp_path, 1, trust_page_cache=True)) == flat(TRANSACTIONS)
    first.close()
    second.close()


@pytest.mark.parametrize("rest", [b"", b"\0" * 100])
def test_empty_segment_and_one_of_zeros_give_nothing(tmp_path: Path, rest: bytes) -> None:
    segment_path(tmp_path, 1).write_bytes(rest)
    assert list(replay(tmp_path, 1, trust_page_cache=True)) == []
    assert redo_log.segments(tmp_path) == [(1, segment_path(tmp_path, 1))]
