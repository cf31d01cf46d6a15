"""Mounts behind the fault proxy; the fixtures are those of the mount tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mount.conftest import here, make_site, proxy
from tests.mount.site import can_mount

__all__ = ["here", "make_site", "proxy"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and not can_mount():
            item.add_marker(pytest.mark.skip(reason="mounting needs /dev/fuse and root"))
