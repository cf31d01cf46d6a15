"""RepositoryVerbs: the engine's verbs about the bucket: export journal, listings, sweeps, associations."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import trio

from s3lustrefs.meta import (
    attributes,
    conflict_log,
    export_targets,
    hard_links,
    journal,
    lost_found,
    records,
    schema,
    skipped,
    vanished,
    writes,
)
from s3lustrefs.meta.attributes import AttributeChange
from s3lustrefs.meta.conflicts import Dispute, Resolved, Resolver
from s3lustrefs.meta.export_targets import ExportView
from s3lustrefs.meta.listing import Applied, PreparedEntry, Sweep
from s3lustrefs.meta.listing_applier import ListingApplier
from s3lustrefs.meta.lmdb_core import EngineCore
from s3lustrefs.meta.location import walk
from s3lustrefs.meta.schema import (
    JournalRecord,
    ObjectRecord,
    SentObject,
)
from s3lustrefs.meta.vanished import Removed
from s3lustrefs.model.association import Association
from s3lustrefs.model.conflict import Conflict
from s3lustrefs.model.ids import AssocId, ContentVersion, Ino
from s3lustrefs.model.inode import Inode, InodeFlag

_SKIPPED_PAGE = 500


class RepositoryVerbs(EngineCore):
    """See `engine_repository.RepositoryEngine` for the contract."""

    # --- export ----------------------------------------------------------------------------------------------------------

    async def due(self, after: bytes, limit: int) -> list[tuple[bytes, JournalRecord]]:
        return journal.due(self._txn(), after, limit)

    async def find_journal(self, ino: Ino) -> JournalRecord | None:
        return records.find_journal(self._txn(), schema.journal_ino_key(ino))

    async def find_lost_key(self, assoc: AssocId, key: bytes) -> JournalRecord | None:
        return records.find_journal(self._txn(), schema.journal_object_key(assoc, key))

    async def make_all_due(self) -> int:
        with self._store.begin() as txn:
            return journal.make_all_due(txn, self._now())

    async def export_view(self, ino: Ino) -> ExportView | None:
        return export_targets.view(self._txn(), self._locations, ino)

    async def source_of(self, inode: Inode) -> ObjectRecord | None:
        return export_targets.source_of(self._txn(), inode)

    async def dependant(self, known: ObjectRecord | None, ino: Ino) -> Inode | None:
        return export_targets.dependant(self._txn(), known, ino)

    async def find_object(self, assoc: AssocId, key: bytes) -> ObjectRecord | None:
        return records.find_object(self._txn(), assoc, key)

    async def holder(self, assoc: AssocId, key: bytes) -> Ino | None:
        return journal.holder(self._txn(), self._locations, assoc, key)

    async def expand_directory(self, claimed: JournalRecord, after: bytes, limit: int) -> bytes | None:
        with self._store.begin() as txn:
            return export_targets.expand_directory(txn, claimed, after, limit)

    async def expand_prefix(self, association: Association, claimed: JournalRecord, after: bytes, limit: int) -> bytes | None:
        with self._store.begin() as txn:
            return export_targets.expand_prefix(txn, association, claimed, after, limit)

    async def end_expansion(self, claimed: JournalRecord) -> None:
        with self._store.begin() as txn:
            export_targets.end_expansion(txn, claimed)

    async def note_write(self, ino: Ino, assoc: AssocId, key: bytes, sent: SentObject) -> bool:
        with self._store.begin() as txn:
            return journal.note_write(txn, self._locations, ino, assoc, key, sent)

    async def noted_writes(self, assoc: AssocId, key: bytes) -> list[SentObject]:
        return writes.noted(self._txn(), assoc, key)

    async def settle_object(self, ino: Ino, exported: ObjectRecord, *, content: bool, version: ContentVersion) -> bool:
        with self._store.begin() as txn:
            return journal.settle_object(txn, self._locations, ino, exported, self._now(), content=content, version=version)

    async def observe_object(self, seen: ObjectRecord) -> None:
        with self._store.begin() as txn:
            journal.observe_object(txn, self._locations, seen, self._now())

    async def free_object(self, assoc: AssocId, key: bytes, ino: Ino) -> bool:
        with self._store.begin() as txn:
            return journal.free_object(txn, assoc, key, ino, self._now())

    async def forget_object(self, assoc: AssocId, key: bytes, *, with_writes: bool = False) -> None:
        with self._store.begin() as txn:
            journal.forget_object(txn, assoc, key, self._now(), with_writes=with_writes)

    async def finish(self, claimed: JournalRecord) -> bool:
        with self._store.begin() as txn:
            return journal.finish(txn, self._locations, claimed)

    async def exclude(self, claimed: JournalRecord) -> None:
        with self._store.begin() as txn:
            export_targets.exclude(txn, self._locations, claimed)

    async def postpone(
        self, claimed: JournalRecord, delay_seconds: float, *, code: str = "", text: str = "", terminal: bool = False
    ) -> None:
        not_before = self._now() + int(delay_seconds * 1e9)
        with self._store.begin() as txn:
            journal.postpone(txn, claimed, not_before, code=code, text=text, terminal=terminal)

    # --- import ------------------------------------------------------------------------------------------------------------

    async def apply_listing(
        self,
        association: Association,
        groups: Sequence[tuple[bytes, Sequence[PreparedEntry]]],
        markers: Iterable[tuple[bytes, int, bytes, int, bytes]] = (),
        skipped: Iterable[tuple[bytes, str]] = (),
        directories: Iterable[bytes] = (),
        sweep: Sweep | None = None,
        touched: Container[bytes] = (),
    ) -> Applied:
        """One prepared batch; `directories` are relative paths known only by what is below them."""
        first = self._next_ino
        with self._store.begin() as txn:
            allocate = partial(self._allocate_in, txn)
            applier = ListingApplier(txn, self._locations, association, self._now(), allocate, self._in_use, sweep, touched)
            for path in directories:
                applier.directory(path)
            for marker in markers:
                applier.marker(*marker)
            for path, entries in groups:
                applier.group(path, entries)
            for key, reason in skipped:
                applier.skip(key, reason)
            self._save_next_ino(txn)
        self._inodes += self._next_ino - first - applier.applied.removed
        return applier.applied

    async def note_listed(self, association: Association, relative: bytes) -> Ino | None:
        with self._store.begin() as txn:
            ino = walk(txn, Ino(association.root_ino), relative)
            inode = records.find_inode(txn, ino) if ino is not None else None
            if inode is None or not inode.flags & InodeFlag.UNLISTED:
                return None
            inode.flags &= ~InodeFlag.UNLISTED
            records.put_inode(txn, inode)
            return inode.ino

    @contextmanager
    def sweep(self, events: frozenset[str], *, is_told: bool = False, new_since_ns: int = 0) -> Iterator[Sweep]:
        touched: set[bytes] = set()
        self._store.object_watchers.append(touched)
        try:
            yield Sweep(events, touched, is_told, new_since_ns=new_since_ns)
        finally:
            self._store.object_watchers = [other for other in self._store.object_watchers if other is not touched]

    async def vanished_suspects(
        self, association: Association, below: bytes, span: tuple[bytes, bytes | None], listed: Container[bytes], sweep: Sweep,
        after: bytes = b"",
    ) -> tuple[list[bytes], bytes | None]:  # fmt: skip
        return vanished.suspects(self._txn(), association, below, span, listed, sweep, after)

    async def remove_vanished(self, association: Association, key: bytes, sweep: Sweep) -> Removed | Conflict | None:
        with self._store.begin() as txn:
            found = vanished.remove(txn, self._locations, association, key, self._now(), self._in_use, sweep)
        self._inodes -= isinstance(found, Removed) and not found.inode.nlink
        return found

    async def replace_content(self, ino: Ino, seen: ObjectRecord) -> Inode | None:
        if self._locations.association(seen.assoc) is None:
            return None
        first = self._next_ino
        with self._store.begin() as txn:
            inode = records.find_inode(txn, ino)
            if inode is not None:
                allocate = partial(self._allocate_in, txn)
                inode = hard_links.set_apart(txn, self._locations, inode, seen, self._now(), allocate)
            replaced = attributes.reimport(txn, self._locations, inode.ino, seen, self._now()) if inode is not None else None
            self._save_next_ino(txn)
        self._inodes += self._next_ino - first
        return replaced

    async def doubt_headers(self, assoc: AssocId, key: bytes, told_ns: int, margin_ns: int) -> Inode | None:
        with self._store.begin() as txn:
            return attributes.doubt_headers(txn, assoc, key, told_ns, margin_ns)

    async def resolve_conflict(self, association: Association, dispute: Dispute) -> Resolved | None:
        if self._locations.association(association.assoc_id) is None:
            return None
        first = self._next_ino
        with self._store.begin() as txn:
            resolver = Resolver(txn, self._locations, association, dispute, self._now(), lambda: self._allocate_in(txn))
            resolved = resolver.resolve()
            self._save_next_ino(txn)
        self._inodes += self._next_ino - first
        return resolved

    async def note_conflict(self, conflict: Conflict) -> None:
        with self._store.begin() as txn:
            conflict_log.note(txn, conflict)

    async def conflicts(self, limit: int) -> tuple[int, list[Conflict]]:
        return conflict_log.count(self._txn()), conflict_log.latest(self._txn(), limit)

    async def conflict_of(self, ino: Ino) -> Conflict | None:
        return conflict_log.of_inode(self._txn(), ino)

    async def remove_loser(self, parent: Ino, name: bytes, *, is_vanished: bool = False) -> Removed | None:
        with self._store.begin() as txn:
            removed = lost_found.remove(txn, parent, name, self._now(), self._in_use, is_vanished=is_vanished)
        self._inodes -= removed is not None and not removed.inode.nlink
        return removed

    async def object_vanished(self, ino: Ino) -> None:
        """The bucket no longer has the object a clean file was imported from."""
        with self._store.begin() as txn:
            attributes.lose_object(txn, self._locations, ino, self._now())

    async def apply_headers(
        self, ino: Ino, etag: str, change: AttributeChange, target: bytes | None, version_id: str = "", storage_class: str = ""
    ) -> Inode | None:  # fmt: skip
        with self._store.begin() as txn:
            return attributes.apply_headers(txn, ino, etag, change, target, version_id, storage_class)

    async def unknown_headers(self, after: Ino, limit: int) -> tuple[list[Inode], Ino, bool]:
        return attributes.unknown_headers(self._txn(), after, limit)

    async def skipped(self, association: Association) -> list[tuple[bytes, str]]:
        found: list[tuple[bytes, str]] = []
        while page := await self.skipped_page(association, b"", found[-1][0] if found else b"", _SKIPPED_PAGE):
            found += page
            if len(page) < _SKIPPED_PAGE:
                break
            await trio.lowlevel.checkpoint()
        return found

    async def skipped_page(self, association: Association, below: bytes, after: bytes, limit: int) -> list[tuple[bytes, str]]:
        return skipped.page(self._txn(), association, below, after, limit)

    async def skipped_reason(self, association: Association, relative: bytes) -> str:
        return skipped.skipped_reason(self._txn(), association, relative)

    async def forget_skipped(
        self,
        association: Association,
        below: bytes,
        span: tuple[bytes, bytes | None],
        listed: Container[bytes],
        after: bytes = b"",
    ) -> bytes | None:
        with self._store.begin() as txn:
            return vanished.forget_skipped(txn, association, below, span, listed, after)

    async def hidden_below(self, inode: Inode) -> list[tuple[bytes, str]]:
        is_file = inode.parent and not inode.is_dir
        location = self._locations.of_name(self._txn(), inode.parent, inode.name) if is_file else None
        return skipped.hidden_below(self._txn(), location.association, location.relative) if location else []
