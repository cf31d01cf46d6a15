"""What a listing brings: listed objects encoded for the table, what applying them did, and why some of them cannot show."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from s3lustrefs.meta import schema
from s3lustrefs.model.association import Association
from s3lustrefs.model.conflict import Conflict
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import AssocId, ContentVersion, Ino
from s3lustrefs.model.inode import Inode, InodeFlag

PATH_MAX = 4096
"""A symlink's target, and so its object, is shorter than this. Source: linux/limits.h."""
DIRECTORY_WINS = "a directory of this name exists"
RESERVED = "this name is taken by the losers of conflicts"
FILE_IN_THE_WAY = "a file that is open, changed here or has other names has the name of its directory"
SPECIAL_FILE_WINS = "a FIFO, socket or device of this name exists"
CLASHES = frozenset({DIRECTORY_WINS, FILE_IN_THE_WAY, SPECIAL_FILE_WINS, RESERVED})
"""Reasons why a key does not show although it is a good path."""
MARKER_HAS_CONTENT = "it has content, which a directory cannot show"

PreparedEntry = tuple[bytes, bytes, bytes]
"""(name, inode value without parent, object value without ino): see `preparer`."""


def preparer_options(association: Association) -> dict[str, str | int | bool]:
    """What `preparer` needs to know, as JSON can carry it to the listing process."""
    return {
        "assoc_id": association.assoc_id,
        "prefix": association.prefix,
        "mode": stat.S_IFREG | association.file_mode,
        "uid": association.uid,
        "gid": association.gid,
        "chunk_bytes": association.chunk_bytes,
        "headers": association.posix_metadata != "off",
    }


def preparer(
    *, assoc_id: int, prefix: str, mode: int, uid: int, gid: int, chunk_bytes: int, headers: bool
) -> Callable[[bytes, bytes, int, bytes, int, bytes], PreparedEntry]:
    """Encoder of listed objects as table values; runs in the listing process, off the daemon's core."""
    prefix_bytes = prefix.encode()
    inode = Inode(
        Ino(0), mode, uid, gid, 1, 0, 0, 0, 0, hsm=Hsm.EXISTS | Hsm.ARCHIVED, content_version=ContentVersion(1),
        chunk_bytes=chunk_bytes, source_assoc=AssocId(assoc_id),
    )  # fmt: skip
    unknown = int(InodeFlag.HEADERS_UNKNOWN) if headers else 0
    unknown_kind = unknown | int(InodeFlag.KIND_UNKNOWN) if headers else 0
    partial = int(InodeFlag.PARTIAL)

    def prepare(relative: bytes, name: bytes, size: int, etag: bytes, mtime_ns: int, storage_class: bytes) -> PreparedEntry:
        key = prefix_bytes + relative
        flags = ((unknown_kind if size < PATH_MAX else unknown) | partial) if size else unknown
        inode.flags = flags  # type: ignore[assignment]  # a plain int packs the same and costs nothing
        inode.name = name
        inode.size = size
        inode.atime_ns = inode.mtime_ns = inode.ctime_ns = mtime_ns
        inode.source_key = key
        return name, schema.inode_tail(inode), schema.object_tail(etag, size, mtime_ns, storage_class, b"", schema.long_key(key))

    return prepare


@dataclass(slots=True)
class Applied:
    """What one batch did, for progress and for the kernel's caches."""

    new: int = 0
    changed: list[Ino] = field(default_factory=list)
    replaced: list[tuple[Ino, bytes]] = field(default_factory=list)
    """Dentries that name something else now, or perhaps another kind of file."""
    removed: int = 0
    """Inodes that are gone."""
    made: set[Ino] = field(default_factory=set)
    """New directories."""
    grown: set[Ino] = field(default_factory=set)
    """Older inodes whose link count is another: directories that got new ones, files that lost a name to a new one."""
    appeared: list[tuple[Ino, bytes]] = field(default_factory=list)
    """Of a sweep: new names, which the kernel may remember as absent."""
    outdated: list[Inode] = field(default_factory=list)
    """Changed or removed files as they were before: their bytes are of no more use."""
    conflicts: list[Conflict] = field(default_factory=list)
    skipped: list[tuple[bytes, str]] = field(default_factory=list)
    """Keys (relative to the prefix) that are newly noted as not showing, with the reason."""
    doubted: list[Inode] = field(default_factory=list)
    """Of a sweep: whose object was written anew with the same bytes: its attributes are to be asked for again."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is different when an association is listed again: the events to act on, and objects (by table key) that
    changed here since the listing began, of which it may tell an old story."""

    events: frozenset[str]
    touched: set[bytes]
    is_told: bool = False
    """Of events: what is put is noted as touched for sweeps under way, whose listing may be older than the event."""
    is_certain: bool = False
    """The answer to a HEAD by the exporter, who has no request under way to that key."""
    new_since_ns: int = 0
    """Objects that nobody knew are new only if they are younger."""
    overtaken: set[bytes] = field(default_factory=set)
    """Filled in: objects (by table key) that were left alone because they are among the touched."""
