"""Small real file systems for tests: they fill up, turn read-only and go away like any other."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1 << 20


def _run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=60)


@contextmanager
def tmpfs(path: Path, mib: int) -> Iterator[Path]:
    """A file system in memory of that size."""
    path.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", path)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], capture_output=True, check=False, timeout=60)


@contextmanager
def ext4(folder: Path, mib: int, *, below: Path | None = None, options: str = "errors=remount-ro") -> Iterator[Path]:
    """An ext4 of that size on a file, in the directory `below`, which may be one that fails."""
    path, image = folder / "ext4", (below or folder) / "image"
    path.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(mib * MIB)
    _run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", "0", "-N", "4000", image)
    _run("mount", "-o", f"loop,{options}", image, path)
    try:
        # Loop devices take a request that was written in part for written: none may be larger than what fails as a whole.
        Path(f"/sys/block/{_device(path)}/queue/max_sectors_kb").write_text("64\n")
        yield path
    finally:
        subprocess.run(["umount", "-l", path], capture_output=True, check=False, timeout=60)


def turn_read_only(path: Path) -> None:
    """What ext4 does when it meets an error of its own, whoever has files open: `mount -o remount,ro` would be EBUSY."""
    Path(f"/sys/fs/ext4/{_device(path)}/trigger_fs_error").write_text("of the test\n")


def _device(path: Path) -> str:
    lines = Path("/proc/mounts").read_text().splitlines()
    return next(Path(line.split()[0]).name for line in lines if line.split()[1] == str(path))


def fill(path: Path, *, leave: int = 0) -> Path:
    """Take what room there is, but for `leave` bytes; the file that holds it."""
    filler = path / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
        if leave:
            file.truncate(file.tell() - leave)
    return filler
