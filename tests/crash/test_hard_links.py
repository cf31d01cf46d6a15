"""The daemon dies once others changed or deleted the object of one name of a file: that name is apart or gone, or it is not yet."""

from __future__ import annotations

import os

import pytest

from s3lustrefs.meta.check import check_state_dir
from tests.crash.harness import Crashing
from tests.crash.test_conflict_failpoints import body
from tests.crash.test_deaths_elsewhere import dying
from tests.crash.workload import content

A, B = "p/old/a.txt", "p/old/b"
OURS, THEIRS = content(210, 700), content(211, 900)


@pytest.mark.parametrize("failpoint", ["sweep.batch", "sweep.removed", "refresh.recorded"])
@pytest.mark.one_in(3)
def test_names_that_part_do_so_once(crashing: Crashing, failpoint: str) -> None:
    crashing.fill()
    before = body(crashing, A)
    option = "auto_import=none"  # no sweep but the one that is asked for
    crashing.mount("", option)
    crashing.wait_import()
    a, b = crashing.root / "old/a.txt", crashing.root / "old/b"
    os.link(a, b)
    crashing.drain()
    assert crashing.end_cleanly() == 0
    assert body(crashing, B) == before
    crashing.mount(failpoint, option)
    if failpoint == "sweep.removed":
        crashing.s3.delete_object(Bucket=crashing.bucket, Key=B)
    else:
        crashing.s3.put_object(Bucket=crashing.bucket, Key=B, Body=THEIRS)
    with dying():
        if failpoint == "refresh.recorded":
            a.read_bytes()
        else:
            crashing.client().call("Refresh", path="/")
    assert crashing.wait_death() == -9
    crashing.clear()
    assert check_state_dir(crashing.state_dir) == []
    crashing.mount("", option)
    crashing.client().call("Refresh", path="/")
    names = {path.name: path.read_bytes() for path in (a, b) if path.exists()}
    assert names == {"a.txt": before} | ({} if failpoint == "sweep.removed" else {"b": THEIRS})
    a.write_bytes(OURS)
    crashing.drain()
    assert body(crashing, A) == OURS
    if failpoint == "sweep.removed":
        assert B not in crashing.keys()
    else:
        assert body(crashing, B) == THEIRS and b.stat().st_nlink == 1
    assert crashing.end_cleanly() == 0
    assert check_state_dir(crashing.state_dir) == []
