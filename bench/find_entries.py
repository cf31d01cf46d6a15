"""find(1) over a tree nobody has looked at yet."""

from __future__ import annotations

from bench import servers
from bench.candidate import Candidate
from bench.report import Figure
from bench.workplace import Workplace, drop_caches, load


def run(candidate: Candidate, place: Workplace) -> list[Figure]:
    count = place.sized(100_000, 10_000)
    repeats = place.sized(5, 2)
    rates: dict[str, list[float]] = {"find": [], "find-sizes": []}
    with servers.stub("generated", count) as server:
        with candidate.mounted(place, server, f"s3://{servers.BUCKET}/", posix_metadata="off") as mounted:
            mounted.wait_imported()
            for _ in range(repeats):
                for program, values in rates.items():
                    drop_caches()
                    values.append(count / load(program, mounted.path, count))
    where = f"{count:,} files, kernel caches dropped before each, posix_metadata=off"
    return [
        Figure("find over imported entries", "entries/s", rates["find"], 20_000, circumstances=where),
        Figure("find with a stat of every entry", "entries/s", rates["find-sizes"], circumstances=where),
    ]
