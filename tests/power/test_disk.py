"""The disks themselves: they lose what was not flushed and nothing else, so that the tests on them can fail."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.power.disk import SMALLEST_UNIT, Machine, run

DATA = os.urandom(300_000)


def write(path: Path, *, sync: bool) -> None:
    with path.open("wb") as file:
        file.write(DATA)
        if sync:
            file.flush()
            os.fsync(file.fileno())
            descriptor = os.open(path.parent, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_synced_bytes_survive_a_cut_and_others_do_not(make_machine: Callable[..., Machine], kind: str) -> None:
    machine = make_machine(kind=kind)
    disk = machine.disk(0)
    write(disk / "synced", sync=True)
    write(disk / "careless", sync=False)
    machine.cut_power(keep=0)
    machine.start()
    assert (disk / "synced").read_bytes() == DATA
    assert not (disk / "careless").exists() or (disk / "careless").read_bytes() != DATA


def test_fsync_reaches_the_disk_as_a_flush(make_machine: Callable[..., Machine]) -> None:
    machine = make_machine()
    before = machine.counts()
    write(machine.disk(0) / "synced", sync=True)
    after = machine.counts()
    assert after["writes"] > before["writes"] and after["flushes"] > before["flushes"] and after["pending"] == 0


def test_bytes_written_but_not_flushed_survive_in_part(make_machine: Callable[..., Machine]) -> None:
    """O_DIRECT writes go to the disk at once, and stay in its cache until a flush."""
    machine = make_machine()
    path = machine.disk(0) / "direct"
    path.write_bytes(b"\1" * (1 << 20))
    run("sync", "-f", path)  # its blocks are allocated and written now
    descriptor = os.open(path, os.O_WRONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, 1 << 20)
    buffer.write(b"\2" * (1 << 20))
    os.pwrite(descriptor, buffer, 0)
    os.close(descriptor)
    found = machine.cut_power(keep=0.5, unit=SMALLEST_UNIT, seed=3)
    assert found["kept"] and found["lost"]
    machine.start()
    sectors = {path.read_bytes()[at : at + 512] for at in range(0, 1 << 20, 512)}
    assert sectors == {b"\1" * 512, b"\2" * 512}
