"""Health: which storage targets fail at the moment, for the log and for status.

A target fails from the first error of a kind of work (reading, writing, syncing) until that kind of work succeeds again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from s3lustrefs import errors

READ, WRITE = "read", "write"

log = logging.getLogger(__name__)


class Health:
    """Told by whoever works on a target. Trio thread only."""

    def __init__(self, targets: Sequence[Path]) -> None:
        self._targets = targets
        self._failing: dict[tuple[int, str], errors.StorageError] = {}

    def failed(self, target: int, work: str, error: errors.StorageError) -> None:
        """The first error is logged, and the end of it; what happens in between is told to those it happens to."""
        if (target, work) not in self._failing:
            log.error("storage target fails target=%s work=%s error=%s", self._targets[target], work, error)
        self._failing[target, work] = error

    def works(self, target: int, work: str) -> None:
        if self._failing and self._failing.pop((target, work), None) is not None:
            log.info("storage target works again target=%s work=%s", self._targets[target], work)

    def failure(self, target: int) -> str | None:
        """Why a target fails, in words; None when it does not."""
        return next((str(error) for (number, _), error in self._failing.items() if number == target), None)

    def full(self, work: str) -> set[int]:
        """The targets that had no room for this work the last time."""
        return {target for (target, what), error in self._failing.items() if what == work and isinstance(error, errors.OutOfSpace)}
