"""Disks whose power can be cut: ext4 or xfs on a loop device on an image that `disk_process` serves."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

SMALLEST_UNIT = 1024
"""Bytes that reach a disk together. ext4's superblock is as long, and half of one is nothing it recovers from."""
_MIB = 1 << 20
_COMMAND_SECONDS = 60


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=_COMMAND_SECONDS)
    assert done.returncode == 0, f"{command}: exit status {done.returncode}: {done.stderr}"
    return done.stdout


class Machine:
    """One or several disks that lose their power together. `disk(0)` is a mounted file system from `start` until `cut_power`."""

    def __init__(self, scratch: Path, *, disks: int = 1, kind: str = "ext4", mib: int = 320) -> None:
        self._scratch = scratch
        self._kind = kind
        self._layer = scratch / "layer"
        self._layer.mkdir()
        self._images = [scratch / f"image{number}" for number in range(disks)]
        self._loops: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        for number, image in enumerate(self._images):
            self.disk(number).mkdir()
            with image.open("wb") as file:
                file.truncate(mib * _MIB)
            options = ["-q", "-N", "4000", "-E", "lazy_itable_init=1,nodiscard", "-J", "size=8"] if kind == "ext4" else ["-q", "-K"]
            run(f"mkfs.{kind}", *options, image)

    def disk(self, number: int) -> Path:
        return self._scratch / f"disk{number}"

    def start(self) -> None:
        """Power on: what the file systems find is what the last cut left."""
        command = [sys.executable, "-m", "tests.power.disk_process", str(self._layer), *map(str, self._images)]
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
        self._answer()
        for number, image in enumerate(self._images):
            device = run("losetup", "--find", "--show", "--direct-io=on", self._layer / image.name).strip()
            self._loops.append(device)
            run("mount", "-t", self._kind, device, self.disk(number))

    def cut_power(self, *, keep: float = 0.0, unit: int = 4096, seed: int = 0) -> dict[str, int]:
        """From now on nothing reaches the disks. Nobody may use them any more; `start` begins the next life."""
        found = self._order(order="cut", keep=keep, unit=unit, seed=seed)
        self.clear()
        return found

    def write_back(self) -> None:
        """The kernel writes everything it has to the disks, as it may do at any time."""
        for number in range(len(self._images)):
            run("sync", "-f", self.disk(number))

    def counts(self) -> dict[str, int]:
        return self._order(order="count")

    def clear(self) -> None:
        """No mount, no loop device, no process stays."""
        for number in range(len(self._images)):
            self._unmount(self.disk(number))
        while self._loops:
            run("losetup", "-d", self._loops.pop())
        if self._process is not None:
            process, self._process = self._process, None
            process.communicate(timeout=_COMMAND_SECONDS)
        with contextlib.suppress(OSError):
            if os.path.ismount(self._layer):
                run("umount", "-l", self._layer)

    @staticmethod
    def _unmount(path: Path) -> None:
        """Children of a killed daemon end a little later than it does, and nobody tells when."""
        deadline = time.monotonic() + _COMMAND_SECONDS
        while os.path.ismount(path):
            done = subprocess.run(["umount", path], capture_output=True, text=True, check=False, timeout=_COMMAND_SECONDS)
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.05 if done.returncode else 0)

    def _order(self, **order: object) -> dict[str, int]:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, int]:
        assert self._process is not None and self._process.stdout is not None
        found: dict[str, int] = json.loads(self._process.stdout.readline())
        return found
