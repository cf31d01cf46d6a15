"""Authoritative layout of every table: keys, values, byte order, sentinels.

All integers are big-endian, so that keys sort as numbers do. Times are ns since the epoch. Keys are at most 511 bytes
(LMDB's limit); `object_key` says what happens to longer object keys.

| table        | key                         | value                                                   | written by         |
|--------------|-----------------------------|---------------------------------------------------------|--------------------|
| SUPER        | name                        | format version, next ino, log position, boot id, flags  | store, engine      |
| SUPER        | `fsx/`, kind, name          | JSON: what the FSx API alone knows                      | control_, task_records |
| SUPER        | `fsx/deleted/`, path        | fingerprint of the configured link that the API deleted | associations       |
| INODES       | ino u64                     | parent u64, fixed part, name, source key, target        | namespace, listing |
| DENTRIES     | parent u64, name            | ino u64                                                 | namespace, listing |
| LINKS        | ino u64, parent u64, name   | empty; every name of a file beside its primary one      | namespace          |
| XATTRS       | ino u64, name               | value                                                   | namespace          |
| ORPHANS      | ino u64                     | empty; unlinked, kept while open                        | namespace          |
| RESIDENCY    | ino u64                     | content version u32, extents (data/residency)           | residency_table    |
| OBJECTS      | assoc u16, object key       | what the bucket holds there, as last seen; see below    | journal, listing   |
| JOURNAL      | `I` ino, or `K` object key  | why and since when this must be exported                | journal            |
| ASSOCIATIONS | assoc u16                   | JSON of model.association.Association                   | engine             |
| SKIPPED      | assoc u16, object key       | reason, and the key where it was cut                    | listing            |
| WRITES       | assoc u16, object key       | JSON: what requests without an answer may have written  | writes             |
| DAMAGE       | ino u64, content version u32 | why bytes of that content never reached the disk       | damage             |
| CONFLICTS    | `L` number u64, or `I` ino  | JSON of model.conflict.Conflict; number of the latest   | conflict_log       |

Where an association exports to a prefix of its own, OBJECTS has keys of both prefixes: see `apart`.

INVARIANT 1: every dentry names an existing inode, and every inode but the root and orphans has its primary dentry.
INVARIANT 2: nlink of a file is its number of dentries; of a directory 2 plus its subdirectories; of an orphan 0.
INVARIANT 3: an object record names ino 0 (deliberately absent locally) or an ino that was handed out; one that is gone is as
good as 0, since numbers are never used again. One whose key ends in `/` names a directory.
INVARIANT 4: a PARTIAL inode has a source object that is recorded with its ino, since nothing else has the missing bytes; or it
is LOST or DAMAGED.
INVARIANT 5: HSM flags are a legal combination (model/hsm.violation).
INVARIANT 6: a dirty file inside an association has a journal record, or is EXCLUDED by policy: no crash can hide it.
INVARIANT 7: next_ino is above every ino.
INVARIANT 8: only a directory is UNLISTED.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import AssocId, ContentVersion, Ino
from s3lustrefs.model.inode import Inode, InodeFlag

FORMAT_VERSION = 2


class Table(IntEnum):
    """Number of a table in the log, and index of its LMDB database."""

    SUPER = 0
    INODES = 1
    DENTRIES = 2
    LINKS = 3
    XATTRS = 4
    ORPHANS = 5
    RESIDENCY = 6
    OBJECTS = 7
    JOURNAL = 8
    ASSOCIATIONS = 9
    SKIPPED = 10
    WRITES = 11
    DAMAGE = 12
    CONFLICTS = 13


ADDED = frozenset({Table.CONFLICTS})
"""Tables that a state directory of this format may not have yet: then they are empty."""

GROUPED = frozenset({Table.DENTRIES, Table.LINKS, Table.XATTRS})
"""Tables whose scans are always within one 8-byte prefix (an ino)."""

UNREADABLE = (struct.error, ValueError, KeyError, IndexError, TypeError)
"""What decoding a damaged key or value may raise."""

SUPER_FORMAT = b"format"
SUPER_NEXT_INO = b"next_ino"
SUPER_NEXT_ASSOC = b"next_assoc"
SUPER_LOG_FIRST = b"log_first"
SUPER_BOOT_ID = b"boot_id"
SUPER_CONTENT_AHEAD = b"content_ahead"
SUPER_CONTENT_PLACE = b"content_place"
SUPER_CONFLICTS = b"conflicts"

_U64 = struct.Struct(">Q")
_U16 = struct.Struct(">H")
pack_u64 = _U64.pack
pack_u16 = _U16.pack

_DAMAGE_KEY = struct.Struct(">QI")


def damage_key(ino: Ino, version: ContentVersion) -> bytes:
    return _DAMAGE_KEY.pack(ino, version)


def decode_damage_key(key: bytes) -> tuple[Ino, ContentVersion]:
    ino, version = _DAMAGE_KEY.unpack(key)
    return Ino(ino), ContentVersion(version)


# --- inodes ------------------------------------------------------------------------------------------------------------

_INODE = struct.Struct(">QIIIIQqqqQHHIQHHH")


def encode_inode(i: Inode) -> bytes:
    return (
        _INODE.pack(
            i.parent, i.mode, i.uid, i.gid, i.nlink, i.size, i.atime_ns, i.mtime_ns, i.ctime_ns, i.rdev,
            i.hsm, i.flags, i.content_version, i.chunk_bytes, i.source_assoc, len(i.name), len(i.source_key),
        )
        + i.name
        + i.source_key
        + i.target
    )  # fmt: skip


def inode_tail(i: Inode) -> bytes:
    """The value without its leading parent: what a listing process can prepare before the parent is known."""
    return encode_inode(i)[8:]


# Enum constructors cost 0.4 us each, and every lookup decodes an inode: the few combinations that occur are kept.
_HSM = {n: Hsm(n) for n in range(128)}
_FLAGS = {n: InodeFlag(n) for n in range(256)}


def decode_inode(ino: Ino, raw: bytes) -> Inode:
    (
        parent, mode, uid, gid, nlink, size, atime, mtime, ctime, rdev,
        hsm, flags, version, chunk_bytes, assoc, name_len, key_len,
    ) = _INODE.unpack_from(raw)  # fmt: skip
    a = _INODE.size
    b = a + name_len
    c = b + key_len
    return Inode(
        ino, mode, uid, gid, nlink, size, atime, mtime, ctime, rdev, parent, raw[a:b],
        _HSM[hsm], _FLAGS[flags], version, chunk_bytes, assoc, raw[b:c], raw[c:],
    )  # fmt: skip


_FLAGS_OFFSET = struct.calcsize(">QIIIIQqqqQH")


def inode_flags(raw: bytes) -> int:
    """Only the flags, for scans over the whole table."""
    return raw[_FLAGS_OFFSET] << 8 | raw[_FLAGS_OFFSET + 1]


_SOURCE_OFFSET = struct.calcsize(">QIIIIQqqqQHHIQ")


def inode_source_assoc(raw: bytes) -> AssocId:
    """Only the association of the source, for scans over the whole table."""
    return AssocId(_U16.unpack_from(raw, _SOURCE_OFFSET)[0])


# --- dentries, links, xattrs --------------------------------------------------------------------------------------------


def dentry_key(parent: Ino, name: bytes) -> bytes:
    return pack_u64(parent) + name


def link_key(ino: Ino, parent: Ino, name: bytes) -> bytes:
    return pack_u64(ino) + pack_u64(parent) + name


def decode_u64(raw: bytes) -> Ino:
    return Ino(_U64.unpack(raw)[0])


# --- objects ----------------------------------------------------------------------------------------------------------

_LONGEST_PLAIN_KEY = 500
CUT = 440


def object_key(assoc: AssocId, key: bytes) -> bytes:
    """Table key of an object. A key over 500 bytes is cut and ends in the SHA-256 of the whole: it sorts with its
    neighbours by its first 440 bytes only, and its record carries the full key."""
    if len(key) <= _LONGEST_PLAIN_KEY:
        return pack_u16(assoc) + key
    return pack_u16(assoc) + key[:CUT] + hashlib.sha256(key).digest()


def object_keys(assoc: AssocId, keys: list[bytes]) -> list[bytes]:
    """As `object_key`, for many at a third of the cost."""
    if max(map(len, keys), default=0) > _LONGEST_PLAIN_KEY:
        return [object_key(assoc, key) for key in keys]
    head = pack_u16(assoc)
    return [head + key for key in keys]


def long_key(key: bytes) -> bytes:
    """What an object value carries of its key: all of it when the table key is cut."""
    return key if len(key) > _LONGEST_PLAIN_KEY else b""


@dataclass(slots=True)
class ObjectRecord:
    """What the bucket holds under a key, as last seen by listing, HEAD or our own export.

    `ino` 0: the object exists but is deliberately absent locally (deleted here while the policy does not export
    deletions), so that no import brings it back until it changes.
    """

    assoc: AssocId
    key: bytes
    ino: Ino
    etag: str
    size: int
    mtime_ns: int = 0
    version_id: str = ""
    storage_class: str = "STANDARD"


_OBJECT = struct.Struct(">QqBHBH")
STANDARD = b"STANDARD"
UNKNOWN_CLASS = "UNKNOWN"
"""Storage class of an object that an event told of, until its headers or a listing tell."""


def object_tail(
    etag: bytes, size: int, mtime_ns: int, storage_class: bytes, version_id: bytes = b"", full_key: bytes = b""
) -> bytes:
    """An object value without its leading ino: what a listing process can prepare."""
    cls = b"" if storage_class == STANDARD else storage_class
    return _OBJECT.pack(size, mtime_ns, len(etag), len(version_id), len(cls), len(full_key)) + etag + version_id + cls + full_key


def tail_mtime_ns(tail: bytes) -> int:
    mtime_ns: int = _OBJECT.unpack_from(tail)[1]
    return mtime_ns


def encode_object(o: ObjectRecord) -> bytes:
    tail = object_tail(o.etag.encode(), o.size, o.mtime_ns, o.storage_class.encode(), o.version_id.encode(), long_key(o.key))
    return pack_u64(o.ino) + tail


def decode_object(table_key: bytes, raw: bytes) -> ObjectRecord:
    size, mtime_ns, etag_len, version_len, class_len, key_len = _OBJECT.unpack_from(raw, 8)
    a = 8 + _OBJECT.size
    b = a + etag_len
    c = b + version_len
    d = c + class_len
    return ObjectRecord(
        AssocId(_U16.unpack_from(table_key)[0]),
        raw[d : d + key_len] if key_len else table_key[2:],
        Ino(_U64.unpack_from(raw)[0]),
        raw[a:b].decode(),
        size,
        mtime_ns,
        raw[b:c].decode(),
        raw[c:d].decode() or "STANDARD",
    )


# --- journal -----------------------------------------------------------------------------------------------------------


class JournalState(IntEnum):
    """Where an export stands. A claim lives in memory only: after a crash nothing is claimed."""

    OPEN = 1
    """Dirty, but a handle may still write; due at the last close, or at the next start."""
    DUE = 2


class Change(IntFlag):
    """What happened since the last export."""

    NONE = 0
    CONTENT = 1
    METADATA = 2
    NAME = 4
    SUBTREE = 8
    """A directory came here with everything below it: expand before exporting."""
    HSM_ORDERED = 16
    """Somebody asked for it with an HSM request."""
    TASK_ORDERED = 32
    """The export task that executes asks for it."""
    ORDERED = HSM_ORDERED | TASK_ORDERED
    """Either: the association's policy does not count. Each is withdrawn by whoever gave it, and leaves the other alone."""


