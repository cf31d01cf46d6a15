"""File handles (name_to_handle_at, open_by_handle_at), which is what an NFS server works with."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.mount.site import Site
from tests.posix.calls import fails, name_to_handle, open_by_handle
from tests.posix.conftest import CONTENT, FileCase, Place

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_file_is_opened_by_handle(file: FileCase) -> None:
    handle = name_to_handle(file.path)
    file.path.rename(file.path.with_name("renamed"))
    descriptor = open_by_handle(file.path.parent, handle, os.O_RDWR)
    try:
        assert os.pread(descriptor, len(CONTENT), 0) == CONTENT
    finally:
        os.close(descriptor)


def test_directory_is_opened_by_handle(place: Place) -> None:
    path = place.dir()
    (path / "f").touch()
    descriptor = open_by_handle(place.root, name_to_handle(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert os.listdir(descriptor) == ["f"]
        assert os.stat("..", dir_fd=descriptor).st_ino == place.root.stat().st_ino
    finally:
        os.close(descriptor)


def test_handle_of_what_is_gone_is_stale(place: Place) -> None:
    path = place.file()
    handle = name_to_handle(path)
    path.unlink()
    place.file()
    with fails(errno.ESTALE):
        open_by_handle(place.root, handle, os.O_RDONLY)


def test_handle_outlives_the_daemon(tmp_path: Path, mounted: Site) -> None:
    """Inode numbers are never used again, so handles stay right over unmounting and mounting again."""
    path = mounted.root / "local" / "by-handle"
    path.write_bytes(b"content")
    handle = name_to_handle(path)
    mounted.drain()
    mounted.unmount()
    mounted.mount()
    descriptor = open_by_handle(mounted.root, handle, os.O_RDONLY)
    try:
        assert os.read(descriptor, 100) == b"content"
    finally:
        os.close(descriptor)
