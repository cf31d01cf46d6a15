"""What the system calls do, on nodes in memory: the file system the mount is compared with. ext4 agrees (test_reference)."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tests.model.operations import NO_SLOT, Operation, Outcome, content
from tests.model.reference_tree import Inode, Place, Refused, find

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


class Skipped(Exception):
    """Not to be done: it would block, or systems differ about it."""


@dataclass(frozen=True)
class OpenFile:
    inode: Inode
    flags: int

    @property
    def can_read(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    @property
    def can_write(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY


class Reference:
    """`touched` are inodes whose mtime the last operation set to the present, `perhaps_touched` those where it may have."""

    def __init__(self, root: Inode) -> None:
        self.root = root
        self.slots: dict[int, OpenFile] = {}
        self.touched: set[Inode] = set()
        self.perhaps_touched: set[Inode] = set()

    def do(self, operation: Operation) -> Outcome:
        """Raises: Skipped, before anything has changed."""
        verb, *arguments = operation
        self.touched, self.perhaps_touched = set(), set()
        try:
            return "ok", getattr(self, f"_{verb}")(*arguments)
        except Refused as exc:
            return "error", str(exc)

    def _find(self, path: str, *, follow: bool = False) -> Place:
        return find(self.root, path, follow=follow)

    def _touch(self, *inodes: Inode) -> None:
        self.touched |= set(inodes)

    # --- open files ------------------------------------------------------------------------------------------------------

    def _open(self, slot: int, path: str, flags: int, mode: int) -> None:
        exclusive = bool(flags & os.O_CREAT and flags & os.O_EXCL)
        try:
            place = self._find(path, follow=not exclusive)
            if place.inode is not None and place.inode.kind == "fifo" and not exclusive:
                raise Skipped("would wait for the other end")
            self._close(slot)
            inode = place.inode
            if exclusive and inode is not None:
                raise Refused("EEXIST")
            if inode is None and not flags & os.O_CREAT:
                raise Refused("ENOENT")
        except Refused:
            self._close(slot)
            raise
        changes = flags & os.O_ACCMODE != os.O_RDONLY or flags & (os.O_CREAT | os.O_TRUNC)
        if inode is not None and inode.is_dir and changes:
            raise Refused("EISDIR")
        if inode is None:
            inode = self._create(place, Inode("file", mode))
            self._note_export(inode)
        elif flags & os.O_TRUNC:
            self._resize(inode, 0)
        self.slots[slot] = OpenFile(inode, flags)

    def _create(self, place: Place, inode: Inode) -> Inode:
        if place.parent.mode & 0o2000:
            inode.gid = place.parent.gid
            if inode.is_dir:
                inode.mode |= 0o2000
        place.parent.children[place.name] = inode
        self._touch(inode, place.parent)
        return inode

    def _note_export(self, inode: Inode) -> None:
        """From now on its object must say the present time, whatever it said before."""
        inode.header_mtimes = set()
        inode.is_bare = False

    def _close(self, slot: int) -> str | None:
        return None if self.slots.pop(slot, None) else NO_SLOT

    def _close_all(self) -> None:
        self.slots.clear()

    def _slot(self, slot: int) -> OpenFile:
        file = self.slots.get(slot)
        if file is None:
            raise Skipped(NO_SLOT)
        return file

    def _write(self, slot: int, offset: int, seed: int, length: int) -> None:
        file = self._slot(slot)
        if not file.can_write:
            raise Refused("EBADF")
        if file.flags & os.O_APPEND:
            offset = len(file.inode.data)  # Source: pwrite(2), BUGS
        self._put(file.inode, offset, content(seed, length))

    def _put(self, inode: Inode, offset: int, data: bytes) -> None:
        if offset > len(inode.data):
            inode.data.extend(bytes(offset - len(inode.data)))
        inode.data[offset : offset + len(data)] = data
        self._touch(inode)
        self._note_export(inode)

    def _resize(self, inode: Inode, size: int) -> None:
        if size < len(inode.data):
            del inode.data[size:]
        else:
            inode.data.extend(bytes(size - len(inode.data)))
        self._touch(inode)
        self._note_export(inode)

    def _read(self, slot: int, offset: int, length: int) -> bytes:
        file = self._slot(slot)
        if not file.can_read:
            raise Refused("EBADF")
        if file.inode.is_dir:
            raise Refused("EISDIR")
        return bytes(file.inode.data[offset : offset + length])

    def _ftruncate(self, slot: int, size: int) -> None:
        file = self._slot(slot)
        if not file.can_write:
            raise Refused("EINVAL")
        self._resize(file.inode, size)

    def _fsync(self, slot: int) -> None:
        self._slot(slot)

    def _mapped(self, slot: int, end: int, *, write: bool) -> Inode:
        file = self._slot(slot)
        mode_fits = file.can_read and file.can_write if write else file.can_read
        if file.inode.is_dir or not mode_fits or not 0 < end <= len(file.inode.data):
            raise Skipped("nothing to map")
        return file.inode

    def _map_read(self, slot: int, offset: int, length: int) -> bytes:
        inode = self._mapped(slot, offset + length, write=False)
        return bytes(inode.data[offset : offset + length])

    def _map_write(self, slot: int, offset: int, seed: int, length: int) -> None:
        self._put(self._mapped(slot, offset + length, write=True), offset, content(seed, length))

    def _copy_range(self, source: int, target: int, offset: int, target_offset: int, length: int) -> int:
        old, new = self._slot(source), self._slot(target)
        if old.inode is new.inode or old.inode.is_dir or new.inode.is_dir or new.flags & os.O_APPEND:
            raise Skipped("systems differ")
        if not old.can_read or not new.can_write:
            raise Refused("EBADF")
        data = bytes(old.inode.data[offset : offset + length])
        if data:
            self._put(new.inode, target_offset, data)
        return len(data)

    # --- names -----------------------------------------------------------------------------------------------------------

    def _free(self, path: str) -> Place:
        place = self._find(path)
        if place.inode is not None:
            raise Refused("EEXIST")
        return place

    def _mkdir(self, path: str, mode: int) -> None:
        place = self._free(path)
        self._create(place, Inode("dir", mode & 0o1777, nlink=2))
        place.parent.nlink += 1

    def _mkfifo(self, path: str, mode: int) -> None:
        self._create(self._free(path), Inode("fifo", mode))

    def _symlink(self, target: str, path: str) -> None:
        self._create(self._free(path), Inode("link", 0o777, target=target))

    def _link(self, old: str, new: str) -> None:
        inode = self._find(old).existing()
        place = self._free(new)
        if inode.is_dir:
            raise Refused("EPERM")
        place.parent.children[place.name] = inode
        inode.nlink += 1
        inode.foreign = {}  # another name is another object
        self._touch(place.parent)

    def _unlink(self, path: str) -> None:
        place = self._find(path)
        if place.existing().is_dir:
            raise Refused("EISDIR")
        self._drop(place)

    def _rmdir(self, path: str) -> None:
        place = self._find(path)
        inode = place.existing()
        if not inode.is_dir:
            raise Refused("ENOTDIR")
        if inode.children:
            raise Refused("ENOTEMPTY")
        if inode.association:
            raise Refused("EPERM")
        self._drop(place)

    def _drop(self, place: Place) -> None:
        inode = place.parent.children.pop(place.name)
        if inode.is_dir:
            place.parent.nlink -= 1
            inode.nlink = 0
        else:
            inode.nlink -= 1
        self._touch(place.parent)

    def _rename(self, old: str, new: str, flags: int) -> None:
        """In the order in which the kernel finds faults. Source: linux fs/namei.c, do_renameat2 and vfs_rename."""
        source, target = self._find(old), self._find(new)
        inode, victim = source.existing(), target.inode
        if flags & RENAME_NOREPLACE and victim is not None:
            raise Refused("EEXIST")
        if flags & RENAME_EXCHANGE and victim is None:
            raise Refused("ENOENT")
        if inode.is_dir and inode.holds(target.parent):
            raise Refused("EINVAL")
        if victim is not None and victim.is_dir and victim.holds(source.parent):
            raise Refused("EINVAL" if flags & RENAME_EXCHANGE else "ENOTEMPTY")
        if inode is victim:
            return
        if victim is not None and not flags & RENAME_EXCHANGE and inode.is_dir != victim.is_dir:
            raise Refused("ENOTDIR" if inode.is_dir else "EISDIR")
        if _is_pinned(inode) or (flags & RENAME_EXCHANGE and victim is not None and _is_pinned(victim)):
            raise Refused("EPERM")
        if flags & RENAME_EXCHANGE and victim is not None:
            self._move(target, source.parent, source.name)
        elif victim is not None:
            if victim.children:
                raise Refused("ENOTEMPTY")
            if victim.association:
                raise Refused("EPERM")
            self._drop(target)
        self._move(source, target.parent, target.name, keep=bool(flags & RENAME_EXCHANGE))

    def _move(self, source: Place, parent: Inode, name: str, *, keep: bool = False) -> None:
        """`keep`: what stands under the old name now has just been put there."""
        inode = source.existing()
        if not keep and source.parent.children.get(source.name) is inode:
            del source.parent.children[source.name]
        parent.children[name] = inode
        if inode.is_dir:
            source.parent.nlink -= 1
            parent.nlink += 1
        for moved in [inode, *(below for _, below in inode.walk())]:
            moved.foreign = {}
        self._touch(source.parent, parent)

    # --- attributes ------------------------------------------------------------------------------------------------------

    def _truncate(self, path: str, size: int) -> None:
        inode = self._find(path, follow=True).existing()
        if inode.is_dir:
            raise Refused("EISDIR")
        if inode.kind != "file":
            raise Refused("EINVAL")
        if size == len(inode.data):
            self.perhaps_touched.add(inode)
            self._note_export(inode)
        else:
            self._resize(inode, size)

    def _chmod(self, path: str, mode: int) -> None:
        inode = self._find(path, follow=True).existing()
        inode.mode = mode
        self._note_export(inode)

    def _chown(self, path: str, uid: int, gid: int) -> None:
        inode = self._find(path).existing()
        inode.uid, inode.gid = uid, gid
        if not inode.is_dir and inode.kind != "link":
            inode.mode &= ~0o6000 if inode.mode & 0o010 else ~0o4000
        self._note_export(inode)

    def _utimens(self, path: str, atime_ns: int, mtime_ns: int) -> None:
        inode = self._find(path).existing()
        inode.mtime_ns = mtime_ns
        inode.header_mtimes.add(mtime_ns)

    def _with_xattrs(self, path: str) -> Inode:
        inode = self._find(path, follow=True).existing()
        if inode.kind not in ("file", "dir"):
            raise Skipped("systems differ")
        return inode

    def _setxattr(self, path: str, name: str, seed: int, length: int, flags: int) -> None:
        inode = self._with_xattrs(path)
        if flags == os.XATTR_CREATE and name in inode.xattrs:
            raise Refused("EEXIST")
        if flags == os.XATTR_REPLACE and name not in inode.xattrs:
            raise Refused("ENODATA")
        inode.xattrs[name] = content(seed, length)

    def _removexattr(self, path: str, name: str) -> None:
        if self._with_xattrs(path).xattrs.pop(name, None) is None:
            raise Refused("ENODATA")

    # --- looking ---------------------------------------------------------------------------------------------------------

    def _stat(self, path: str) -> dict[str, object]:
        return self._find(path).existing().told()

    def _fstat(self, slot: int) -> dict[str, object]:
        return self._slot(slot).inode.told()

    def _readdir(self, path: str) -> list[str]:
        inode = self._find(path, follow=True).existing()
        if not inode.is_dir:
            raise Refused("ENOTDIR")
        return sorted(inode.children)

    def _readlink(self, path: str) -> str:
        inode = self._find(path).existing()
        if inode.kind != "link":
            raise Refused("EINVAL")
        return inode.target

    def _getxattr(self, path: str, name: str) -> bytes:
        value = self._with_xattrs(path).xattrs.get(name)
        if value is None:
            raise Refused("ENODATA")
        return value

    def _hsm(self, path: str, order: str) -> None:
        """Where bytes are is nothing that a file shows."""

    def _read_file(self, path: str) -> bytes:
        inode = self._find(path, follow=True).existing()
        if inode.is_dir:
            raise Refused("EISDIR")
        if inode.kind != "file":
            raise Skipped("would wait for the other end")
        return bytes(inode.data)

    def _tree(self, with_content: bool) -> dict[str, dict[str, object]]:
        found = {}
        for path, inode in self.root.walk():
            entry = found[path] = inode.told()
            if inode.kind == "link":
                entry["target"] = inode.target
            if inode.kind in ("file", "dir"):
                entry["xattrs"] = dict(inode.xattrs)
            if inode.kind == "file" and with_content:
                entry["data"] = bytes(inode.data)
        return found


def _is_pinned(inode: Inode) -> bool:
    """A linked directory, and what contains one, cannot move."""
    return bool(inode.association) or any(below.association for _, below in inode.walk())
