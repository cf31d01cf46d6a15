"""What a daemon costs, as the kernel counts it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """Of one process so far, or now."""

    cpu_seconds: float
    threads: int
    resident_bytes: int
    sockets: int
    files: int


def cost_of(pid: int) -> Cost:
    """Source: man 5 proc, "/proc/pid/stat": utime and stime are fields 14 and 15, counted behind the name."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    links = [_link(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    sockets = sum(1 for link in links if link.startswith("socket:"))
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return Cost(
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
        threads=int(status["Threads"]),
        resident_bytes=int(status["VmRSS"].split()[0]) * 1024,
        sockets=sockets,
        files=len(links) - sockets,
    )


def _link(entry: Path) -> str:
    try:
        return os.readlink(entry)
    except FileNotFoundError:  # closed meanwhile
        return ""
