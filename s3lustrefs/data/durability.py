"""What of the chunk store is not on disk yet, and bringing it there.

A failed sync is remembered per chunk: the kernel marks pages clean whose write-back failed, so a second fsync of the same
file would succeed although its bytes are lost. Such a chunk fails every later sync until it is deleted.
Source: man 2 fsync, "NOTES"; man 2 syncfs, "VERSIONS" (errors are reported since Linux 5.8).

Touched from the trio thread only; the thread doing the sync gets descriptors and paths.
INVARIANT 1: a chunk is in `_dirty` from the end of a write to it until a sync that began afterwards has succeeded.
"""

from __future__ import annotations

import ctypes
import os
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import trio

from s3lustrefs import errors
from s3lustrefs.data.fence import translated
from s3lustrefs.data.layout import ChunkKey, Layout
from s3lustrefs.data.open_chunks import OpenChunks
from s3lustrefs.model.ids import ContentVersion, Ino

_SINGLE_SYNCS = 16
"""Up to this many dirty chunks of a target are synced one by one; more go in one syncfs, which costs one journal commit
but also writes what others left dirty on that file system."""

_libc = ctypes.CDLL(None, use_errno=True)


class Durability:
    """Tracks dirty chunks and new directory entries of every target."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._dirty: set[ChunkKey] = set()
        self._syncing: set[ChunkKey] = set()
        self._closed: set[ChunkKey] = set()
        self._new_entries: set[ChunkKey] = set()
        self._failed: dict[ChunkKey, errors.StorageError] = {}
        self._target_fds: list[int] = []
        self._turn = trio.Lock()

    def open_(self) -> None:
        """Open every target: syncfs reports the write errors that came after this descriptor was opened. Raises: StateDirError."""
        for target in self._layout.targets:
            try:
                self._target_fds.append(os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            except OSError as exc:
                raise errors.StateDirError(f"storage target {target} cannot be opened: {exc.strerror}") from exc

    def close(self) -> None:
        while self._target_fds:
            os.close(self._target_fds.pop())

    def mark(self, key: ChunkKey) -> None:
        """Bytes of the chunk were written."""
        self._dirty.add(key)

    def created(self, key: ChunkKey) -> None:
        """The chunk's file is new, so that its directory entry must reach the disk as well."""
        self._dirty.add(key)
        self._new_entries.add(key)

    def removed(self, key: ChunkKey) -> None:
        """A chunk file of a content version that lives on is gone, and must not come back with a power cut."""
        self._dirty.add(key)
        self._new_entries.add(key)

    def closed(self, key: ChunkKey) -> None:
        """The chunk's descriptor is gone, and with it the surest way to hear of a write-back error: only syncfs will do."""
        if key in self._dirty:
            self._closed.add(key)

    def forget(self, key: ChunkKey) -> None:
        """The chunk was deleted: nobody can ask for its bytes any more."""
        for known in (self._dirty, self._syncing, self._closed, self._new_entries):
            known.discard(key)
        self._failed.pop(key, None)

    def forget_version(self, ino: Ino, version: ContentVersion) -> None:
        """The same for all chunks of a content version."""
        for known in (self._dirty, self._syncing, self._closed, self._new_entries, set(self._failed)):
            for key in [key for key in known if (key.ino, key.version) == (ino, version)]:
                self.forget(key)

    async def sync(self, open_chunks: OpenChunks, limiter: trio.CapacityLimiter) -> None:
        """Bring to disk everything marked before the call. Raises: StorageError, also for what an earlier sync lost."""
        async with self._turn:
            self._syncing, self._dirty = self._dirty, set()
            with ExitStack() as pins:
                for target, keys in self._by_target().items():
                    deed = self._deed(target, keys, open_chunks, pins)
                    error = await trio.to_thread.run_sync(deed, limiter=limiter)
                    if error:
                        self._failed.update((key, error) for key in keys if key in self._syncing)
            self._syncing = set()
        if self._failed:
            first = next(iter(self._failed.values()))
            raise type(first)(str(first))

    def _by_target(self) -> dict[int, list[ChunkKey]]:
        keys = defaultdict(list)
        for key in self._syncing:
            keys[self._layout.target_of(key)].append(key)
        return keys

    def _deed(
        self, target: int, keys: list[ChunkKey], open_chunks: OpenChunks, pins: ExitStack
    ) -> Callable[[], errors.StorageError | None]:
        """What the thread is to do for one target; what it needs stays open until `pins` is left."""
        chunks = [chunk for key in keys if (chunk := open_chunks.peek(key)) and key not in self._closed]
        directories = {self._layout.directory(key) for key in keys if key in self._new_entries}
        self._closed.difference_update(keys)
        self._new_entries.difference_update(keys)
        if len(keys) > min(len(chunks), _SINGLE_SYNCS):
            path, fd = str(self._layout.targets[target]), self._target_fds[target]
            return partial(_first_error, [(path, partial(_syncfs, fd))])
        files = [(chunk.path, pins.enter_context(open_chunks.pinned(chunk))) for chunk in chunks]
        deeds: list[tuple[str, Callable[[], None]]] = [(path, partial(os.fdatasync, fd)) for path, fd in files]
        deeds += [(path, partial(_sync_directory, path)) for path in directories]
        return partial(_first_error, deeds)


def _first_error(deeds: list[tuple[str, Callable[[], None]]]) -> errors.StorageError | None:
    """Do all, whatever fails, and return the first failure: what one file lost must not keep the others from the disk."""
    first = None
    for path, deed in deeds:
        try:
            deed()
        except OSError as exc:
            first = first or translated(exc, "bring to disk", path)
    return first


def _syncfs(fd: int) -> None:
    if _libc.syncfs(fd):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
