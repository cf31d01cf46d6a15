"""Unlinker: takes a directory and a bucket apart again, and the local tree away if asked; nothing of it reaches the bucket.

By pages, each a transaction of its own, in an order in which every step can be repeated: who dies in between begins again with
the first one, and finds less to do. The association stays DELETING until no row of the table speaks of it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.vanished import Removed
from s3lustrefs.model.association import Association
from s3lustrefs.model.ids import NO_INO, Ino
from s3lustrefs.movers.removals import Removals

log = logging.getLogger(__name__)

_PAGE = 200
"""Rows per transaction: about 2 ms on the trio thread."""
_MOST_ROUNDS = 5
"""How often a tree is gone through in which others make files meanwhile."""


class Unlinker:
    """See the module docstring."""

    def __init__(self, engine: MetadataEngine, removals: Removals) -> None:
        self._engine = engine
        self._removals = removals

    async def unlink(self, association: Association) -> None:
        """Of an association that is DELETING and that nothing runs for any more. Raises: StorageError."""
        if association.delete_data and association.root_ino:
            await self._remove_tree(association)
            failpoint("unlink.removed")
        while True:
            for step in self._engine.unlink_steps:
                await self._take_out(association, step)
            if await self._engine.forget_association(association):
                break
        failpoint("unlink.forgotten")
        log.info("association deleted association=%s directory=%s", association.association_id, association.file_system_path)

    async def _take_out(self, association: Association, step: str) -> None:
        after: bytes | None = b""
        while after is not None:
            after = await self._engine.unlink_step(association, step, after, _PAGE)
            failpoint(f"unlink.{step}")
            await self._breathe()

    async def _breathe(self) -> None:
        await self._engine.wait_room()
        await trio.lowlevel.checkpoint()

    # --- the local tree --------------------------------------------------------------------------------------------------

    async def _remove_tree(self, association: Association) -> None:
        root = Ino(association.root_ino)
        try:
            for _ in range(_MOST_ROUNDS):
                await self._empty(root)
                if association.file_system_path == "/":
                    return
                inode = await self._engine.get(root)
                if await self._remove(inode.parent, [inode.name]):
                    return
        except errors.StaleInode:
            return  # gone already
        log.warning("files were made while their directory was deleted, they stay directory=%s", association.file_system_path)

    async def _empty(self, root: Ino) -> None:
        """Everything below a directory, deepest first; what comes meanwhile may stay."""
        pending: list[tuple[Ino, Ino, bytes, bool]] = [(root, NO_INO, b"", False)]
        while pending:
            directory, parent, name, is_emptied = pending.pop()
            if is_emptied:
                if parent:
                    await self._remove(parent, [name])
                continue
            pending.append((directory, parent, name, True))
            after = b""
            while entries := await self._engine.readdir(directory, after, _PAGE):
                after = entries[-1][0]
                pending += [(inode.ino, directory, each, False) for each, inode in entries if inode.is_dir]
                await self._remove(directory, [each for each, inode in entries if not inode.is_dir])
                failpoint("unlink.tree")
                await self._breathe()

    async def _remove(self, directory: Ino, names: Sequence[bytes]) -> list[Removed]:
        if not names:
            return []
        removed = await self._engine.remove_entries(directory, names)
        self._removals.follow(directory, removed)
        return removed
