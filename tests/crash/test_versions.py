"""Versioned buckets and deaths: one change is one version, whenever the daemon dies, and a version brought back stays back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.meta.check import check_state_dir
from tests.crash.harness import Crashing
from tests.crash.test_deaths_elsewhere import dying

BIG = os.urandom(17 << 20)


def versioned(crashing: Crashing) -> Crashing:
    crashing.s3.put_bucket_versioning(Bucket=crashing.bucket, VersioningConfiguration={"Status": "Enabled"})
    return crashing


def history(crashing: Crashing) -> dict[str, list[int]]:
    """Key -> [versions, delete markers]."""
    answer = crashing.s3.list_object_versions(Bucket=crashing.bucket)
    found: dict[str, list[int]] = {}
    for column, entries in enumerate((answer.get("Versions", []), answer.get("DeleteMarkers", []))):
        for entry in entries:
            found.setdefault(entry["Key"], [0, 0])[column] += 1
    return found


Changes = list[tuple[str, Callable[[Path], object], dict[str, list[int]]]]

USUAL: Changes = [
    ("put.answered", lambda root: (root / "f").write_bytes(b"content"), {"p/f": [1, 0]}),
    ("copy.answered", lambda root: (root / "f").chmod(0o640), {"p/f": [2, 0]}),
    ("copy.answered", lambda root: (root / "f").rename(root / "g"), {"p/f": [2, 1], "p/g": [1, 0]}),
    ("delete.answered", lambda root: (root / "g").unlink(), {"p/f": [2, 1], "p/g": [1, 1]}),
    ("settle.before", lambda root: (root / "d").mkdir(), {"p/d/": [1, 0]}),
]
FURTHER: Changes = [
    ("settle.before", lambda root: (root / "d").mkdir(), {"p/d/": [1, 0]}),
    ("settle.before", lambda root: (root / "d").chmod(0o700), {"p/d/": [2, 0]}),
    ("settle.before", lambda root: (root / "link").symlink_to("target"), {"p/link": [1, 0]}),
    ("multipart.completed", lambda root: (root / "big").write_bytes(BIG), {"p/big": [1, 0]}),
]


@pytest.mark.parametrize("changes", [USUAL, pytest.param(FURTHER, marks=pytest.mark.long)], ids=["usual", "further"])
def test_a_change_whose_answer_was_lost_is_not_made_again(crashing: Crashing, changes: Changes) -> None:
    versioned(crashing)
    expected: dict[str, list[int]] = {}
    for failpoint, change, versions in changes:
        crashing.mount(failpoint)
        change(crashing.root)
        with dying():
            crashing.drain()
        assert crashing.wait_death() == -9
        crashing.clear()
        crashing.mount()
        crashing.drain()
        expected.update(versions)
        assert history(crashing) == expected, (failpoint, crashing.log())
        assert crashing.end_cleanly() == 0
        crashing.clear()
    assert check_state_dir(crashing.state_dir) == []


def test_a_version_brought_back_shows_after_a_death(crashing: Crashing) -> None:
    versioned(crashing)
    old = crashing.s3.put_object(Bucket=crashing.bucket, Key="p/f", Body=b"old")["VersionId"]
    crashing.s3.put_object(Bucket=crashing.bucket, Key="p/f", Body=b"newer")
    crashing.mount("version.copied")
    crashing.wait_import()
    assert (crashing.root / "f").read_bytes() == b"newer"
    client: ControlClient = crashing.client()
    with dying():
        client.call("BringBackVersion", path="/f", version_id=old)
        pytest.fail("the daemon did not die")
    assert crashing.wait_death() == -9
    crashing.clear()
    crashing.mount()
    client.call("Refresh", path="/")
    assert (crashing.root / "f").read_bytes() == b"old"
    assert history(crashing) == {"p/f": [3, 0]}
    assert crashing.end_cleanly() == 0
    assert check_state_dir(crashing.state_dir) == []
