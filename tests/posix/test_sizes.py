"""Sizes, holes and preallocation; what of a cold file each call may download."""

from __future__ import annotations

import errno
import os
import time

import pytest

from tests.posix.calls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE, fails, fallocate, opened, statx_blocks
from tests.posix.conftest import COLD, CONTENT, IMPORTED, MIB, FileCase, Place

SIZE = len(CONTENT)


@pytest.mark.parametrize("size", [0, 1, 5000, MIB - 1, MIB, MIB + 1, SIZE - 1, SIZE, SIZE + 1, 3 * MIB])
def test_truncation_both_ways(file: FileCase, size: int) -> None:
    if size % 2:
        os.truncate(file.path, size)
    else:
        with opened(file.path, os.O_RDWR) as descriptor:
            os.ftruncate(descriptor, size)
            assert os.fstat(descriptor).st_size == size
    assert file.path.stat().st_size == size
    if file.setting == COLD:
        assert file.resident_bytes() <= (MIB if 0 < size < SIZE and size % MIB else max(0, size - MIB)), "what is not needed"
    expected = CONTENT[:size] + bytes(max(0, size - SIZE))
    assert file.path.read_bytes() == expected
    os.truncate(file.path, SIZE + 100)
    assert file.path.read_bytes() == expected + bytes(SIZE + 100 - size) if size <= SIZE + 100 else expected[: SIZE + 100]


def test_shrinking_and_growing_again_shows_zeros(file: FileCase) -> None:
    with opened(file.path, os.O_RDWR) as descriptor:
        for size in (SIZE - 10, SIZE + MIB, MIB + 7, 3 * MIB, 100, 200):
            os.ftruncate(descriptor, size)
        assert os.pread(descriptor, 300, 0) == CONTENT[:100] + bytes(100)


def test_cold_tail_that_is_cut_off_is_never_downloaded(file: FileCase) -> None:
    if file.setting != COLD:
        pytest.skip("about cold files")
    os.truncate(file.path, MIB)
    assert file.resident_bytes() == 0
    os.truncate(file.path, 8 * MIB)
    with opened(file.path, os.O_RDONLY | os.O_DIRECT) as descriptor:
        assert os.pread(descriptor, 4096, 5 * MIB) == bytes(4096)
    with opened(file.path, os.O_WRONLY) as descriptor:
        os.pwrite(descriptor, b"tail", 8 * MIB)
    assert file.resident_bytes() == 7 * MIB + 4, "the first block is still in the bucket only"
    assert file.path.read_bytes() == CONTENT[:MIB] + bytes(7 * MIB) + b"tail"


def test_write_past_the_end_leaves_zeros(file: FileCase) -> None:
    with opened(file.path, os.O_RDWR) as descriptor:
        os.pwrite(descriptor, b"end", SIZE + 2 * MIB)
        assert os.pread(descriptor, 10, SIZE) == bytes(10)
    assert file.path.read_bytes() == CONTENT + bytes(2 * MIB) + b"end"


def test_hole_of_gigabytes(place: Place) -> None:
    if place.setting == "linked":
        pytest.skip("it would be exported")
    path = place.root / "sparse"
    with opened(path, os.O_CREAT | os.O_RDWR) as descriptor:
        for offset in (0, 3 << 30, 5 << 30):
            os.pwrite(descriptor, b"data", offset)
        assert os.fstat(descriptor).st_size == (5 << 30) + 4
        assert os.pread(descriptor, 6, (3 << 30) - 1) == b"\0data\0"
        assert os.pread(descriptor, MIB, 4 << 30) == bytes(MIB)
        os.ftruncate(descriptor, 1)
        os.ftruncate(descriptor, 5 << 30)
        assert os.pread(descriptor, 8, 3 << 30) == bytes(8)


