"""Sequential read of a file whose content is local, against the same read of the file underneath."""

from __future__ import annotations

import os

from bench.candidate import Candidate
from bench.report import Figure
from bench.workplace import Workplace, drop_caches, load

MIB = 1 << 20


def run(candidate: Candidate, place: Workplace) -> list[Figure]:
    size = place.sized(1024, 128) * MIB
    ours, underneath = [], []
    with candidate.mounted(place, None, "") as mounted:
        path = mounted.path / "resident"
        with path.open("wb") as file:
            for _ in range(size // MIB):
                file.write(os.urandom(MIB))
        chunk = max((found for found in mounted.cache.rglob("*") if found.is_file()), key=lambda found: found.stat().st_size)
        if chunk.stat().st_size != size:
            raise RuntimeError(f"{chunk} has {chunk.stat().st_size} bytes, not the {size} written")
        for _ in range(place.sized(7, 2)):
            drop_caches()
            underneath.append(size / load("sequential", chunk) / 1e9)
            drop_caches()
            ours.append(size / load("sequential", path) / 1e9)
    ratios = [mine / theirs for mine, theirs in zip(ours, underneath, strict=True)]
    where = f"{size // MIB} MiB, 1 MiB requests, caches dropped before each, alternating, on {place.disk.parent}"
    return [
        Figure("read of a resident file / read of the file underneath", "", ratios, 0.6, circumstances=where),
        Figure("read of a resident file", "GB/s", ours),
        Figure("read of the file underneath", "GB/s", underneath),
    ]
