"""Import of a million objects from list pages that are there at once, and what that costs in memory."""

from __future__ import annotations

import time

from bench import servers
from bench.candidate import Candidate, Mounted
from bench.report import Figure
from bench.workplace import Workplace, load, memory_of

SETTLE_SECONDS = 10.0
"""Idle means: nothing asked for this long after the import ended."""


def run(candidate: Candidate, place: Workplace) -> list[Figure]:
    count = place.sized(1_000_000, 50_000)
    repeats = place.sized(3, 1)
    rates, growths, idles = [], [], []
    details: dict[str, object] = {}
    with servers.stub("generated", count) as server:
        stub_rate = count / load("list", f"{server.endpoint_url}/{servers.BUCKET}")
        # A thousand objects bring in all of the code, so that what comes on top is the price of the rest.
        with candidate.mounted(place, server, f"s3://{servers.BUCKET}/run-0000/part-0000/", posix_metadata="off") as small:
            small.wait_imported()
            time.sleep(2.0)
            before = memory_of(small.pid)
        for _ in range(repeats):
            start = time.perf_counter()
            with candidate.mounted(place, server, f"s3://{servers.BUCKET}/", posix_metadata="off") as mounted:
                progress = mounted.wait_imported()
                rates.append(count / (time.perf_counter() - start))
                _check(progress["objects"], count)
                peak = memory_of(mounted.pid)
                growths.append(peak["VmHWM"] - before["VmRSS"])
                idle = _idle(mounted)
                idles.append(idle["VmRSS"])
                details = {"before": before, "peak": peak, "idle": idle, "daemon": progress}
    where = f"{count:,} objects, posix_metadata=off, state on {place.disk.parent}, from the mount command to DONE"
    peak_note = "peak resident, less what a mount of 1,000 objects has"
    split = f"anonymous {idle['RssAnon']:.0f} MB, file pages {idle['RssFile']:.0f} MB"
    return [
        Figure("import from a listing that answers at once", "objects/s", rates, 50_000, "higher", where, details),
        Figure("the same list pages read by one bare connection", "objects/s", [stub_rate], circumstances="what the stub can give"),
        Figure("memory growth of the daemon during that import", "MB", growths, 150, "lower", peak_note),
        Figure(f"memory of the idle daemon, {count:,} inodes", "MB", idles, 250, "lower", f"{SETTLE_SECONDS:.0f} s later; {split}"),
    ]


def _idle(mounted: Mounted) -> dict[str, float]:
    time.sleep(SETTLE_SECONDS)
    return memory_of(mounted.pid)


def _check(imported: int, expected: int) -> None:
    if imported != expected:
        raise RuntimeError(f"{imported:,} objects imported, {expected:,} expected")