@dataclass(slots=True)
class JournalRecord:
    """Durable note that the names of an inode (`ino`), or one object key that lost its name (`assoc`, `key`), must be
    brought into line in the bucket. A key that ends in `/` with SUBTREE stands for everything below it."""

    ino: Ino
    assoc: AssocId
    key: bytes
    state: JournalState
    change: Change
    seq: int
    """Moves with every new change, so that settling an older one keeps the record."""
    since_ns: int
    not_before_ns: int = 0
    attempts: int = 0
    terminal: bool = False
    error_code: str = ""
    error_text: str = ""


_STATES = {int(state): state for state in JournalState}
_CHANGES = {n: Change(n) for n in range(64)}
_JOURNAL = struct.Struct(">BBQqqIBHHH")


def journal_ino_key(ino: Ino) -> bytes:
    return b"I" + pack_u64(ino)


def journal_object_key(assoc: AssocId, key: bytes) -> bytes:
    return b"K" + object_key(assoc, key)


def journal_key(r: JournalRecord) -> bytes:
    return journal_ino_key(r.ino) if r.ino else journal_object_key(r.assoc, r.key)


def encode_journal(r: JournalRecord) -> bytes:
    code = r.error_code.encode()
    text = r.error_text.encode()[:2000]
    return (
        _JOURNAL.pack(
            r.state, r.change, r.seq, r.since_ns, r.not_before_ns, r.attempts, r.terminal, r.assoc,
            len(r.key), len(code),
        )
        + r.key + code + text
    )  # fmt: skip


