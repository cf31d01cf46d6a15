"""A directory that passes everything through to another one, until a test tells it to fail: EIO, ENOSPC or EROFS at will.

A process of its own: `python -m tests.disk.failing_disk BACKING MOUNT_POINT RULES`. RULES is a JSON list of
`{"operations": [...], "names": REGULAR_EXPRESSION, "errno": N, "after": N}`, read anew whenever it was replaced; the first `after`
matches pass. Operations are open,
create, read, write, truncate, fsync, unlink, mkdir, lookup, readdir and statfs; names are paths relative to the directory. What
failed so is counted by operation in RULES.hits.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, SetattrFields, StatvfsData

_TIMES = ("st_atime_ns", "st_mtime_ns", "st_ctime_ns")
_PLAIN = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_rdev", "st_size", "st_blksize", "st_blocks")
_SPACE = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail", "f_namemax")


@dataclass
class Rule:
    """See the module docstring."""

    operations: list[str]
    names: str
    errno: int
    after: int


class Rules:
    """What is to fail at the moment."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = 0
        self._rules: list[Rule] = []
        self._hits: Counter[str] = Counter()

    def check(self, operation: str, path: str) -> None:
        """Raises: OSError, as the rules have it."""
        changed = self._path.stat().st_mtime_ns
        if changed != self._seen:
            self._seen = changed
            self._rules = [Rule(**rule) for rule in json.loads(self._path.read_text())]
        for rule in self._rules:
            if operation in rule.operations and re.search(rule.names, path):
                rule.after -= 1
                if rule.after < 0:
                    self._hits[operation] += 1
                    _replace(self._path.with_suffix(".hits"), json.dumps(self._hits))
                    raise OSError(rule.errno, os.strerror(rule.errno))


