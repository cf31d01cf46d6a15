"""The reference file system is what ext4 does: the same random operations that the mount has to stand, on a plain directory."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.model.choosing import Chooser
from tests.model.following import Follower
from tests.model.operations import Doer
from tests.model.reference import Reference
from tests.model.reference_tree import Inode


@pytest.mark.skipif(os.geteuid() != 0, reason="chown needs root")
@pytest.mark.parametrize("seed", range(6))
def test_reference_agrees_with_the_local_file_system(tmp_path: Path, seed: int) -> None:
    root = Inode("dir", 0o755, nlink=2)
    follower = Follower(Reference(root), Doer(str(tmp_path)))
    chooser = Chooser(random.Random(seed), follower.reference)
    before = os.umask(0)
    try:
        for name in ("one", "two", "local"):
            follower.do(["mkdir", name, 0o755])
        for _ in range(1500):
            follower.do(chooser.next())
        follower.compare_tree(with_content=True)
    finally:
        os.umask(before)
        follower.real.do(["close_all"])
