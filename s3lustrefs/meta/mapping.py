"""Mapping: gives the pages of LMDB's memory map back to the page cache.

Every page of the table that was ever read stays mapped and counts as resident memory of the daemon, 240 MB after a million
imported objects, although the page cache holds it anyway. Unmapping costs nothing but a soft page fault at the next access.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
from pathlib import Path

log = logging.getLogger(__name__)

_MADV_DONTNEED = 4
_LIMIT_BYTES = 64 << 20
"""Resident file pages of the process (shared libraries included, some 30 MB) above which the map is trimmed."""
_RANGE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Mapping:
    """The shared, file-backed mapping of one file in this process. Source: madvise(2), MADV_DONTNEED of shared mappings."""

    def __init__(self, path: Path) -> None:
        self._ranges = _ranges(path)

    def trim(self) -> None:
        """Unmap all pages if the process has many resident file pages. Safe at any time: the content is the file's."""
        if _resident_file_bytes() < _LIMIT_BYTES:
            return
        for start, end in self._ranges:
            if _libc.madvise(start, end - start, _MADV_DONTNEED):
                log.warning("memory map not trimmed errno=%d", ctypes.get_errno())


def _resident_file_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")


def _ranges(path: Path) -> list[tuple[int, int]]:
    wanted = str(path.resolve())
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        match = _RANGE.match(line)
        if match and line.endswith(wanted) and " rw" not in line[:40]:
            found.append((int(match[1], 16), int(match[2], 16)))
    return found