class PassThrough(pyfuse3.Operations):
    """Every request goes to the same path below `backing`; inode numbers are those of the backing file system."""

    enable_writeback_cache = False

    def __init__(self, backing: Path, rules: Rules) -> None:
        super().__init__()
        self._backing = str(backing)
        self._rules = rules
        self._paths = {pyfuse3.ROOT_INODE: ""}
        self._handles: dict[int, str] = {}

    def _full(self, path: str) -> str:
        return f"{self._backing}/{path}"

    def _entry(self, path: str, found: os.stat_result | None = None) -> EntryAttributes:
        found = found or os.lstat(self._full(path))
        attr = EntryAttributes()
        for name in (*_PLAIN, *_TIMES):
            setattr(attr, name, getattr(found, name))
        attr.st_ino = found.st_ino if path else pyfuse3.ROOT_INODE
        attr.generation = 0
        attr.entry_timeout = attr.attr_timeout = 0
        self._paths[attr.st_ino] = path
        return attr

    @contextmanager
    def _doing(self, operation: str, path: str) -> Iterator[None]:
        try:
            self._rules.check(operation, path)
            yield
        except OSError as exc:
            raise FUSEError(exc.errno or errno.EIO) from None

    def _child(self, parent: int, name: bytes) -> str:
        return f"{self._paths[parent]}/{os.fsdecode(name)}".lstrip("/")

    async def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        path = self._child(parent, name)
        with self._doing("lookup", path):
            return self._entry(path)

    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        with self._doing("getattr", self._paths[inode]):
            return self._entry(self._paths[inode])

    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        path = self._paths[inode]
        with self._doing("truncate" if fields.update_size else "setattr", path):
            if fh is not None:
                if fields.update_size:
                    os.ftruncate(fh, attr.st_size)
                return self._entry(path, os.fstat(fh))
            if fields.update_size:
                os.truncate(self._full(path), attr.st_size)
            if fields.update_mode:
                os.chmod(self._full(path), stat.S_IMODE(attr.st_mode))
            return self._entry(path)

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        path = self._child(parent, name)
        with self._doing("mkdir", path):
            os.mkdir(self._full(path), mode)
            return self._entry(path)

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        path = self._child(parent, name)
        with self._doing("create", path):
            os.mknod(self._full(path), mode, rdev)
            return self._entry(path)

    async def unlink(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        path = self._child(parent, name)
        with self._doing("unlink", path):
            os.unlink(self._full(path))

    async def rmdir(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        path = self._child(parent, name)
        with self._doing("unlink", path):
            os.rmdir(self._full(path))

    async def rename(
        self, parent_old: int, name_old: bytes, parent_new: int, name_new: bytes, flags: int, ctx: RequestContext
    ) -> None:
        old, new = self._child(parent_old, name_old), self._child(parent_new, name_new)
        with self._doing("rename", old):
            os.rename(self._full(old), self._full(new))
            self._entry(new)

    # --- files -----------------------------------------------------------------------------------------------------------

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        path = self._paths[inode]
        with self._doing("open", path):
            fd = os.open(self._full(path), flags & ~os.O_APPEND | os.O_CLOEXEC)
        self._handles[fd] = path
        return FileInfo(fh=fd)

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        path = self._child(parent, name)
        with self._doing("create", path):
            fd = os.open(self._full(path), flags & ~os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, mode)
            self._handles[fd] = path
            return FileInfo(fh=fd), self._entry(path)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        with self._doing("read", self._handles[fh]):
            return os.pread(fh, size, off)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        with self._doing("write", self._handles[fh]):
            return os.pwrite(fh, buf, off)

    async def flush(self, fh: int) -> None:
        with self._doing("flush", self._handles[fh]):
            return

    async def fsync(self, fh: int, datasync: bool) -> None:
        with self._doing("fsync", self._handles[fh]):
            return

    async def release(self, fh: int) -> None:
        del self._handles[fh]
        os.close(fh)

    # --- directories -----------------------------------------------------------------------------------------------------

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        path = self._paths[fh]
        with self._doing("readdir", path):
            names = sorted(os.listdir(self._full(path)))
            for position, name in enumerate(names[start_id:], start_id + 1):
                try:
                    attr = self._entry(f"{path}/{name}".lstrip("/"))
                except FileNotFoundError:
                    continue
                if not pyfuse3.readdir_reply(token, os.fsencode(name), attr, position):
                    return

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        with self._doing("fsync", self._paths[fh] + "/"):
            return

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        found = StatvfsData()
        with self._doing("statfs", ""):
            space = os.statvfs(self._backing)
        for name in _SPACE:
            setattr(found, name, getattr(space, name))
        return found


def _replace(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(path)


class FailingDisk:
    """The test's end: what is at `path` fails as told."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / "mounted"
        self.backing = folder / "backing"
        self._rules = folder / "rules"

    def fail(self, *operations: str, names: str = "", number: int = errno.EIO, after: int = 0) -> None:
        """From now on these operations on matching names fail, and nothing else does."""
        _replace(self._rules, json.dumps([asdict(Rule(list(operations), names, number, after))]))

    def heal(self) -> None:
        _replace(self._rules, "[]")

    def hits(self, operation: str) -> int:
        """How often this operation was made to fail so far."""
        path = self._rules.with_suffix(".hits")
        return int(json.loads(path.read_text()).get(operation, 0)) if path.exists() else 0


@contextmanager
def failing_disk(folder: Path) -> Iterator[FailingDisk]:
    """A directory of its own on a file system of its own."""
    disk = FailingDisk(folder)
    for path in (disk.path, disk.backing):
        path.mkdir(parents=True)
    disk.heal()
    command = [sys.executable, "-m", "tests.disk.failing_disk", disk.backing, disk.path, folder / "rules"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    try:
        assert process.stdout is not None
        with process.stdout as said:
            assert said.readline() == b"ready\n", "the failing disk cannot be mounted"
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk.path], capture_output=True, check=False, timeout=30)
        process.send_signal(signal.SIGKILL)
        process.wait()


async def _announce(mount_point: str) -> None:
    await trio.to_thread.run_sync(os.stat, mount_point)
    print("ready", flush=True)


def main(backing: str, mount_point: str, rules: str) -> None:
    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_announce, mount_point)
            await pyfuse3.main()
            nursery.cancel_scope.cancel()

    options = {"fsname=failing-disk", "default_permissions", "allow_other"}
    pyfuse3.init(PassThrough(Path(backing), Rules(Path(rules))), mount_point, options)
    try:
        trio.run(serve)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
