"""open(2), its flags, and what a descriptor then does."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.posix.calls import fails, opened
from tests.posix.conftest import CONTENT, FileCase, Place

SIZE = len(CONTENT)


def test_exclusive_creation(place: Place) -> None:
    path = place.root / "f"
    (place.root / "dangling").symlink_to("nowhere")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    os.close(os.open(path, flags, 0o640))
    assert path.stat().st_mode & 0o7777 == 0o640 & ~_umask()
    for name in ("f", "dangling"):
        with fails(errno.EEXIST):
            os.open(place.root / name, flags)
    assert not (place.root / "nowhere").exists()


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def test_created_without_permission_is_open_all_the_same(place: Place) -> None:
    with opened(place.root / "f", os.O_CREAT | os.O_RDWR, 0o000) as descriptor:
        os.write(descriptor, b"x")
        assert os.pread(descriptor, 1, 0) == b"x"
        assert os.fstat(descriptor).st_mode & 0o7777 == 0


def test_creation_of_what_exists_leaves_it_alone(file: FileCase) -> None:
    mode = file.path.stat().st_mode
    with opened(file.path, os.O_CREAT | os.O_RDWR, 0o400) as descriptor:
        assert os.fstat(descriptor).st_size == SIZE
    assert file.path.stat().st_mode == mode and file.path.read_bytes() == CONTENT


def test_append_writes_at_the_end_wherever_the_position_is(file: FileCase) -> None:
    with opened(file.path, os.O_RDWR | os.O_APPEND) as one, opened(file.path, os.O_WRONLY | os.O_APPEND) as two:
        os.lseek(one, 3, os.SEEK_SET)
        os.write(one, b"first")
        os.write(two, b"second")
        os.pwrite(one, b"third", 0)  # Linux appends here too, against POSIX: pwrite(2), BUGS
        assert os.pread(one, 100, SIZE) == b"firstsecondthird"
        assert os.lseek(one, 0, os.SEEK_CUR) == SIZE + 5
    assert file.path.read_bytes() == CONTENT + b"firstsecondthird"


@pytest.mark.parametrize("access", [os.O_RDWR, os.O_WRONLY, os.O_RDONLY], ids=["rdwr", "wronly", "rdonly"])
def test_truncating_open(file: FileCase, access: int) -> None:
    with opened(file.path, os.O_RDONLY) as before, opened(file.path, access | os.O_TRUNC) as descriptor:
        assert os.fstat(descriptor).st_size == os.fstat(before).st_size == 0
        assert os.pread(before, 10, 0) == b""
    assert file.path.stat().st_size == 0
    if file.site is not None:
        assert file.resident_bytes() == 0


def test_direct_io(file: FileCase) -> None:
    buffer = mmap.mmap(-1, 8192)
    with opened(file.path, os.O_RDWR | os.O_DIRECT) as descriptor:
        assert os.preadv(descriptor, [buffer], 4096) == 8192
        assert buffer[:] == CONTENT[4096:12288]
        buffer[:] = b"D" * 8192
        assert os.pwritev(descriptor, [buffer], 8192) == 8192
    assert file.path.read_bytes() == CONTENT[:8192] + b"D" * 8192 + CONTENT[16384:]


def test_direct_and_buffered_io_see_each_other(file: FileCase) -> None:
    buffer = mmap.mmap(-1, 4096)
    with opened(file.path, os.O_RDWR) as plain, opened(file.path, os.O_RDWR | os.O_DIRECT) as direct:
        assert os.pread(plain, 4096, 0) == CONTENT[:4096]
        buffer[:] = b"D" * 4096
        os.pwritev(direct, [buffer], 0)
        assert os.pread(plain, 4096, 0) == b"D" * 4096
        os.pwrite(plain, b"P" * 4096, 0)
        os.preadv(direct, [buffer], 0)
        assert buffer[:] == b"P" * 4096


def test_direct_descriptor_can_be_mapped(file: FileCase) -> None:
    with opened(file.path, os.O_RDWR | os.O_DIRECT) as descriptor, mmap.mmap(descriptor, SIZE) as mapped:
        assert mapped[:] == CONTENT
        mapped[:3] = b"abc"
        mapped.flush()
    assert file.path.read_bytes()[:4] == b"abc" + CONTENT[3:4]


def test_no_follow(place: Place) -> None:
    place.file()
    link = place.root / "l"
    link.symlink_to("f")
    with fails(errno.ELOOP):
        os.open(link, os.O_RDONLY | os.O_NOFOLLOW)
    os.close(os.open(place.root / "f", os.O_RDONLY | os.O_NOFOLLOW))


def test_path_descriptors(place: Place) -> None:
    path = place.file()
    link = place.root / "l"
    link.symlink_to("f")
    with opened(path, os.O_PATH) as descriptor:
        assert os.fstat(descriptor).st_ino == path.stat().st_ino
        with fails(errno.EBADF):
            os.read(descriptor, 1)
        assert Path(f"/proc/self/fd/{descriptor}").read_bytes() == b"content"
        path.unlink()
        assert os.fstat(descriptor).st_nlink == 0
        with open(f"/proc/self/fd/{descriptor}", "rb") as again:
            assert again.read() == b"content"
    with opened(link, os.O_PATH | os.O_NOFOLLOW) as descriptor:
        assert os.readlink("", dir_fd=descriptor) == "f"
    with opened(place.root, os.O_PATH | os.O_DIRECTORY) as descriptor:
        assert os.listdir(f"/proc/self/fd/{descriptor}") == ["l"]
        assert os.stat("l", dir_fd=descriptor, follow_symlinks=False).st_size == 1


def test_kinds_of_files_and_access_modes(place: Place) -> None:
    path = place.file()
    directory = place.dir()
    with fails(errno.ENOTDIR):
        os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_RDONLY | os.O_TRUNC):
        with fails(errno.EISDIR):
            os.open(directory, flags)
    with opened(path, os.O_WRONLY) as descriptor, fails(errno.EBADF):
        os.read(descriptor, 1)
    with opened(path, os.O_RDONLY) as descriptor, fails(errno.EBADF):
        os.write(descriptor, b"x")
    with opened(directory, os.O_RDONLY) as descriptor, fails(errno.EISDIR):
        os.read(descriptor, 1)
    with fails(errno.EISDIR):
        os.truncate(directory, 0)


def test_unnamed_temporary_file(place: Place) -> None:
    """FUSE has the request since protocol 7.37, pyfuse3 no handler for it; programs fall back to unlinking."""
    if not place.is_reference:
        with fails(errno.EOPNOTSUPP):
            os.open(place.root, os.O_TMPFILE | os.O_RDWR)
        return
    with opened(place.root, os.O_TMPFILE | os.O_RDWR) as descriptor:
        assert os.fstat(descriptor).st_nlink == 0


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC], ids=["sync", "dsync"])
def test_synchronous_writes(file: FileCase, flag: int) -> None:
    with opened(file.path, os.O_WRONLY | flag) as descriptor:
        assert os.write(descriptor, b"synchronous") == 11
        os.fsync(descriptor)
        os.fdatasync(descriptor)
    assert file.path.read_bytes() == b"synchronous" + CONTENT[11:]


def test_sync_of_a_directory(place: Place) -> None:
    place.file()
    with opened(place.root, os.O_RDONLY) as descriptor:
        os.fsync(descriptor)


def test_reads_at_and_past_the_end(file: FileCase) -> None:
    with opened(file.path, os.O_RDONLY) as descriptor:
        assert os.pread(descriptor, 100, SIZE - 10) == CONTENT[-10:]
        assert os.pread(descriptor, 100, SIZE) == os.pread(descriptor, 100, SIZE + 10**9) == b""
        assert os.lseek(descriptor, -1, os.SEEK_END) == SIZE - 1
        assert os.read(descriptor, 10) == CONTENT[-1:] and os.read(descriptor, 10) == b""
        with fails(errno.EINVAL):
            os.lseek(descriptor, -1, os.SEEK_SET)


def test_offsets_no_file_can_have(file: FileCase) -> None:
    with opened(file.path, os.O_RDWR) as descriptor:
        for call in (lambda: os.pwrite(descriptor, b"xx", (1 << 63) - 1), lambda: os.pwrite(descriptor, b"xx", -1)):
            with fails(errno.EFBIG, errno.EINVAL):
                call()
        with fails(errno.EINVAL):
            os.ftruncate(descriptor, -1)
    assert file.path.stat().st_size == SIZE


def test_zero_bytes_written_change_nothing(file: FileCase) -> None:
    before = file.path.stat()
    with opened(file.path, os.O_WRONLY) as descriptor:
        assert os.write(descriptor, b"") == 0
    after = file.path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ctime_ns) == (before.st_size, before.st_mtime_ns, before.st_ctime_ns)
    if file.site is not None and file.setting == "cold":
        assert file.resident_bytes() == 0


def test_opening_twice_gives_two_positions_and_dup_one(file: FileCase) -> None:
    with opened(file.path, os.O_RDONLY) as one, opened(file.path, os.O_RDONLY) as two:
        other = os.dup(one)
        assert os.read(one, 4) == CONTENT[:4] and os.read(other, 4) == CONTENT[4:8] and os.read(two, 4) == CONTENT[:4]
        os.close(other)


def test_running_program_cannot_be_written(place: Place) -> None:
    program = place.root / "sleep"
    shutil.copy(shutil.which("sleep") or "", program)
    with subprocess.Popen([program, "60"]) as process:
        try:
            with fails(errno.ETXTBSY):
                os.open(program, os.O_WRONLY)
        finally:
            process.kill()
    os.close(os.open(program, os.O_WRONLY))


def test_program_that_cannot_be_executed(place: Place) -> None:
    program = place.file("script", b"#!/bin/sh\nexit 7\n")
    program.chmod(0o644)
    with pytest.raises(PermissionError):
        subprocess.run([program], check=False)
    program.chmod(0o755)
    assert subprocess.run([program], check=False).returncode == 7


def test_copying_inside_the_kernel(file: FileCase) -> None:
    copy = file.path.with_name("copy")
    with opened(file.path, os.O_RDONLY) as source, opened(copy, os.O_CREAT | os.O_RDWR) as target:
        count = 0
        while count < SIZE:
            count += os.copy_file_range(source, target, SIZE - count)
        assert os.pread(target, SIZE, 0) == CONTENT
        assert os.sendfile(target, source, 0, 4096) == 4096
    assert copy.stat().st_size == SIZE + 4096


def test_vectors(file: FileCase) -> None:
    with opened(file.path, os.O_RDWR) as descriptor:
        assert os.pwritev(descriptor, [b"one", b"two"], 1) == 6
        parts = [bytearray(2), bytearray(6)]
        assert os.preadv(descriptor, parts, 0) == 8
        assert b"".join(parts) == CONTENT[:1] + b"onetwo" + CONTENT[7:8]


def test_small_write_into_a_file_keeps_the_rest(file: FileCase) -> None:
    with opened(file.path, os.O_WRONLY) as descriptor:
        os.pwrite(descriptor, b"MIDDLE", SIZE - 1000)
    expected = CONTENT[: SIZE - 1000] + b"MIDDLE" + CONTENT[SIZE - 994 :]
    assert file.path.read_bytes() == expected
