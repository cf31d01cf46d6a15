"""Open files and directories: what one open() remembers, and what all opens of an inode share."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import trio

from s3lustrefs import errors
from s3lustrefs.model.ids import ContentVersion, FileHandleId, Ino
from s3lustrefs.movers.hydrator import ReadWindow

_SPARE_POSITIONS = 1000


@dataclass(slots=True)
class OpenInode:
    """Shared by all handles of one inode. `lock` orders writes and truncates."""

    ino: Ino
    handles: int = 0
    writers: int = 0
    """Handles that have written: the file is due when the last of them closes."""
    lock: trio.Lock = field(default_factory=trio.Lock)
    changes: int = 0
    """Moves with every change of content."""
    written_since: float = math.inf
    """When the first of those writers wrote, or what they had written was exported last (trio's clock)."""
    versions: Counter[ContentVersion] = field(default_factory=Counter)
    """How many handles are of which content."""
    arrived: set[int] = field(default_factory=set)
    """Threads that looked a name of it up while older content was open, and have not opened it since."""

    def has_other(self, version: ContentVersion) -> bool:
        """Whether somebody has other content open."""
        return len(self.versions) > (version in self.versions)


@dataclass(slots=True)
class FileHandle:
    """One open() of a file. `version` is the content it was opened on; other content is ESTALE to it."""

    fh: FileHandleId
    inode: OpenInode
    version: ContentVersion
    window: ReadWindow = field(default_factory=ReadWindow)
    has_written: bool = False
    leaves_atime: bool = False
    """Reading does not change the access time (O_NOATIME)."""
    is_renewed: bool = False
    """Opening it found out that the object was replaced: what the kernel remembers of the content is another version's."""


@dataclass(slots=True)
class DirHandle:
    """One opendir(). Position n of the stream is after `names[n - 1]`, so that it stays right whatever comes or goes.

    A position that was handed out is not given another meaning. Only where a stream is rewound and read again and again while
    names come and go are the positions of earlier passes dropped some time, as rewinddir(3) allows.
    """

    fh: FileHandleId
    ino: Ino
    names: list[bytes] = field(default_factory=list)
    taken: int = 30
    """Entries the kernel took last time: reading many more at once would be for nothing."""
    passed: int = 0
    """Entries read since the stream was rewound."""

    def rewind(self) -> None:
        if len(self.names) > 2 * self.passed + _SPARE_POSITIONS:
            self.names.clear()
        self.passed = 0

    def name_at(self, position: int) -> bytes:
        """The name that a position is after. Raises: InvalidArgument for one that was never handed out."""
        if position > len(self.names):
            raise errors.InvalidArgument(f"directory position {position} was never handed out")
        return self.names[position - 1]

    def position_of(self, name: bytes, before: int) -> int:
        """The position after `name`, which follows the one at position `before`: its old one, when it was read there before."""
        self.passed += 1
        if before < len(self.names) and self.names[before] == name:
            return before + 1
        self.names.append(name)
        return len(self.names)


class Handles:
    """Every open handle. Trio thread only."""

    def __init__(self) -> None:
        self._next = 1
        self._files: dict[FileHandleId, FileHandle] = {}
        self._dirs: dict[FileHandleId, DirHandle] = {}
        self._inodes: dict[Ino, OpenInode] = {}
        self._open_dirs: dict[Ino, int] = {}
        self._cached: dict[Ino, ContentVersion] = {}
        """Which content the kernel's pages of an inode are of, as last opened. The order to drop them may still be on its way."""
        self._generations: dict[Ino, tuple[int, ContentVersion]] = {}
        """Of inodes that were replaced while open, see `generation`. Kept: the kernel must always be told the same."""
        self._nameless: dict[Ino, bool] = {}
        """Inodes that lost their last name, and whether the kernel has forgotten them already."""

    def _number(self) -> FileHandleId:
        self._next += 1
        return FileHandleId(self._next)

    def shared(self, ino: Ino) -> OpenInode:
        """The shared record of an inode, also of one that is not open (then it is not remembered)."""
        return self._inodes.get(ino) or OpenInode(ino)

    def open_file(self, ino: Ino, version: ContentVersion) -> FileHandle:
        shared = self._inodes.get(ino)
        if shared is None:
            shared = self._inodes[ino] = OpenInode(ino)
        shared.handles += 1
        shared.versions[version] += 1
        handle = FileHandle(self._number(), shared, version)
        handle.is_renewed = self._cached.get(ino, version) != version
        self._cached[ino] = version
        self._files[handle.fh] = handle
        return handle

    def file(self, fh: FileHandleId) -> FileHandle:
        """Raises: StaleInode for a handle nobody opened here."""
        handle = self._files.get(fh)
        if handle is None:
            raise errors.StaleInode(f"file handle {fh} is not open")
        return handle

    def close_file(self, fh: FileHandleId) -> FileHandle:
        handle = self.file(fh)
        del self._files[fh]
        shared = handle.inode
        shared.handles -= 1
        shared.versions -= Counter([handle.version])
        if not shared.handles:
            del self._inodes[shared.ino]
        return handle

    def renew(self, ino: Ino, old: ContentVersion, new: ContentVersion) -> None:
        """Handles that saw the old content go on with the new one, and so do the kernel's pages."""
        if self._cached.get(ino) == old:
            self._cached[ino] = new
        number, of = self._generations.get(ino, (0, old))
        if number and of == old:
            self._generations[ino] = number, new
        if ino in self._inodes:
            for handle in self._files.values():
                if handle.inode.ino == ino and handle.version == old:
                    handle.version = new
            versions = self._inodes[ino].versions
            versions[new] += versions.pop(old, 0)
            self._inodes[ino].versions = +versions

    # --- content that was replaced while it was open -----------------------------------------------------------------------

    def generation(self, ino: Ino, version: ContentVersion) -> int:
        """What the kernel is to be told with every entry of an inode.

        Its page cache belongs to the inode: readers of old content would find pages there of the new one, which others read. An
        entry of another generation gives the new content an inode of its own in the kernel; what is open of the old one fails
        from then on. Source: linux fs/fuse/inode.c, fuse_iget, fuse_stale_inode.
        """
        shared = self._inodes.get(ino)
        number, of = self._generations.get(ino, (0, version))
        if shared is not None and shared.has_other(version) and (not number or of != version):
            number += 1
            self._generations[ino] = number, version
        return number

    def note_lookup(self, ino: Ino, version: ContentVersion, thread: int) -> None:
        """A thread was told of an inode by name."""
        shared = self._inodes.get(ino)
        if shared is not None and shared.has_other(version):
            shared.arrived.add(thread)

    def check_open(self, ino: Ino, version: ContentVersion, thread: int) -> None:
        """While other content is open nobody may open the inode that the kernel has for it: a thread has to look the name up first.

        Raises: StaleEntry, upon which the kernel looks up the whole path anew. Source: linux fs/namei.c, do_filp_open.
        """
        shared = self._inodes.get(ino)
        if shared is not None and shared.has_other(version):
            if thread not in shared.arrived:
                raise errors.StaleEntry(f"inode {ino} has new content, and the old one is still open")
            shared.arrived.discard(thread)

    # --- directories -------------------------------------------------------------------------------------------------------

    def open_dir(self, ino: Ino) -> DirHandle:
        handle = DirHandle(self._number(), ino)
        self._dirs[handle.fh] = handle
        self._open_dirs[ino] = self._open_dirs.get(ino, 0) + 1
        return handle

    def dir(self, fh: FileHandleId) -> DirHandle:
        """Raises: StaleInode."""
        handle = self._dirs.get(fh)
        if handle is None:
            raise errors.StaleInode(f"directory handle {fh} is not open")
        return handle

    def close_dir(self, fh: FileHandleId) -> Ino:
        handle = self.dir(fh)
        del self._dirs[fh]
        self._open_dirs[handle.ino] -= 1
        if not self._open_dirs[handle.ino]:
            del self._open_dirs[handle.ino]
        return handle.ino

    def is_open(self, ino: Ino) -> bool:
        return ino in self._inodes or ino in self._open_dirs

    def note_nameless(self, ino: Ino) -> None:
        """The inode lost its last name, and the kernel knows it: it may be open, a working directory, a pipe in use."""
        self._nameless.setdefault(ino, False)

    def note_forgotten(self, ino: Ino) -> bool:
        """The kernel has no use for the inode any more. Returns whether it is to be buried now, see `ended`."""
        if ino not in self._generations:  # else it may have been the one before
            self._cached.pop(ino, None)
        if ino not in self._nameless:
            return False
        self._nameless[ino] = True
        return self.ended(ino)

    def ended(self, ino: Ino) -> bool:
        """Whether a nameless inode is neither open nor known to the kernel: true once, for who then buries it.

        Both count, since the kernel's word of a close may come after its word that it has forgotten the inode.
        """
        if not self._nameless.get(ino, False) or self.is_open(ino):
            return False
        del self._nameless[ino]
        return True

    def written(self) -> list[OpenInode]:
        """What is open and has been written by those who have it open."""
        return [shared for shared in self._inodes.values() if shared.writers]

    def forget_writes(self, shared: OpenInode) -> None:
        """All that was written through its handles is exported: the next write is a first one again."""
        for handle in self._files.values():
            if handle.inode is shared:
                handle.has_written = False
        shared.writers = 0

    def writers(self, ino: Ino) -> int:
        shared = self._inodes.get(ino)
        return shared.writers if shared else 0
