"""Has everything below a directory known, where directories are imported as somebody looks into them (`directory_importer`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import trio

from s3lustrefs import errors
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.links import Links

_AT_ONCE = 8
"""As many as a listing process has threads for."""
_PAGE = 256
"""Names looked at in one transaction: a few milliseconds."""


class _Stretch(NamedTuple):
    """The names in a directory that sort after `after`."""

    ino: Ino
    after: bytes


@dataclass(slots=True)
class _Tree:
    """What is still to be looked at, the last one first: so the stack grows with the depth of the tree, and not with its size."""

    stack: list[_Stretch]
    busy: int = 0
    changed: trio.Event = field(default_factory=trio.Event)


async def ensure_tree(engine: MetadataEngine, links: Links, directory: Inode) -> None:
    """Return once every name below a directory is in the table. One that is removed meanwhile is left out.

    Raises: RepositoryError when some directory cannot be listed; those that were are known from then on.
    """
    if not links.are_lazy:
        return
    tree = _Tree([_Stretch(directory.ino, b"")])

    async def work() -> None:
        while True:
            while not tree.stack:
                if not tree.busy:
                    return
                await tree.changed.wait()
            stretch = tree.stack.pop()
            tree.busy += 1
            try:
                tree.stack += await _look(engine, links, stretch)
            finally:
                tree.busy -= 1
                tree.changed.set()
                tree.changed = trio.Event()

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(_AT_ONCE):
                nursery.start_soon(work)
    except* errors.S3LustreError as group:
        raise group.exceptions[0] from None


async def _look(engine: MetadataEngine, links: Links, stretch: _Stretch) -> list[_Stretch]:
    """What is to be looked at next; its own rest is the first to be pushed, and so the last to be taken."""
    await trio.lowlevel.checkpoint()
    try:
        if not stretch.after:
            await links.ensure_listed(await engine.get(stretch.ino))
        rows = await engine.readdir(stretch.ino, stretch.after, _PAGE)
    except errors.MetadataError:
        return []
    rest = [_Stretch(stretch.ino, rows[-1][0])] if len(rows) == _PAGE else []
    return rest + [_Stretch(inode.ino, b"") for _, inode in rows if inode.is_dir]
