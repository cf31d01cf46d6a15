"""Check: proves the invariants of `schema` on the tables of an unmounted state directory, or of a store in use.

One pass over each table in key order. Memory does not grow with the table: what is remembered of directories is bounded and
found again when it was forgotten. Each finding is one line: table, key, what is wrong.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Protocol

from s3lustrefs import errors
from s3lustrefs.meta import associations, conflict_log, records, schema
from s3lustrefs.meta.location import LOST_FOUND
from s3lustrefs.meta.schema import SUPER_FORMAT, SUPER_NEXT_ASSOC, SUPER_NEXT_INO, Change, Table
from s3lustrefs.meta.store import Store
from s3lustrefs.meta.table_view import TableView, unmounted, view_of
from s3lustrefs.model import association_rules, hsm
from s3lustrefs.model.association import Association
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import ROOT_INO, AssocId, Ino
from s3lustrefs.model.inode import Inode, InodeFlag

_MOST_FINDINGS = 1000
_REMEMBERED_DIRECTORIES = 100_000
_KINDS = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)


def check_state_dir(path: Path) -> list[str]:
    """Findings about the state directory of an unmounted file system, which is not changed; empty: clean.

    Raises: StateDirError when it is in use, missing, or of another format.
    """
    with unmounted(path) as view:
        if view.get(Table.SUPER, SUPER_FORMAT) is None:
            return []  # its first daemon died before it wrote anything
        return [*view.log_defects, *findings(view)]


def check_engine(store: Store) -> list[str]:
    """The same for a store in use; nothing else may run meanwhile."""
    return findings(view_of(store))


def findings(view: TableView) -> list[str]:
    """Findings about tables in view, at most a thousand."""
    found = list(islice(_Check(view).findings(), _MOST_FINDINGS + 1))
    if len(found) > _MOST_FINDINGS:
        found[-1] = f"more than {_MOST_FINDINGS} findings: the rest is not listed"
    return found


@dataclass(frozen=True, slots=True)
class _Directory:
    """What is to be known of a directory's place."""

    is_reachable: bool
    in_association: bool
    is_expanding: bool
    """It, or a directory above, waits in the journal with everything below it."""


_NOWHERE = _Directory(False, False, False)


