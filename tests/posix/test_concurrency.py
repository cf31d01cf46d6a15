"""Several at once on one file or one directory: every answer could have come from one after the other."""

from __future__ import annotations

import errno
import mmap
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.posix.calls import opened
from tests.posix.conftest import CONTENT, IMPORTED, LINKED, MIB, FileCase, Place, read_direct

SIZE = len(CONTENT)


def together(*calls: Callable[[], object]) -> None:
    """Run calls in threads; the first failure of any is raised."""
    with ThreadPoolExecutor(len(calls)) as threads:
        for each in [threads.submit(call) for call in calls]:
            each.result()


_APPENDER = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
for number in range(int(sys.argv[3])):
    line = f"{sys.argv[2]} {number} ".encode()
    os.write(descriptor, line + b"x" * (number * 37 % 5000) + b"\\n")
"""


def test_appended_lines_are_all_there_and_whole(file: FileCase) -> None:
    count = 100
    command = [sys.executable, "-c", _APPENDER, str(file.path)]
    processes = [subprocess.Popen([*command, str(number), str(count)]) for number in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    content = file.path.read_bytes()
    assert content[:SIZE] == CONTENT
    lines = content[SIZE:].splitlines()
    found: dict[bytes, list[int]] = {}
    for line in lines:
        writer, number, filling = line.split(b" ")
        found.setdefault(writer, []).append(int(number))
        assert filling == b"x" * (int(number) * 37 % 5000), "torn"
    assert found == {str(writer).encode(): list(range(count)) for writer in range(4)}


def test_readers_see_whole_writes(file: FileCase) -> None:
    """Blocks of one letter each, overwritten at once: no block is ever a mixture.

    Past the kernel's cache, whose pages readers and writers share without a lock, on ext4 too.
    """
    done = threading.Event()

    def write() -> None:
        with mmap.mmap(-1, 4096) as block, opened(file.path, os.O_WRONLY | os.O_DIRECT) as descriptor:
            for number in range(200):
                block[:] = bytes([97 + number % 26]) * 4096
                os.pwritev(descriptor, [block], 0)
        done.set()

    def read() -> None:
        while not done.is_set():
            block = read_direct(file.path, 0, 4096)
            assert block == CONTENT[:4096] or len(set(block)) == 1, "torn"

    together(write, read, read)


def test_writers_of_different_parts(file: FileCase) -> None:
    parts = 8

    def write(part: int) -> None:
        with opened(file.path, os.O_WRONLY) as descriptor:
            for offset in range(part * 4096, 2 * MIB, parts * 4096):
                os.pwrite(descriptor, bytes([65 + part]) * 4096, offset)

    together(*(lambda part=part: write(part) for part in range(parts)))
    content = file.path.read_bytes()
    assert content == b"".join(bytes([65 + part]) * 4096 for part in range(parts)) * (2 * MIB // (parts * 4096))


def test_hydration_against_truncation(file: FileCase) -> None:
    """Whatever is read while the file is cut and grown is old content or zeros, and afterwards it is what it should be."""

    def read() -> None:
        for offset in range(0, SIZE, 65536):
            data = read_direct(file.path, offset, 65536).rstrip(b"\0")
            assert data == CONTENT[offset : offset + len(data)], offset

    def cut() -> None:
        with opened(file.path, os.O_RDWR) as descriptor:
            for size in (SIZE - 5000, SIZE + MIB, MIB + 10, 3 * MIB, MIB - 10, MIB):
                os.ftruncate(descriptor, size)

    together(read, cut, read)
    assert file.path.read_bytes() == CONTENT[: SIZE - 5000] + bytes(MIB - SIZE + 5000)


def test_reading_against_writing_of_a_cold_file(file: FileCase) -> None:
    def write() -> None:
        with opened(file.path, os.O_WRONLY) as descriptor:
            for offset in range(1000, SIZE - 10, 100_000):
                os.pwrite(descriptor, b"WRITTEN", offset)

    together(lambda: file.path.read_bytes(), write, lambda: file.path.read_bytes())
    expected = bytearray(CONTENT)
    for offset in range(1000, SIZE - 10, 100_000):
        expected[offset : offset + 7] = b"WRITTEN"
    assert file.path.read_bytes() == expected


def test_rename_against_look_up(place: Place) -> None:
    """A name that is replaced all the time is there all the time."""
    path = place.file("name", b"0" * 100)
    done = threading.Event()

    def replace() -> None:
        for number in range(300):
            new = place.file("new", bytes([48 + number % 10]) * 100)
            new.rename(path)
        done.set()

    def look() -> None:
        while not done.is_set():
            content = path.read_bytes()
            assert len(content) == 100 and len(set(content)) == 1
            assert "name" in os.listdir(place.root)

    together(replace, look, look)


def test_directories_moving_into_each_other_make_no_loop(place: Place) -> None:
    a, b = place.dir("a"), place.dir("b")

    def swing(one: str, other: str) -> None:
        for _ in range(150):
            try:
                os.rename(place.root / one, place.root / other / one)
            except OSError as exc:
                assert exc.errno in (errno.ENOENT, errno.EINVAL)
                continue
            os.rename(place.root / other / one, place.root / one)

    together(lambda: swing("a", "b"), lambda: swing("b", "a"))
    assert sorted(os.listdir(place.root)) == ["a", "b"] and os.listdir(a) == os.listdir(b) == []
    assert place.root.stat().st_nlink == 4


def test_unlink_against_open(place: Place) -> None:
    """Who gets the file open can use it; who does not gets ENOENT, and nothing else."""
    path = place.root / "f"
    done = threading.Event()

    def churn() -> None:
        for number in range(200):
            place.file("new", b"%07d" % number).rename(path)
            path.unlink()
        done.set()

    def use() -> None:
        while not done.is_set():
            try:
                descriptor = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue
            try:
                assert len(os.pread(descriptor, 100, 0)) in (7, 11)
                os.pwrite(descriptor, b"more", 7)
                assert os.fstat(descriptor).st_size == 11
            finally:
                os.close(descriptor)

    together(churn, use, use)
    assert os.listdir(place.root) in ([], ["f"])


def test_unlink_and_replacement_under_readers(file: FileCase) -> None:
    """Who has the old file open reads the old file to its end, fetched or not."""
    opened_all = threading.Barrier(4)

    def read() -> None:
        with opened(file.path, os.O_RDONLY) as descriptor:
            opened_all.wait()
            assert b"".join(os.pread(descriptor, 65536, offset) for offset in range(0, SIZE, 65536)) == CONTENT

    def replace() -> None:
        opened_all.wait()
        new = file.path.with_name("new")
        new.write_bytes(b"new")
        new.rename(file.path)
        file.path.unlink()
        file.path.write_bytes(b"newest")

    together(read, read, read, replace)
    assert file.path.read_bytes() == b"newest"


def test_creators_of_one_name(place: Place) -> None:
    """O_EXCL: of several, one wins; each round of locks by file, mkdir and link."""
    for number in range(50):
        winners: list[str] = []

        def attempt(call: Callable[[], object], name: str, winners: list[str] = winners) -> None:
            try:
                call()
                winners.append(name)
            except FileExistsError:
                return

        path = place.root / f"lock{number}"
        source = place.file("source")
        together(
            lambda path=path: attempt(lambda: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)), "open"),
            lambda path=path: attempt(path.mkdir, "mkdir"),
            lambda path=path, source=source: attempt(lambda: os.link(source, path), "link"),
        )
        assert len(winners) == 1


def test_export_against_writes(place: Place) -> None:
    """While a file is rewritten again and again, the bucket only ever has content that some close ended."""
    if place.setting != LINKED:
        pytest.skip("about exports")
    here = place.mount()
    path = place.root / "f"
    key = f"one/{place.root.name}/f"
    choice = random.Random(7)
    seen = set()
    for number in range(30):
        size = choice.randrange(100_000, 3 * MIB)
        with opened(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY) as descriptor:
            left = size
            while left:
                left -= os.write(descriptor, bytes([65 + number % 26]) * min(left, 200_000))
        if number % 4 == 0:
            here.drain(path)
        if key in here.keys(key):
            body = here.body(key)
            assert len(set(body)) == 1 and len(body) >= 100_000
            seen.add(body[:1])
    here.drain(path)
    body = here.body(key)
    assert body == bytes([65 + 29 % 26]) * size and len(seen) > 3


def test_readers_of_one_cold_block_share_one_fetch(file: FileCase) -> None:
    if file.setting not in IMPORTED:
        pytest.skip("about imported files")
    assert file.site is not None
    before = file.site.status()["hydration"]["bytes"]
    already = file.resident_bytes()

    def read() -> None:
        assert file.path.read_bytes() == CONTENT

    together(*[read] * 8)
    assert file.site.status()["hydration"]["bytes"] - before == SIZE - already
