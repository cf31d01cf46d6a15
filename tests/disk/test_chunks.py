"""The chunk store on disks that fail: whose bytes are lost, and that nobody else is hurt."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.model.ids import ContentVersion, Ino
from tests.disk.disks import MIB, ext4, tmpfs
from tests.disk.failing_disk import FailingDisk

V1 = ContentVersion(1)
WHOLE = 1 << 30
"""Chunk size: every file is one chunk."""


@contextmanager
def opened(*targets: Path, open_files: int = 512) -> Iterator[ChunkStore]:
    store = ChunkStore(targets, open_files=open_files)
    store.open_()
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def worn_disk(disk: FailingDisk, tmp_path: Path) -> Iterator[Path]:
    """An ext4 that takes every write into the page cache, on a device that takes as many as `disk` lets through."""
    with ext4(tmp_path, 64, below=disk.path, options="errors=continue") as path:
        yield path


@pytest.mark.parametrize("files", [12, 60])
async def test_exactly_the_files_that_lost_bytes_are_told(disk: FailingDisk, worn_disk: Path, files: int) -> None:
    """12: each is synced; 60: their file system, although most have given up their descriptor by then."""
    with opened(worn_disk, open_files=4) as store:
        contents = {Ino(number + 1): os.urandom(MIB // 4) for number in range(files)}
        for ino in contents:
            await store.write(ino, V1, WHOLE, 0, bytes(MIB // 4))
        assert await store.sync_dirty() == []
        for ino, content in contents.items():
            await store.write(ino, V1, WHOLE, 0, content)
        disk.fail("write", names="image", after=2 * files)
        lost = {each.ino for each in await store.sync_dirty()}
        disk.heal()
        assert disk.hits("write")
        for path in (worn_disk / "chunks").rglob("*.1.0"):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        kept = contents.keys() - lost
        for ino in kept:
            assert await store.read(ino, V1, WHOLE, 0, MIB // 4) == contents[ino], ino
        assert lost and kept, (lost, kept)
        for ino in lost:
            store.settle_lost(ino, V1)
        await store.write(Ino(99), V1, WHOLE, 0, b"after")
        assert await store.sync_dirty() == []


async def test_a_failing_target_leaves_the_others_alone(disk: FailingDisk, tmp_path: Path) -> None:
    with opened(disk.path / "a", tmp_path / "b") as store:
        on_a, on_b = Ino(2), Ino(3)
        for ino in (on_a, on_b):
            await store.write(ino, V1, WHOLE, 0, b"before")
        assert await store.sync_dirty() == []
        capacity = store.space().capacity_bytes
        disk.fail("write", "read", "open", "create", "fsync", "unlink", "statfs", "readdir", "lookup")
        with pytest.raises(errors.StorageError, match=f"cannot write {disk.path}/a/chunks/00/2.1.0: Input/output error; .*dmesg"):
            await store.write(on_a, V1, WHOLE, 0, b"during")
        with pytest.raises(errors.StorageError, match="cannot create .*/4.1.0: Input/output error"):
            await store.write(Ino(4), V1, WHOLE, 0, b"during")
        await store.write(on_b, V1, WHOLE, 0, b"during")
        await store.write(Ino(5), V1, WHOLE, 0, b"during")
        assert {each.ino for each in await store.sync_dirty()} <= {on_a, Ino(4)}
        assert store.space().capacity_bytes == capacity
        assert sorted([file.key.ino async for batch in store.chunk_batches(100) for file in batch]) == [on_b, Ino(5)]
        failing, well = store.targets()
        assert failing.failure and "Input/output error" in failing.failure
        assert well.failure is None
        disk.heal()
        await store.write(on_a, V1, WHOLE, 0, b"after ")
        assert await store.read(on_a, V1, WHOLE, 0, 6) == b"after "
        assert await store.read(on_b, V1, WHOLE, 0, 6) == b"during"


async def test_a_deleted_file_that_cannot_be_removed_is_removed_when_the_disk_works(disk: FailingDisk) -> None:
    with opened(disk.path) as store:
        await store.write(Ino(1), V1, WHOLE, 0, bytes(MIB))
        disk.fail("unlink")
        await store.delete(Ino(1), V1, WHOLE, MIB)
        await store.remove_leftovers()
        assert store.used_bytes() >= MIB
        disk.heal()
        await store.remove_leftovers()
        assert store.used_bytes() == 0
        assert not list((disk.backing / "chunks").rglob("1.1.0"))


async def test_a_truncate_that_fails_leaves_nothing_behind_that_could_remove_newer_bytes(disk: FailingDisk) -> None:
    with opened(disk.path) as store:
        await store.write(Ino(1), V1, 1000, 0, b"x" * 3000)
        disk.fail("unlink")
        with pytest.raises(errors.StorageError, match="cannot delete"):
            await store.truncate(Ino(1), V1, 1000, 3000, 0)
        disk.heal()
        await store.truncate(Ino(1), V1, 1000, 3000, 0)
        await store.write(Ino(1), V1, 1000, 0, b"y" * 3000)
        await store.remove_leftovers()
        assert await store.read(Ino(1), V1, 1000, 0, 3000) == b"y" * 3000


async def test_an_unmounted_target_is_not_taken_for_holes(tmp_path: Path) -> None:
    path = tmp_path / "target"
    with tmpfs(path, 8), opened(path, open_files=1) as store:
        await store.write(Ino(1), V1, WHOLE, 0, b"one")
        await store.write(Ino(2), V1, WHOLE, 0, b"two")
        subprocess.run(["umount", "-l", path], check=True)
        assert await store.read(Ino(1), V1, WHOLE, 0, 3) == b"one"
        await store.write(Ino(3), V1, WHOLE, 0, b"new")
        assert await store.read(Ino(2), V1, WHOLE, 0, 3) == b"two"
        (piece,) = store.slices(Ino(3), V1, WHOLE, 0, 3)
        assert Path(piece.path).read_bytes() == b"new"
        assert not list(path.iterdir()), "nothing may be written below the mount point"


async def test_a_directory_that_is_gone_is_an_error_and_not_zeros(tmp_path: Path) -> None:
    with opened(tmp_path, open_files=1) as store:
        await store.write(Ino(1), V1, WHOLE, 0, b"one")
        await store.write(Ino(2), V1, WHOLE, 0, b"two")
        (tmp_path / "chunks/00").rename(tmp_path / "elsewhere")
        with pytest.raises(errors.StorageError, match="cannot open .*/1.1.0: No such file"):
            await store.read(Ino(1), V1, WHOLE, 0, 3)


async def test_holes_are_uploaded_from_a_full_or_read_only_target(disk: FailingDisk) -> None:
    with opened(disk.path) as store:
        await store.write(Ino(1), V1, 1000, 2500, b"end")
        disk.fail("write", "create")
        slices = store.slices(Ino(1), V1, 1000, 0, 2503)
        assert [Path(piece.path).stat().st_size for piece in slices] == [0, 0, 503]
