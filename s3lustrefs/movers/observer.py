"""Observer: the one step by which what is known of the bucket becomes so in the table, and in the kernel's eyes.

Sweeps and events both end here: what is there is applied as a listing is, what is not there any more loses its name. Doing
it twice changes nothing.

INVARIANT: an object that this mount wrote or removed since somebody began to ask is left alone: the answer may tell of the time
before (`meta.listing.Sweep.touched`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import trio

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.listing import PreparedEntry, Sweep, preparer, preparer_options
from s3lustrefs.meta.schema import ObjectRecord, decode_object, object_keys, pack_u64
from s3lustrefs.meta.vanished import Removed
from s3lustrefs.model.association import Association
from s3lustrefs.model.events import Invalidation
from s3lustrefs.model.ids import NO_INO, AssocId
from s3lustrefs.movers.headers import HeaderFetcher
from s3lustrefs.movers.importer import announce, association_of, slices
from s3lustrefs.movers.listing_frames import Batch, BatchKind, fill_batch
from s3lustrefs.movers.removals import Removals
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.unanswered import Unanswered
from s3lustrefs.repository.list_page import STANDARD, Page
from s3lustrefs.repository.object_store import ARCHIVE_CLASSES, ObjectHead, ObjectStore, ObjectVersion
from s3lustrefs.repository.probe import PROBE_PREFIX

log = logging.getLogger(__name__)

Archived = Sequence[tuple[bytes, ObjectRecord]]
"""Paths relative to the prefix, and what was listed of their objects."""
Groups = list[tuple[bytes, Sequence[PreparedEntry]]]


@dataclass(slots=True)
class Seen:
    """What one look at the bucket found: objects looked at, and names that came, changed and went."""

    objects: int = 0
    new: int = 0
    changed: int = 0
    deleted: int = 0
    skipped: int = 0
    """Keys that can be no path."""
    refused: int = 0
    """Names that stay since the bucket does not say whether it has their objects."""
    on_archived: Callable[[Archived], Awaitable[None]] | None = None
    """Is told of files whose object is in an archive storage class, those of a batch at a time."""


class Observer:
    """Of one association."""

    def __init__(
        self,
        engine: MetadataEngine,
        assoc: AssocId,
        repositories: Repositories,
        headers: HeaderFetcher,
        removals: Removals,
        notify: Callable[[Invalidation], None],
    ) -> None:
        self._engine = engine
        self._assoc = assoc
        self._repositories = repositories
        self._headers = headers
        self._removals = removals
        self._notify = notify
        self.unanswered = Unanswered(repositories.troubles)

    def association(self) -> Association:
        """As it is now. Raises: NotInRepository when it is gone."""
        return association_of(self._engine, self._assoc)

    async def find(self, key: bytes) -> ObjectHead | None:
        """What the bucket has under a key now. Raises: ObjectRefused when it tells of others only; RepositoryError."""
        store = self._repositories.of(self._assoc)
        found: ObjectHead | None = None
        try:
            found = await store.head(key)
        except errors.ObjectNotFound:
            pass
        except (errors.RepositoryDenied, errors.RepositoryRejected) as exc:
            if not await self._tells_of_others(store):
                raise
            refusal = errors.ObjectRefused(str(exc), bucket=exc.bucket, key=exc.key)
            known = await self._engine.find_object(self._assoc, key)
            self.unanswered.note(key, known.ino if known is not None else NO_INO, refusal)
            raise refusal from exc
        self.unanswered.forget([key])
        return found

    async def _tells_of_others(self, store: ObjectStore) -> bool:
        """Answers to HEAD carry no words; one about a key that nobody has tells whether all are refused.

        Raises: RepositoryUnavailable.
        """
        try:
            await store.head(self.association().prefix.encode() + PROBE_PREFIX.encode() + b"none")
        except errors.ObjectNotFound:
            return True
        except (errors.RepositoryDenied, errors.RepositoryRejected):
            return False
        return True

    async def apply(self, batch: Batch, below: bytes, sweep: Sweep, seen: Seen) -> frozenset[bytes]:
        """Objects that are there; paths of the batch are relative to `below`. All their table keys."""
        groups: Groups = [(_joined(below, directory), entries) for directory, entries in batch.groups]
        markers = [(_joined(below, marker[0]), *marker[1:]) for marker in batch.markers]
        skipped = [(_joined(below, key), reason) for key, reason in batch.skipped]
        first = True
        for part in slices(groups):
            applied = await self._engine.apply_listing(
                self.association(), part, markers if first else (), skipped if first else (), sweep=sweep
            )
            failpoint("sweep.batch")
            first = False
            seen.new += len(applied.appeared)
            seen.changed += len(applied.changed) + len(applied.doubted)
            self._headers.prefetch(applied.doubted)
            for inode in applied.outdated:
                self._removals.drop_content(inode)
            announce(applied, self._notify)
            await trio.lowlevel.checkpoint()
        seen.objects += sum(len(entries) for _, entries in groups) + len(markers)
        seen.skipped += len(skipped)
        if seen.on_archived is not None and (archived := _archived(groups)):
            await seen.on_archived(archived)
        if self.association().posix_metadata != "off":
            self._headers.expect()
        await self._engine.wait_room()
        prefix = self.association().prefix.encode()
        keys = [prefix + path for path in _paths(groups, markers)]
        self.unanswered.forget(keys)
        keys += [prefix + path for path, _ in skipped]
        return frozenset(object_keys(self._assoc, keys))

    async def remove(self, key: bytes, sweep: Sweep, seen: Seen) -> None:
        """The bucket has nothing under this key: `find` said so. Gives way to others after each."""
        found = await self._engine.remove_vanished(self.association(), key, sweep)
        failpoint("sweep.removed")
        if isinstance(found, Removed):
            seen.deleted += 1
            self._removals.follow(found.parent, [found])
        elif found is not None:
            log.warning("conflict kept kind=%s path=%s", found.kind, found.path)
        await trio.lowlevel.checkpoint()


def _joined(below: bytes, relative: bytes) -> bytes:
    return below + b"/" + relative if below and relative else below or relative


def _archived(groups: Groups) -> list[tuple[bytes, ObjectRecord]]:
    found = [(_joined(directory, entry[0]), _if_archived(entry[2])) for directory, entries in groups for entry in entries]
    return [(path, record) for path, record in found if record is not None]


def _if_archived(prepared: bytes) -> ObjectRecord | None:
    """Of an object as it is to be stored. Decoding only those that may be costs a tenth of decoding all."""
    if not any(word.encode() in prepared for word in ARCHIVE_CLASSES):
        return None
    record = decode_object(b"\0\0", pack_u64(NO_INO) + prepared)
    return record if record.storage_class in ARCHIVE_CLASSES else None


def _paths(groups: Groups, markers: list[tuple[bytes, int, bytes, int, bytes]]) -> list[bytes]:
    """Of every file and directory of a batch, relative to the prefix; those of directories end in a slash."""
    found = [path + b"/" if path else b"" for path, *_ in markers]
    for directory, entries in groups:
        start = directory + b"/" if directory else b""
        found += [start + entry[0] for entry in entries]
    return found


def batch_of(association: Association, there: Mapping[bytes, ObjectVersion]) -> Batch:
    """Objects by their keys, as a listing process makes a batch of a page."""
    page = Page()
    for key, version in sorted(there.items()):
        page.keys.append(key)
        page.sizes.append(version.size)
        page.etags.append(version.etag.encode())
        page.mtimes_ns.append(version.mtime_ns)
        page.storage_classes.append(version.storage_class.encode() or STANDARD)
    prepare = preparer(**preparer_options(association))  # type: ignore[arg-type]
    return fill_batch(Batch(BatchKind.BULK), page, association.prefix.encode(), prepare, association.export_prefix.encode())
