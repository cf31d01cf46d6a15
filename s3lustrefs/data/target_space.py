"""TargetSpace: what the file systems of the storage targets say about their room, also while one of them fails."""

from __future__ import annotations

import os
from typing import NamedTuple

from s3lustrefs import errors
from s3lustrefs.data.fence import storage_errors
from s3lustrefs.data.health import Health
from s3lustrefs.data.layout import Layout


class TargetStatus(NamedTuple):
    """How a storage target is: bytes that can be written to it, and why it fails, if it does."""

    path: str
    free_bytes: int
    failure: str | None


class _Answer(NamedTuple):
    device: int
    capacity_bytes: int
    free_bytes: int


class TargetSpace:
    """A target that does not answer counts as it did when it last answered: its files are still there as far as anybody knows."""

    def __init__(self, layout: Layout, health: Health) -> None:
        self._layout = layout
        self._health = health
        self._last = [_Answer(-1 - number, 0, 0) for number in range(len(layout.targets))]

    def capacity_and_room(self) -> tuple[int, int]:
        """Bytes that all targets hold and that can be written; targets on one file system count once."""
        for number in range(len(self._last)):
            self._ask(number)
        by_device = {answer.device: answer for answer in self._last}
        return sum(a.capacity_bytes for a in by_device.values()), sum(a.free_bytes for a in by_device.values())

    def statuses(self) -> list[TargetStatus]:
        for number in range(len(self._last)):
            self._ask(number)
        return [
            TargetStatus(str(path), self._last[number].free_bytes, self._health.failure(number))
            for number, path in enumerate(self._layout.targets)
        ]

    def _ask(self, target: int) -> None:
        try:
            with storage_errors("ask for the free space of", str(self._layout.targets[target])):
                fd = self._layout.target_fd(target)
                device, status = os.fstat(fd).st_dev, os.statvfs(fd)
        except errors.StorageError as exc:
            self._health.failed(target, "statfs", exc)
            return
        self._last[target] = _Answer(device, status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)
        self._health.works(target, "statfs")
