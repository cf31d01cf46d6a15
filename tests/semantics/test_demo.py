"""The demo as it is run by ./dev demo, with a smaller bucket."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.semantics import demo
from tests.semantics.mounted import can_mount

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not can_mount(), reason="this host cannot mount: no /dev/fuse or no fusermount3")
def test_every_promise_of_the_demo_is_kept() -> None:
    command = [sys.executable, "-m", "tests.semantics.demo", "--objects", "200"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every promise was kept" in done.stdout


def test_broken_promise_is_a_failure() -> None:
    with pytest.raises(demo.Mismatch, match="the tree is the same"):
        demo.expect(False, "the tree is the same")
