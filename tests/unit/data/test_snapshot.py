"""Snapshots of one file, one after another: none has anything to do with those before it."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.data.snapshot import Snapshots
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.store import Store
from s3lustrefs.model.ids import ContentVersion, Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers import recovery

CHUNK = 4096
FILE = Inode(Ino(7), stat.S_IFREG | 0o600, 0, 0, 1, 2 * CHUNK, 0, 0, 0, content_version=ContentVersion(3), chunk_bytes=CHUNK)


@pytest.fixture
async def chunks(tmp_path: Path) -> AsyncIterator[ChunkStore]:
    store = ChunkStore([tmp_path / "data"])
    store.open_()
    yield store
    store.close()


async def write(chunks: ChunkStore, text: bytes, inode: Inode = FILE) -> None:
    await chunks.write(inode.ino, inode.content_version, CHUNK, 0, text)


async def content(chunks: ChunkStore, version: ContentVersion) -> bytes:
    return bytes(await chunks.read(FILE.ino, version, CHUNK, 0, FILE.size))


async def snapshot(chunks: ChunkStore, snapshots: Snapshots, inode: Inode = FILE) -> ContentVersion:
    version = snapshots.new_version()
    await snapshots.take(inode, version)
    return version


async def test_a_snapshot_outlives_the_removal_of_the_one_before_it(chunks: ChunkStore) -> None:
    snapshots = Snapshots(chunks)
    await write(chunks, b"a" * FILE.size)
    first = await snapshot(chunks, snapshots)
    chunks.condemn(FILE.ino, first, CHUNK, FILE.size)
    await write(chunks, b"b" * FILE.size)
    second = await snapshot(chunks, snapshots)
    await chunks.sync_dirty()
    chunks.table_is_durable(everything=False)
    await chunks.remove_condemned()
    assert await content(chunks, second) == b"b" * FILE.size
    assert await content(chunks, first) == bytes(FILE.size)


async def test_holes_of_a_snapshot_show_nothing_of_the_one_before_it(chunks: ChunkStore) -> None:
    snapshots = Snapshots(chunks)
    await write(chunks, b"a" * FILE.size)
    await snapshot(chunks, snapshots)
    await chunks.truncate(FILE.ino, FILE.content_version, CHUNK, FILE.size, 1)
    assert await content(chunks, await snapshot(chunks, snapshots)) == b"a" + bytes(FILE.size - 1)


async def test_snapshots_of_earlier_daemons_are_removed_and_those_of_this_one_are_not(tmp_path: Path, chunks: ChunkStore) -> None:
    table = Store(tmp_path / "meta", boot_id="boot")
    engine = LmdbEngine(table)
    made = await engine.create(Ino(1), b"file", stat.S_IFREG | 0o600, 0, 0)
    inode = replace(FILE, ino=made.ino, content_version=made.content_version)
    await write(chunks, b"a" * FILE.size, inode)
    await snapshot(chunks, Snapshots(chunks), inode)
    snapshots = Snapshots(chunks)
    ours = await snapshot(chunks, snapshots, inode)
    await recovery.collect_garbage(engine, chunks, snapshots)
    await chunks.sync_dirty()
    chunks.table_is_durable(everything=False)
    await chunks.remove_condemned()
    assert {file.key.version for file in chunks.chunk_files()} == {inode.content_version, ours}
    await table.close()
