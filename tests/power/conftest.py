from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.power.disk import Machine
from tests.power.harness import Powered
from tests.servers import S3Server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    able = os.path.exists("/dev/fuse") and os.path.exists("/dev/loop-control") and os.geteuid() == 0
    for item in items:
        if Path(__file__).parent in item.path.parents and not able:
            item.add_marker(pytest.mark.skip(reason="needs /dev/fuse, loop devices and root"))


@pytest.fixture
def make_machine(tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    with ExitStack() as stack:

        def make(*, disks: int = 1, kind: str = "ext4") -> Machine:
            machine = Machine(tmp_path, disks=disks, kind=kind)
            stack.callback(machine.clear)
            machine.start()
            return machine

        yield make


@pytest.fixture
def make_powered(
    moto_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_machine: Callable[..., Machine]
) -> Iterator[Callable[..., Powered]]:
    """make_powered(disks=2, kind="xfs"): disks are on, nothing is mounted yet."""
    with ExitStack() as stack:

        def make(*, disks: int = 1, kind: str = "ext4") -> Powered:
            here = Powered(moto_server, tmp_path, monkeypatch, make_machine(disks=disks, kind=kind))
            stack.callback(here.clear)
            return here

        yield make


@pytest.fixture
def powered(make_powered: Callable[..., Powered]) -> Powered:
    return make_powered()
