from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.harness import Crashing
from tests.servers import S3Server


@pytest.fixture
def crashing(moto_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crashing]:
    if not os.path.exists("/dev/fuse") or os.geteuid() != 0:
        pytest.skip("needs /dev/fuse and root")
    here = Crashing(moto_server, tmp_path, monkeypatch)
    try:
        yield here
    finally:
        here.clear()
