"""What may be wrong with the bucket for a while: every kind of fault that the proxy knows, and what a mount may show of it.

- A fault that passes is not noticed: requests are tried again.
- A refusal (403) ends a call that needs the bucket with EACCES, at once. What is asked again once it is over, succeeds.
- A lie is a definite answer that is wrong: 404 or 412. A mount believes it when it hears it twice, so there is one at a time.
"""

from __future__ import annotations

import random
from pathlib import Path

from tests.model.operations import Operation, Outcome
from tests.model.worker import Worker
from tests.mount.background_proxy import BackgroundProxy

Fault = list[str | int]
"""[action, method, how many requests it hits, how many pass before, one in how many, part of the path]."""

FOR_EVER = 10**9
PASSING = [
    ("slowdown", ""), ("internal", ""), ("reset", ""), ("html", ""), ("lost-reply", "PUT"), ("lost-reply", "DELETE"),
    ("late-error", "PUT"), ("truncate:100", "GET"), ("internal", "HEAD"), ("lost-reply", ""), ("cut-head", ""), ("expired", ""),
    ("corrupt-whole", "GET"), ("trickle:1000000", "GET"),
]  # fmt: skip
STALLS = [("stall:0", ""), ("stall:100", "GET")]
"""Each costs the twenty seconds after which the daemon gives up a connection."""
REFUSALS_TO_READ = [("denied", "GET"), ("denied", "HEAD"), ("skewed", "GET"), ("skewed", "HEAD")]
REFUSALS = [("denied", ""), ("skewed", ""), *REFUSALS_TO_READ, ("denied", "PUT"), ("skewed", "PUT"), ("denied", "DELETE")]
"""What is refused to be written is not tried again before the next drain: that lasts, too."""
LIES = [("notfound", ""), ("precondition", ""), ("notfound", "GET"), ("notfound", "HEAD"), ("notfound", "PUT"),
        ("precondition", "GET"), ("precondition", "PUT"), ("precondition", "DELETE")]  # fmt: skip
OUTAGES = [
    ("slowdown", "PUT"), ("denied", "PUT"), ("reset", "PUT"), ("expired", "PUT"), ("internal", "DELETE"), ("html", "POST"),
    ("skewed", "PUT"), ("cut-head", "PUT"),
]  # fmt: skip
"""Whatever writes to the bucket fails in this way until the next drain."""

_REFUSING, _LYING = ("denied", "skewed"), ("notfound", "precondition")
_READING = ("", "GET", "HEAD")
_ASSOCIATIONS = ("/one/", "/two/")
"""Listings have no sum that tells wrong bytes."""


def choose(rng: random.Random, *, outages: bool, stalls: bool) -> list[Fault]:
    """Faults of a short while, or, with `outages`, perhaps what keeps changes from the bucket until the next drain."""
    if outages and rng.random() < 0.25:
        action, method = rng.choice(OUTAGES)
        return [[action, method, FOR_EVER, 0, 1, ""]]
    if rng.random() < 0.25:
        action, method = rng.choice(LIES)
        return [[action, method, 1, rng.randint(0, 8), 1, ""]]
    if rng.random() < 0.25:
        action, method = rng.choice(REFUSALS if outages else REFUSALS_TO_READ)
        return [[action, method, rng.randint(1, 20), rng.randint(0, 4), rng.choice([1, 2, 7]), ""]]
    if stalls and rng.random() < 0.1:
        action, method = rng.choice(STALLS)
        return [[action, method, 1, rng.randint(0, 4), 1, ""]]
    if rng.random() < 0.3:
        action, method = rng.choice(PASSING[:-1])
        return [_placed(rng, action, method, rng.randint(5, 40), 0, rng.choice([3, 5, 7]))]
    chosen = rng.sample(PASSING, rng.randint(1, 3))
    return [_placed(rng, action, method, rng.randint(1, 3), rng.randint(0, 4), 1) for action, method in chosen]


def _placed(rng: random.Random, action: str, method: str, times: int, skip: int, every: int) -> Fault:
    return [action, method, times, skip, every, rng.choice(_ASSOCIATIONS) if action == "corrupt-whole" else ""]


class BucketFaults:
    """Those in effect. `refuses`: a call that needs the bucket may be refused; `lies`: something is told that is not true."""

    def __init__(self, proxy: BackgroundProxy) -> None:
        self._proxy = proxy
        self.refuses = False
        self.lies = False

    def add(self, faults: list[Fault]) -> None:
        """From now on, until `clear`. A second lie would be believed, and is left out."""
        for action, method, times, skip, every, path in faults:
            is_lie = action in _LYING
            if is_lie and self.lies:
                continue
            self.lies = self.lies or is_lie
            self.refuses = self.refuses or (action in _REFUSING and method in _READING)
            self._proxy.add(str(action), method=str(method), path=str(path), times=int(times), skip=int(skip), every=int(every))

    def clear(self) -> None:
        self._proxy.clear_faults()
        self.refuses = self.lies = False


class PatientWorker(Worker):
    """Does again what the bucket refused, once it refuses nothing any more: it must succeed then."""

    def __init__(self, root: Path, faults: BucketFaults) -> None:
        super().__init__(root)
        self._faults = faults

    def do(self, operation: Operation) -> Outcome:
        """Raises: WorkerHangs."""
        if self._faults.refuses and operation[0] in ("map_read", "map_write"):
            self._faults.clear()  # a page that cannot be fetched ends the process with SIGBUS
        outcome = super().do(operation)
        if self._faults.refuses and outcome == ("error", "EACCES"):
            self._faults.clear()
            outcome = super().do(operation)
        return outcome