class _Check:
    """One run over one view."""

    def __init__(self, view: TableView) -> None:
        self._view = view
        self._directories: dict[Ino, _Directory] = {}
        self._associations: dict[AssocId, Association] = {}
        self._roots: set[Ino] = set()
        self._highest_ino = 0

    def findings(self) -> Iterator[str]:
        yield from self._check_associations()
        yield from self._each(Table.INODES, self._check_inode)
        yield from self._check_dentries()
        yield from self._check_links()
        yield from self._each(Table.XATTRS, self._check_xattr)
        yield from self._each(Table.ORPHANS, self._check_orphan)
        yield from self._each(Table.RESIDENCY, self._check_residency)
        yield from self._each(Table.OBJECTS, self._check_object)
        yield from self._each(Table.JOURNAL, self._check_journal)
        yield from self._each(Table.SKIPPED, self._check_skipped)
        yield from self._each(Table.WRITES, self._check_writes)
        yield from self._each(Table.CONFLICTS, self._check_conflict)
        yield from self._check_super()

    def _each(self, table: Table, check: _RowCheck) -> Iterator[str]:
        for key, value in self._view.rows(table):
            try:
                for defect in check(key, value):
                    yield _finding(table, key, defect)
            except (struct.error, ValueError, KeyError, IndexError) as exc:
                yield _finding(table, key, f"cannot be decoded: {exc!r}")

    # --- inodes --------------------------------------------------------------------------------------------------------------

    def _find(self, ino: Ino) -> Inode | None:
        raw = self._view.get(Table.INODES, schema.pack_u64(ino))
        try:
            return None if raw is None else schema.decode_inode(ino, raw)
        except (struct.error, KeyError):
            return None  # reported where the row itself is looked at

    def _check_inode(self, key: bytes, raw: bytes) -> Iterator[str]:
        inode = schema.decode_inode(schema.decode_u64(key), raw)
        self._highest_ino = max(self._highest_ino, inode.ino)
        yield from _shape_defects(inode)
        yield from self._name_defects(inode, key)
        yield from self._source_defects(inode, key)
        if inode.is_dir and inode.nlink and not self._place(inode.ino).is_reachable:
            yield "cannot be reached from the root directory"

    def _name_defects(self, inode: Inode, key: bytes) -> Iterator[str]:
        if inode.ino == ROOT_INO:
            if inode.parent or inode.name or not inode.is_dir:
                yield "the root is not a nameless directory"
        elif not inode.nlink:
            if self._view.get(Table.ORPHANS, key) is None:
                yield "has no name and is no orphan"
            if inode.parent or inode.name:
                yield f"has nlink 0 but a primary name {inode.name!r} in {inode.parent}"
        elif self._view.get(Table.DENTRIES, schema.dentry_key(inode.parent, inode.name)) != key:
            yield f"its primary name {inode.name!r} in inode {inode.parent} is not its dentry"
        if inode.is_dir:
            if inode.nlink > 2 and not self._view.has(Table.DENTRIES, key):
                yield f"has nlink {inode.nlink} but is empty"
        elif inode.nlink > 1 and not self._view.has(Table.LINKS, key):
            yield f"has nlink {inode.nlink} but one name"

    def _source_defects(self, inode: Inode, key: bytes) -> Iterator[str]:
        if inode.source_assoc and inode.source_assoc not in self._associations:
            yield f"its source is in association {inode.source_assoc}, which does not exist"
        if not inode.is_complete and not inode.hsm & Hsm.LOST and not inode.flags & InodeFlag.DAMAGED:
            raw = self._view.get(Table.OBJECTS, schema.object_key(inode.source_assoc, inode.source_key)) or b""
            if not inode.source_assoc or raw[:8] != key:
                yield f"bytes are missing, and no object recorded as its own has them (source {inode.source_key!r})"
        if inode.is_file and inode.is_dirty and inode.nlink and not inode.flags & InodeFlag.EXCLUDED:
            yield from self._journal_defects(inode)

    def _journal_defects(self, inode: Inode) -> Iterator[str]:
        if self._view.get(Table.JOURNAL, schema.journal_ino_key(inode.ino)) is None:
            places = [self._place(parent) for parent in self._parents(inode)]
            if any(place.in_association and not place.is_expanding for place in places):
                yield "is dirty inside an association, but not in the journal and not excluded"

    def _parents(self, inode: Inode) -> Iterator[Ino]:
        yield inode.parent
        if inode.nlink > 1:
            for key, _ in self._view.rows(Table.LINKS, schema.pack_u64(inode.ino)):
                yield schema.decode_u64(key[8:16])

    def _place(self, ino: Ino) -> _Directory:
        """Where a directory stands. Walks up to what is known already; a walk that meets itself is a cycle."""
        path: list[tuple[Ino, Inode]] = []
        passed: set[Ino] = set()
        while (found := self._directories.get(ino)) is None:
            inode = self._find(ino)
            if inode is None or not inode.is_dir or ino in passed or (not inode.parent and ino != ROOT_INO):
                found = _NOWHERE
                break
            path.append((ino, inode))
            passed.add(ino)
            if ino == ROOT_INO:
                found = _Directory(True, False, False)
                break
            ino = inode.parent
        if len(self._directories) > _REMEMBERED_DIRECTORIES:
            self._directories.clear()
        for at, _ in reversed(path):
            found = self._directories[at] = self._below(at, found)
        return found

    def _below(self, ino: Ino, above: _Directory) -> _Directory:
        raw = self._view.get(Table.JOURNAL, schema.journal_ino_key(ino))
        moved = raw is not None and bool(schema.decode_journal(schema.journal_ino_key(ino), raw).change & Change.SUBTREE)
        inside = (above.in_association or ino in self._roots) and not self._is_lost_found(ino)
        return _Directory(above.is_reachable, inside, above.is_expanding or moved)

    def _is_lost_found(self, ino: Ino) -> bool:
        return self._view.get(Table.DENTRIES, schema.dentry_key(ROOT_INO, LOST_FOUND)) == schema.pack_u64(ino)

    # --- names ---------------------------------------------------------------------------------------------------------------

    def _check_dentries(self) -> Iterator[str]:
        for prefix, rows in groupby(self._view.rows(Table.DENTRIES), key=lambda row: row[0][:8]):
            if len(prefix) < 8:
                yield _finding(Table.DENTRIES, prefix, "the key is too short")
                continue
            parent = self._find(schema.decode_u64(prefix))
            subdirectories = 0
            for key, value in rows:
                child = self._find(schema.decode_u64(value)) if len(value) == 8 else None
                subdirectories += child is not None and child.is_dir
                for defect in self._dentry_defects(key, child, parent):
                    yield _finding(Table.DENTRIES, key, defect)
            if parent is not None and parent.is_dir and parent.nlink != 2 + subdirectories:
                yield _finding(Table.INODES, prefix, f"has nlink {parent.nlink} with {subdirectories} subdirectories")

    def _dentry_defects(self, key: bytes, child: Inode | None, parent: Inode | None) -> Iterator[str]:
        name = key[8:]
        if parent is None or not parent.is_dir:
            yield "is in an inode that is not there" if parent is None else "is in an inode that is no directory"
        elif not parent.nlink:
            yield "is in a directory that was removed"
        try:
            records.check_name(name)
        except errors.MetadataError as exc:
            yield str(exc)
        if child is None:
            yield "names an inode that is not there"
        elif (schema.pack_u64(child.parent), child.name) != (key[:8], name):
            link = schema.pack_u64(child.ino) + key
            if child.is_dir or self._view.get(Table.LINKS, link) is None:
                yield f"inode {child.ino} does not know this name"

    def _check_links(self) -> Iterator[str]:
        for prefix, rows in groupby(self._view.rows(Table.LINKS), key=lambda row: row[0][:8]):
            inode = self._find(schema.decode_u64(prefix))
            links = 0
            for key, _ in rows:
                links += 1
                if inode is None or inode.is_dir:
                    yield _finding(Table.LINKS, key, "belongs to no file")
                elif self._view.get(Table.DENTRIES, key[8:]) != prefix:
                    yield _finding(Table.LINKS, key, "is not a dentry of its inode")
                elif (schema.pack_u64(inode.parent), inode.name) == (key[8:16], key[16:]):
                    yield _finding(Table.LINKS, key, "is the primary name")
            if inode is not None and not inode.is_dir and inode.nlink != 1 + links:
                yield _finding(Table.INODES, prefix, f"has nlink {inode.nlink} with {1 + links} names")

    # --- what hangs on inodes --------------------------------------------------------------------------------------------------

    def _check_xattr(self, key: bytes, value: bytes) -> Iterator[str]:
        if self._find(schema.decode_u64(key[:8])) is None:
            yield "belongs to an inode that is not there"
        if not 0 < len(key) - 8 <= 255:
            yield "has no name, or one of over 255 bytes"

    def _check_orphan(self, key: bytes, value: bytes) -> Iterator[str]:
        inode = self._find(schema.decode_u64(key))
        if inode is None:
            yield "is not there"
        elif inode.nlink:
            yield f"has nlink {inode.nlink}"

    def _check_residency(self, key: bytes, value: bytes) -> Iterator[str]:
        inode = self._find(schema.decode_u64(key))
        version, _ = schema.decode_residency(value)
        if inode is None:
            yield "belongs to an inode that is not there"
        elif inode.is_complete:
            yield "belongs to an inode of which every byte is resident"
        elif version != inode.content_version:
            yield f"is of content version {version}, the inode has {inode.content_version}"

    def _check_object(self, key: bytes, value: bytes) -> Iterator[str]:
        found = schema.decode_object(key, value)
        yield from self._key_defects(found.assoc, found.key)
        if schema.object_key(found.assoc, found.key) != key:
            yield "carries another key than it stands under"
        if found.ino >= int(self._view.get(Table.SUPER, SUPER_NEXT_INO) or b"2"):
            yield f"names inode {found.ino}, which was never handed out"
        named = self._find(found.ino) if found.key.endswith(b"/") else None
        if named is not None and not named.is_dir:
            yield f"names inode {found.ino}, which is no directory"

    def _check_journal(self, key: bytes, value: bytes) -> Iterator[str]:
        record = schema.decode_journal(key, value)
        if key[:1] == b"I":
            inode = self._find(record.ino)
            if inode is None or not inode.nlink:
                yield f"wants inode {record.ino} exported, which {'has no name' if inode else 'is not there'}"
        elif schema.journal_key(record) != key:
            yield f"carries another key {record.key!r} than it stands under"
        else:
            yield from self._key_defects(record.assoc, record.key)

    def _check_skipped(self, key: bytes, value: bytes) -> Iterator[str]:
        yield from self._key_defects(AssocId(int.from_bytes(key[:2], "big")), None)
        if b"\0" not in value:
            yield "has no reason"

    def _check_writes(self, key: bytes, value: bytes) -> Iterator[str]:
        full, _ = schema.decode_writes(value)
        assoc = AssocId(int.from_bytes(key[:2], "big"))
        yield from self._key_defects(assoc, full)
        if schema.object_key(assoc, full) != key:
            yield f"carries another key {full!r} than it stands under"

    def _check_conflict(self, key: bytes, value: bytes) -> Iterator[str]:
        yield from conflict_log.defects(key, value)

    def _key_defects(self, assoc: AssocId, key: bytes | None) -> Iterator[str]:
        association = self._associations.get(assoc)
        if association is None:
            yield f"is of association {assoc}, which does not exist"
        elif key is not None and not (association.is_imported(key) or association.is_written(key)):
            yield f"key {key!r} is outside the prefix {association.prefix!r}"

    # --- associations and counters ---------------------------------------------------------------------------------------------

    def _check_associations(self) -> Iterator[str]:
        for key, value in self._view.rows(Table.ASSOCIATIONS):
            try:
                association = associations.decode(value)
            except (ValueError, KeyError, TypeError) as exc:
                yield _finding(Table.ASSOCIATIONS, key, f"cannot be decoded: {exc!r}")
                continue
            if schema.pack_u16(association.assoc_id) != key:
                yield _finding(Table.ASSOCIATIONS, key, f"carries number {association.assoc_id}")
            for other in self._associations.values():
                defect = association_rules.conflict(association, other)
                if defect:
                    yield _finding(Table.ASSOCIATIONS, key, defect)
            self._associations[association.assoc_id] = association
            if not association.is_linked:
                continue
            if association.lifecycle != "CREATING":  # then what was in its directory before is not all excluded yet
                self._roots.add(Ino(association.root_ino))
            if self._walk(association.file_system_path) != association.root_ino:
                yield _finding(
                    Table.ASSOCIATIONS, key, f"{association.file_system_path} is not its directory {association.root_ino}"
                )

    def _walk(self, path: str) -> Ino | None:
        ino = ROOT_INO
        for part in path.encode().split(b"/"):
            if part:
                raw = self._view.get(Table.DENTRIES, schema.dentry_key(ino, part))
                if raw is None:
                    return None
                ino = schema.decode_u64(raw)
        inode = self._find(ino)
        return ino if inode is not None and inode.is_dir else None

    def _check_super(self) -> Iterator[str]:
        numbers = ((SUPER_NEXT_INO, b"2", self._highest_ino), (SUPER_NEXT_ASSOC, b"1", max(self._associations, default=0)))
        for key, default, highest in numbers:
            raw = self._view.get(Table.SUPER, key) or default
            if not raw.isdigit() or int(raw) <= highest:
                yield _finding(Table.SUPER, key, f"is {raw!r}, but {highest} is taken")
        if self._find(ROOT_INO) is None:
            yield _finding(Table.INODES, schema.pack_u64(ROOT_INO), "the root is not there")


