from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from s3lustrefs.data.space import Candidate, Space, SpaceBudget, choose_victims
from s3lustrefs.model.ids import Ino

GIB = 1 << 30


def space(used: int, capacity: int = 100 * GIB, available: int | None = None) -> Space:
    return Space(capacity, used, capacity - used if available is None else available)


def test_nothing_is_freed_up_to_the_high_watermark() -> None:
    assert SpaceBudget().bytes_to_free(space(90 * GIB)) == 0


def test_above_the_high_watermark_room_is_made_down_to_the_low_one() -> None:
    assert SpaceBudget().bytes_to_free(space(91 * GIB)) == 11 * GIB


def test_a_disk_filled_by_others_leaves_what_is_ours_in_proportion() -> None:
    # 10 GiB ours, 1 GiB free, 89 GiB of others: 11 GiB are ours to fill, and only those count.
    assert SpaceBudget().bytes_to_free(space(10 * GIB, available=GIB)) == 10 * GIB - int(0.8 * 11 * GIB)
    assert SpaceBudget().bytes_to_free(space(1 * GIB, available=GIB)) == 0


def test_a_write_fits_only_outside_the_reserve() -> None:
    budget = SpaceBudget(reserve_bytes=GIB)
    assert budget.fits(space(98 * GIB), GIB)
    assert not budget.fits(space(98 * GIB), GIB + 1)


def test_the_reserve_of_a_tiny_cache_does_not_swallow_it() -> None:
    assert SpaceBudget().fits(space(0, capacity=10 << 20), 9 << 20)


def test_victims_are_the_least_recently_used_that_may_go() -> None:
    files = [
        Candidate(Ino(1), 30, 10, True),
        Candidate(Ino(2), 10, 10, False),
        Candidate(Ino(3), 20, 10, True),
        Candidate(Ino(4), 5, 0, True),
        Candidate(Ino(5), 40, 10, True),
    ]
    assert choose_victims(files, 15) == [3, 1]
    assert choose_victims(files, 0) == []
    assert choose_victims(files, 1000) == [3, 1, 5]


candidates = st.lists(
    st.builds(Candidate, st.integers(1, 1000).map(Ino), st.integers(0, 50), st.integers(0, 100), st.booleans()),
    unique_by=lambda candidate: candidate.ino,
)


@given(candidates, st.integers(0, 1000))
def test_victims_suffice_if_they_can_and_none_is_superfluous(files: list[Candidate], need: int) -> None:
    known = {candidate.ino: candidate for candidate in files}
    victims = [known[ino] for ino in choose_victims(files, need)]
    freed = sum(victim.resident_bytes for victim in victims)
    assert all(victim.evictable for victim in victims)
    assert freed >= min(need, sum(candidate.resident_bytes for candidate in files if candidate.evictable))
    assert not victims or freed - victims[-1].resident_bytes < need
