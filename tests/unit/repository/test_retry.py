"""Patience between attempts."""

from __future__ import annotations

from s3lustrefs.repository.retry import LONGEST_SECONDS, backoff_seconds


def test_waits_grow_to_a_limit_and_half_of_each_is_random() -> None:
    assert [backoff_seconds(attempts, draw=0.0) for attempts in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, 4.0]
    assert backoff_seconds(5, draw=0.5) == 12.0
    assert backoff_seconds(10_000, draw=0.0) == LONGEST_SECONDS / 2
    assert all(0.5 <= backoff_seconds(1) < 1.0 for _ in range(100))
