"""Operations: one method per kernel request. Converts, calls the file system, converts back; decides nothing.

The kernel caches without limit in time: every change that does not come through this mount is followed by an invalidation.
Attributes whose POSIX headers are unknown are sent with time-out 0, so that the kernel asks again before it shows or
enforces them, and without a type where only the headers can tell.
"""

from __future__ import annotations

import errno
import logging
import stat
from collections import Counter
from typing import Any

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, RequestContext, SetattrFields, StatvfsData

from s3lustrefs import errors
from s3lustrefs.fs.filesystem import Caller, FileSystem
from s3lustrefs.fs.hsm_door import is_order
from s3lustrefs.fs.xattrs import Xattrs
from s3lustrefs.fuse.errno_map import errno_of, guarded
from s3lustrefs.meta.attributes import AttributeChange
from s3lustrefs.model.ids import FileHandleId, Ino
from s3lustrefs.model.inode import Inode, InodeFlag

log = logging.getLogger(__name__)

FOREVER = 365 * 86400.0
BLOCK_SIZE = 1 << 20
"""st_blksize: what cp and cat read at once; also the unit of residency."""

_HANDLERS = (
    "lookup getattr setattr readlink mknod mkdir unlink rmdir symlink rename link open read write flush release fsync opendir "
    "readdir releasedir fsyncdir statfs setxattr getxattr listxattr removexattr access create"
).split()


