"""The second stat of the same names is answered by the kernel alone."""

from __future__ import annotations

import time

from bench import servers
from bench.candidate import Candidate, Mounted
from bench.load import stat_all
from bench.report import Figure
from bench.workplace import Workplace


def run(candidate: Candidate, place: Workplace) -> list[Figure]:
    count = place.sized(10_000, 1_000)
    requests, rates = [], []
    with servers.stub("generated", count) as server:
        with candidate.mounted(place, server, f"s3://{servers.BUCKET}/", posix_metadata="off") as mounted:
            mounted.wait_imported()
            work = stat_all(str(mounted.path))
            work()
            for _ in range(place.sized(5, 2)):
                before = _requests(mounted)
                asking = {op: number - before.get(op, 0) for op, number in _requests(mounted).items()}
                before = _requests(mounted)
                start = time.perf_counter()
                work()
                rates.append(count / (time.perf_counter() - start))
                after = _requests(mounted)
                # What asking for the counters costs by itself is taken off.
                requests.append(float(sum(number - before.get(op, 0) - asking.get(op, 0) for op, number in after.items())))
    where = f"{count:,} names, each looked at once before"
    return [
        Figure("second stat: requests that reach the daemon", "requests", requests, 0, "lower", where),
        Figure("second stat", "stats/s", rates, circumstances=where),
    ]


def _requests(mounted: Mounted) -> dict[str, int]:
    return dict(mounted.status()["requests"])
