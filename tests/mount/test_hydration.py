"""Reading: only what is asked for is fetched, once, never mixed, and nobody waits who need not."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import WAIT_SECONDS, Site, ended
from tests.mount.test_export_scale import wait_until

MIB = 1 << 20
BODY = b"".join(bytes([number]) * MIB for number in range(20))


def read_at(path: Path, offset: int, size: int) -> bytes:
    """One read of just that much: the kernel's own readahead kept out of it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            os.lseek(descriptor, offset, os.SEEK_SET)
            buffer = bytearray(size)
            count = file.readinto(buffer)
            return bytes(buffer[:count])
    finally:
        os.close(descriptor)


def test_one_byte_in_the_middle_fetches_one_block(here: Site, proxy: BackgroundProxy) -> None:
    here.put("p/big", BODY)
    here.mount()
    mark = proxy.mark()
    assert read_at(here.root / "big", 10 * MIB + 5, 1) == b"\x0a"
    assert here.about("big")["resident_bytes"] == MIB
    assert len(proxy.content_gets(mark)) == 1
    assert here.hsm("big") == "(0x0000000d) released exists archived, archive_id:1"
    assert (here.root / "big").stat().st_blocks == 1


def test_buffered_read_in_the_middle_fetches_a_few_blocks(here: Site) -> None:
    here.put("p/big", BODY)
    here.mount()
    with open(here.root / "big", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 1, 10 * MIB + 5) == b"\x0a"
    assert MIB <= here.about("big")["resident_bytes"] <= 6 * MIB


def test_sequential_reading_fetches_ahead_and_each_block_once(here: Site, proxy: BackgroundProxy) -> None:
    here.put("p/big", BODY)
    here.mount()
    mark = proxy.mark()
    assert (here.root / "big").read_bytes() == BODY
    assert here.status()["hydration"]["bytes"] == len(BODY)
    assert len(proxy.content_gets(mark)) < 20
    assert here.hsm("big") == "(0x00000009) exists archived, archive_id:1"
    assert (here.root / "big").stat().st_blocks == len(BODY) // 512


def test_chunks_spread_over_the_storage_targets(make_site: Callable[..., Site]) -> None:
    here = make_site()
    targets = [here.scratch / f"target{number}" for number in range(3)]
    here.options |= {"cache_dir": ":".join(map(str, targets)), "imported_file_chunk_size": "1"}
    body = BODY[: 6 * MIB + 100]
    here.put("p/big", body)
    here.mount()
    assert (here.root / "big").read_bytes() == body
    held = [sum(f.stat().st_blocks * 512 for f in target.rglob("*") if f.is_file()) for target in targets]
    assert sorted(round(each / MIB) for each in held) == [2, 2, 2]
    here.unmount()
    here.mount()
    assert (here.root / "big").read_bytes() == body


def test_cold_program_can_be_executed(here: Site) -> None:
    program = Path("/bin/true").read_bytes()
    here.put("p/program", program, Metadata={"file-permissions": "0100755", "file-owner": "0", "file-group": "0"})
    here.mount()
    here.run(here.root / "program")


def test_cold_file_can_be_mapped(here: Site) -> None:
    here.put("p/big", BODY)
    here.mount()
    program = (
        "import mmap, sys; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); print(m[-1], m[7 << 20])"
    )
    assert here.run(sys.executable, "-c", program, here.root / "big").stdout.split() == ["19", "7"]


def test_parallel_readers_share_each_get(here: Site, proxy: BackgroundProxy) -> None:
    body = BODY[: 8 * MIB]
    here.put("p/big", body)
    here.mount()
    mark = proxy.mark()
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: (here.root / "big").read_bytes(), range(16)))
    assert all(each == body for each in found)
    assert here.status()["hydration"]["bytes"] == len(body)
    assert len(proxy.content_gets(mark)) <= 8


def test_object_changed_under_a_reader_is_estale_and_never_spliced(here: Site) -> None:
    here.expected_log.append("errno=ESTALE")
    old, new = BODY, b"n" * (20 * MIB)
    here.put("p/big", old)
    here.mount()
    descriptor = os.open(here.root / "big", os.O_RDONLY | os.O_DIRECT)
    try:
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            assert file.read(MIB) == old[:MIB]
            here.put("p/big", new)
            os.lseek(descriptor, 15 * MIB, os.SEEK_SET)
            with pytest.raises(OSError) as caught:
                file.read(MIB)
            assert caught.value.errno == errno.ESTALE
            os.lseek(descriptor, 0, os.SEEK_SET)
            with pytest.raises(OSError) as caught:
                file.read(MIB)
            assert caught.value.errno == errno.ESTALE
    finally:
        os.close(descriptor)
    assert (here.root / "big").read_bytes() == new


def test_reader_through_the_page_cache_gets_nothing_of_the_next_version(here: Site) -> None:
    here.expected_log.append("errno=ESTALE")
    new = os.urandom(len(BODY))
    here.put("p/big", BODY)
    here.mount()
    path = here.root / "big"
    descriptor = os.open(path, os.O_RDONLY)
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapped:
        assert os.pread(descriptor, MIB, 0) == BODY[:MIB] == mapped[:MIB]
        here.put("p/big", new)
        here.cli("refresh", path)
        assert path.read_bytes() == new and path.stat().st_size == len(new)
        for offset in (15 * MIB, 0):
            with pytest.raises(OSError) as caught:
                os.pread(descriptor, MIB, offset)
            assert caught.value.errno in (errno.EIO, errno.ESTALE)
        with open(path, "r+b") as latest, ThreadPoolExecutor(16) as pool:  # what is open of the new version stays good
            assert set(pool.map(lambda _: path.read_bytes() == new, range(64))) == {True}
            latest.write(b"changed here")
            latest.flush()
            assert path.read_bytes() == b"changed here" + new[12:]
            path.write_bytes(b"all of it")
            assert path.read_bytes() == b"all of it" == os.pread(latest.fileno(), 100, 0)
    with contextlib.suppress(OSError):
        os.close(descriptor)  # tells of it once more
    assert path.read_bytes() == b"all of it"
    here.drain()
    assert here.body("p/big") == b"all of it"
    path.unlink()
    deadline = time.monotonic() + WAIT_SECONDS
    while here.status()["cache"]["used_bytes"]:  # a handle that was never given back would keep it
        assert time.monotonic() < deadline
    here.unmount()


