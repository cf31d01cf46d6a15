"""Cold read of many small objects by several threads."""

from __future__ import annotations

import os

from bench import servers
from bench.candidate import Candidate
from bench.report import Figure
from bench.workplace import Workplace, drop_caches, load

OBJECT_BYTES = 64 << 10
THREADS = 16


def run(candidate: Candidate, place: Workplace) -> list[Figure]:
    count = place.sized(2_000, 300)
    repeats = place.sized(5, 2)
    root = place.memory / "objects"
    for number in range(repeats):
        directory = root / f"set{number}"
        directory.mkdir(parents=True)
        for name in range(count):
            (directory / f"f{name:05d}").write_bytes(os.urandom(OBJECT_BYTES))
    rates = []
    with (
        servers.nginx(place, root) as server,
        candidate.mounted(place, server, f"s3://{servers.BUCKET}/", posix_metadata="off") as mounted,
    ):
        mounted.wait_imported()
        for number in range(repeats):
            drop_caches()
            rates.append(count / load("many", THREADS, mounted.path / f"set{number}"))
    where = f"{count:,} objects of 64 KiB, {THREADS} threads in one process, nginx on loopback"
    return [Figure("cold read of small objects", "files/s", rates, 1_500, circumstances=where)]
