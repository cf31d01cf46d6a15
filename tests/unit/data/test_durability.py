"""What a failed sync lost is known for certain, on a disk that loses writes: ext4 on an image whose own disk is full."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.model.ids import ContentVersion, Ino

MIB = 1 << 20
V1 = ContentVersion(1)


@pytest.fixture
def lossy_disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of 64 MiB that takes every write and can keep about 16 MiB of them."""
    backing, path = tmp_path / "backing", tmp_path / "lossy"
    backing.mkdir()
    path.mkdir()
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        pytest.skip("needs root and loop devices")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", backing], check=True)
    try:
        image = backing / "image"
        with image.open("wb") as file:
            file.truncate(64 * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-N", "2000", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, path], check=True)
        yield path
        subprocess.run(["umount", path], check=True)
    finally:
        subprocess.run(["umount", "-l", backing], check=True)


LOST = "(Input/output error|No space left on device)"


@contextmanager
def opened(store: ChunkStore) -> Iterator[ChunkStore]:
    store.open_()
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def lossy_store(lossy_disk: Path) -> Iterator[ChunkStore]:
    with opened(ChunkStore([lossy_disk], open_files=8)) as store:
        yield store


async def test_lost_writes_are_told_until_settled_and_keep_nothing_else_from_the_disk(lossy_store: ChunkStore) -> None:
    store = lossy_store
    await store.write(Ino(1), V1, 1 << 30, 0, b"safe")
    assert await store.sync_dirty() == []
    for number in range(40):
        await store.write(Ino(2), V1, 1 << 30, number * MIB, os.urandom(MIB))
    for _ in range(3):
        await store.write(Ino(1), V1, 1 << 30, 0, b"also")
        (lost,) = await store.sync_dirty()
        assert (lost.ino, lost.version) == (Ino(2), V1)
        assert re.search(rf"cannot bring to disk .*/2\.1\.0: {LOST}", lost.reason)
    store.settle_lost(Ino(2), V1)
    assert await store.sync_dirty() == []


async def test_lost_writes_of_a_deleted_file_matter_to_nobody(lossy_store: ChunkStore) -> None:
    store = lossy_store
    for number in range(40):
        await store.write(Ino(2), V1, 1 << 30, number * MIB, os.urandom(MIB))
    assert await store.sync_dirty()
    await store.delete(Ino(2), V1, 1 << 30, 40 * MIB)
    assert await store.sync_dirty() == []


async def test_content_refused_as_lost_can_only_be_emptied_or_deleted(tmp_path: Path) -> None:
    with opened(ChunkStore([tmp_path])) as store:
        await store.write(Ino(1), V1, 1 << 30, 0, b"doubtful")
        store.refuse(Ino(1), V1, "the disk failed")
        for attempt in (
            store.read(Ino(1), V1, 1 << 30, 0, 4),
            store.write(Ino(1), V1, 1 << 30, 0, b"new"),
            store.truncate(Ino(1), V1, 1 << 30, 8, 4),
        ):
            with pytest.raises(errors.ContentLost, match="the disk failed.*write the file anew"):
                await attempt
        with pytest.raises(errors.ContentLost):
            store.slices(Ino(1), V1, 1 << 30, 0, 4)
        with pytest.raises(errors.ContentLost), store.pinned(Ino(1), V1, 1 << 30, 0):
            pass
        await store.truncate(Ino(1), V1, 1 << 30, 8, 0)
        await store.write(Ino(1), V1, 1 << 30, 0, b"new")
        assert await store.read(Ino(1), V1, 1 << 30, 0, 3) == b"new"


async def test_a_second_sync_waits_for_the_first(tmp_path: Path) -> None:
    order: list[str] = []

    async def sync(name: str) -> None:
        await store.sync_dirty()
        order.append(name)

    with opened(ChunkStore([tmp_path])) as store:
        await store.write(Ino(1), V1, 1 << 30, 0, bytes(4 * MIB))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sync, "first")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(sync, "second")
    assert order == ["first", "second"]
