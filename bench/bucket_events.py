"""Changes in the bucket: how many events a second a mount takes in, and how soon one of them shows."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import servers
from bench.candidate import Candidate, Mounted
from bench.report import Figure
from bench.stub_queue import REMOVED_AFTER
from bench.workplace import Workplace, child
from tests.servers import moto

_SETTLE_SECONDS = 8.0
"""Events from just before a mount cost a HEAD each: that is not what is measured."""


def rate(candidate: Candidate, place: Workplace) -> list[Figure]:
    count = place.sized(100_000, 10_000)
    rates, cpu = [], []
    for _ in range(place.sized(3, 1)):
        with servers.stub("generated", count) as server, _queue(count) as queue:
            options = {"event_queue_url": f"{queue}/1/bench", "posix_metadata": "off", "import_interval": "0"}
            with candidate.mounted(place, server, f"s3://{servers.BUCKET}/", **options) as mounted:
                mounted.wait_imported()
                _wait(mounted, lambda told: told["state"] == "LISTENING")
                time.sleep(_SETTLE_SECONDS)
                before = _cpu_seconds(mounted.pid)
                start = time.perf_counter()
                _get(f"{queue}/start")
                told = _wait(mounted, lambda told: told["events"] >= count)
                rates.append(count / (time.perf_counter() - start))
                cpu.append((_cpu_seconds(mounted.pid) - before) / count * 1e6)
                _check(mounted, told, count)
                while int(_get(f"{queue}/deleted")) < count:
                    time.sleep(0.05)
    where = f"{count:,} of a queue that is always full: 70 % new objects, 20 % changed, 10 % removed; posix_metadata=off"
    return [
        Figure("events taken in, until they are in the table", "events/s", rates, 2_500, circumstances=where),
        Figure(
            "processor time of the daemon for that",
            "µs/event",
            cpu,
            better="lower",
            circumstances="listening and deleting included",
        ),
    ]


def lag(candidate: Candidate, place: Workplace) -> list[Figure]:
    lags = []
    with moto() as server:
        client = server.client()
        client.create_bucket(Bucket=servers.BUCKET)
        client.put_object(Bucket=servers.BUCKET, Key="d/first", Body=b"x")
        with candidate.mounted(place, server, f"s3://{servers.BUCKET}/", event_queue_url="create") as mounted:
            mounted.wait_imported()
            _wait(mounted, lambda told: told["state"] == "LISTENING")
            for number in range(place.sized(100, 20)):
                assert f"f{number}" not in os.listdir(mounted.path / "d") and not (mounted.path / f"d/f{number}").exists()
                client.put_object(Bucket=servers.BUCKET, Key=f"d/f{number}", Body=b"x")
                lags.append(_until_visible(mounted.path / f"d/f{number}"))
    return [
        Figure(
            "PUT answered to visible, in a directory listed before",
            "s",
            lags,
            1.0,
            "lower",
            "moto's S3 and SQS; name known as absent",
        )
    ]


def _until_visible(path: Path) -> float:
    start = time.perf_counter()
    while not path.exists():
        time.sleep(0.001)
    return time.perf_counter() - start


@contextlib.contextmanager
def _queue(count: int) -> Iterator[str]:
    with child([sys.executable, "-m", "bench.stub_queue", str(count)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"


def _wait(mounted: Mounted, condition: Any) -> dict[str, Any]:
    while not condition(told := mounted.status()["associations"][0]["events"]):
        time.sleep(0.05)
    found: dict[str, Any] = told
    return found


def _check(mounted: Mounted, told: dict[str, Any], count: int) -> None:
    """Everything had its effect."""
    removed = (count - REMOVED_AFTER) // 10
    files = count * 8 // 10 - removed
    found = sum(len(names) for _, _, names in os.walk(mounted.path / "told"))
    changed = count * 2 // 10
    if (found, told["changed"], told["deleted"]) != (files - removed, changed, removed) or told["lost"] or told["unreadable"]:
        raise RuntimeError(
            f"{files - removed} files expected, {found} found; {changed} changed, {removed} deleted expected: {told}"
        )


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: bytes = answer.read()
        return found