class _RowCheck(Protocol):
    def __call__(self, key: bytes, value: bytes, /) -> Iterable[str]: ...


def _shape_defects(inode: Inode) -> Iterator[str]:
    """What is wrong with an inode whatever else there is."""
    if stat.S_IFMT(inode.mode) not in _KINDS:
        yield f"has mode {inode.mode:o}, which is no kind of file"
    defect = hsm.violation(inode.hsm) or hsm.violation(inode.hsm_state())
    if defect:
        yield f"has illegal HSM flags {int(inode.hsm):#x}: {defect}"
    if inode.hsm and not inode.is_file:
        yield "has HSM flags but is no file"
    if inode.flags & InodeFlag.PARTIAL and not (inode.is_file and inode.size):
        yield "is PARTIAL but has no bytes that could be missing"
    if inode.flags & InodeFlag.DAMAGED and inode.is_complete:
        yield "is DAMAGED but has no bytes that could be missing"
    if inode.flags & InodeFlag.KIND_UNKNOWN and not (inode.flags & InodeFlag.HEADERS_UNKNOWN and inode.is_file):
        yield "is of unknown kind, but its headers are known or it is no file"
    if inode.flags & InodeFlag.UNLISTED and not inode.is_dir:
        yield "is UNLISTED but no directory"
    if inode.is_file and not inode.chunk_bytes:
        yield "has no chunk size"
    if inode.is_symlink and inode.size != len(inode.target):
        yield f"has size {inode.size} and a target of {len(inode.target)} bytes"


def _finding(table: Table, key: bytes, defect: str) -> str:
    return f"{table.name} {_readable(table, key)}: {defect}"


def _readable(table: Table, key: bytes) -> str:
    """A key as a person can read it."""
    if table is Table.SUPER:
        return repr(key)
    if table in (Table.OBJECTS, Table.SKIPPED, Table.WRITES, Table.ASSOCIATIONS):
        return f"{int.from_bytes(key[:2], 'big')} {key[2:]!r}" if key[2:] else str(int.from_bytes(key[:2], "big"))
    if table is Table.CONFLICTS:
        return f"{key[:1].decode('latin-1')} {int.from_bytes(key[1:], 'big')}"
    if table is Table.JOURNAL:
        return f"inode {int.from_bytes(key[1:], 'big')}" if key[:1] == b"I" else _readable(Table.OBJECTS, key[1:])
    if table is Table.LINKS:
        return f"{int.from_bytes(key[:8], 'big')} {int.from_bytes(key[8:16], 'big')} {key[16:]!r}"
    return f"{int.from_bytes(key[:8], 'big')} {key[8:]!r}" if key[8:] else str(int.from_bytes(key[:8], "big"))
