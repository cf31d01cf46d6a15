"""A real mount whose state directory is on disks that lose their power."""

from __future__ import annotations

from pathlib import Path

import lmdb
import pytest

from s3lustrefs.meta.schema import SUPER_BOOT_ID, Table
from s3lustrefs.movers import repair
from tests.crash.harness import Crashing
from tests.crash.tree import Snapshot, Tree, differences, look
from tests.power.disk import Machine
from tests.servers import S3Server


class Powered(Crashing):
    """Table, log and content are on the first disk; with `second_disk` the content is on another one."""

    def __init__(self, server: S3Server, scratch: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
        super().__init__(server, scratch, monkeypatch)
        self.machine = machine
        self.state_dir = machine.disk(0) / "state"
        (scratch / "state").symlink_to(self.state_dir)  # where a job looks for the control socket
        self._options = [f"cache_dir={machine.disk(1) / 'cache'}"] if machine.disk(1).exists() else []
        self.old_log = ""

    def mount(self, failpoint: str = "", *more_options: str) -> bool:
        return super().mount(failpoint, *self._options, *more_options)

    def cut_power(self, *, keep: float = 0.0, unit: int = 4096, seed: int = 0) -> dict[str, int]:
        """The daemon dies, and with it everything that is not on the disks."""
        self.kill()
        self.wait_death()
        self.old_log = self.log()
        found = self.machine.cut_power(keep=keep, unit=unit, seed=seed)
        self.clear()
        return found

    def power_on(self) -> Snapshot:
        """Disks, then the mount, as after a boot; what it shows."""
        self.machine.start()
        forget_boot(self.state_dir)
        if (self.state_dir / "meta" / "data.mdb").exists():
            findings = repair.find(self.state_dir)
            assert not findings, (findings, self.old_log)
        self.mount()
        self.wait_import()
        return look(self.root)

    def check_settled(self, tree: Tree) -> None:
        """Once everything is exported, mount and bucket hold the same, and no conflict was taken for one."""
        self.drain()
        wrong = differences(look(self.root), tree.snapshot())
        assert not wrong, (wrong, self.old_log, self.log())
        self.check_bucket(tree)


def forget_boot(state_dir: Path) -> None:
    """Make the table one of an earlier boot: the kernel's page cache, and the log in it, are not to be trusted."""
    directory = state_dir / "meta"
    if not (directory / "data.mdb").exists():
        return
    with lmdb.open(str(directory), max_dbs=len(Table), map_size=1 << 30) as environment:
        table = environment.open_db(Table.SUPER.name.lower().encode(), create=False)
        with environment.begin(write=True) as txn:
            if txn.get(SUPER_BOOT_ID, db=table) is not None:
                txn.put(SUPER_BOOT_ID, b"a boot before the power cut", db=table)