def decode_journal(table_key: bytes, raw: bytes) -> JournalRecord:
    state, change, seq, since, not_before, attempts, terminal, assoc, nkey, ncode = _JOURNAL.unpack_from(raw)
    a = _JOURNAL.size
    b = a + nkey
    c = b + ncode
    ino = _U64.unpack_from(table_key, 1)[0] if table_key[:1] == b"I" else 0
    return JournalRecord(
        Ino(ino), AssocId(assoc), raw[a:b], _STATES[state], _CHANGES[change], seq, since, not_before, attempts,
        bool(terminal), raw[b:c].decode(), raw[c:].decode(errors="replace"),
    )  # fmt: skip


# --- writes under way -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SentObject:
    """What a request writes under a key. The POSIX headers tell it from anybody else's object: times are in nanoseconds."""

    size: int
    headers: dict[str, str]
    in_parts: bool = False
    tags: tuple[tuple[str, str], ...] = ()
    """Tags of others that are set after a copy which drops them."""
    copy_of: str = ""
    """The ETag of what is copied: the copy of an object that went up in parts has another one."""


def encode_writes(key: bytes, writes: list[SentObject]) -> bytes:
    rows = [[w.size, w.headers, w.in_parts, *([w.tags, w.copy_of] if w.tags or w.copy_of else [])] for w in writes]
    return json.dumps([key.decode("latin-1"), rows], separators=(",", ":")).encode()


def decode_writes(raw: bytes) -> tuple[bytes, list[SentObject]]:
    key, rows = json.loads(raw)
    return key.encode("latin-1"), [_sent_object(*row) for row in rows]


def _sent_object(
    size: int, headers: dict[str, str], in_parts: bool, tags: list[list[str]] | None = None, copy_of: str = ""
) -> SentObject:
    return SentObject(size, headers, in_parts, tuple((name, value) for name, value in tags or ()), copy_of)


# --- residency ---------------------------------------------------------------------------------------------------------

_VERSION = struct.Struct(">I")


def encode_residency(version: ContentVersion, extents: bytes) -> bytes:
    return _VERSION.pack(version) + extents


def decode_residency(raw: bytes) -> tuple[ContentVersion, bytes]:
    return ContentVersion(_VERSION.unpack_from(raw)[0]), raw[4:]
