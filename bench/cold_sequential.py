"""Cold sequential read of one large object, against the client library downloading the same object to a file by itself."""

from __future__ import annotations

import os

from bench import servers
from bench.candidate import Candidate
from bench.report import Figure
from bench.workplace import Workplace, drop_caches, load

MIB = 1 << 20


def run(candidate: Candidate, place: Workplace) -> list[Figure]:
    size = place.sized(1024, 128) * MIB
    repeats = place.sized(5, 2)
    root = place.memory / "objects"
    _fill(root, size, repeats)
    ours, alone = [], []
    with (
        servers.nginx(place, root) as server,
        candidate.mounted(place, server, f"s3://{servers.BUCKET}/", posix_metadata="off") as mounted,
    ):
        mounted.wait_imported()
        for number in range(repeats):
            file = place.disk / "downloaded"
            drop_caches()
            alone.append(size / load("download", f"{server.endpoint_url}/{servers.BUCKET}/big{number}", file) / 1e9)
            file.unlink()
            drop_caches()
            ours.append(size / load("sequential", mounted.path / f"big{number}") / 1e9)
    ratios = [mine / theirs for mine, theirs in zip(ours, alone, strict=True)]
    where = f"{size // MIB} MiB from nginx on loopback (objects on tmpfs), content to {place.disk.parent}"
    return [
        Figure(
            "cold sequential read / download by the client library alone", "", ratios, 0.5, circumstances=f"{where}; alternating"
        ),
        Figure("cold sequential read", "GB/s", ours, circumstances="1 MiB requests"),
        Figure("download by the client library alone", "GB/s", alone, circumstances="awscrt GET_OBJECT into a file"),
    ]


def _fill(root: os.PathLike[str], size: int, count: int) -> None:
    """Objects of random bytes; all names are links to one file, so that memory holds it once."""
    os.mkdir(root)
    first = os.path.join(root, "big0")
    with open(first, "wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    for number in range(1, count):
        os.link(first, os.path.join(root, f"big{number}"))
