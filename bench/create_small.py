"""Create, write 4 KiB, close, one file after another; then everything must be in the bucket once `drain` says so."""

from __future__ import annotations

import time
from typing import Any

from bench import servers
from bench.candidate import Candidate
from bench.report import Figure
from bench.workplace import Workplace, load
from tests.servers import radosgw

FILE_BYTES = 4096


def run(candidate: Candidate, place: Workplace) -> list[Figure]:
    count = place.sized(5_000, 500)
    creating, draining = [], []
    with radosgw() as server:
        client = server.client()
        client.create_bucket(Bucket=servers.BUCKET)
        # Some endpoints and mounts want at least one object below a prefix.
        client.put_object(Bucket=servers.BUCKET, Key="first", Body=b"x")
        with candidate.mounted(place, server, f"s3://{servers.BUCKET}/") as mounted:
            mounted.wait_imported()
            for number in range(place.sized(3, 1)):
                directory = mounted.path / f"set{number}"
                directory.mkdir()
                creating.append(count / load("create", count, directory))
                start = time.perf_counter()
                mounted.drain()
                draining.append(count / (time.perf_counter() - start))
                _verify(client, f"set{number}/", count)
    where = f"{count:,} files one after another, state on {place.disk.parent}; all seen in the bucket by boto3 afterwards"
    return [
        Figure("create, write 4 KiB, close", "files/s", creating, 1_500, circumstances=where),
        Figure(
            "export of what was left when drain began", "files/s", draining, circumstances="Ceph RADOS Gateway in memory, same host"
        ),
    ]


def _verify(client: Any, prefix: str, count: int) -> None:
    """Every file is an object of the right size, and a sample has the right bytes."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=servers.BUCKET, Prefix=prefix)
    sizes = {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", ())}
    expected = {f"{prefix}f{number:06d}" for number in range(count)}
    missing = expected - sizes.keys()
    wrong = [key for key in expected & sizes.keys() if sizes[key] != FILE_BYTES]
    for key in sorted(expected - missing)[:: max(1, count // 50)]:
        if client.get_object(Bucket=servers.BUCKET, Key=key)["Body"].read() != bytes(range(256)) * 16:
            wrong.append(key)
    if missing or wrong:
        raise RuntimeError(
            f"after drain {len(missing)} of {count} objects are missing {sorted(missing)[:3]}, {len(wrong)} are wrong {wrong[:3]}"
        )
