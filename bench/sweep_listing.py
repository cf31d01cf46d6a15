"""Sweep of a million objects none of which changed: its rate, what it costs in memory, and how long it keeps others waiting."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from bench import servers
from bench.candidate import Candidate, Mounted
from bench.report import Figure
from bench.workplace import Workplace, memory_of

_PAUSE_SECONDS = 0.001


def run(candidate: Candidate, place: Workplace) -> list[Figure]:
    count = place.sized(1_000_000, 50_000)
    repeats = place.sized(3, 1)
    rates, growths, listings, worst, typical = [], [], [], [], []
    with servers.stub("generated", count) as server:
        with candidate.mounted(place, server, f"s3://{servers.BUCKET}/", posix_metadata="off") as mounted:
            mounted.wait_imported()
            time.sleep(10.0)  # the table is written
            for _ in range(repeats):
                with Watch(mounted) as watch:
                    answer = mounted.refresh()
                _check(answer, count)
                rates.append(count / float(str(answer["seconds"])))
                growths.append(watch.growth)
                listings.append(watch.listing)
                worst.append(max(watch.waits) * 1e3)
                typical.append(sorted(watch.waits)[len(watch.waits) * 99 // 100] * 1e3)
    where = f"{count:,} objects, none changed, from list pages that are there at once; from the listing's start to its end"
    looks = "one stat(2) after the other of a name the kernel does not know, answered by the daemon, all through the sweep"
    return [
        Figure("sweep of unchanged objects", "objects/s", rates, 100_000, "higher", where),
        Figure("memory growth of the daemon during that sweep", "MB", growths, 100, "lower", "peak resident, less before"),
        Figure("memory of the listing process", "MB", listings, circumstances="peak resident"),
        Figure("longest wait for the daemon during that sweep", "ms", worst, circumstances=looks),
        Figure("the same, 99 of 100 waits", "ms", typical),
    ]


class Watch:
    """Asks the daemon for something small all the time, and looks at the memory of the processes."""

    def __init__(self, mounted: Mounted) -> None:
        self._mounted = mounted
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask), threading.Thread(target=self._weigh)]
        self._before = memory_of(mounted.pid)["VmRSS"]
        self.waits: list[float] = []
        self.growth = 0.0
        self.listing = 0.0

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        number = 0
        while not self._ended.is_set():
            number += 1
            path = self._mounted.path / f"absent-{time.monotonic_ns()}"
            start = time.perf_counter()
            path.exists()
            self.waits.append(time.perf_counter() - start)
            time.sleep(_PAUSE_SECONDS)

    def _weigh(self) -> None:
        while not self._ended.wait(0.02):
            self.growth = max(self.growth, memory_of(self._mounted.pid)["VmRSS"] - self._before)
            for child in _children(self._mounted.pid):
                self.listing = max(self.listing, memory_of(child).get("VmHWM", 0.0))


def _children(pid: int) -> list[int]:
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        found += Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    return [int(child) for child in found]


def _check(answer: dict[str, object], expected: int) -> None:
    if (answer["objects"], answer["new"], answer["changed"], answer["deleted"]) != (expected, 0, 0, 0):
        raise RuntimeError(f"not a sweep of {expected:,} unchanged objects: {answer}")
