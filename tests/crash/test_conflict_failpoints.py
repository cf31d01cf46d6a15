"""The daemon dies between any two steps of a conflict: both versions are kept, each once, and the policy's side has the name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from s3lustrefs.meta.check import check_state_dir
from tests.crash.harness import Crashing
from tests.crash.test_deaths_elsewhere import dying
from tests.crash.workload import content

KEY = "p/old/a.txt"
LOST_FOUND = ".s3lustrefs-lost+found"
OURS, THEIRS = content(200, 5000), content(201, (1 << 20) + 6000)


CRITICAL = [
    ("bucket-wins", "conflict.recorded"),
    ("file-wins", "conflict.recorded"),
    ("file-wins", "dependant.fetched"),
    ("file-wins", "dependant.freed"),
    ("file-wins", "put.answered"),
]
BESIDE = [
    ("keep-both", "put.before"),
    ("keep-both", "settle.before"),
    ("file-wins", "residency.before"),
    ("file-wins", "residency.after"),
    ("file-wins", "sent.noted"),
    ("file-wins", "put.before"),
    ("file-wins", "settle.before"),
    ("file-wins", "settle.after"),
]
"""Every file passes these; what is special about them here is the conflict around them."""


@pytest.mark.parametrize(("policy", "failpoint"), [*CRITICAL, *(pytest.param(*each, marks=pytest.mark.long) for each in BESIDE)])
def test_a_conflict_cut_short_keeps_both_sides_once(crashing: Crashing, policy: str, failpoint: str) -> None:
    crashing.fill()
    option = f"on_conflict={policy}"
    crashing.mount(failpoint, option)
    crashing.wait_import()
    with dying(), (crashing.root / "old/a.txt").open("wb") as file:
        file.write(OURS)
        crashing.s3.put_object(Bucket=crashing.bucket, Key=KEY, Body=THEIRS)
    assert crashing.wait_death() == -9
    crashing.clear()
    assert check_state_dir(crashing.state_dir) == []
    crashing.mount("", option)
    crashing.drain()
    winner, loser = (OURS, THEIRS) if policy == "file-wins" else (THEIRS, OURS)
    assert (crashing.root / "old/a.txt").read_bytes() == winner == body(crashing, KEY)
    if policy == "keep-both":
        (kept,) = (crashing.root / "old").glob("a.txt.conflict-*")
        assert body(crashing, f"p/old/{kept.name}") == loser
    else:
        (kept,) = losers(crashing)
    assert kept.read_bytes() == loser
    assert len([key for key in crashing.keys() if "a.txt" in key]) == (2 if policy == "keep-both" else 1)
    assert crashing.client().call("Status")["conflicts"] == 1
    assert crashing.end_cleanly() == 0
    assert check_state_dir(crashing.state_dir) == []


@pytest.mark.parametrize("failpoint", [pytest.param("delete.before", marks=pytest.mark.long), "conflict.back"])
def test_a_file_that_comes_back_does_so_once(crashing: Crashing, failpoint: str) -> None:
    crashing.fill()
    crashing.mount(failpoint)
    crashing.wait_import()
    crashing.s3.put_object(Bucket=crashing.bucket, Key=KEY, Body=THEIRS)
    with dying():
        (crashing.root / "old/a.txt").unlink()
    assert crashing.wait_death() == -9
    crashing.clear()
    assert check_state_dir(crashing.state_dir) == []
    crashing.mount()
    crashing.drain()
    assert (crashing.root / "old/a.txt").read_bytes() == THEIRS == body(crashing, KEY)
    assert crashing.client().call("Status")["conflicts"] == 1
    assert crashing.end_cleanly() == 0


def test_a_rename_that_nobody_exports_outlives_its_object_and_the_daemon(crashing: Crashing) -> None:
    crashing.fill()
    crashing.mount("sweep.removed", "auto_export=none")
    crashing.wait_import()
    before = (crashing.root / "old/a.txt").read_bytes()
    (crashing.root / "old/a.txt").rename(crashing.root / "old/b.txt")
    crashing.drain()
    crashing.s3.delete_object(Bucket=crashing.bucket, Key=KEY)
    with dying():
        crashing.client().call("Refresh", path="/")
    assert crashing.wait_death() == -9
    crashing.clear()
    assert check_state_dir(crashing.state_dir) == []
    crashing.mount("", "auto_export=none")
    crashing.client().call("Refresh", path="/")
    crashing.drain()
    assert crashing.client().call("Status")["conflicts"] == 1
    assert os.getxattr(crashing.root / "old/b.txt", "system.s3lustrefs.hsm") == b"(0x00000000)"  # so it cannot be released
    assert (crashing.root / "old/b.txt").read_bytes() == before
    assert crashing.end_cleanly() == 0
    assert check_state_dir(crashing.state_dir) == []


@pytest.mark.parametrize("failpoint", ["lost_found.removed:1", pytest.param("lost_found.removed:2", marks=pytest.mark.long)])
def test_a_purge_cut_short_is_finished_by_the_next_mount(crashing: Crashing, failpoint: str) -> None:
    crashing.fill()
    crashing.mount("", "on_conflict=bucket-wins")
    crashing.wait_import()
    with (crashing.root / "old/a.txt").open("wb") as file:
        file.write(OURS)
        crashing.s3.put_object(Bucket=crashing.bucket, Key=KEY, Body=THEIRS)
    crashing.drain()
    assert losers(crashing)
    assert crashing.end_cleanly() == 0
    crashing.mount(failpoint, "lost_found_age=1s")
    assert crashing.wait_death() == -9
    crashing.clear()
    assert check_state_dir(crashing.state_dir) == []
    crashing.mount("", "lost_found_age=1s")
    while (crashing.root / LOST_FOUND).exists():
        continue
    assert crashing.end_cleanly() == 0
    assert check_state_dir(crashing.state_dir) == []


def losers(crashing: Crashing) -> list[Path]:
    return [path for path in (crashing.root / LOST_FOUND).rglob("*") if path.is_file()]


def body(crashing: Crashing, key: str) -> bytes:
    content: bytes = crashing.s3.get_object(Bucket=crashing.bucket, Key=key)["Body"].read()
    return content
