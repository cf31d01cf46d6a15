"""TableFile: the LMDB environment of a store. Commits a frozen overlay durably, and comes back after a disk that failed.

A failed commit changes nothing: LMDB writes new pages beside the old ones, and the next attempt writes and syncs every one
of them again. When even the page that switches to them could not be synced, LMDB refuses every further transaction
(MDB_PANIC) until the environment is opened anew. Source: LMDB, mdb.c, mdb_env_write_meta.

Touched by the trio thread, and by the one worker thread that commits while the trio thread only reads.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lmdb

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.overlay import Group, Overlay
from s3lustrefs.meta.redo_log import log_error
from s3lustrefs.meta.schema import SUPER_LOG_FIRST, Table

_MAP_BYTES = 1 << 40
"""Address space only: the file grows as it is written."""
_COMMIT_SLICE = 1000
_READERS = 126
_LOCK_BYTES = 8192
"""What LMDB's lock file takes for that many readers. It is written through a memory map: without its blocks a full disk
would kill the process (SIGBUS) instead of answering ENOSPC."""
_META_BYTES = 8192


class TableFile:
    """See the module docstring. `read` is a snapshot of the last commit, `databases` are LMDB's handles by table number."""

    def __init__(self, directory: Path) -> None:
        """Open or create. Raises: StateDirError."""
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _reserve_lock_file(directory / "lock.mdb")
            self._open()
        except (lmdb.Error, OSError) as exc:
            raise errors.StateDirError(f"cannot open the inode table in {directory}: {exc}") from exc

    def _open(self) -> None:
        # No readahead: look-ups are random, and pages read ahead would count as resident memory of the daemon.
        self._env = lmdb.open(
            str(self._directory), map_size=_MAP_BYTES, max_dbs=len(Table), max_readers=_READERS, readahead=False, mode=0o600
        )
        with self._env.begin(write=True) as txn:
            self.databases: list[Any] = [self._env.open_db(t.name.lower().encode(), txn=txn) for t in Table]
        self.read = self._env.begin()
        self._panicked = False

    def commit(self, overlay: Overlay, log_first: int) -> None:
        """Write a frozen overlay with fsync. For a thread: nobody changes a frozen overlay. Raises: OutOfSpace, StorageError."""
        try:
            with self._env.begin(write=True) as txn:
                for table in Table:
                    for prefix in sorted(overlay.groups[table]):
                        self._commit_group(txn, table, overlay.groups[table][prefix])
                txn.put(SUPER_LOG_FIRST, str(log_first).encode(), db=self.databases[Table.SUPER])
                failpoint("checkpoint.commit.before")
        except lmdb.Error as exc:
            self._panicked = self._panicked or self._has_panicked()
            raise self._translated(exc) from exc

    def _translated(self, exc: lmdb.Error) -> errors.StorageError:
        message = f"cannot commit the inode table in {self._directory}: {exc}"
        if isinstance(exc, lmdb.DiskError | lmdb.MapFullError):
            return errors.OutOfSpace(f"{message}; free space on the file system of the state directory")
        return errors.StorageError(f"{message}; the log keeps what it could not take, and it is tried again")

    def _has_panicked(self) -> bool:
        try:
            self._env.begin(write=True).abort()
        except lmdb.Error:
            return True
        return False

    def _commit_group(self, txn: lmdb.Transaction, table: Table, group: Group) -> None:
        """In slices: sorting and building lists hold the GIL, and every request with it."""
        cursor = txn.cursor(db=self.databases[table])
        keys = sorted(group)  # a list of its own: the group's is the trio thread's
        for at in range(0, len(keys), _COMMIT_SLICE):
            part = [(key, group[key]) for key in keys[at : at + _COMMIT_SLICE]]
            cursor.putmulti([(key, value) for key, value in part if value is not None])
            for key, value in part:
                if value is None:
                    txn.delete(key, db=self.databases[table])

    def recover(self) -> None:
        """Before a commit, on the trio thread: open anew what a failed one has closed for good. Raises: StorageError."""
        if not self._panicked:
            return
        path = self._directory / "data.mdb"
        try:
            # The two pages that say which tree counts, once more and durably: the disk may hold the one of the failed commit,
            # whose pages the next commit takes. And nothing is closed before the disk takes a sync again.
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.pwrite(fd, os.pread(fd, _META_BYTES, 0), 0)
                os.fsync(fd)
            finally:
                os.close(fd)
            self.read.abort()
            self._env.close()
            self._open()
        except OSError as exc:
            raise log_error(exc, "open again", path) from exc
        except lmdb.Error as exc:
            raise errors.StorageError(f"cannot open the inode table in {self._directory} again: {exc}") from exc

    def refresh(self) -> None:
        """Read what was committed last from now on."""
        fresh = self._env.begin()
        self.read.abort()
        self.read = fresh

    def close(self) -> None:
        self.read.abort()
        self._env.close()


def _reserve_lock_file(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_blocks * 512 < _LOCK_BYTES:
            os.posix_fallocate(fd, 0, _LOCK_BYTES)
    finally:
        os.close(fd)
