"""Rename of a directory of many objects, against the client library's own parallel copy and delete."""

from __future__ import annotations

import time

from bench import servers
from bench.candidate import Candidate
from bench.load import IN_FLIGHT
from bench.report import Figure
from bench.workplace import Workplace, load
from tests.servers import radosgw


def run(candidate: Candidate, place: Workplace) -> list[Figure]:
    count = place.sized(10_000, 500)
    ours, library, locally = [], [], []
    with radosgw() as server:
        client = server.client()
        client.create_bucket(Bucket=servers.BUCKET)
        url = f"{server.endpoint_url}/{servers.BUCKET}"
        environment = server.environment()
        load("put", count, f"{url}/alone/0/", environment=environment)
        load("put", count, f"{url}/{servers.LINKED}/set0/", environment=environment)
        with candidate.mounted(place, server, servers.linked_directory(place)) as mounted:
            mounted.wait_imported()
            mounted.wait_headers()
            directory = mounted.path / servers.LINKED / "set0"
            for number in range(1, 1 + place.sized(3, 1)):
                seconds = load("move", count, f"{url}/alone/{number - 1}/", f"{url}/alone/{number}/", environment=environment)
                library.append(count / seconds)
                start = time.perf_counter()
                directory = directory.rename(directory.with_name(f"set{number}"))
                locally.append((time.perf_counter() - start) * 1000)
                mounted.drain()
                ours.append(count / (time.perf_counter() - start))
                left = len(servers.listed(client, f"{servers.LINKED}/set{number - 1}/"))
                there = len(servers.listed(client, f"{servers.LINKED}/set{number}/"))
                if (left, there) != (0, count + 1):  # the directory's own object
                    raise RuntimeError(f"after drain {left} objects are left under the old name, {there} under the new one")
    where = f"directory of {count:,} objects of 4 KiB, Ceph RADOS Gateway in memory, same host; pairs in one run"
    alone = f"CopyObject, then DeleteObject, by awscrt, {IN_FLIGHT} objects at once"
    ratios = [mine / theirs for mine, theirs in zip(ours, library, strict=True)]
    return [
        Figure("rename of a directory, here", "ms", locally, 100, "lower", circumstances=where),
        Figure("rename of a directory, in the bucket", "objects/s", ours, circumstances=where),
        Figure("the client library alone", "objects/s", library, circumstances=alone),
        Figure("rename against the library", "of its rate", ratios, 0.6, circumstances=where),
    ]
