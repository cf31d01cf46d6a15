"""Rate: how fast a running total has grown lately."""

from __future__ import annotations

import time
from collections import deque

_WINDOW_SECONDS = 10.0
_STEP_SECONDS = 0.2


class Rate:
    """Growth per second over the last seconds, as far as `sample` was called in them."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def sample(self, total: int) -> float:
        """Note where the total stands; the rate until now."""
        now = time.monotonic()
        while self._samples and self._samples[0][0] < now - _WINDOW_SECONDS:
            self._samples.popleft()
        if not self._samples or now - self._samples[-1][0] >= _STEP_SECONDS:
            self._samples.append((now, total))
        at, before = self._samples[0]
        return (total - before) / (now - at) if now > at else 0.0
