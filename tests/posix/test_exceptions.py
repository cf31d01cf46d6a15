"""What the README's table of exceptions says: each row names the test that shows it. Those with no better place are here."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount.conftest import fresh_bucket
from tests.mount.site import can_mount, site
from tests.posix.calls import fails, opened, statx_mask
from tests.posix.conftest import Place
from tests.servers import S3Server

ROOT = Path(__file__).parents[2]
FS_IOC_GETFLAGS = 0x80086601
STATX_BTIME = 0x800


def rows() -> list[list[str]]:
    table = (ROOT / "README.md").read_text().partition("### Exceptions")[2].partition("\n### ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_each_row_names_a_test_that_exists() -> None:
    assert len(rows()) >= 10
    for what, *_, shown_by in rows():
        (path, name), *_ = re.findall(r"`([\w/]+\.py)::(\w+)`", shown_by)
        assert f"def {name}(" in (ROOT / "tests" / path).read_text(), what


def test_inode_flags(place: Place) -> None:
    with opened(place.file(), os.O_RDONLY) as descriptor:
        if place.is_reference:
            assert len(fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, bytes(8))) == 8
            return
        with fails(errno.ENOTTY):
            fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, bytes(8))


def test_time_of_birth(place: Place) -> None:
    mask = statx_mask(place.file())
    assert mask & 0x7FF == 0x7FF, "everything else"
    assert bool(mask & STATX_BTIME) == place.is_reference


def test_no_privileges_by_default(place: Place) -> None:
    flags = os.statvfs(place.root).f_flag
    assert bool(flags & os.ST_NOSUID and flags & os.ST_NODEV) != place.is_reference
    if not place.is_reference and os.geteuid() == 0:
        os.mknod(place.root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        with fails(errno.EACCES):
            os.open(place.root / "null", os.O_RDONLY)


_HOLDER = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
os.unlink(sys.argv[1])
print("unlinked", flush=True)
sys.stdin.read()
try:
    os.pread(descriptor, 1, 0)
except OSError as exc:
    print(exc.errno, flush=True)
"""


@pytest.mark.skipif(not can_mount(), reason="mounting needs /dev/fuse and root")
def test_open_files_end_with_the_daemon(moto_server: S3Server) -> None:
    """Also those without a name: the next mount sweeps them."""
    with site(moto_server, fresh_bucket(moto_server)) as here:
        here.mount()
        path = here.root / "f"
        path.write_bytes(os.urandom(1 << 20))
        command = [sys.executable, "-c", _HOLDER, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stdin is not None
            assert process.stdout.readline() == "unlinked\n"
            assert _chunk_files(here.state_dir) != []
            here.kill_daemon()
            process.stdin.close()
            assert int(process.stdout.readline()) == errno.ENOTCONN
        here.mount()
        assert os.listdir(here.root) == [] and _chunk_files(here.state_dir) == []
        here.unmount()
        here.cli("fsck", here.state_dir)


def _chunk_files(state_dir: Path) -> list[Path]:
    return [path for path in (state_dir / "data" / "chunks").rglob("*") if path.is_file() and path.stat().st_blocks]
