"""A sync that failed is never forgotten, on a disk that loses writes: ext4 on an image whose own disk is full."""

from __future__ import annotations

import os
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


async def test_lost_writes_fail_every_sync_until_the_file_is_deleted(lossy_store: ChunkStore) -> None:
    store = lossy_store
    await store.write(Ino(1), V1, 1 << 30, 0, b"safe")
    await store.sync_dirty()
    for number in range(40):
        await store.write(Ino(2), V1, 1 << 30, number * MIB, os.urandom(MIB))
    for _ in range(3):
        with pytest.raises(errors.StorageError, match=rf"cannot bring to disk .*/2\.1\.0: {LOST}"):
            await store.sync_dirty()
    await store.delete(Ino(2), V1, 1 << 30, 40 * MIB)
    await store.sync_dirty()


async def test_lost_writes_of_many_files_are_found_by_the_file_system_sync(lossy_store: ChunkStore, lossy_disk: Path) -> None:
    store = lossy_store
    for number in range(40):
        await store.write(Ino(number + 1), V1, 1 << 30, 0, os.urandom(MIB))
    for _ in range(2):
        with pytest.raises(errors.StorageError, match=f"cannot bring to disk {lossy_disk}: {LOST}"):
            await store.sync_dirty()


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