class Operations(pyfuse3.Operations):
    """See the module docstring. `requests` counts what the kernel asked, by name."""

    supports_dot_lookup = True
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, fs: FileSystem, xattrs: Xattrs) -> None:
        super().__init__()
        self._fs = fs
        self._xattrs = xattrs
        self.requests: Counter[str] = Counter()
        for name in _HANDLERS:
            setattr(self, name, guarded(name, getattr(self, name), self.requests))

    async def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        try:
            return self._entry(await self._fs.lookup(Ino(parent), name, ctx.pid))
        except errors.NotFound:
            if not await self._fs.can_remember_absence(Ino(parent)):
                raise
        absent = EntryAttributes()
        absent.st_ino = 0
        absent.entry_timeout = FOREVER
        return absent

    async def forget(self, inode_list: Any) -> None:
        # The kernel's counts need not be kept: numbers are never reused, and an inode without names is not looked up again. Only
        # a word from before it lost its name may come late, and then costs what has it neither open nor named an ESTALE.
        for ino, _ in inode_list:
            try:
                await self._fs.forget(Ino(ino))
            except errors.S3LustreError as exc:  # this handler may raise nothing; the next mount sweeps what is left
                log.warning("orphan left for the next mount ino=%d error=%s", ino, exc)

    async def getattr(self, ino: int, ctx: RequestContext) -> EntryAttributes:
        return self._entry(await self._fs.getattr(Ino(ino)))

    async def setattr(
        self, ino: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        change = AttributeChange(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        size = attr.st_size if fields.update_size else None
        handle = FileHandleId(fh) if fh is not None else None
        return self._entry(await self._fs.setattr(Ino(ino), change, size, handle))

    async def readlink(self, ino: int, ctx: RequestContext) -> bytes:
        return await self._fs.readlink(Ino(ino))

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        return self._entry(await self._fs.mknod(Ino(parent), name, mode, rdev, _caller(ctx)))

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return self._entry(await self._fs.mknod(Ino(parent), name, stat.S_IFDIR | stat.S_IMODE(mode), 0, _caller(ctx)))

    async def symlink(self, parent: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        return self._entry(await self._fs.symlink(Ino(parent), name, target, _caller(ctx)))

    async def link(self, ino: int, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        return self._entry(await self._fs.link(Ino(ino), Ino(parent), name))

    async def unlink(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        await self._fs.unlink(Ino(parent), name)

    async def rmdir(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        await self._fs.rmdir(Ino(parent), name)

    async def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, ctx: RequestContext) -> None:
        await self._fs.rename(Ino(parent), name, Ino(new_parent), new_name, flags)

    def _entry(self, inode: Inode) -> EntryAttributes:
        return entry(inode, self._fs.generation(inode))

    # --- files -----------------------------------------------------------------------------------------------------------

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        inode, handle = await self._fs.create(Ino(parent), name, mode, flags, _caller(ctx))
        return FileInfo(fh=handle.fh, keep_cache=True), self._entry(inode)

    async def open(self, ino: int, flags: int, ctx: RequestContext) -> FileInfo:
        handle, mode_changed = await self._fs.open(Ino(ino), flags, _caller(ctx))
        if mode_changed or handle.is_renewed:  # the reply has no room for attributes; this waits for nothing
            pyfuse3.invalidate_inode(ino, attr_only=True)
        # O_DIRECT needs no word from us: the kernel passes its cache by, and yet lets such a file be mapped.
        return FileInfo(fh=handle.fh, keep_cache=not handle.is_renewed)

    async def read(self, fh: int, off: int, size: int) -> bytes | bytearray:  # type: ignore[override]  # any buffer will do
        return await self._fs.io.read(FileHandleId(fh), off, size)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self._fs.io.write(FileHandleId(fh), off, buf)

    async def flush(self, fh: int) -> None:
        # Bytes and records are written as they come, so close has nothing left that could fail: ENOSYS tells the kernel to
        # write back mapped pages and leave this request out from now on. Source: linux fs/fuse/file.c, fuse_flush.
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._fs.io.fsync(FileHandleId(fh))

    async def release(self, fh: int) -> None:
        await self._fs.io.close(FileHandleId(fh))

    # --- directories -----------------------------------------------------------------------------------------------------

    async def opendir(self, ino: int, ctx: RequestContext) -> int:
        return (await self._fs.opendir(Ino(ino))).fh

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        handle = self._fs.dir_handle(FileHandleId(fh))
        position, taken = start_id, 0
        while True:
            found = await self._fs.readdir(handle, position)
            for name, inode, after in found:
                if not pyfuse3.readdir_reply(token, name, self._entry(inode), after):
                    handle.taken = taken
                    return
                position = after
                taken += 1
            if not found:
                return

    async def releasedir(self, fh: int) -> None:
        await self._fs.closedir(FileHandleId(fh))

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._fs.sync()

    # --- the rest --------------------------------------------------------------------------------------------------------

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        space = self._fs.space()
        found = StatvfsData()
        found.f_bsize = BLOCK_SIZE
        found.f_frsize = 4096
        found.f_blocks = space.capacity_bytes // 4096
        found.f_bfree = found.f_bavail = space.available_bytes // 4096
        found.f_files = 1 << 40
        found.f_ffree = found.f_favail = (1 << 40) - self._fs.inode_count
        found.f_namemax = 255
        return found

    async def access(self, ino: int, mode: int, ctx: RequestContext) -> bool:
        return True  # never asked: the kernel enforces permissions itself (default_permissions)

    async def getxattr(self, ino: int, name: bytes, ctx: RequestContext) -> bytes:
        try:
            return await self._xattrs.get(Ino(ino), name, _caller(ctx))
        except errors.S3LustreError as exc:
            if not is_order(name):
                raise
            return f"{errno_of(exc)[0]} {exc}".encode()

    async def listxattr(self, ino: int, ctx: RequestContext) -> list[bytes]:
        return await self._xattrs.list(Ino(ino))

    async def setxattr(self, ino: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        await self._xattrs.set(Ino(ino), name, value)

    async def removexattr(self, ino: int, name: bytes, ctx: RequestContext) -> None:
        await self._xattrs.remove(Ino(ino), name)


def _caller(ctx: RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.pid)


def entry(inode: Inode, generation: int) -> EntryAttributes:
    """Kernel attributes of an inode, with how long they may be kept."""
    attr = EntryAttributes()
    known = not inode.flags & InodeFlag.HEADERS_UNKNOWN
    attr.st_ino = inode.ino
    attr.generation = generation
    attr.st_mode = inode.mode if not inode.flags & InodeFlag.KIND_UNKNOWN else 0
    attr.st_nlink = inode.nlink
    attr.st_uid = inode.uid
    attr.st_gid = inode.gid
    attr.st_rdev = inode.rdev
    attr.st_size = inode.size
    attr.st_blksize = BLOCK_SIZE
    attr.st_blocks = blocks(inode)
    attr.st_atime_ns = inode.atime_ns
    attr.st_mtime_ns = inode.mtime_ns
    attr.st_ctime_ns = inode.ctime_ns
    attr.entry_timeout = FOREVER if known else 0
    attr.attr_timeout = FOREVER if known else 0
    return attr


def blocks(inode: Inode) -> int:
    """512-byte units. Never 0 for a released file, or tar and cp take it for one hole. Source: sanity-hsm.sh tests 228, 261."""
    if not inode.is_complete:
        return 1
    return -(-inode.size // 512)
