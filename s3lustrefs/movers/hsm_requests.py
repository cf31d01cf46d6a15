"""HsmRequests: what HSM commands ask of a file, and what became of it.

Archiving and removing are orders in the export journal, so they survive whatever happens to the daemon; releasing is done at once;
restores are queued in memory (`hsm_restores`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from s3lustrefs import errors
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.schema import Change
from s3lustrefs.model.hsm import Action, Hsm, Request, refusal
from s3lustrefs.model.ids import ContentVersion, Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.exporter import Exporter
from s3lustrefs.movers.hsm_restores import HsmRestores
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.movers.releaser import Releaser


class HsmRequests:
    """See the module docstring."""

    def __init__(
        self,
        engine: MetadataEngine,
        hydrator: Hydrator,
        exporter: Exporter,
        releaser: Releaser,
        restores: HsmRestores,
        *,
        read_only: bool,
    ) -> None:
        self._engine = engine
        self._hydrator = hydrator
        self._exporter = exporter
        self._releaser = releaser
        self._restores = restores
        self._read_only = read_only
        self._deeds: dict[Request, Callable[[Ino], Awaitable[None]]] = {
            Request.ARCHIVE: self._archive,
            Request.RESTORE: self._restore,
            Request.RELEASE: self._release,
            Request.REMOVE: self._remove,
            Request.CANCEL: self._cancel,
        }

    async def ask(self, ino: Ino, request: Request) -> None:
        """Returns once a request is done (RELEASE, CANCEL), in the journal (ARCHIVE, REMOVE) or queued (RESTORE).

        Raises: NotPermitted, InUse, QueueFull, NotInRepository, with the reason; ReadOnly; InvalidArgument: not a file.
        """
        if not (await self._engine.get(ino)).is_file:
            raise errors.InvalidArgument("not a regular file")
        if request in (Request.ARCHIVE, Request.REMOVE):
            self._check_writable()
        await self._deeds[request](ino)

    async def set_flags(self, ino: Ino, add: Hsm, drop: Hsm) -> None:
        """Raises: NotPermitted, InvalidArgument, ReadOnly."""
        self._check_writable()
        if (add | drop) & (Hsm.NOARCHIVE | Hsm.ARCHIVED):
            await self._exporter.interrupt(ino)
        if drop & Hsm.ARCHIVED:
            await self._settled_version(ino)
        await self._engine.set_hsm_flags(ino, add, drop)
        self._exporter.wake()

    def _check_writable(self) -> None:
        if self._read_only:
            raise errors.ReadOnly("the file system is mounted read-only")

    async def action(self, ino: Ino) -> Action | None:
        """The request that a file waits for, or that is under way."""
        inode = await self._engine.get(ino)
        restore = self._restores.find(ino)
        if restore is not None and not restore.is_running:
            return Action(Request.RESTORE)
        if restore is not None or self._hydrator.is_fetching(ino):
            before = restore.resident_before if restore is not None else 0
            return Action(Request.RESTORE, max(0, await self._hydrator.resident_bytes(inode) - before))
        record = await self._engine.find_journal(ino)
        if record is not None and not record.terminal:
            return Action(Request.ARCHIVE, self._exporter.sent_bytes(ino) if self._exporter.is_uploading(ino) else None)
        return Action(Request.REMOVE) if await self._is_removed(inode) else None

    async def _is_removed(self, inode: Inode) -> bool:
        """Whether objects of this file's names are still to be deleted by order."""
        view = await self._engine.export_view(inode.ino) if not inode.source_assoc else None
        for target in view.targets if view is not None else ():
            record = await self._engine.find_lost_key(target.association.assoc_id, target.key)
            if record is not None and record.change & Change.ORDERED and not record.terminal:
                return True
        return False

    # --- the requests ------------------------------------------------------------------------------------------------------

    async def _archive(self, ino: Ino) -> None:
        if await self._engine.order_archive(ino):
            self._exporter.wake()

    async def _restore(self, ino: Ino) -> None:
        inode = await self._engine.get(ino)
        if reason := refusal(Request.RESTORE, inode.hsm_state()):
            raise errors.NotPermitted(reason)
        if inode.hsm_state() & Hsm.RELEASED:
            self._restores.ask(inode, ordered=True)

    async def _release(self, ino: Ino) -> None:
        await self._releaser.release(ino)

    async def _remove(self, ino: Ino) -> None:
        version = await self._settled_version(ino)
        if await self._engine.order_remove(ino, version):
            self._exporter.wake()

    async def _settled_version(self, ino: Ino) -> ContentVersion:
        """The content a file has, once what is here of it is on disk: a storage target that lost it says so before the archived
        copy is given up, and the file counts as released then. Raises: StorageError, OutOfSpace."""
        version = (await self._engine.get(ino)).content_version
        await self._engine.sync()
        return version

    async def _cancel(self, ino: Ino) -> None:
        self._restores.cancel(ino)
        record = await self._engine.find_journal(ino)
        if record is not None and record.change & Change.ORDERED:
            await self._engine.withdraw_order(ino)
            self._exporter.cancel(ino)
            self._exporter.wake()