def test_data_and_holes(file: FileCase) -> None:
    """FUSE's LSEEK has no handler in pyfuse3: the whole file counts as data, with the hole every file has at its end."""
    with opened(file.path, os.O_RDWR) as descriptor:
        assert os.lseek(descriptor, 0, os.SEEK_DATA) == 0
        assert os.lseek(descriptor, SIZE - 1, os.SEEK_DATA) == SIZE - 1
        assert os.lseek(descriptor, 0, os.SEEK_HOLE) == SIZE
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            with fails(errno.ENXIO):
                os.lseek(descriptor, SIZE, whence)
        os.ftruncate(descriptor, 64 * MIB)
        if file.is_reference:
            assert os.lseek(descriptor, 0, os.SEEK_HOLE) < 64 * MIB
            with fails(errno.ENXIO):
                os.lseek(descriptor, 32 * MIB, os.SEEK_DATA)
        else:
            assert os.lseek(descriptor, 0, os.SEEK_HOLE) == 64 * MIB
            assert os.lseek(descriptor, 32 * MIB, os.SEEK_DATA) == 32 * MIB


def test_posix_fallocate_makes_the_file_longer(file: FileCase) -> None:
    with opened(file.path, os.O_RDWR) as descriptor:
        os.posix_fallocate(descriptor, 0, SIZE - 5)
        assert os.fstat(descriptor).st_size == SIZE
        if file.setting == COLD:
            assert file.resident_bytes() == SIZE, "a fallback that has to read"
        os.posix_fallocate(descriptor, SIZE - 10, 50_000)
        assert os.fstat(descriptor).st_size == SIZE - 10 + 50_000
    assert file.path.read_bytes() == CONTENT + bytes(50_000 - 10)


@pytest.mark.parametrize("mode", [0, FALLOC_KEEP_SIZE, FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE])
def test_fallocate(file: FileCase, mode: int) -> None:
    """FUSE's FALLOCATE has no handler in pyfuse3; posix_fallocate(3) writes instead."""
    with opened(file.path, os.O_RDWR) as descriptor:
        if not file.is_reference:
            with fails(errno.EOPNOTSUPP):
                fallocate(descriptor, mode, 0, 2 * MIB)
            assert os.pread(descriptor, SIZE, 0) == CONTENT
            return
        try:
            fallocate(descriptor, mode, 0, 2 * MIB)
        except OSError as exc:  # tmpfs cannot zero a range
            assert (exc.errno, mode) == (errno.EOPNOTSUPP, FALLOC_ZERO_RANGE)
            return
        assert os.fstat(descriptor).st_size == (SIZE if mode & FALLOC_KEEP_SIZE else 2 * MIB)


def test_sizes_are_seen_by_everybody_at_once(file: FileCase) -> None:
    with opened(file.path, os.O_RDWR) as one, opened(file.path, os.O_RDWR) as two:
        os.pwrite(one, b"x", SIZE)
        assert os.fstat(two).st_size == SIZE + 1 == file.path.stat().st_size
        os.ftruncate(two, 10)
        assert os.fstat(one).st_size == 10
        assert os.pread(one, 20, 0) == CONTENT[:10]


# --- st_blocks ---------------------------------------------------------------------------------------------------------------


def test_blocks_of_a_file_that_is_not_here(file: FileCase) -> None:
    if file.setting not in IMPORTED:
        pytest.skip("about imported files")
    expected = -(-SIZE // 512) if file.setting == "resident" else 1
    assert file.path.stat().st_blocks == expected
    assert file.path.read_bytes() == CONTENT
    assert os.stat(file.path).st_blocks == -(-SIZE // 512), "right after reading"


def test_blocks_without_asking_for_times(file: FileCase) -> None:
    """Who asks for nothing but the blocks gets the kernel's cached answer for a moment, as the times may be stale too."""
    if file.setting not in IMPORTED:
        pytest.skip("about imported files")
    assert file.path.read_bytes() == CONTENT
    deadline = time.monotonic() + 30
    while statx_blocks(file.path) != -(-SIZE // 512):
        assert time.monotonic() < deadline
        time.sleep(0.05)
