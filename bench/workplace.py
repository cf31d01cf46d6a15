"""Where one run works: scratch directories, child processes that end with it, and what the kernel says of a process."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Workplace:
    """`disk` is where state and chunk files go; `memory` is a tmpfs for what servers serve. `quick`: small sizes, few repeats."""

    disk: Path
    memory: Path
    quick: bool

    def directory(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.disk))

    def sized(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@contextlib.contextmanager
def workplace(scratch: Path, quick: bool) -> Iterator[Workplace]:
    disk = Path(tempfile.mkdtemp(prefix="s3lustrefs-bench-", dir=scratch))
    memory = Path(tempfile.mkdtemp(prefix="s3lustrefs-bench-", dir=SHM))
    try:
        yield Workplace(disk, memory, quick)
    finally:
        shutil.rmtree(memory)
        shutil.rmtree(disk)


@contextlib.contextmanager
def child(command: Sequence[str | Path], seconds: float = 20.0, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that gets SIGTERM at the end, and SIGKILL when it is still there `seconds` later."""
    process = subprocess.Popen(command, cwd=ROOT, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def load(*arguments: str | Path | int, environment: Mapping[str, str] | None = None) -> float:
    """Run one program of `bench.load` in a process of its own; how many seconds its work took."""
    command = [sys.executable, "-m", "bench.load", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, env={**os.environ, **(environment or {})})
    return float(done.stdout)


def drop_caches() -> None:
    """Empty the kernel's page cache, dentries and inodes, dirty pages written first. Needs root."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def memory_of(pid: int) -> dict[str, float]:
    """VmRSS, VmHWM, RssAnon, RssFile of a process, in MB."""
    wanted = ("VmRSS", "VmHWM", "RssAnon", "RssFile")
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0][:-1]: int(words[1]) * 1024 / 1e6 for words in lines if words[0][:-1] in wanted}


def tail(file: IO[bytes], size: int = 2000) -> str:
    """The end of a log."""
    file.flush()
    return Path(file.name).read_bytes()[-size:].decode(errors="replace")
