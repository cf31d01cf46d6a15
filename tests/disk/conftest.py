"""Disks that fail. `disk` is a directory that fails on demand, `small` one on a file system that is soon full."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.disk.disks import tmpfs
from tests.disk.failing_disk import FailingDisk, failing_disk
from tests.mount.conftest import make_site  # noqa: F401  # the mounts are made the same way


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.path.exists("/dev/fuse") and os.geteuid() == 0:
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs /dev/fuse and root, for disks that fail"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FailingDisk]:
    with failing_disk(tmp_path / "disk") as running:
        yield running


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path / "small", 8) as path:
        yield path
