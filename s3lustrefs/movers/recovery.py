"""What a start after a crash (or a plain start) has to put right before and while the mount serves."""

from __future__ import annotations

import logging

import trio

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.ids import ContentVersion, Ino

log = logging.getLogger(__name__)

_BATCH = 1000


async def recover(engine: MetadataEngine, chunks: ChunkStore) -> None:
    """Before serving: nobody has anything open, so dirty files are due, orphans go, and no file has bytes past its end."""
    due = await engine.make_all_due()
    for inode in await engine.orphans():
        await engine.purge_orphan(inode.ino)
        failpoint("recovery.orphan")
        await chunks.delete(inode.ino, inode.content_version, inode.chunk_bytes or 1, inode.size)
    cut = await _cut_tails(engine, chunks)
    if due or cut:
        log.info("recovery made_due=%d looked_at_tails=%d", due, cut)


async def _cut_tails(engine: MetadataEngine, chunks: ChunkStore) -> int:
    """A truncate logged just before a crash may have left its bytes: they must not come back when the file grows."""
    after = b""
    looked = 0
    while True:
        rows = await engine.due(after, _BATCH)
        for _, record in rows:
            if not record.ino:
                continue
            try:
                inode = await engine.get(record.ino)
            except errors.StaleInode:
                continue
            if inode.is_file:
                looked += 1
                await chunks.truncate(
                    inode.ino, inode.content_version, inode.chunk_bytes, inode.size + inode.chunk_bytes, inode.size
                )
        if len(rows) < _BATCH:
            return looked
        after = rows[-1][0]


async def collect_garbage(engine: MetadataEngine, chunks: ChunkStore) -> None:
    """Remove chunk files that no inode speaks of. Safe while serving: inode numbers and content versions only grow."""
    removed = 0
    async for batch in chunks.chunk_batches(_BATCH):
        for ino, version in batch:
            if await _is_garbage(engine, ino, version):
                await chunks.delete(ino, version, 1, None)
                removed += 1
        await trio.lowlevel.checkpoint()
    if removed:
        log.info("recovery removed chunk files without an inode count=%d", removed)


async def _is_garbage(engine: MetadataEngine, ino: Ino, version: ContentVersion) -> bool:
    try:
        return (await engine.get(ino)).content_version > version
    except errors.StaleInode:
        return True
