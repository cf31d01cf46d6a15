"""What of the chunk store is not on disk yet, and bringing it there.

The kernel reports bytes it could not write once to each open descriptor, and takes their pages for clean then: a second
fsync of the same file would succeed although they are lost. So a chunk whose sync failed is lost until somebody who knows the
file deals with it (`lost`, `settle`); it keeps no other chunk from the disk. Descriptors of unsynced chunks are kept open when
the cache of open chunks gives them up, since one opened later might not hear of an error any more.
Source: man 2 fsync, "NOTES"; man 2 syncfs, "VERSIONS" (errors are reported since Linux 5.8).

Touched from the trio thread only; the thread doing the sync gets descriptors and paths.
INVARIANT 1: a chunk is in `_dirty` or `_syncing` from the end of a write to it until a sync that began afterwards has ended.
INVARIANT 2: a chunk whose sync failed is in `_lost` until it is settled or deleted.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import trio

from s3lustrefs import errors
from s3lustrefs.data.fence import translated
from s3lustrefs.data.health import Health
from s3lustrefs.data.layout import ChunkKey, Layout
from s3lustrefs.data.open_chunks import OpenChunks
from s3lustrefs.durable_files import sync_directory
from s3lustrefs.model.ids import ContentVersion, Ino

_SINGLE_SYNCS = 16
"""Up to this many dirty chunks of a target are synced one by one; more go in one syncfs, which costs one journal commit
but also writes what others left dirty on that file system."""
_MOST_KEPT = 8192
"""Descriptors kept of unsynced chunks, if the process may have four times as many. Without one, a chunk counts as lost
when the sync of its whole file system fails."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Deed(NamedTuple):
    """One system call of a sync, and the chunks that are lost when it fails."""

    path: str
    call: Callable[[], None]
    keys: Sequence[ChunkKey]


