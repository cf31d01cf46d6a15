"""How long to wait before trying the repository again: the one retry policy.

The CRT makes the quick retries of one request by itself (`crt`). This is the patience after those: of the exporter, the importer
and whoever else goes on until the cause is gone.
"""

from __future__ import annotations

import random

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 300.0


def backoff_seconds(attempts: int, *, draw: float | None = None) -> float:
    """Seconds to wait after `attempts` failures in a row (1 or more).

    Doubles from 1 s to 5 min, of which a random half counts ("equal jitter"): files that failed together do not come back
    together, and none comes back at once. `draw` in [0, 1) replaces the random number.
    """
    longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(attempts - 1, 20))
    return longest / 2 + longest / 2 * (random.random() if draw is None else draw)
