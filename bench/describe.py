"""How soon the FSx API answers while a million objects are imported, and what that costs the import."""

from __future__ import annotations

import os
import statistics
import time

from bench import servers
from bench.candidate import Candidate, Mounted
from bench.report import Figure
from bench.workplace import Workplace
from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.cli.target import CONTROL_XATTR
from s3lustrefs.control.fsx_model import TARGET_PREFIX

_PAUSE_SECONDS = 0.1
_LOOK_SECONDS = 0.5


def run(candidate: Candidate, place: Workplace) -> list[Figure]:
    count = place.sized(1_000_000, 50_000)
    quiet, asked, answers = [], [], []
    with servers.stub("generated", count) as server:
        for _ in range(place.sized(3, 1)):  # in turns, so that both see the same weather
            for rates, describes in ((quiet, False), (asked, True)):
                with candidate.mounted(place, server, f"s3://{servers.BUCKET}/", posix_metadata="off") as mounted:
                    rate, took = _import(mounted, describes)
                    rates.append(rate)
                    answers += took
    lost = [100 * (1 - statistics.median(asked) / statistics.median(quiet))]
    where = f"one every {_PAUSE_SECONDS} s over the control socket, {count:,} objects, posix_metadata=off"
    details = {"without": quiet, "with": asked, "slowest_ms": max(answers), "answers": len(answers)}
    return [
        Figure("DescribeDataRepositoryAssociations during an import", "ms", answers, 20, "lower", where),
        Figure("rate that the import loses to it", "%", lost, 10, "lower", "medians of runs in turns", details),
    ]


def _import(mounted: Mounted, describes: bool) -> tuple[float, list[float]]:
    """(objects per second, milliseconds of each answer)."""
    socket = os.fsdecode(os.getxattr(mounted.path, CONTROL_XATTR))
    native, fsx = ControlClient(socket), ControlClient(socket, prefix=TARGET_PREFIX)
    took: list[float] = []
    look = 0.0
    while True:
        if describes:
            started = time.perf_counter()
            fsx.call("DescribeDataRepositoryAssociations")
            took.append(1000 * (time.perf_counter() - started))
        if time.monotonic() >= look:
            look = time.monotonic() + _LOOK_SECONDS
            progress = native.call("Status")["associations"][0]["import"]  # type: ignore[index]
            if progress["state"] == "DONE":
                return float(progress["objects_per_second"]), took
        time.sleep(_PAUSE_SECONDS)
