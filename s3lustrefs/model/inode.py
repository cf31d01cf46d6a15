"""Inode: one file-system object as the inode table holds it."""

from __future__ import annotations

import copy
import stat
from dataclasses import dataclass
from enum import IntFlag

from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import NO_ASSOC, NO_INO, AssocId, ContentVersion, Ino


class InodeFlag(IntFlag):
    """What the table remembers of an inode beside its HSM flags."""

    NONE = 0
    HEADERS_UNKNOWN = 0x01
    """Listed but never asked for its POSIX headers: no permission may be shown or enforced from this record."""
    PARTIAL = 0x02
    """Some bytes are not resident; which ones are is in the residency table (no record: none)."""
    KIND_UNKNOWN = 0x04
    """Small enough to be a symlink; only its headers can tell (implies HEADERS_UNKNOWN)."""
    EXCLUDED = 0x08
    """Changed here, and the export policy keeps the change local."""
    SPARSE = 0x10
    """Was made longer than what was written: bytes that no chunk file has are zeros. Without it they are missing."""
    DAMAGED = 0x20
    """Bytes which existed only here are gone, as fsck or a conflict found: what is not resident can be read nowhere."""
    WRITTEN_OFF = 0x40
    """Somebody said that the archive lost it (LOST, by `lfs hsm_set`): what is not resident is not even asked for."""
    UNLISTED = 0x80
    """A directory of a file cache that the bucket may have names in which are not here: nobody has looked into it yet."""


@dataclass(slots=True)
class Inode:
    """One inode. Mutable, but a fresh decode per call: a change counts only once it is written back in a transaction.

    Times are ns since the epoch. `parent` and `name` are the primary name (further hard links are in the links table);
    an orphan has parent 0. `source_assoc` and `source_key` name the object that holds the archived content; they
    follow the object, not the path, so that a rename costs nothing until the exporter catches up.
    """

    ino: Ino
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    rdev: int = 0
    parent: Ino = NO_INO
    name: bytes = b""
    hsm: Hsm = Hsm.NONE
    flags: InodeFlag = InodeFlag.NONE
    content_version: ContentVersion = ContentVersion(0)
    chunk_bytes: int = 0
    source_assoc: AssocId = NO_ASSOC
    source_key: bytes = b""
    target: bytes = b""

    def copy(self) -> Inode:
        return copy.copy(self)

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_exportable(self) -> bool:
        """Only files, directories and symlinks are ever objects. Source: fsx-spec section 3.3."""
        return self.is_file or self.is_dir or self.is_symlink

    @property
    def is_dirty(self) -> bool:
        """Local content is newer than any archived copy (or there is no archived copy)."""
        return bool(self.hsm & Hsm.DIRTY) or not (self.source_assoc or self.is_left_behind)

    @property
    def is_left_behind(self) -> bool:
        """The bytes it lacks are in a bucket that no association leads to any more; `source_key` is then the object's URL."""
        return bool(self.flags & InodeFlag.PARTIAL and self.hsm & Hsm.LOST and not self.source_assoc)

    @property
    def is_complete(self) -> bool:
        """Every byte is resident."""
        return not self.flags & InodeFlag.PARTIAL

    def hsm_state(self) -> Hsm:
        """What `lfs hsm_state` shows: `released` is derived, and hidden while dirty, since Lustre knows no such state."""
        if self.flags & InodeFlag.PARTIAL and not self.hsm & Hsm.DIRTY and self.source_assoc:
            return self.hsm | Hsm.RELEASED
        return self.hsm & ~Hsm.RELEASED