class Durability:
    """Tracks dirty chunks and new directory entries of every target."""

    def __init__(self, layout: Layout, health: Health) -> None:
        self._layout = layout
        self._health = health
        self._dirty: set[ChunkKey] = set()
        self._syncing: set[ChunkKey] = set()
        self._kept: dict[ChunkKey, int] = {}
        self._most_kept = min(_MOST_KEPT, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._unsure: set[ChunkKey] = set()
        self._new_entries: set[ChunkKey] = set()
        self._lost: dict[ChunkKey, errors.StorageError] = {}
        self._turn = trio.Lock()

    def close(self) -> None:
        while self._kept:
            os.close(self._kept.popitem()[1])

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

    def keep(self, key: ChunkKey, fd: int) -> bool:
        """Whether this descriptor of a chunk is wanted here, to be closed here; the caller has no more use for it."""
        if (key not in self._dirty and key not in self._syncing) or key in self._kept:
            return False
        if len(self._kept) >= self._most_kept:
            self._unsure.add(key)
            return False
        self._kept[key] = fd
        return True

    def forget(self, key: ChunkKey) -> None:
        """The chunk was deleted: nobody can ask for its bytes any more."""
        for known in (self._dirty, self._syncing, self._unsure, self._new_entries):
            known.discard(key)
        self._lost.pop(key, None)
        fd = self._kept.pop(key, None)
        if fd is not None:
            os.close(fd)

    def lost(self) -> dict[ChunkKey, errors.StorageError]:
        """The chunks whose sync failed and that nobody has dealt with yet."""
        return dict(self._lost)

    def settle(self, key: ChunkKey) -> None:
        """Whoever asks for these bytes is told: they are no matter of a sync any more."""
        self._lost.pop(key, None)

    def forget_version(self, ino: Ino, version: ContentVersion) -> None:
        """The same for all chunks of a content version."""
        for known in (self._dirty, self._syncing, self._unsure, self._new_entries, set(self._lost), set(self._kept)):
            for key in [key for key in known if (key.ino, key.version) == (ino, version)]:
                self.forget(key)

    async def sync(self, open_chunks: OpenChunks, limiter: trio.CapacityLimiter) -> None:
        """Try to bring to disk everything marked before the call; what could not be is in `lost` afterwards."""
        async with self._turn:
            self._syncing, self._dirty = self._dirty, set()
            try:
                for target, keys in self._by_target().items():
                    failures = await self._sync_target(target, keys, open_chunks, limiter)
                    self._lost.update((key, error) for key, error in failures.items() if key in self._syncing)
                    self._syncing.difference_update(keys)
                    if failures:
                        self._health.failed(target, "sync", next(iter(failures.values())))
                    else:
                        self._health.works(target, "sync")
            finally:
                # Cancelled in between: the rest is as dirty as before.
                self._dirty |= self._syncing
                self._syncing = set()

    def _by_target(self) -> dict[int, list[ChunkKey]]:
        keys = defaultdict(list)
        for key in self._syncing:
            keys[self._layout.target_of(key)].append(key)
        return keys

    async def _sync_target(
        self, target: int, keys: list[ChunkKey], open_chunks: OpenChunks, limiter: trio.CapacityLimiter
    ) -> dict[ChunkKey, errors.StorageError]:
        unsure = [key for key in keys if key in self._unsure or (key not in self._kept and open_chunks.peek(key) is None)]
        few = len(keys) <= _SINGLE_SYNCS and not unsure
        failures: dict[ChunkKey, errors.StorageError] = {}
        with ExitStack() as held:
            if not few:
                everything = _Deed(str(self._layout.targets[target]), partial(self._sync_file_system, target), keys)
                failures = await trio.to_thread.run_sync(_do_all, [everything], limiter=limiter)
            if few or failures:
                # The sync of a file system does not say whose bytes it lost, perhaps somebody else's: each is asked.
                deeds = self._single_deeds(keys, open_chunks, held)
                found = await trio.to_thread.run_sync(_do_all, deeds, limiter=limiter)
                failures = found | {key: failures[key] for key in unsure}
            else:
                self._take_kept(keys, held)
        self._unsure.difference_update(keys)
        self._new_entries.difference_update(keys)
        return failures

    def _take_kept(self, keys: Sequence[ChunkKey], held: ExitStack) -> dict[ChunkKey, int]:
        """Descriptors that were kept, open until `held` is left, whoever deletes the chunks meanwhile."""
        taken = {key: self._kept.pop(key) for key in keys if key in self._kept and key not in self._dirty}
        for fd in taken.values():
            held.callback(os.close, fd)
        return taken

    def _single_deeds(self, keys: Sequence[ChunkKey], open_chunks: OpenChunks, held: ExitStack) -> list[_Deed]:
        files = dict(self._take_kept(keys, held))
        for key in keys:
            chunk = open_chunks.peek(key)
            if chunk is not None and key not in files:
                files[key] = held.enter_context(open_chunks.pinned(chunk))
            elif key in self._kept and key not in files:  # written again meanwhile: a copy, the other is for the next sync
                files[key] = os.dup(self._kept[key])
                held.callback(os.close, files[key])
        deeds = [_Deed(self._layout.path(key), partial(os.fdatasync, fd), [key]) for key, fd in files.items()]
        directories: dict[str, list[ChunkKey]] = defaultdict(list)
        for key in keys:
            if key in self._new_entries:
                directories[self._layout.directory(key)].append(key)
        for path, found in directories.items():
            deeds.append(_Deed(path, partial(sync_directory, self._layout.directory_place(found[0])), found))
        return deeds

    def _sync_file_system(self, target: int) -> None:
        if _libc.syncfs(self._layout.target_fd(target)):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


def _do_all(deeds: Sequence[_Deed]) -> dict[ChunkKey, errors.StorageError]:
    """Do all, whatever fails: what one file lost must not keep the others from the disk."""
    failures: dict[ChunkKey, errors.StorageError] = {}
    for path, call, keys in deeds:
        try:
            call()
        except OSError as exc:
            error = translated(exc, "bring to disk", path)
            failures.update((key, failures.get(key, error)) for key in keys)
    return failures