def test_object_replaced_by_a_shorter_one(here: Site) -> None:
    here.expected_log.append("errno=ESTALE")
    here.put("p/file", b"the first version")
    here.mount()
    here.put("p/file", b"second")
    with pytest.raises(OSError) as caught:
        (here.root / "file").read_bytes()
    assert caught.value.errno == errno.ESTALE
    assert (here.root / "file").read_bytes() == b"second"
    assert (here.root / "file").stat().st_size == 6


def test_reader_killed_while_the_bucket_stalls_dies_and_others_go_on(here: Site, proxy: BackgroundProxy) -> None:
    here.put("p/stalled", BODY)
    here.put("p/fine", b"fine")
    here.mount()
    here.expected_log.append("fetch failed")
    proxy.add("stall:100", method="GET", path="/p/stalled", times=10**6)
    readers = [subprocess.Popen(["cat", str(here.root / "stalled")], stdout=subprocess.DEVNULL) for _ in range(8)]
    proxy.wait_held()
    assert (here.root / "fine").read_bytes() == b"fine"
    (here.root / "new").write_bytes(b"new")
    assert sorted(os.listdir(here.root)) == ["fine", "new", "stalled"]
    for reader in readers:
        assert reader.poll() is None
        reader.send_signal(signal.SIGKILL)
    for reader in readers:
        assert reader.wait(20) == -signal.SIGKILL
    here.drain()
    assert here.body("p/new") == b"new"


@pytest.mark.parametrize("way", ["SIGTERM", "umount -l"])
def test_mount_ends_at_once_although_readers_wait_for_a_stalled_bucket(here: Site, proxy: BackgroundProxy, way: str) -> None:
    here.put("p/stalled", BODY)
    here.mount()
    here.expected_log.append("fetch failed")
    proxy.add("stall:100", method="GET", path="/p/stalled", times=10**6)
    reader = subprocess.Popen(["cat", str(here.root / "stalled")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    proxy.wait_held()
    pid = here.note_daemon()
    with ended(pid):
        if way == "SIGTERM":
            os.kill(pid, signal.SIGTERM)
        else:
            reader.kill()
            here.run("umount", "-l", here.root)
    reader.wait(20)
    assert not here.is_mounted()
    here.mount()


def test_interrupted_fetch_is_finished_for_the_next_reader(here: Site, proxy: BackgroundProxy) -> None:
    here.put("p/file", b"z" * 5000)
    here.mount()
    here.expected_log.append("fetch failed")
    for action in ("truncate:100", "slowdown", "reset", "internal"):
        proxy.add(action, method="GET", path="/p/file")
    assert (here.root / "file").read_bytes() == b"z" * 5000


def test_deleted_object_is_eio_and_why_tells(here: Site) -> None:
    here.put("p/file", b"content")
    here.mount()
    here.expected_log.append("errno=EIO")
    here.s3.delete_object(Bucket=here.bucket, Key="p/file")
    with pytest.raises(OSError) as caught:
        (here.root / "file").read_bytes()
    assert caught.value.errno == errno.EIO
    lines = "\n".join(here.why("file")["lines"])
    assert "the object is gone from the bucket" in lines
    assert "lost" in here.hsm("file")


def test_archived_storage_class_is_enodata(here: Site) -> None:
    here.put("p/file", b"content", StorageClass="GLACIER")
    here.mount()
    here.expected_log.append("errno=ENODATA")
    with pytest.raises(OSError) as caught:
        (here.root / "file").read_bytes()
    assert caught.value.errno == errno.ENODATA
    assert here.about("file")["storage_class"] == "GLACIER"


def test_denied_is_eacces(here: Site, proxy: BackgroundProxy) -> None:
    here.put("p/file", b"content")
    here.mount()
    here.expected_log.append("errno=EACCES")
    (here.root / "file").stat()
    proxy.add("denied", method="GET", path="/p/file", times=10**6)
    with pytest.raises(OSError) as caught:
        (here.root / "file").read_bytes()
    assert caught.value.errno == errno.EACCES
    proxy.clear_faults()
    assert (here.root / "file").read_bytes() == b"content"


def test_a_reader_that_joined_an_export_is_served_though_a_writer_interrupts_that(here: Site, proxy: BackgroundProxy) -> None:
    body = os.urandom(2 * MIB)
    here.put("p/f", body)
    here.mount()
    with open(here.root / "f", "r+b", buffering=0) as file:
        file.write(b"#" * 4096)
        proxy.add("hold", method="GET", path="/p/f")
    proxy.wait_held()  # the second block, for the export
    with ThreadPoolExecutor() as threads:
        reader = threads.submit(read_at, here.root / "f", MIB, 4096)
        wait_until(lambda: here.status()["hydration"]["waiting_readers"] == 2)
        with open(here.root / "f", "r+b", buffering=0) as file:
            file.write(b"+" * 10)
        proxy.clear_faults()
        assert reader.result() == body[MIB : MIB + 4096]
    here.drain()
    assert here.body("p/f") == b"+" * 10 + b"#" * 4086 + body[4096:]
