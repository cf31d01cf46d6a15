"""Processes that read and write one file at the same time, and whether what they saw could have happened one after another.

The file is an array of numbers far apart. Each number has one writer, which only counts up, and any readers. For such a register
linearizability is this, and nothing less: a read returns a number whose write had begun before the read ended, not older than
the last write that had returned before the read began, and not older than what any earlier read returned.

`python -m tests.model.history ROLE PATH SECONDS SEED PLACE...` is one process; it prints its history as JSON.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

STRIDE = 300_001 * 8
"""Bytes between two numbers: none shares a page, a block of residency is shared by some."""
_READS_PER_OPEN = 40


@dataclass(frozen=True)
class Event:
    """One call on one number; times are of the clock all processes share."""

    place: int
    began_ns: int
    ended_ns: int
    number: int


def faults(writes: list[Event], reads: list[Event]) -> list[str]:
    """Why the history is not linearizable; empty when it is."""
    wrong = []
    for place in {read.place for read in reads}:
        mine = sorted((w for w in writes if w.place == place), key=lambda w: w.number)
        newest_seen: list[tuple[int, int]] = []
        for read in sorted((r for r in reads if r.place == place), key=lambda r: r.began_ns):
            returned = max((w.number for w in mine if w.ended_ns < read.began_ns), default=0)
            begun = max((w.number for w in mine if w.began_ns < read.ended_ns), default=0)
            seen = max((number for ended_ns, number in newest_seen if ended_ns < read.began_ns), default=0)
            if not max(returned, seen) <= read.number <= begun:
                wrong.append(f"{read}: written {returned} to {begun}, seen before {seen}")
            newest_seen.append((read.ended_ns, read.number))
    return wrong


def _timed(place: int, call: Callable[[], int]) -> Event:
    began_ns = time.monotonic_ns()
    number = call()
    return Event(place, began_ns, time.monotonic_ns(), number)


def write(path: str, seconds: float, places: list[int]) -> list[Event]:
    """Count up in each place, through descriptors that are closed now and then, so that the file is exported meanwhile."""
    events = []
    number, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        descriptor = os.open(path, os.O_RDWR)
        for _ in range(10):
            number += 1
            for place in places:

                def put(place: int = place, number: int = number) -> int:
                    os.pwrite(descriptor, number.to_bytes(8, "little"), place * STRIDE)  # noqa: B023  # called at once
                    return number

                events.append(_timed(place, put))
        os.close(descriptor)
        time.sleep(0.002)
    return events


def read(path: str, seconds: float, seed: int, places: list[int], flags: int) -> list[Event]:
    events = []
    rng, deadline = random.Random(seed), time.monotonic() + seconds
    while time.monotonic() < deadline:
        descriptor = os.open(path, os.O_RDONLY | flags)
        for _ in range(_READS_PER_OPEN):
            place = rng.choice(places)

            def get(place: int = place) -> int:
                return int.from_bytes(os.pread(descriptor, 8, place * STRIDE), "little")  # noqa: B023  # called at once

            events.append(_timed(place, get))
        os.close(descriptor)
    return events


def read_mapped(path: str, seconds: float, seed: int, places: list[int]) -> list[Event]:
    events = []
    rng, deadline = random.Random(seed), time.monotonic() + seconds
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
        numbers = memoryview(mapped).cast("q")
        try:
            while time.monotonic() < deadline:
                place = rng.choice(places)
                events.append(_timed(place, lambda place=place: numbers[place * STRIDE // 8]))  # type: ignore[misc]
                time.sleep(0.0002)
        finally:
            numbers.release()
    return events


def main() -> None:
    role, path, seconds, seed, *rest = sys.argv[1:]
    places = [int(each) for each in rest]
    if role == "write":
        events = write(path, float(seconds), places)
    elif role == "map":
        events = read_mapped(path, float(seconds), int(seed), places)
    else:
        events = read(path, float(seconds), int(seed), places, os.O_DIRECT if role == "direct" else 0)
    print(json.dumps([[e.place, e.began_ns, e.ended_ns, e.number] for e in events]))


if __name__ == "__main__":
    main()
