"""Walks the files that an order names, and all files below the directories it names."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.association import paths_overlap
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.links import Links
from s3lustrefs.movers.task_walk import TreeWalk
from s3lustrefs.movers.whole_trees import ensure_tree


class Name(NamedTuple):
    """One name in a directory."""

    name: bytes
    inode: Inode


async def files_below(
    engine: MetadataEngine, links: Links, named: Sequence[tuple[bytes, Inode]]
) -> AsyncIterator[list[tuple[bytes, Inode]]]:
    """What is named and no directory, then what is below the directories, some names at a time and each with its path.

    Waits until the associations are imported that the directories lie in or contain; of a file cache only what is below them. A
    directory that is removed meanwhile is left out. Raises: RepositoryError when such an import fails.
    """

    async def read(directory: Ino, after: bytes, limit: int) -> list[Name]:
        return [Name(*row) for row in await engine.readdir(directory, after, limit)]

    yield [(path, inode) for path, inode in named if not inode.is_dir]
    directories = [path for path, inode in named if inode.is_dir]
    for link in links:
        association = engine.association(link.assoc)
        if association is not None and any(paths_overlap(association.file_system_path, os.fsdecode(path)) for path in directories):
            await link.importer.wait_imported()
    for _, inode in named:
        if inode.is_dir:
            await ensure_tree(engine, links, inode)
    walk = TreeWalk(engine, _outermost(directories), read)
    while met := await walk.next():
        yield [(each.path, each.row.inode) for each in met if not each.row.inode.is_dir]


def _outermost(paths: Sequence[bytes]) -> list[bytes]:
    """Without those below another one; the root of the mount is `/`."""
    found: list[bytes] = []
    for path in sorted(paths):
        if not found or not (path + b"/").startswith(found[-1].rstrip(b"/") + b"/"):
            found.append(path or b"/")
    return found
