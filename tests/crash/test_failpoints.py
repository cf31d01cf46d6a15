"""The daemon dies between any two durable effects: nothing acknowledged is lost, nothing torn or left over is in the bucket."""

from __future__ import annotations

import re

import pytest

from s3lustrefs.meta.check import check_state_dir
from tests.crash.harness import Crashing
from tests.crash.workload import Step

BIG = (17 << 20) + 5

STEPS: list[Step] = [
    ["mkdir", "new"],
    ["create", "new/one"],
    ["write", "new/one", 0, 11, 5000],
    ["write", "new/one", 5000, 12, 70_000],
    ["fsync", "new/one"],
    ["close", "new/one"],
    ["symlink", "../old/a.txt", "new/pointer"],
    ["chmod", "old/a.txt", 0o640],
    ["read", "old/b.bin", 0, 100],
    ["truncate", "old/c.txt", 5],
    ["open_old", "old/b.bin"],
    ["write", "old/b.bin", (2 << 20) + 3, 13, 10],
    ["close", "old/b.bin"],
    ["mkdir", "new/sub"],
    ["create", "new/sub/two"],
    ["write", "new/sub/two", 0, 14, 20],
    ["close", "new/sub/two"],
    ["drain"],
    ["rename", "deep", "moved"],
    ["rename", "new/one", "old/one"],
    ["unlink", "old/gone.txt"],
    ["rename", "new/sub/two", "old/a.txt"],
    ["create", "big"],
    *[["write", "big", at, 100 + at, min(1 << 20, BIG - at)] for at in range(0, BIG, 1 << 20)],
    ["close", "big"],
    ["open_old", "old/one"],
    ["write", "old/one", 75_000, 15, 3],
    ["close", "old/one"],
    ["link", "old/one", "new/hard"],
    ["chmod", "new/sub", 0o700],
    ["drain"],
    ["unlink", "moved/er/x.txt"],
    ["rmdir", "moved/er"],
    ["create", "last"],
    ["write", "last", 0, 16, 9],
    ["close", "last"],
    ["drain"],
]

DAEMON_GONE = re.compile(r"Errno (103|107)|DaemonUnreachable")
"""ECONNABORTED, ENOTCONN, or no answer on the control socket."""

FAILPOINTS = [
    "log.append.before:60",
    "log.append.after:60",
    "chunk.write.before:3",
    "chunk.write.after:3",
    "checkpoint.commit.before:1",
    "checkpoint.commit.before:2",
    "checkpoint.commit.after:2",
    "checkpoint.switched",
    "sync.content",
    "sync.barrier",
    "truncate.recorded",
    "delete.recorded",
    "import.batch",
    "import.complete.before",
    "residency.before",
    "residency.after",
    "put.before",
    "put.answered",
    "settle.before:3",
    "settle.after:3",
    "copy.before",
    "copy.answered",
    "delete.before",
    "delete.answered",
    "expand.batch",
    "multipart.created",
    "multipart.part",
    "sent.noted:2",
    "multipart.complete.before",
    "multipart.completed",
]


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_daemon_that_dies_at_a_failpoint_loses_nothing(crashing: Crashing, failpoint: str) -> None:
    before = crashing.fill()
    if crashing.mount(failpoint):
        job = crashing.start_job(STEPS)
        _, said = job.communicate()
        if job.returncode == 0:
            crashing.tell_to_end()  # the last checkpoint is part of the end
        elif not DAEMON_GONE.search(said):
            crashing.kill()
            pytest.fail(f"the job failed for another reason: {said}{crashing.log()}")
        assert crashing.wait_death() == -9, f"{failpoint} was never passed"
    crashing.check_no_torn_object(before, STEPS)
    tree = crashing.recover(before, STEPS)
    crashing.drain()
    crashing.check_bucket(tree)
    assert crashing.end_cleanly() == 0
    assert check_state_dir(crashing.state_dir) == []
