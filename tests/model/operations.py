"""The vocabulary of the random test: each operation as system calls on a real directory tree.

An operation is a list, `[verb, arguments...]`, made of what JSON can hold, so that a trace can be printed and replayed. What it
returned is an `Outcome`. Open files live in numbered slots; an operation on an empty slot does nothing, so that any part of a
trace still makes sense.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import random
import stat
from typing import Any

Operation = list[Any]
Outcome = tuple[str, Any]
"""("ok", value) or ("error", name of the errno)."""

NO_SLOT = "nothing open there"
AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


def content(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


class Doer:
    """Does operations below a directory. Runs as root, so that permissions never get in the way."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._slots: dict[int, int] = {}

    def do(self, operation: Operation) -> Outcome:
        verb, *arguments = operation
        try:
            return "ok", getattr(self, f"_{verb}")(*arguments)
        except OSError as exc:
            return "error", errno.errorcode[exc.errno or 0]

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"

    # --- open files ------------------------------------------------------------------------------------------------------

    def _open(self, slot: int, path: str, flags: int, mode: int) -> None:
        self._close(slot)
        self._slots[slot] = os.open(self._path(path), flags, mode)

    def _close(self, slot: int) -> str | None:
        if slot not in self._slots:
            return NO_SLOT
        os.close(self._slots.pop(slot))
        return None

    def _close_all(self) -> None:
        while self._slots:
            with contextlib.suppress(OSError):  # the daemon may have died
                os.close(self._slots.popitem()[1])

    def _write(self, slot: int, offset: int, seed: int, length: int) -> str | None:
        if slot not in self._slots:
            return NO_SLOT
        data = content(seed, length)
        while data:
            written = os.pwrite(self._slots[slot], data, offset)
            data, offset = data[written:], offset + written
        return None

    def _read(self, slot: int, offset: int, length: int) -> bytes | str:
        return os.pread(self._slots[slot], length, offset) if slot in self._slots else NO_SLOT

    def _ftruncate(self, slot: int, size: int) -> str | None:
        if slot not in self._slots:
            return NO_SLOT
        os.ftruncate(self._slots[slot], size)
        return None

    def _fsync(self, slot: int) -> str | None:
        if slot not in self._slots:
            return NO_SLOT
        os.fsync(self._slots[slot])
        return None

    def _map_read(self, slot: int, offset: int, length: int) -> bytes | str:
        if slot not in self._slots:
            return NO_SLOT
        with mmap.mmap(self._slots[slot], 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
            return mapped[offset : offset + length]

    def _map_write(self, slot: int, offset: int, seed: int, length: int) -> str | None:
        """Written through a shared mapping, and msync."""
        if slot not in self._slots:
            return NO_SLOT
        with mmap.mmap(self._slots[slot], 0, mmap.MAP_SHARED) as mapped:
            mapped[offset : offset + length] = content(seed, length)
            mapped.flush()
        return None

    def _copy_range(self, source: int, target: int, offset: int, target_offset: int, length: int) -> str | int:
        if source not in self._slots or target not in self._slots:
            return NO_SLOT
        copied = 0
        while copied < length:
            files = self._slots[source], self._slots[target]
            more = os.copy_file_range(*files, length - copied, offset + copied, target_offset + copied)
            if not more:
                break
            copied += more
        return copied

    def _fstat(self, slot: int) -> dict[str, Any] | str:
        return told(os.fstat(self._slots[slot])) if slot in self._slots else NO_SLOT

    # --- names -----------------------------------------------------------------------------------------------------------

    def _mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._path(path), mode)

    def _rmdir(self, path: str) -> None:
        os.rmdir(self._path(path))

    def _mkfifo(self, path: str, mode: int) -> None:
        os.mkfifo(self._path(path), mode)

    def _unlink(self, path: str) -> None:
        os.unlink(self._path(path))

    def _link(self, old: str, new: str) -> None:
        os.link(self._path(old), self._path(new), follow_symlinks=False)

    def _symlink(self, target: str, path: str) -> None:
        os.symlink(target, self._path(path))

    def _rename(self, old: str, new: str, flags: int) -> None:
        names = self._path(old).encode(), self._path(new).encode()
        if _libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], flags):
            raise OSError(ctypes.get_errno(), "renameat2")

    # --- attributes ------------------------------------------------------------------------------------------------------

    def _truncate(self, path: str, size: int) -> None:
        os.truncate(self._path(path), size)

    def _chmod(self, path: str, mode: int) -> None:
        os.chmod(self._path(path), mode)

    def _chown(self, path: str, uid: int, gid: int) -> None:
        os.lchown(self._path(path), uid, gid)

    def _utimens(self, path: str, atime_ns: int, mtime_ns: int) -> None:
        os.utime(self._path(path), ns=(atime_ns, mtime_ns), follow_symlinks=False)

    def _setxattr(self, path: str, name: str, seed: int, length: int, flags: int) -> None:
        os.setxattr(self._path(path), name, content(seed, length), flags)

    def _removexattr(self, path: str, name: str) -> None:
        os.removexattr(self._path(path), name)

    def _hsm(self, path: str, order: str) -> None:
        """What is refused depends on the exports under way; whatever becomes of the order, nothing may show of it."""
        with contextlib.suppress(OSError):
            os.getxattr(self._path(path), f"system.s3lustrefs.hsm.{order}", follow_symlinks=False)

    # --- looking ---------------------------------------------------------------------------------------------------------

    def _stat(self, path: str) -> dict[str, Any]:
        return told(os.lstat(self._path(path)))

    def _readdir(self, path: str) -> list[str]:
        return sorted(os.listdir(self._path(path)))

    def _readlink(self, path: str) -> str:
        return os.readlink(self._path(path))

    def _getxattr(self, path: str, name: str) -> bytes:
        return os.getxattr(self._path(path), name)

    def _read_file(self, path: str) -> bytes:
        with open(self._path(path), "rb") as file:
            return file.read()

    def _tree(self, with_content: bool) -> dict[str, dict[str, Any]]:
        """Everything below the root that can be seen; path -> attributes, and content where asked for."""
        found: dict[str, dict[str, Any]] = {}
        for directory, names, files in os.walk(self._root, onerror=_fail):
            for name in [*names, *files]:
                path = f"{directory}/{name}"
                entry = found[os.path.relpath(path, self._root)] = told(os.lstat(path))
                if entry["kind"] == "link":
                    entry["target"] = os.readlink(path)
                if entry["kind"] in ("file", "dir"):
                    entry["xattrs"] = {key: os.getxattr(path, key) for key in os.listxattr(path)}
                if entry["kind"] == "file" and with_content:
                    with open(path, "rb") as file:
                        entry["data"] = file.read()
        return found


def _fail(exc: OSError) -> None:
    raise exc


_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo"}


def told(status: os.stat_result) -> dict[str, Any]:
    """What both sides of a comparison say about an inode."""
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    entry = {
        "kind": kind, "mode": stat.S_IMODE(status.st_mode), "uid": status.st_uid, "gid": status.st_gid,
        "nlink": status.st_nlink, "mtime_ns": status.st_mtime_ns,
    }  # fmt: skip
    if kind != "dir":
        entry["size"] = status.st_size
    return entry
