"""What a start after a crash (or a plain start) has to put right before and while the mount serves."""

from __future__ import annotations

import logging

import trio

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.data.snapshot import Snapshots
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.ids import ContentVersion, Ino

log = logging.getLogger(__name__)

_BATCH = 1000


async def recover(engine: MetadataEngine, chunks: ChunkStore, *, interrupted: bool) -> None:
    """Before serving: nobody has anything open, so dirty files are due, and orphans go.

    `interrupted`: the last daemon did not end by itself, so content may be newer than the table, which is durable by now.
    """
    due = await engine.make_all_due()
    for inode in await engine.orphans():
        await engine.purge_orphan(inode.ino)
        failpoint("recovery.orphan")
        chunks.condemn(inode.ino, inode.content_version, inode.chunk_bytes or 1, inode.size)
    cut = await _cut_content(engine, chunks) if interrupted else 0
    if due or cut:
        log.info("recovery made_due=%d cut_chunk_files=%d", due, cut)


async def _cut_content(engine: MetadataEngine, chunks: ChunkStore) -> int:
    """Remove every byte no inode speaks of; how many chunk files had some.

    Numbers and versions that a power cut took back are handed out again, and files grow again: bytes of a file that never was, or
    past the end of one, must not be seen then.
    """
    cut = 0
    async for batch in chunks.chunk_batches(_BATCH):
        for file in batch:
            ino, version, index = file.key
            try:
                inode = await engine.get(ino)
            except errors.StaleInode:
                inode = None
            if inode is None or inode.content_version != version or not inode.is_file:
                await chunks.delete(ino, version, 1, None)
            elif (end := index * inode.chunk_bytes + file.length) > inode.size:
                await chunks.truncate(ino, version, inode.chunk_bytes, end, inode.size)
            else:
                continue
            cut += 1
        await trio.lowlevel.checkpoint()
    return cut


async def collect_garbage(engine: MetadataEngine, chunks: ChunkStore, snapshots: Snapshots) -> None:
    """Remove chunk files that no inode speaks of. Safe while serving: inode numbers and content versions only grow."""
    removed = 0
    async for batch in chunks.chunk_batches(_BATCH):
        for ino, version in {(file.key.ino, file.key.version) for file in batch}:
            if snapshots.is_leftover(version) or await _is_garbage(engine, ino, version):
                chunks.condemn(ino, version, 1, None)
                removed += 1
        await trio.lowlevel.checkpoint()
    if removed:
        log.info("recovery removed chunk files without an inode count=%d", removed)


async def _is_garbage(engine: MetadataEngine, ino: Ino, version: ContentVersion) -> bool:
    try:
        return (await engine.get(ino)).content_version > version
    except errors.StaleInode:
        return True
