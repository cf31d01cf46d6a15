"""FileSystem: what each system call means, in our own types. The kernel's door converts and calls; nothing is decided there.

What the bucket still has to tell (names while an import runs, POSIX headers) is waited for here, within a bound, and only by
the call that needs it.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

import trio

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.data.space import Space
from s3lustrefs.fs.file_io import FileIO
from s3lustrefs.fs.handles import DirHandle, FileHandle, Handles
from s3lustrefs.meta.attributes import AttributeChange
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.location import Location
from s3lustrefs.meta.namespace import RENAME_EXCHANGE
from s3lustrefs.model.ids import ROOT_INO, FileHandleId, Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.exporter import Exporter
from s3lustrefs.movers.headers import HeaderFetcher
from s3lustrefs.movers.links import Links

_READDIR_BATCH = 512
_DOTS = (b".", b"..")
_IMPORT_SECONDS = 60.0
"""How long a rename of a directory waits for a running import. The kernel keeps others out of both directories meanwhile, and lets
nobody move anything from one directory to another."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `thread` is its number in the daemon's PID namespace, 0 where it has none there."""

    uid: int
    gid: int
    thread: int


class FileSystem:
    """Namespace and attributes; files' content is `io`'s."""

    def __init__(
        self,
        engine: MetadataEngine,
        chunks: ChunkStore,
        io: FileIO,
        headers: HeaderFetcher,
        exporter: Exporter,
        handles: Handles,
        links: Links,
        *,
        read_only: bool,
    ) -> None:
        self.io = io
        self._engine = engine
        self._chunks = chunks
        self._headers = headers
        self._exporter = exporter
        self._handles = handles
        self._links = links
        self._read_only = read_only

    # --- looking ---------------------------------------------------------------------------------------------------------

    async def lookup(self, parent: Ino, name: bytes, thread: int) -> Inode:
        """What a thread finds under a name. Raises: NotFound; RepositoryError when only the bucket knows and does not answer."""
        inode = await self._lookup(parent, name)
        self._handles.note_lookup(inode.ino, inode.content_version, thread)
        return inode

    async def _lookup(self, parent: Ino, name: bytes) -> Inode:
        if name == b".":
            return await self.getattr(parent)
        if name == b"..":
            return await self.getattr((await self._engine.get(parent)).parent or ROOT_INO)
        try:
            inode = await self._engine.lookup(parent, name)
        except errors.NotFound:
            location = await self._importing(parent)
            if location is None:
                raise
            await self._links.of(location.association.assoc_id).importer.ensure_name(location.child(name).relative)
            inode = await self._engine.lookup(parent, name)
        return await self._headers.known(inode)

    async def can_remember_absence(self, parent: Ino) -> bool:
        """Whether a name that is not there will stay so unless we say otherwise."""
        return await self._importing(parent) is None

    def generation(self, inode: Inode) -> int:
        """See `Handles.generation`."""
        return self._handles.generation(inode.ino, inode.content_version)

    async def getattr(self, ino: Ino) -> Inode:
        return await self._headers.known(await self._engine.get(ino))

    async def _importing(self, directory: Ino) -> Location | None:
        """Where a directory stands if its association is still being imported."""
        inode = await self._engine.get(directory)
        location = await self._engine.locate(inode) if inode.is_dir else None
        if location is None:
            return None
        link = self._links.find(location.association.assoc_id)
        return location if link is not None and not link.importer.is_done else None

    async def readlink(self, ino: Ino) -> bytes:
        inode = await self.getattr(ino)
        if not inode.is_symlink:
            raise errors.InvalidArgument(f"inode {ino} is not a symbolic link")
        await self.io.touch_atime(inode)
        return inode.target

    async def opendir(self, ino: Ino) -> DirHandle:
        location = await self._importing(ino)
        if location is not None:
            await self._links.of(location.association.assoc_id).importer.ensure_directory(location.relative)
            if location.association.posix_metadata == "eager":
                await self._know_children(ino)
        return self._handles.open_dir(ino)

    async def _know_children(self, ino: Ino) -> None:
        """An eager association shows no name whose attributes are unknown, not even while it is being imported."""
        after = b""
        while entries := await self._engine.readdir(ino, after, _READDIR_BATCH):
            after = entries[-1][0]
            self._headers.prefetch(inode for _, inode in entries)
            for _, inode in entries:
                await self._headers.known(inode)

    def dir_handle(self, fh: FileHandleId) -> DirHandle:
        return self._handles.dir(fh)

    async def readdir(self, handle: DirHandle, position: int) -> list[tuple[bytes, Inode, int]]:
        """The next entries after a position (0: from the first), each with the position after it; `.` and `..` come first.

        Attributes of entries whose headers are unknown are not to be shown; they are being asked for.
        """
        if not position:
            handle.rewind()
        if position < len(_DOTS):
            return (await self._dots(handle))[position:]
        after = handle.name_at(position) if position > len(_DOTS) else b""
        entries = await self._engine.readdir(handle.ino, after, min(handle.taken + 2, _READDIR_BATCH))
        self._headers.prefetch(inode for _, inode in entries)
        found = []
        for name, inode in entries:
            position = handle.position_of(name, position)
            found.append((name, inode, position))
        return found

    async def _dots(self, handle: DirHandle) -> list[tuple[bytes, Inode, int]]:
        """A removed directory shows nothing at all."""
        directory = await self._engine.get(handle.ino)
        await self.io.touch_atime(directory)
        if not directory.nlink:
            return []
        above = await self._engine.get(directory.parent or ROOT_INO)
        dots = zip(_DOTS, (directory, above), strict=True)
        return [(name, inode, handle.position_of(name, index)) for index, (name, inode) in enumerate(dots)]

    async def closedir(self, fh: FileHandleId) -> None:
        ino = self._handles.close_dir(fh)
        if self._handles.ended(ino):
            await self.io.bury(ino)

    async def forget(self, ino: Ino) -> None:
        """The kernel has dropped an inode: one without names ends here, unless its close is still to come."""
        if self._handles.note_forgotten(ino):
            await self.io.bury(ino)

    # --- names -----------------------------------------------------------------------------------------------------------

    async def mknod(self, parent: Ino, name: bytes, mode: int, rdev: int, caller: Caller) -> Inode:
        self._check_writable()
        inode = await self._engine.create(parent, name, mode, caller.uid, caller.gid, rdev=rdev)
        self._exporter.wake()
        return inode

    async def create(self, parent: Ino, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Inode, FileHandle]:
        """A name that the kernel takes for absent may have appeared by the bucket; without O_EXCL what is there is to be opened.

        Not here: the kernel checks no permission of what it believes to be new, and follows no link. At ESTALE it looks the name up
        again and opens what it finds. Source: linux fs/namei.c, do_filp_open and do_open; fs/fuse/dir.c, fuse_atomic_open.
        """
        self._check_writable()
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        try:
            inode = await self._engine.create(parent, name, mode, caller.uid, caller.gid, open_for_write=True)
        except errors.AlreadyExists as exc:
            if flags & os.O_EXCL:
                raise
            raise errors.StaleEntry(str(exc)) from exc
        return inode, self.io.opened_new(inode)

    async def symlink(self, parent: Ino, name: bytes, target: bytes, caller: Caller) -> Inode:
        self._check_writable()
        if len(target) > 4095:
            raise errors.NameTooLong(f"link target of {len(target)} bytes (at most 4095)")
        inode = await self._engine.create(parent, name, stat.S_IFLNK | 0o777, caller.uid, caller.gid, target=target)
        self._exporter.wake()
        return inode

    async def link(self, ino: Ino, parent: Ino, name: bytes) -> Inode:
        self._check_writable()
        await self.getattr(ino)
        inode = await self._engine.link(ino, parent, name)
        self._exporter.wake()
        return inode

    async def unlink(self, parent: Ino, name: bytes) -> None:
        self._check_writable()
        self._lost_name(await self._engine.unlink(parent, name))

    async def rmdir(self, parent: Ino, name: bytes) -> None:
        self._check_writable()
        await self._know_entries(await self._engine.lookup(parent, name))
        self._lost_name(await self._engine.rmdir(parent, name))

    async def rename(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int) -> None:
        """A directory that would be replaced may only seem to be empty; one that is exchanged moves as well.

        Raises: InUse while an import is under way for longer than we wait; RepositoryError.
        """
        self._check_writable()
        inode = await self._engine.lookup(parent, name)
        target = await self._find(new_parent, new_name)
        with trio.move_on_after(_IMPORT_SECONDS) as patience:
            await self._know_subtree(inode)
            if target is not None and flags & RENAME_EXCHANGE:
                await self._know_subtree(target)
            elif target is not None and inode.is_dir:
                await self._know_entries(target)
        if patience.cancelled_caught:
            raise errors.InUse(f"an import that a rename has to wait for is not complete after {_IMPORT_SECONDS:.0f} s")
        gone = await self._engine.rename(parent, name, new_parent, new_name, flags)
        self._exporter.wake()
        if gone is not None:
            self._lost_name(gone)

    async def _find(self, parent: Ino, name: bytes) -> Inode | None:
        try:
            return await self._engine.lookup(parent, name)
        except errors.NotFound:
            return None

    async def _know_entries(self, inode: Inode) -> None:
        """Return once everything in a directory is in the table. Raises: RepositoryError."""
        location = await self._importing(inode.ino) if inode.is_dir else None
        if location is not None:
            await self._links.of(location.association.assoc_id).importer.ensure_directory(location.relative)

    async def _know_subtree(self, inode: Inode) -> None:
        """Return once everything below a directory is in the table: a listing would bring the rest to where it was, not to where
        it moves."""
        location = await self._importing(inode.ino) if inode.is_dir else None
        if location is not None:
            await self._links.of(location.association.assoc_id).importer.wait_for_end()

    def _lost_name(self, inode: Inode) -> None:
        """Somebody may use an inode without names in ways we do not see, until the kernel forgets it."""
        self._exporter.wake()
        if not inode.nlink:
            self._handles.note_nameless(inode.ino)

    def _check_writable(self) -> None:
        if self._read_only:
            raise errors.ReadOnly("the file system is mounted read-only")

    # --- attributes ------------------------------------------------------------------------------------------------------

    async def setattr(self, ino: Ino, change: AttributeChange, size: int | None, fh: FileHandleId | None) -> Inode:
        self._check_writable()
        inode = await self.getattr(ino)
        if size is not None:
            if inode.is_dir:
                raise errors.IsADirectory(f"inode {ino} is a directory")
            inode = await self.io.truncate(ino, size, self._handles.file(fh) if fh is not None else None)
        if change != AttributeChange():
            inode = await self._engine.set_attributes(ino, change)
            self._exporter.wake()
        return inode

    async def open(self, ino: Ino, flags: int, caller: Caller) -> tuple[FileHandle, bool]:
        """Also returns whether the mode has changed: truncating takes the set-ID bits away, unless root does it.

        For other changes the kernel sees to that; a truncating open it leaves to us. Source: open(2), linux fs/fuse/file.c.
        """
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            self._check_writable()
        inode = await self.getattr(ino)
        if inode.is_dir:
            raise errors.IsADirectory(f"inode {ino} is a directory")
        self._handles.check_open(ino, inode.content_version, caller.thread)
        handle = await self.io.open(inode, flags)
        mode = _without_set_id(inode.mode)
        if not flags & os.O_TRUNC or caller.uid == 0 or mode == inode.mode:
            return handle, False
        await self._engine.set_attributes(ino, AttributeChange(mode=mode))
        return handle, True

    async def sync(self) -> None:
        await self._engine.sync()

    def space(self) -> Space:
        return self._chunks.space()

    @property
    def inode_count(self) -> int:
        return self._engine.inode_count


def _without_set_id(mode: int) -> int:
    """Without group execution the set-group-ID bit asks for mandatory locks and is no privilege. Source: inode(7)."""
    if mode & stat.S_IXGRP:
        mode &= ~stat.S_ISGID
    return mode & ~stat.S_ISUID
