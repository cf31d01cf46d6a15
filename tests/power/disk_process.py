"""A disk with a volatile write cache, as a process of its own: FUSE serves images, and whoever cuts the power says what is left.

`python -m tests.power.disk_process MOUNT_POINT IMAGE...` shows each image as a file of the same name, for loop devices to use.
Writes go into memory and into the list of what is not flushed yet; FUSE_FSYNC (what a loop device makes of a flush) applies
the list to the image. So the image is what a power cut leaves at least.

Orders on standard input, one answer each on standard output, both JSON lines:
    {"order": "count"}                              {"flushes": N, "writes": N, "pending": N}
    {"order": "cut", "keep": 0.5, "unit": 4096, "seed": 7}   {"kept": N, "lost": N}
After a cut every request gets EIO. Of what was not flushed, each aligned unit is kept with probability `keep`; the order in which
units reached the disk is anybody's guess, as with real disks. The process ends with its standard input.
"""

from __future__ import annotations

import errno
import json
import os
import random
import stat
import sys
from pathlib import Path
from typing import Any

import pyfuse3
import trio

_FIRST_INODE = 2


class Image:
    """One disk."""

    def __init__(self, path: Path) -> None:
        self.name = path.name.encode()
        self._fd = os.open(path, os.O_RDWR)
        self.size = os.fstat(self._fd).st_size
        self._current = os.memfd_create("disk")
        self._copy()
        self.pending: list[tuple[int, bytes]] = []
        self.flushes = 0
        self.writes = 0

    def _copy(self) -> None:
        """Only what is allocated: an image is mostly hole."""
        os.ftruncate(self._current, self.size)
        at = 0
        while at < self.size:
            try:
                start = os.lseek(self._fd, at, os.SEEK_DATA)
            except OSError:
                return
            at = os.lseek(self._fd, start, os.SEEK_HOLE)
            os.pwrite(self._current, os.pread(self._fd, at - start, start), start)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._current, length, offset)

    def write(self, offset: int, data: bytes) -> None:
        os.pwrite(self._current, data, offset)
        self.pending.append((offset, data))
        self.writes += 1

    def flush(self) -> None:
        for offset, data in self.pending:
            os.pwrite(self._fd, data, offset)
        self.pending.clear()
        self.flushes += 1

    def cut(self, keep: float, unit: int, rng: random.Random) -> tuple[int, int]:
        """How many units reached the image, and how many did not."""
        kept = lost = 0
        for offset, data in self.pending:
            for at in range(0, len(data), unit):
                if rng.random() < keep:
                    os.pwrite(self._fd, data[at : at + unit], offset + at)
                    kept += 1
                else:
                    lost += 1
        self.pending.clear()
        return kept, lost


class Disks(pyfuse3.Operations):
    """The images as files of one directory."""

    def __init__(self, images: list[Image]) -> None:
        super().__init__()
        self._images = images
        self._is_cut = False

    def obey(self, order: dict[str, Any]) -> dict[str, int]:
        if order["order"] == "cut":
            self._is_cut = True
            rng = random.Random(order["seed"])
            parts = [image.cut(order["keep"], order["unit"], rng) for image in self._images]
            return {"kept": sum(kept for kept, _ in parts), "lost": sum(lost for _, lost in parts)}
        return {
            "flushes": sum(image.flushes for image in self._images),
            "writes": sum(image.writes for image in self._images),
            "pending": sum(len(image.pending) for image in self._images),
        }

    def _powered(self, number: int) -> Image:
        if self._is_cut:
            raise pyfuse3.FUSEError(errno.EIO)
        return self._images[number - _FIRST_INODE]

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        found = pyfuse3.EntryAttributes()
        found.st_ino = pyfuse3.InodeT(inode)
        found.entry_timeout = found.attr_timeout = 3600
        if inode == pyfuse3.ROOT_INODE:
            found.st_mode = pyfuse3.ModeT(stat.S_IFDIR | 0o700)
        else:
            found.st_mode = pyfuse3.ModeT(stat.S_IFREG | 0o600)
            found.st_size = self._images[inode - _FIRST_INODE].size
        return found

    async def getattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        for number, image in enumerate(self._images):
            if image.name == name:
                return self._attributes(_FIRST_INODE + number)
        raise pyfuse3.FUSEError(errno.ENOENT)

    async def open(self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        # Past the host's page cache, which would keep writes back and change their order.
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), direct_io=True)

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        return self._powered(fh).read(off, size)

    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        self._powered(fh).write(off, bytes(buf))
        return len(buf)

    async def fsync(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:
        self._powered(fh).flush()

    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        return


async def main() -> None:
    mount_point, *paths = sys.argv[1:]
    disks = Disks([Image(Path(path)) for path in paths])
    pyfuse3.init(disks, mount_point, {"fsname=power-test"})
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main)
            print("{}", flush=True)
            orders = trio.lowlevel.FdStream(os.dup(0))
            rest = b""
            async for piece in orders:
                rest += piece
                while b"\n" in rest:
                    line, _, rest = rest.partition(b"\n")
                    print(json.dumps(disks.obey(json.loads(line))), flush=True)
            nursery.cancel_scope.cancel()
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    trio.run(main)
