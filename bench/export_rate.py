"""Export of many small files, against what the client library alone reaches with as many requests at once.

The files are made outside the association and moved into it as one directory, so that all of them are due at one moment.
"""

from __future__ import annotations

import time
from typing import Any

from bench import servers
from bench.candidate import Candidate
from bench.load import IN_FLIGHT
from bench.report import Figure
from bench.workplace import Workplace, load
from tests.servers import radosgw


def run(candidate: Candidate, place: Workplace) -> list[Figure]:
    count = place.sized(5_000, 500)
    ours, library = [], []
    with radosgw() as server:
        client = server.client()
        client.create_bucket(Bucket=servers.BUCKET)
        url = f"{server.endpoint_url}/{servers.BUCKET}"
        environment = server.environment()
        load("put", count, f"{url}/warm/", environment=environment)
        with candidate.mounted(place, server, servers.linked_directory(place)) as mounted:
            mounted.wait_imported()
            for number in range(place.sized(5, 1)):
                library.append(count / load("put", count, f"{url}/alone{number}/", environment=environment))
                directory = mounted.path / f"set{number}"
                directory.mkdir()
                load("create", count, directory)
                start = time.perf_counter()
                directory.rename(mounted.path / servers.LINKED / directory.name)
                mounted.drain()
                ours.append(count / (time.perf_counter() - start))
                _verify(client, f"{servers.LINKED}/set{number}/", count)
    where = f"{count:,} files of 4 KiB, Ceph RADOS Gateway in memory, same host; pairs in one run"
    alone = f"PUT by awscrt, {IN_FLIGHT} requests in flight"
    ratios = [mine / theirs for mine, theirs in zip(ours, library, strict=True)]
    return [
        Figure("export of new files", "files/s", ours, circumstances=where),
        Figure("the client library alone", "objects/s", library, circumstances=alone),
        Figure("export against the library", "of its rate", ratios, 0.6, circumstances=where),
    ]


def _verify(client: Any, prefix: str, count: int) -> None:
    found = servers.listed(client, prefix)
    if len(found) != count + 1:  # the directory's own object
        raise RuntimeError(f"after drain there are {len(found)} objects below {prefix}, not {count + 1}")
