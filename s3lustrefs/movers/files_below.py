"""Walks the files that an order names, and all files below the directories it names."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence

from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.association import paths_overlap
from s3lustrefs.model.inode import Inode
from s3lustrefs.model.task_paths import absolute, outermost
from s3lustrefs.movers.links import Links
from s3lustrefs.movers.task_walk import walk_names


async def files_below(
    engine: MetadataEngine, links: Links, named: Sequence[tuple[bytes, Inode]]
) -> AsyncIterator[list[tuple[bytes, Inode]]]:
    """What is named and no directory, then what is below the directories, some names at a time and each with its path.

    Waits until the associations are imported that the directories lie in or contain. A directory that is removed meanwhile is left
    out. Raises: RepositoryError when such an import fails.
    """
    yield [(path, inode) for path, inode in named if not inode.is_dir]
    directories = outermost(absolute(os.fsdecode(path)) for path, inode in named if inode.is_dir)
    for link in links:
        association = engine.association(link.assoc)
        if association is not None and any(paths_overlap(association.file_system_path, path) for path in directories):
            await link.importer.wait_imported()
    walk = walk_names(engine, [os.fsencode(path) for path in directories])
    while met := await walk.next():
        yield [(each.path, each.row.inode) for each in met if not each.row.inode.is_dir]
