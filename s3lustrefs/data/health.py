"""Health: which storage targets fail at the moment, for the log and for status.

A target fails from the first error of a kind of work (reading, writing, syncing) until that kind of work succeeds again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from s3lustrefs import errors

_HOLD_SECONDS = 1.0
"""On a full disk some writes succeed between others that fail: a success this soon proves nothing, and is not worth a line."""

READ, WRITE = "read", "write"

log = logging.getLogger(__name__)


class Health:
    """Told by whoever works on a target. Trio thread only."""

    def __init__(self, targets: Sequence[Path]) -> None:
        self._targets = targets
        self._failing: dict[tuple[int, str], tuple[errors.StorageError, float]] = {}

    def failed(self, target: int, work: str, error: errors.StorageError) -> None:
        """The first error is logged, and the end of it; what happens in between is told to those it happens to."""
        if (target, work) not in self._failing:
            log.error("storage target fails target=%s work=%s error=%s", self._targets[target], work, error)
        self._failing[target, work] = error, time.monotonic()

    def works(self, target: int, work: str) -> None:
        if self._failing and (target, work) in self._failing:
            if time.monotonic() < self._failing[target, work][1] + _HOLD_SECONDS:
                return
            del self._failing[target, work]
            log.info("storage target works again target=%s work=%s", self._targets[target], work)

    def failure(self, target: int) -> str | None:
        """Why a target fails, in words; None when it does not."""
        return next((str(error) for (number, _), (error, _) in self._failing.items() if number == target), None)

    def full(self, work: str) -> set[int]:
        """The targets that had no room for this work the last time."""
        return {
            target for (target, what), (error, _) in self._failing.items() if what == work and isinstance(error, errors.OutOfSpace)
        }
