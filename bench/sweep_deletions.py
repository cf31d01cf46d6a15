"""Sweep of an emptied bucket: how fast the names go, what that costs in memory, and how long it keeps others waiting."""

from __future__ import annotations

import time

from bench import servers
from bench.candidate import Candidate
from bench.report import Figure
from bench.sweep_listing import Watch
from bench.workplace import Workplace


def run(candidate: Candidate, place: Workplace) -> list[Figure]:
    count = place.sized(100_000, 20_000)
    rates, growths, worst, typical = [], [], [], []
    for _ in range(place.sized(3, 1)):
        with (
            servers.stub("generated", count) as server,
            candidate.mounted(place, server, f"s3://{servers.BUCKET}/", posix_metadata="off", import_interval="0") as mounted,
        ):
            mounted.wait_imported()
            time.sleep(5.0)  # the table is written
            server.client().delete_bucket(Bucket=servers.BUCKET)  # the stub's way to be emptied
            with Watch(mounted) as watch:
                answer = mounted.refresh()
            if answer["deleted"] != count:
                raise RuntimeError(f"not a sweep that removes {count:,} names: {answer}")
            rates.append(count / float(str(answer["seconds"])))
            growths.append(watch.growth)
            worst.append(max(watch.waits) * 1e3)
            typical.append(sorted(watch.waits)[len(watch.waits) * 99 // 100] * 1e3)
    where = f"{count:,} objects gone at once, each asked for with a HEAD that the stub answers at once"
    looks = "one stat(2) after the other of a name the kernel does not know, answered by the daemon, all through the sweep"
    return [
        Figure("sweep of an emptied bucket", "names/s", rates, circumstances=where),
        Figure("memory growth of the daemon during that sweep", "MB", growths, circumstances="peak resident, less before"),
        Figure("longest wait for the daemon during that sweep", "ms", worst, circumstances=looks),
        Figure("the same, 99 of 100 waits", "ms", typical),
    ]
