"""TableView: all records of the tables in key order, for checking: of a store in use, or of a state directory nobody uses.

The latter is not changed: LMDB is opened read-only and without its lock file, and the log is replayed into memory, by the
same rule about power cuts as at a real start. So a look costs memory by the length of the log, never by the size of the table.
"""

from __future__ import annotations

import fcntl
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from s3lustrefs import errors
from s3lustrefs.meta import redo_log
from s3lustrefs.meta.overlay import Overlay
from s3lustrefs.meta.redo_log import current_boot_id
from s3lustrefs.meta.schema import ADDED, FORMAT_VERSION, SUPER_BOOT_ID, SUPER_CONTENT_AHEAD, SUPER_FORMAT, SUPER_LOG_FIRST, Table
from s3lustrefs.meta.store import Store


class TableView:
    """One moment of the tables; valid until the store's next transaction or checkpoint."""

    def __init__(
        self, read: Any, databases: Sequence[Any], overlays: Sequence[Overlay], *, log_defects: Sequence[str] = (),
        same_boot: bool = True,
    ) -> None:  # fmt: skip
        self.log_defects = list(log_defects)
        self._same_boot = same_boot
        self._read = read
        self._databases = databases
        self._newer = [_merged(overlays, table) for table in Table]
        self._newer_keys = [sorted(newer) for newer in self._newer]

    @property
    def is_content_ahead(self) -> bool:
        """There may be content the table does not speak of: the power was cut, and no daemon has looked since."""
        return not self._same_boot or self.get(Table.SUPER, SUPER_CONTENT_AHEAD) is not None

    def get(self, table: Table, key: bytes) -> bytes | None:
        newer = self._newer[table]
        if key in newer:
            return newer[key]
        if self._databases[table] is None:
            return None
        value: bytes | None = self._read.get(key, db=self._databases[table])
        return value

    def rows(self, table: Table, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Records whose keys begin with `prefix`, in key order."""
        pending = self._changed(table, prefix)
        change = next(pending, None)
        for key, value in self._stored(table, prefix):
            while change is not None and change[0] < key:
                if change[1] is not None:
                    yield change[0], change[1]
                change = next(pending, None)
            if change is not None and change[0] == key:
                if change[1] is not None:
                    yield key, change[1]
                change = next(pending, None)
            else:
                yield key, value
        while change is not None:
            if change[1] is not None:
                yield change[0], change[1]
            change = next(pending, None)

    def has(self, table: Table, prefix: bytes) -> bool:
        """Whether any key begins with `prefix`."""
        newer = self._newer[table]
        if any(key not in newer for key, _ in self._stored(table, prefix)):
            return True
        return any(value is not None for _, value in self._changed(table, prefix))

    def _changed(self, table: Table, prefix: bytes) -> Iterator[tuple[bytes, bytes | None]]:
        keys, newer = self._newer_keys[table], self._newer[table]
        for at in range(bisect_left(keys, prefix), len(keys)):
            if not keys[at].startswith(prefix):
                return
            yield keys[at], newer[keys[at]]

    def _stored(self, table: Table, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        if self._databases[table] is None:
            return
        with self._read.cursor(db=self._databases[table]) as cursor:
            if not cursor.set_range(prefix):
                return
            for key, value in cursor:
                if not key.startswith(prefix):
                    return
                yield key, value


def _merged(overlays: Sequence[Overlay], table: Table) -> dict[bytes, bytes | None]:
    merged: dict[bytes, bytes | None] = {}
    for overlay in overlays:
        for group in overlay.groups[table].values():
            merged.update(group)
    return merged


def view_of(store: Store) -> TableView:
    return TableView(*store.layers())


@contextmanager
def unmounted(state_dir: Path) -> Iterator[TableView]:
    """The tables as the next mount would find them. Raises: StateDirError when in use, missing, or of another format."""
    with _held(state_dir):
        directory = state_dir / "meta"
        try:
            env = lmdb.open(str(directory), readonly=True, lock=False, create=False, max_dbs=len(Table), readahead=False)
        except (lmdb.Error, OSError) as exc:
            raise errors.StateDirError(f"no inode table in {directory}: {exc}") from exc
        try:
            with env.begin() as read:
                yield _replayed(env, read, directory)
        finally:
            env.close()


def _replayed(env: lmdb.Environment, read: lmdb.Transaction, directory: Path) -> TableView:
    try:
        databases = [_database(env, read, table) for table in Table]
    except lmdb.Error as exc:
        raise errors.StateDirError(f"the inode table in {directory} is not complete: {exc}") from exc
    super_table = databases[Table.SUPER]
    first = int(read.get(SUPER_LOG_FIRST, db=super_table) or b"0")
    same_boot = read.get(SUPER_BOOT_ID, db=super_table) == current_boot_id().encode()
    overlay = Overlay()
    for table, key, value in redo_log.replay(directory, first, trust_page_cache=same_boot):
        overlay.group(table, key)[key] = value
    log_defects = redo_log.defects(directory, first, trust_page_cache=same_boot)
    view = TableView(read, databases, [overlay], log_defects=log_defects, same_boot=same_boot)
    found = view.get(Table.SUPER, SUPER_FORMAT)
    if found is None and view.has(Table.INODES, b""):
        raise errors.StateDirError(f"the inode table in {directory} does not say which format it has")
    if found is not None and found != str(FORMAT_VERSION).encode():
        raise errors.StateDirError(
            f"the inode table in {directory} has format {found.decode()}, this s3lustrefs knows {FORMAT_VERSION}"
        )
    return view


def _database(env: lmdb.Environment, read: lmdb.Transaction, table: Table) -> Any:
    """None for a table that this state directory has no use for yet."""
    try:
        return env.open_db(table.name.lower().encode(), txn=read, create=False)
    except lmdb.NotFoundError:
        if table in ADDED:
            return None
        raise


@contextmanager
def _held(state_dir: Path) -> Iterator[None]:
    """Keep daemons away while looking, without writing: the lock file is only opened, its note stays as it is."""
    try:
        fd = os.open(state_dir / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise errors.StateDirError(f"{state_dir} is no state directory that can be read: {exc.strerror}: {exc.filename}") from exc
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise errors.StateDirInUse(f"state directory {state_dir} is in use by a daemon: unmount it first") from exc
        yield
    finally:
        os.close(fd)
