"""One file, several processes: linearizable, while it is fetched, exported and read in three ways; and the check can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.model.history import STRIDE, Event, faults
from tests.mount.conftest import fresh_bucket
from tests.mount.site import can_mount, site
from tests.servers import S3Server

_PLACES = 6
_SECONDS = 3.0


def _together(path: Path) -> tuple[list[Event], list[Event]]:
    """What three writers and four readers did: (writes, reads)."""
    everywhere = [str(place) for place in range(_PLACES)]
    roles = [("write", [str(2 * number), str(2 * number + 1)]) for number in range(_PLACES // 2)]
    roles += [(role, everywhere) for role in ("read", "read", "direct", "map")]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.model.history", role, str(path), str(_SECONDS), str(seed), *places],
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )
        for seed, (role, places) in enumerate(roles)
    ]  # fmt: skip
    writes: list[Event] = []
    reads: list[Event] = []
    for process, (role, _) in zip(running, roles, strict=True):
        printed, _ = process.communicate(timeout=100)
        assert process.returncode == 0, role
        events = [Event(*row) for row in json.loads(printed)]
        (writes if role == "write" else reads).extend(events)
    return writes, reads


@pytest.mark.skipif(not can_mount(), reason="mounting needs /dev/fuse and root")
def test_file_that_many_processes_use_is_linearizable(moto_server: S3Server) -> None:
    with site(moto_server, fresh_bucket(moto_server)) as place:
        place.put("p/numbers", bytes(STRIDE * _PLACES))
        place.mount()
        writes, reads = _together(place.root / "numbers")
        print(f"{len(writes)} writes, {len(reads)} reads")
        assert faults(writes, reads) == []
        last = {e.place: e.number for e in sorted(writes, key=lambda e: e.number)}
        place.drain()
        body = place.body("p/numbers")
        assert {n: int.from_bytes(body[n * STRIDE : n * STRIDE + 8], "little") for n in last} == last
        place.unmount()


@pytest.mark.parametrize(
    ("read", "is_possible"),
    [
        (Event(0, 0, 5, 0), True),
        (Event(0, 12, 13, 1), True),
        (Event(0, 12, 13, 2), True),  # being written
        (Event(0, 0, 5, 1), False),  # not yet written
        (Event(0, 30, 31, 1), False),  # written over before
        (Event(0, 16, 17, 1), False),  # another read has seen the newer one
    ],
)
def test_check_knows_what_cannot_have_happened(read: Event, is_possible: bool) -> None:
    writes = [Event(0, 8, 10, 1), Event(0, 11, 20, 2)]
    assert (faults(writes, [Event(0, 14, 15, 2), read]) == []) is is_possible
