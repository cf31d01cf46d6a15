"""Walks the files that an order names, and all files below the directories it names."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence

import trio

from s3lustrefs import errors
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.links import Links

log = logging.getLogger(__name__)

_SCAN = 500


async def files_below(
    engine: MetadataEngine, links: Links, named: Sequence[tuple[bytes, Inode]]
) -> AsyncIterator[list[tuple[bytes, Inode]]]:
    """What is named and no directory, then what is below the directories, a page at a time and each with its path.

    Waits until the associations are imported, when there are directories. A directory that is removed meanwhile is left out.
    """
    directories = [(path, inode.ino) for path, inode in named if inode.is_dir]
    yield [(path, inode) for path, inode in named if not inode.is_dir]
    for link in list(links) if directories else ():
        await link.importer.wait_for_end()
    while directories:
        path, directory = directories.pop()
        after = b""
        try:
            while entries := await engine.readdir(directory, after, _SCAN):
                after = entries[-1][0]
                directories += [(path + b"/" + name, inode.ino) for name, inode in entries if inode.is_dir]
                yield [(path + b"/" + name, inode) for name, inode in entries if not inode.is_dir]
                await trio.lowlevel.checkpoint()
        except errors.MetadataError as exc:
            log.debug("directory not looked through ino=%d reason=%s", directory, exc)
