"""FIFOs, sockets and device nodes; statfs."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading

import pytest

from tests.posix.calls import fails, opened
from tests.posix.conftest import LINKED, Place


def test_fifo_carries_bytes(place: Place) -> None:
    path = place.root / "p"
    os.mkfifo(path, 0o640)
    assert stat.S_ISFIFO(path.stat().st_mode) and path.stat().st_mode & 0o777 == 0o640
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(path.read_bytes()))
    reader.start()
    path.write_bytes(b"through the pipe")
    reader.join()
    assert received == [b"through the pipe"]
    with fails(errno.ENXIO):
        os.open(path, os.O_WRONLY | os.O_NONBLOCK)


def test_socket_can_be_connected_to(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.root)  # the address has room for 108 bytes
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("s")
        assert stat.S_ISSOCK(os.stat("s").st_mode)
        server.listen()
        client.connect("s")
        connection, _ = server.accept()
        with connection:
            client.sendall(b"hello")
            assert connection.recv(5) == b"hello"
        with fails(errno.ENXIO):
            os.open("s", os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as second, fails(errno.EADDRINUSE):
            second.bind("s")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK], ids=["char", "block"])
def test_device_nodes_keep_their_number(place: Place, kind: int) -> None:
    path = place.root / "dev"
    os.mknod(path, kind | 0o600, os.makedev(259, 70_000))
    found = path.stat()
    assert stat.S_IFMT(found.st_mode) == kind and found.st_rdev == os.makedev(259, 70_000) and found.st_size == 0
    path.unlink()


def test_plain_file_by_mknod(place: Place) -> None:
    path = place.root / "f"
    os.mknod(path, stat.S_IFREG | 0o640)
    assert path.stat().st_mode == stat.S_IFREG | 0o640 and path.read_bytes() == b""
    path.write_bytes(b"x")
    assert path.read_bytes() == b"x"


def test_special_files_never_reach_the_bucket(place: Place) -> None:
    if place.setting != LINKED:
        pytest.skip("about exports")
    here = place.mount()
    os.mkfifo(place.root / "p")
    with socket.socket(socket.AF_UNIX) as server:
        before = os.getcwd()
        os.chdir(place.root)
        server.bind("s")
        os.chdir(before)
    os.mknod(place.root / "c", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    for name in "psc":
        (place.root / name).chmod(0o644)
        (place.root / name).rename(place.root / f"{name}2")
        os.link(place.root / f"{name}2", place.root / f"{name}3")
    place.file()
    here.drain()
    assert [key for key in here.keys(f"one/{place.root.name}/") if not key.endswith("/")] == [f"one/{place.root.name}/f"]
    assert sorted(os.listdir(place.root)) == ["c2", "c3", "f", "p2", "p3", "s2", "s3"]
    os.rename(place.root / "p2", place.root / "f")
    here.drain()
    assert here.keys(f"one/{place.root.name}/") == [f"one/{place.root.name}/"], "the file is gone, and a pipe is no object"


def test_statfs_means_something(place: Place) -> None:
    path = place.file("big", os.urandom(1 << 16))
    for found in (os.statvfs(place.root), os.statvfs(path)):
        assert found.f_namemax == 255 and found.f_frsize in (512, 1024, 4096) and found.f_bsize >= found.f_frsize
        assert 0 < found.f_bavail <= found.f_bfree < found.f_blocks
        assert 0 < found.f_favail <= found.f_ffree < found.f_files
    with opened(path, os.O_RDONLY) as descriptor:
        assert os.fstatvfs(descriptor).f_blocks == os.statvfs(place.root).f_blocks


def test_statfs_follows_what_happens(place: Place) -> None:
    if place.is_reference:
        pytest.skip("others use that file system too")
    here = place.mount()
    before = os.statvfs(place.root)
    place.dir()
    place.file("big", os.urandom(32 << 20))
    after = os.statvfs(place.root)
    assert before.f_ffree - after.f_ffree == 2
    assert before.f_blocks * before.f_frsize == here.status()["cache"]["capacity_bytes"]
    (place.root / "big").unlink()
    assert os.statvfs(place.root).f_ffree == after.f_ffree + 1
