"""FileSystem: what each system call means, in our own types. The kernel's door converts and calls; nothing is decided there.

What the bucket still has to tell (names while an import runs, POSIX headers) is waited for here, within a bound, and only by
the call that needs it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.data.space import Space
from s3lustrefs.fs.file_io import FileIO
from s3lustrefs.fs.handles import DirHandle, FileHandle, Handles
from s3lustrefs.meta.attributes import AttributeChange
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.location import Location
from s3lustrefs.model.ids import ROOT_INO, AssocId, FileHandleId, Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.exporter import Exporter
from s3lustrefs.movers.headers import HeaderFetcher
from s3lustrefs.movers.importer import Importer

_READDIR_BATCH = 512
_IMPORT_SECONDS = 300.0
"""How long a rename of a directory, or the removal of one, waits for a running import."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    uid: int
    gid: int


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
        importers: Mapping[AssocId, Importer],
        *,
        read_only: bool,
    ) -> None:
        self.io = io
        self._engine = engine
        self._chunks = chunks
        self._headers = headers
        self._exporter = exporter
        self._handles = handles
        self._importers = importers
        self._read_only = read_only

    # --- looking ---------------------------------------------------------------------------------------------------------

    async def lookup(self, parent: Ino, name: bytes) -> Inode:
        """Raises: NotFound; RepositoryError when only the bucket knows and does not answer."""
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
            await self._importers[location.association.assoc_id].ensure_name(location.child(name).relative)
            inode = await self._engine.lookup(parent, name)
        return await self._headers.known(inode)

    async def can_remember_absence(self, parent: Ino) -> bool:
        """Whether a name that is not there will stay so unless we say otherwise."""
        return await self._importing(parent) is None

    async def getattr(self, ino: Ino) -> Inode:
        return await self._headers.known(await self._engine.get(ino))

    async def _importing(self, directory: Ino) -> Location | None:
        """Where a directory stands if its association is still being imported."""
        inode = await self._engine.get(directory)
        location = await self._engine.locate(inode) if inode.is_dir else None
        if location is None:
            return None
        importer = self._importers.get(location.association.assoc_id)
        return location if importer is not None and not importer.is_done else None

    async def readlink(self, ino: Ino) -> bytes:
        inode = await self.getattr(ino)
        if not inode.is_symlink:
            raise errors.InvalidArgument(f"inode {ino} is not a symbolic link")
        return inode.target

    async def opendir(self, ino: Ino) -> DirHandle:
        location = await self._importing(ino)
        if location is not None:
            await self._importers[location.association.assoc_id].ensure_directory(location.relative)
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

    async def readdir(self, handle: DirHandle, offset: int) -> list[tuple[bytes, Inode]]:
        """The next entries after position `offset`; positions are indexes into `handle.names`, which grows here.

        Attributes of entries whose headers are unknown are not to be shown; they are being asked for.
        """
        if offset > len(handle.names):
            raise errors.InvalidArgument(f"directory position {offset} was never handed out")
        if offset < len(handle.names):
            del handle.names[offset:]
        after = handle.names[-1] if handle.names else b""
        entries = await self._engine.readdir(handle.ino, after, min(handle.taken + 2, _READDIR_BATCH))
        handle.names.extend(name for name, _ in entries)
        self._headers.prefetch(inode for _, inode in entries)
        return entries

    async def closedir(self, fh: FileHandleId) -> None:
        ino = self._handles.close_dir(fh)
        if not self._handles.is_open(ino):
            await self._engine.purge_orphan(ino)

    # --- names -----------------------------------------------------------------------------------------------------------

    async def mknod(self, parent: Ino, name: bytes, mode: int, rdev: int, caller: Caller) -> Inode:
        self._check_writable()
        inode = await self._engine.create(parent, name, mode, caller.uid, caller.gid, rdev=rdev)
        self._exporter.wake()
        return inode

    async def create(self, parent: Ino, name: bytes, mode: int, caller: Caller) -> tuple[Inode, FileHandle]:
        self._check_writable()
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        inode = await self._engine.create(parent, name, mode, caller.uid, caller.gid, open_for_write=True)
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
        await self._bury(await self._engine.unlink(parent, name))

    async def rmdir(self, parent: Ino, name: bytes) -> None:
        self._check_writable()
        directory = await self._engine.lookup(parent, name)
        location = await self._importing(directory.ino) if directory.is_dir else None
        if location is not None:
            await self._importers[location.association.assoc_id].ensure_directory(location.relative)
        await self._bury(await self._engine.rmdir(parent, name))

    async def rename(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int) -> None:
        """A directory moves only once its association is wholly imported: what was not listed yet must move too."""
        self._check_writable()
        inode = await self._engine.lookup(parent, name)
        location = await self._importing(inode.ino) if inode.is_dir else None
        if location is not None:
            await self._importers[location.association.assoc_id].wait_done(_IMPORT_SECONDS)
        gone = await self._engine.rename(parent, name, new_parent, new_name, flags)
        self._exporter.wake()
        if gone is not None:
            await self._bury(gone)

    async def _bury(self, inode: Inode) -> None:
        self._exporter.wake()
        if not inode.nlink and not self._handles.is_open(inode.ino):
            await self.io.drop_content(inode)

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

    async def open(self, ino: Ino, flags: int) -> FileHandle:
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            self._check_writable()
        inode = await self.getattr(ino)
        if inode.is_dir:
            raise errors.IsADirectory(f"inode {ino} is a directory")
        return await self.io.open(inode, flags)

    async def sync(self) -> None:
        await self._engine.sync()

    def space(self) -> Space:
        return self._chunks.space()

    @property
    def inode_count(self) -> int:
        return self._engine.inode_count
