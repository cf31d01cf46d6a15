"""ExportOrder: what has to be exported, fetched or on disk before an object may be written, replaced or deleted.

A renamed file is copied in the bucket from the object under its old key, so that object must stay until the copy is made. An
object that is the only copy of another file's bytes is never written over or deleted before that file has them elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import trio

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.export_targets import ExportView, Target
from s3lustrefs.meta.schema import ObjectRecord
from s3lustrefs.model.ids import NO_INO, AssocId, Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.hydrator import Hydrator

_SYNC_STEP_SECONDS = 0.02

HoldKey = Callable[[AssocId, bytes], AbstractAsyncContextManager[None]]
"""Holds the lock of one object key."""


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """An object that was copied to where its file is now; it was looked at after `looked_at` (trio's clock)."""

    known: ObjectRecord
    looked_at: float


class NotYet(Exception):
    """Another record, that of `first` where it is known, must go first; this one is to be tried again after so many seconds.
    Never leaves the exporter."""

    def __init__(self, seconds: float, first: Ino = NO_INO) -> None:
        super().__init__(seconds)
        self.seconds = seconds
        self.first = first


async def sync_together(engine: MetadataEngine) -> None:
    """`MetadataEngine.sync`, begun with that of others who want one in the same moment: exports come one after another, and a
    sync for each few of them cost more than their requests. Raises: StorageError.
    """
    await trio.sleep_until(math.ceil(trio.current_time() / _SYNC_STEP_SECONDS) * _SYNC_STEP_SECONDS)
    await engine.sync()


class ExportOrder:
    """Waits by raising NotYet; fetches where waiting would never end. `on_vanished` hears of a file whose bytes are nowhere."""

    def __init__(self, engine: MetadataEngine, hydrator: Hydrator, on_vanished: Callable[[Inode], Awaitable[None]]) -> None:
        self._engine = engine
        self._hydrator = hydrator
        self._on_vanished = on_vanished

    async def before_write(self, view: ExportView, target: Target) -> None:
        """Return once the object under the target's key may be replaced, and is no other file's archived copy.

        Raises: NotYet; what `Hydrator.ensure` raises.
        """
        known, ino = target.known, view.inode.ino
        if known is None or known.ino == ino or await self._file_of(known) is None:
            return
        other = await self._engine.dependant(known, ino)
        if other is not None and not await self._bring_down(other, view.inode):
            return
        await self._free(known, ino)
        await sync_together(self._engine)  # a power cut must not forget that the bytes are here
        failpoint("dependant.freed")

    async def _bring_down(self, other: Inode, inode: Inode) -> bool:
        """Fetch what another file still needs of the object that `inode` is to be, or wait for it. False: it has lost that."""
        if not other.nlink:
            raise NotYet(1.0)  # unlinked but open: until it is closed
        if await self._waits_for(other, inode.ino):
            # A circle of cold files, each at the other's key: one of them has to come down. The others follow by copy.
            await self._hydrator.ensure(inode, 0, inode.size)
            if other.ino > inode.ino:
                await self._hydrator.ensure(other, 0, other.size)
                return True
            raise NotYet(0.1)
        if await self._engine.find_journal(other.ino) is None:
            return await self._fetch(other)
        raise NotYet(0.2, other.ino)

    async def _file_of(self, known: ObjectRecord) -> ExportView | None:
        """The file whose archived copy an object is, if there is one."""
        view = await self._engine.export_view(known.ino) if known.ino else None
        if view is None or view.source is None or (view.source.assoc, view.source.key) != (known.assoc, known.key):
            return None
        return view

    async def _free(self, known: ObjectRecord, ino: Ino) -> None:
        if not await self._engine.free_object(known.assoc, known.key, ino):
            raise NotYet(0.1)  # released, or written, since it was fetched

    async def _fetch(self, other: Inode) -> bool:
        """Bring a file's bytes here, durably, before the object goes that has them. False: they are lost.

        Raises: StorageError when the disk does not take them; NotYet when the object has changed, and the file with it.
        """
        try:
            await self._hydrator.ensure(other, 0, other.size)
        except errors.ObjectNotFound:
            await self._on_vanished(other)  # nothing is left that could be lost
            return False
        except errors.StaleInode:
            if (await self._engine.get(other.ino)).is_dirty:
                return False  # it has lost them already, and says so
            raise NotYet(0.0) from None
        await self._engine.sync()
        failpoint("dependant.fetched")
        return True

    async def _waits_for(self, inode: Inode, ino: Ino) -> bool:
        """Whether exporting `inode` has to wait, through whatever chain, for `ino`."""
        seen: set[Ino] = set()
        current: Inode | None = inode
        while current is not None and current.ino not in seen:
            if current.ino == ino:
                return True
            seen.add(current.ino)
            view = await self._engine.export_view(current.ino)
            following = None
            for target in view.targets if view else []:
                following = following or await self._engine.dependant(target.known, current.ino)
            current = following
        return current is not None and current.ino == ino

    async def before_delete(self, known: ObjectRecord) -> None:
        """Return once an object that lost its name may go, and is no file's archived copy; all of it durable with the next sync.

        Raises: NotYet; what `Hydrator.ensure` raises.
        """
        view = await self._file_of(known)
        if view is None:
            return
        inode = view.inode
        if not inode.nlink and not inode.is_complete:
            raise NotYet(1.0)  # unlinked but open: until it is closed
        if view.targets and await self._engine.find_journal(inode.ino) is not None:
            raise NotYet(0.1, inode.ino)
        current = await self._engine.dependant(known, NO_INO)
        # Renamed to where nobody exports it: its bytes come down before the object goes.
        if current is None or await self._fetch(current):
            await self._free(known, NO_INO)
