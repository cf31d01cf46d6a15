"""POSIX attributes in user metadata, as FSx for Lustre and S3 Files write and read them.

Source: FSx for Lustre User Guide, "POSIX metadata support for data repositories".
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass

PERMISSIONS = "file-permissions"
OWNER = "file-owner"
GROUP = "file-group"
ATIME = "file-atime"
MTIME = "file-mtime"
USER_AGENT = "user-agent"

OURS = frozenset({PERMISSIONS, OWNER, GROUP, ATIME, MTIME, USER_AGENT})

AGENT = "aws-fsx-lustre"
"""What FSx writes; its own importer, S3 Files and others know the format by it."""

_MODE = re.compile(r"[0-7]{1,7}")
_NUMBER = re.compile(r"[0-9]{1,10}")
_TIME = re.compile(r"(-?[0-9]{1,19})(ns)?")
_KEPT_BITS = 0o3777
_MAX_ID = 0xFFFF_FFFE
"""(uid_t) -1 means "no change" to chown(2) and is nobody's number."""


@dataclass(frozen=True, slots=True)
class PosixHeaders:
    """What the metadata of an object says; None where it says nothing, or nothing that can be read.

    `permissions` are the low 12 bits. The set-user-ID bit is always dropped: an object must not become a program of another
    user's. Set-group-ID and sticky bits are kept, as FSx does now (before 2022 it dropped set-group-ID too): directories need them.
    """

    permissions: int | None = None
    is_symlink: bool = False
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None

    def mode(self, key: bytes, file_mode: int, dir_mode: int) -> int:
        """The st_mode of the object of this key; the two modes are permissions to take where the metadata has none.

        A trailing slash decides that it is a directory, whatever the type bits say. Symlinks are known by their type bits.
        """
        if key.endswith(b"/"):
            return stat.S_IFDIR | (dir_mode if self.permissions is None else self.permissions)
        kind = stat.S_IFLNK if self.is_symlink else stat.S_IFREG
        return kind | (file_mode if self.permissions is None else self.permissions)


def encode(mode: int, uid: int, gid: int, atime_ns: int, mtime_ns: int) -> dict[str, str]:
    """Metadata of an object for these attributes; `mode` includes the type bits, times are ns since the epoch."""
    return {
        PERMISSIONS: f"0{mode:o}",
        OWNER: str(uid),
        GROUP: str(gid),
        ATIME: f"{atime_ns}ns",
        MTIME: f"{mtime_ns}ns",
        USER_AGENT: AGENT,
    }


def decode(metadata: Mapping[str, str]) -> PosixHeaders:
    """What metadata (lower-case names) says. A value that cannot be read counts as absent; the others still count."""
    mode = _integer(_MODE, metadata.get(PERMISSIONS, ""), 8)
    return PosixHeaders(
        permissions=None if mode is None else mode & _KEPT_BITS,
        is_symlink=mode is not None and stat.S_ISLNK(mode),
        uid=_owner(metadata.get(OWNER, "")),
        gid=_owner(metadata.get(GROUP, "")),
        atime_ns=_time_ns(metadata.get(ATIME, "")),
        mtime_ns=_time_ns(metadata.get(MTIME, "")),
    )


def foreign(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata that is not ours and must survive a rewrite of the object."""
    return {name: value for name, value in metadata.items() if name not in OURS}


def _integer(form: re.Pattern[str], text: str, base: int) -> int | None:
    return int(text, base) if form.fullmatch(text.strip()) else None


def _owner(text: str) -> int | None:
    number = _integer(_NUMBER, text, 10)
    return number if number is not None and number <= _MAX_ID else None


def _time_ns(text: str) -> int | None:
    """`NNNns` is nanoseconds, a bare number milliseconds. Times a 64-bit count of ns cannot hold are none."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        return None
    value = int(found[1]) * (1 if found[2] else 1_000_000)
    return value if -(1 << 63) <= value < 1 << 63 else None
