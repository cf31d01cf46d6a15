"""mmap(2) and msync(2)."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys

import pytest

from tests.posix.calls import opened, tick
from tests.posix.conftest import COLD, CONTENT, LINKED, MIB, FileCase, read_direct

SIZE = len(CONTENT)


def test_private_mapping_keeps_its_changes(file: FileCase) -> None:
    before = file.path.stat().st_mtime_ns
    with (
        opened(file.path, os.O_RDONLY) as descriptor,
        mmap.mmap(descriptor, SIZE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapped,
    ):
        assert mapped[:] == CONTENT
        mapped[:7] = b"private"
        assert mapped[:7] == b"private" and os.pread(descriptor, 7, 0) == CONTENT[:7]
        with opened(file.path, os.O_WRONLY) as writer:
            os.pwrite(writer, b"shared", 5000)
        assert mapped[5000:5006] == b"shared" or mapped[5000:5006] == CONTENT[5000:5006]  # unspecified: mmap(2)
    assert file.path.read_bytes() == CONTENT[:5000] + b"shared" + CONTENT[5006:]
    assert file.path.stat().st_mtime_ns > before


def test_shared_mapping_is_the_file(file: FileCase) -> None:
    with opened(file.path, os.O_RDWR) as descriptor, mmap.mmap(descriptor, SIZE) as mapped:
        mapped[100:106] = b"mapped"
        assert os.pread(descriptor, 6, 100) == b"mapped"
        os.pwrite(descriptor, b"written", 200)
        assert mapped[200:207] == b"written"
        with mmap.mmap(descriptor, SIZE) as other:
            assert other[100:106] == b"mapped"
            other[-4:] = b"last"
        assert mapped[-4:] == b"last"
    expected = CONTENT[:100] + b"mapped" + CONTENT[106:200] + b"written" + CONTENT[207:-4] + b"last"
    assert file.path.read_bytes() == expected


def test_synced_pages_are_seen_by_other_processes_and_change_times(file: FileCase) -> None:
    with opened(file.path, os.O_RDWR) as descriptor, mmap.mmap(descriptor, SIZE) as mapped:
        before = file.path.stat()
        tick()
        mapped[:6] = b"synced"
        mapped.flush()
        after = file.path.stat()
        assert after.st_mtime_ns > before.st_mtime_ns and after.st_ctime_ns > before.st_ctime_ns
        code = "import sys; print(open(sys.argv[1], 'rb').read(6))"
        assert subprocess.run([sys.executable, "-c", code, file.path], capture_output=True).stdout == b"b'synced'\n"


def test_mapping_outlives_its_descriptor(file: FileCase) -> None:
    descriptor = os.open(file.path, os.O_RDWR)
    mapped = mmap.mmap(descriptor, SIZE)
    os.close(descriptor)
    mapped[10:14] = b"late"
    mapped.close()
    assert file.path.read_bytes() == CONTENT[:10] + b"late" + CONTENT[14:]
    assert read_direct(file.path, 0, 4096)[:14] == CONTENT[:10] + b"late"


def test_what_was_mapped_is_exported(file: FileCase) -> None:
    if file.setting not in (LINKED, COLD):
        pytest.skip("about exports")
    assert file.site is not None
    with opened(file.path, os.O_RDWR) as descriptor, mmap.mmap(descriptor, SIZE) as mapped:
        mapped[-6:] = b"mapped"
    file.site.drain()
    assert file.site.body(str(file.path.relative_to(file.site.root))) == CONTENT[:-6] + b"mapped"


def test_growing_and_shrinking_under_a_mapping(file: FileCase) -> None:
    with opened(file.path, os.O_RDWR) as descriptor:
        os.ftruncate(descriptor, 3 * MIB)
        with mmap.mmap(descriptor, 3 * MIB) as mapped:
            assert mapped[SIZE:] == bytes(3 * MIB - SIZE)
            mapped[2 * MIB : 2 * MIB + 3] = b"new"
            os.ftruncate(descriptor, MIB)
            os.ftruncate(descriptor, 3 * MIB)
            assert mapped[2 * MIB : 2 * MIB + 3] == bytes(3), "cut off, and zeros since"
            assert mapped[MIB - 5 : MIB + 5] == CONTENT[MIB - 5 : MIB] + bytes(5)
    assert file.path.read_bytes() == CONTENT[:MIB] + bytes(2 * MIB)


def test_end_of_the_last_page(file: FileCase) -> None:
    """Bytes of the last page past the end of the file are zeros, and never part of the file."""
    with opened(file.path, os.O_RDWR) as descriptor:
        os.ftruncate(descriptor, 5000)
        with mmap.mmap(descriptor, 5000) as mapped:
            mapped[4990:5000] = b"0123456789"
            mapped.flush()
        os.ftruncate(descriptor, 6000)
        assert os.pread(descriptor, 2000, 4990) == b"0123456789" + bytes(1000)


def test_one_page_of_a_cold_file(file: FileCase) -> None:
    with opened(file.path, os.O_RDONLY) as descriptor, mmap.mmap(descriptor, SIZE, prot=mmap.PROT_READ) as mapped:
        mapped.madvise(mmap.MADV_RANDOM)
        assert mapped[SIZE - 1] == CONTENT[-1]
        if file.setting == COLD:
            assert file.resident_bytes() == SIZE - MIB, "the block of that page only"
        assert mapped[0] == CONTENT[0]
