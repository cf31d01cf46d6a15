"""Store: an ordered key-value store whose transactions cost microseconds and survive `kill -9` and power cuts.

A transaction changes the overlay (dicts in memory) and appends one record to the redo log before the caller goes on.
Every few seconds a checkpoint freezes the overlay, syncs file content, commits the frozen changes to LMDB with fsync in a
thread, and drops the log segments they came from. Reads look at overlay, frozen overlay, LMDB, in that order. So no
request ever waits for a disk, and LMDB is never written without fsync (NOSYNC may corrupt it on a power cut).

Touched by: the trio thread (everything), one worker thread at a time (commit and sync). Crash windows: before the log
record is complete the transaction did not happen; after it, replay at the next open repeats it; a checkpoint that dies
half-way leaves LMDB at the previous one and the log segments in place.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import lmdb
import trio

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta import redo_log
from s3lustrefs.meta.mapping import Mapping
from s3lustrefs.meta.overlay import MISSING, Group, Overlay, ranked
from s3lustrefs.meta.schema import (
    FORMAT_VERSION,
    GROUPED,
    SUPER_BOOT_ID,
    SUPER_CONTENT_AHEAD,
    SUPER_FORMAT,
    SUPER_LOG_FIRST,
    Table,
)
from s3lustrefs.meta.table_file import TableFile
from s3lustrefs.meta.txn import Txn

log = logging.getLogger(__name__)

_CHECKPOINT_LOG_BYTES = 16 << 20
_CHECKPOINT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """Live numbers of the store."""

    log_bytes: int
    checkpoints: int
    syncs: int
    failure: str
    """Why a change or a checkpoint failed; empty once a checkpoint has succeeded."""


async def _no_content() -> None:
    return


class Store:
    """See the module docstring. `sync_content` makes all file content written so far durable; `on_durable` is told when every
    transaction before its last call is durable, too (True: and every later one)."""

    def __init__(
        self, directory: Path, *, boot_id: str, sync_content: Callable[[], Awaitable[None]] = _no_content,
        on_durable: Callable[[bool], None] = lambda everything: None, accept_damaged_log: bool = False,
    ) -> None:  # fmt: skip
        """Open or create, and replay the log. Blocks; call before serving. Raises: StateDirError."""
        self.directory = directory
        self._boot_id = boot_id.encode()
        self._sync_content = sync_content
        self._on_durable = on_durable
        self._durability = trio.Lock()
        self._round: trio.Event | None = None
        """Set when the sync under way has ended, however it did."""
        self._wake = trio.Event()
        self._synced_position = 0
        self._position = 0
        self._checkpoints = 0
        self._syncs = 0
        self._room = trio.Event()
        self._room.set()
        self.active = Overlay()
        self._frozen = Overlay()
        self.object_watchers: list[set[bytes]] = []
        """Each is given the table keys of objects, and of requests for them, that change one by one: not by `put_many`."""
        self._marks = 0
        self._log_failed = False
        self._failure = ""
        self._file = TableFile(directory)
        self._mapping = Mapping(directory / "data.mdb")
        try:
            self._recover(accept_damaged_log)
        except errors.StorageError as exc:
            raise errors.StateDirError(f"state directory {directory.parent}: {exc}") from exc

    def _recover(self, accept_damaged_log: bool) -> None:
        # Before the log is read: another version may write it differently.
        self.check_format()
        first = int(self.get(Table.SUPER, SUPER_LOG_FIRST) or b"0")
        same_boot = self.get(Table.SUPER, SUPER_BOOT_ID) == self._boot_id
        self.log_defects = redo_log.defects(self.directory, first, trust_page_cache=same_boot)
        if self.log_defects and not accept_damaged_log:
            raise errors.StateDirError(
                f"{self.log_defects[0]}: `s3lustrefs fsck --repair {self.directory.parent}` goes on without what came after it"
            )
        changes = 0
        for table, key, value in redo_log.replay(self.directory, first, trust_page_cache=same_boot):
            self.active.group(table, key)[key] = value
            changes += 1
        old = redo_log.segments(self.directory)
        number = max([first, *(n + 1 for n, _ in old)])
        if changes:
            log.info("log replayed changes=%d same_boot=%s", changes, same_boot)
        if changes or not same_boot:
            # Together with the changes: who dies before it has cut the content leaves that to the next one.
            self.active.group(Table.SUPER, SUPER_CONTENT_AHEAD)[SUPER_CONTENT_AHEAD] = b"1"
        self.active.group(Table.SUPER, SUPER_BOOT_ID)[SUPER_BOOT_ID] = self._boot_id
        self._segment = redo_log.start_segment(self.directory, number)
        self._frozen, self.active = self.active, Overlay()
        self._commit(self._frozen, number)
        self._after_commit()

    @property
    def is_content_ahead(self) -> bool:
        """The last daemon did not end by itself: there may be content that the table does not speak of."""
        return self.get(Table.SUPER, SUPER_CONTENT_AHEAD) is not None

    def content_is_cut(self) -> None:
        """Nothing is left of what the table does not speak of."""
        with self.begin() as txn:
            txn.delete(Table.SUPER, SUPER_CONTENT_AHEAD)

    def check_format(self) -> bool:
        """Whether the tables exist already. Raises: StateDirError when another version of s3lustrefs wrote them."""
        found = self.get(Table.SUPER, SUPER_FORMAT)
        if found is not None and found != str(FORMAT_VERSION).encode():
            raise errors.StateDirError(
                f"state directory {self.directory.parent} has format {found.decode()}, this s3lustrefs knows format "
                f"{FORMAT_VERSION}: use the version that wrote it, or another state_dir"
            )
        return found is not None

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, table: Table, key: bytes) -> bytes | None:
        value = self.active.find(table, key)
        if value is MISSING:
            value = self._frozen.find(table, key)
            if value is MISSING:
                return self._file.read.get(key, db=self._file.databases[table])
        return value  # type: ignore[return-value]

    def get_many(self, table: Table, keys: list[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        prefix = keys[0][:8] if table in GROUPED else b""
        for overlay in (self.active, self._frozen):
            group = overlay.groups[table].get(prefix)
            if group:
                hits = {key: group[key] for key in keys if key in group}
                if hits:
                    found.update((key, value) for key, value in hits.items() if value is not None)
                    keys = [key for key in keys if key not in hits]
        found.update(self._file.read.cursor(db=self._file.databases[table]).getmulti(keys))
        return found

    def scan(self, table: Table, prefix: bytes, *, after: bytes = b"", limit: int = 0) -> list[tuple[bytes, bytes]]:
        """Records whose keys begin with `prefix` and are > `after`, in key order, at most `limit` (0: all)."""
        start = max(prefix, after + b"\0") if after else prefix
        changed = [g for o in (self.active, self._frozen) if (g := o.find_group(table, prefix))]
        if not changed:
            return list(islice(self._stored(table, start, prefix), limit or None))
        found: list[tuple[bytes, bytes]] = []
        last = None
        for key, _, value in heapq.merge(*self._layers(table, start, prefix, changed)):
            if key != last:
                last = key
                if value is not None:
                    found.append((key, value))
                    if len(found) == limit:
                        break
        return found

    def _layers(
        self, table: Table, start: bytes, prefix: bytes, changed: list[Group]
    ) -> Iterator[Iterator[tuple[bytes, int, bytes | None]]]:
        """Newest first, each in key order; of equal keys the one of the lowest rank counts."""
        for rank, group in enumerate(changed):
            yield ranked(rank, group.within(start, prefix))
        yield ranked(len(changed), self._stored(table, start, prefix))

    def _stored(self, table: Table, start: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        cursor = self._file.read.cursor(db=self._file.databases[table])
        try:
            if not cursor.set_range(start):
                return
            for key, value in cursor:
                if not key.startswith(prefix):
                    return
                yield key, value
        finally:
            cursor.close()

    def layers(self) -> tuple[lmdb.Transaction, list[Any], tuple[Overlay, Overlay]]:
        """What a look at whole tables needs: LMDB's snapshot, its databases by table number, newer changes, the oldest first."""
        return self._file.read, self._file.databases, (self._frozen, self.active)

    def count(self, table: Table) -> int:
        """Records in LMDB; changes of the last seconds are not in it."""
        return int(self._file.read.stat(self._file.databases[table])["entries"])

    # --- writing -----------------------------------------------------------------------------------------------------

    def begin(self) -> Txn:
        return Txn(self)

    def append(self, changes: list[redo_log.Change]) -> None:
        payload = redo_log.encode_changes(changes)
        failpoint("log.append.before")
        try:
            self._segment.append(payload)
        except errors.StorageError as exc:
            # A checkpoint empties the log, which may be what fills the disk.
            self._failure = str(exc)
            self._wake.set()
            raise
        failpoint("log.append.after")
        self._position += len(payload)
        if self._segment.size > _CHECKPOINT_LOG_BYTES:
            self._wake.set()

    def put_through(self, table: Table, key: bytes, value: bytes) -> None:
        """A change that also joins the commit or sync under way, because it qualifies what that is about to make durable.

        For `sync_content` only, which runs before anything is committed. Raises: OutOfSpace, StorageError.
        """
        with self.begin() as txn:
            txn.put(table, key, value)
        if self._frozen:
            self._frozen.group(table, key)[key] = value
        self._marks += 1

    @property
    def is_behind(self) -> bool:
        """The checkpoint cannot keep up: bulk work should `wait_room` before its next batch."""
        return bool(self._frozen) and self._segment.size > _CHECKPOINT_LOG_BYTES

    async def wait_room(self) -> None:
        """Bulk work comes through here between its batches."""
        self._mapping.trim()  # it reads a table of a million inodes within one checkpoint's time
        while self.is_behind:
            self._room = trio.Event()
            await self._room.wait()

    async def sync(self) -> None:
        """Return once every transaction so far, and the content it speaks of, survives a power cut. Waiters share one sync."""
        wanted = self._position
        while self._synced_position < wanted and self._round is not None:
            # Everybody is told at once: to hand a lock on would take a turn of the scheduler for each of them.
            await self._round.wait()
        if self._synced_position >= wanted:
            if self._synced_position == self._position:
                self._on_durable(True)
            return
        self._round = trio.Event()
        try:
            async with self._durability:
                await self._sync_now(wanted)
        finally:
            self._round.set()
            self._round = None

    async def _sync_now(self, wanted: int) -> None:
        if self._synced_position >= wanted:  # by a checkpoint that was under way
            if self._synced_position == self._position:
                self._on_durable(True)
        elif self._log_failed:
            await self._checkpoint()
        else:
            await self._sync_to_barrier()

    async def _sync_to_barrier(self) -> None:
        while True:
            marks = self._marks
            position, segment, offset = self._position, self._segment, self._segment.size
            await self._sync_content()
            failpoint("sync.content")
            if marks == self._marks:
                break  # else: what content was lost must be as durable as the records that speak of it
        if self._frozen:
            await self._sync_log(partial(redo_log.sync_older, self.directory, segment.number))
        segment.append_barrier(segment.number, offset)
        failpoint("sync.barrier")
        await self._sync_log(segment.sync)
        self._synced_position = position
        self._syncs += 1
        self._on_durable(self._synced_position == self._position)

    async def _sync_log(self, deed: Callable[[], None]) -> None:
        try:
            await trio.to_thread.run_sync(deed)
        except errors.StorageError:
            # The kernel reports lost pages once and takes them for clean then: the log must not be synced again, but
            # everything in it brought into the table.
            self._log_failed = True
            self._wake.set()
            raise

    # --- checkpoints -------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Checkpoint every few seconds or megabytes while there is something to write. Ends by cancellation only."""
        task_status.started()
        while True:
            with trio.move_on_after(_CHECKPOINT_SECONDS):
                await self._wake.wait()
            self._wake = trio.Event()
            self._mapping.trim()
            if not self.active and not self._frozen and not self._failure:
                self._on_durable(True)
                continue
            try:
                await self.checkpoint()
                self._failure = ""
            except errors.StorageError as exc:
                # The log keeps everything; the next round tries again.
                if str(exc) != self._failure:
                    log.error("checkpoint failed, trying again error=%s", exc)
                self._failure = str(exc)
                await trio.sleep(1)

    async def checkpoint(self) -> None:
        """Move everything so far into LMDB, durably. Raises: StorageError; nothing is lost then."""
        async with self._durability:
            await self._checkpoint()

    async def _checkpoint(self) -> None:
        if self._frozen:  # its commit failed
            await self._commit_frozen(self._segment.number)
        if not self.active and not self._log_failed:
            return
        number = self._segment.number + 1
        fresh = await trio.to_thread.run_sync(redo_log.start_segment, self.directory, number)
        position = self._position
        self._frozen, self.active = self.active, Overlay()
        self._segment, old = fresh, self._segment
        with suppress(OSError):  # an error of what was written matters to syncs alone, which open the file again
            old.close()
        failpoint("checkpoint.switched")
        await self._commit_frozen(number)
        self._synced_position = max(self._synced_position, position)
        self._log_failed = False
        self._checkpoints += 1
        self._on_durable(self._synced_position == self._position)

    async def _commit_frozen(self, log_first: int) -> None:
        with trio.CancelScope(shield=True):
            await self._sync_content()
            self._file.recover()
            await trio.to_thread.run_sync(self._commit, self._frozen, log_first)
        self._after_commit()

    def _commit(self, overlay: Overlay, log_first: int) -> None:
        self._file.commit(overlay, log_first)
        failpoint("checkpoint.commit.after")
        redo_log.remove_segments(self.directory, log_first)

    def _after_commit(self) -> None:
        self._file.refresh()
        self._frozen = Overlay()
        self._mapping.trim()
        self._room.set()

    async def close(self) -> None:
        """Checkpoint and close; afterwards the log is empty, or, on a disk that fails, kept for the next start."""
        with trio.CancelScope(shield=True):
            try:
                await self.checkpoint()
            except errors.StorageError as exc:
                log.error("last checkpoint failed, the log is read at the next mount error=%s", exc)
        with suppress(OSError):
            self._segment.close()
        self._file.close()

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(self._segment.size, self._checkpoints, self._syncs, self._failure)
