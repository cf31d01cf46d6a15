"""Versions: the history of a file's object, and one of its versions brought back as a new current one.

The copy is made in the bucket, on condition that the current version still is the one this mount knows, and then imported like
any change made by others: dying in between leaves a change that the next sweep finds.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import trio

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.listing import preparer, preparer_options
from s3lustrefs.meta.schema import ObjectRecord
from s3lustrefs.model.association import EVENTS, Association, key_defect
from s3lustrefs.model.events import Invalidation
from s3lustrefs.model.ids import NO_INO
from s3lustrefs.model.inode import Inode, InodeFlag
from s3lustrefs.movers.export_files import COPY_BYTES
from s3lustrefs.movers.export_headers import kept_headers
from s3lustrefs.movers.export_order import HoldKey
from s3lustrefs.movers.headers import HeaderFetcher
from s3lustrefs.movers.importer import announce
from s3lustrefs.movers.multipart import Multipart
from s3lustrefs.movers.refresher import Refresher
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.repository import posix_headers
from s3lustrefs.repository.object_store import Condition, KeptVersion, ObjectHead, ObjectStore, ObjectVersion

log = logging.getLogger(__name__)

_HEADS_AT_ONCE = 16
_MOST_HEADS = 200
"""Older versions than these are listed without saying who wrote them."""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One version of a file. `is_here`: what the mount shows; `has_posix_headers`: None where nobody looked."""

    kept: KeptVersion
    is_here: bool
    has_posix_headers: bool | None


@dataclass(frozen=True, slots=True)
class _Place:
    """A path, whether there is a file or not, as a key of an association."""

    path: bytes
    association: Association
    key: bytes
    inode: Inode | None

    @property
    def text(self) -> str:
        return self.path.decode(errors="replace")


class Versions:
    """See the module docstring. `hold` keeps exports away from a key."""

    def __init__(
        self,
        engine: MetadataEngine,
        repositories: Repositories,
        multipart: Multipart,
        refresher: Refresher,
        headers: HeaderFetcher,
        notify: Callable[[Invalidation], None],
        hold: HoldKey,
        resolve: Callable[[bytes], Awaitable[Inode]],
    ) -> None:
        self._engine = engine
        self._repositories = repositories
        self._multipart = multipart
        self._refresher = refresher
        self._headers = headers
        self._notify = notify
        self._hold = hold
        self._resolve = resolve

    # --- looking ---------------------------------------------------------------------------------------------------------

    async def history(self, path: bytes) -> list[HistoryEntry]:
        """The current version first, then the newest. Raises: MetadataError, NotInRepository, RepositoryError."""
        place = await self._place(path)
        store = self._repositories.of(place.association.assoc_id)
        kept = await store.list_versions(place.key)
        if not kept:
            raise errors.NotFound(f"{place.text}: the bucket has no version of s3://{store.bucket}/{place.key.decode()}")
        source = await self._engine.source_of(place.inode) if place.inode is not None else None
        known = source if source is not None and source.key == place.key else None
        written = await self._have_posix_headers(store, place.key, kept)
        return [
            HistoryEntry(each, _is_here(each, known), written.get(each.version.version_id) if not each.is_delete_marker else None)
            for each in kept
        ]

    async def _have_posix_headers(self, store: ObjectStore, key: bytes, kept: Sequence[KeptVersion]) -> dict[str, bool]:
        found: dict[str, bool] = {}
        limit = trio.CapacityLimiter(_HEADS_AT_ONCE)

        async def look(version_id: str) -> None:
            async with limit:
                try:
                    head = await store.head(key, version_id=version_id)
                except errors.RepositoryError as exc:  # gone meanwhile, or s3:GetObjectVersion is not allowed
                    log.debug("version not looked at key=%r error=%s", key, exc)
                    return
                found[version_id] = posix_headers.USER_AGENT in head.metadata

        async with trio.open_nursery() as nursery:
            for each in [each for each in kept if not each.is_delete_marker][:_MOST_HEADS]:
                nursery.start_soon(look, each.version.version_id)
        return found

    async def _place(self, path: bytes) -> _Place:
        association, relative = self._split(path)
        try:
            inode = await self._resolve(path)
        except errors.NotFound:
            inode = None
        text = path.decode(errors="replace")
        if not relative or (inode is not None and inode.is_dir):
            raise errors.IsADirectory(f"{text}: is a directory; name a file, which need not exist any more")
        if defect := key_defect(relative):
            raise errors.InvalidArgument(f"{text}: no object can have this name: {defect}")
        return _Place(path, association, await self._key(association, relative, inode), inode)

    async def _key(self, association: Association, relative: bytes, inode: Inode | None) -> bytes:
        """Of the object that a name has: exported apart, the one that has its content, or had it when the name was removed."""
        key, imported = association.export_key_of(relative), association.key_of(relative)
        if inode is None:
            return imported if await self._engine.find_object(association.assoc_id, key) is None else key
        source = await self._engine.source_of(inode)
        return imported if source is not None and source.key == imported else key

    def _split(self, path: bytes) -> tuple[Association, bytes]:
        for association in self._engine.associations():
            top = association.file_system_path.rstrip("/").encode() + b"/"
            if (path + b"/").startswith(top):
                return association, path[len(top) :]
        raise errors.NotInRepository(f"{path.decode(errors='replace')} is in no association: nothing keeps versions of it")

    # --- bringing back -------------------------------------------------------------------------------------------------------

    async def bring_back(self, path: bytes, version_id: str) -> KeptVersion:
        """Make a version the current one, here and in the bucket, as it was then. It being that already is fine.

        Raises: NotFound, InvalidArgument, NotPermitted, ObjectChanged, ObjectArchived, other RepositoryError.
        """
        place = await self._place(path)
        async with self._hold(place.association.assoc_id, place.key):
            place = await self._place(path)
            store = self._repositories.of(place.association.assoc_id)
            history = await store.list_versions(place.key)
            current = next((each.version for each in history if each.is_current and not each.is_delete_marker), None)
            await self._check_unchanged(place, current)
            wanted = _choose(place, version_id, history)
            if not wanted.is_current:
                _check_policy(place, current)
            if place.inode is None:
                await self._take_object(place)
            if not wanted.is_current:
                await self._copy(store, place, wanted.version, current)
                failpoint("version.copied")
        if place.inode is None:
            await self._make_file(place, store)
        elif not wanted.is_current:
            await self._refresher.refresh(place.inode.ino, (place.association.assoc_id, place.key), always=True)
        return wanted

    async def _check_unchanged(self, place: _Place, current: ObjectVersion | None) -> None:
        """Nothing that is only here, and nothing of the bucket that was not seen here, may be lost. Raises: NotPermitted."""
        association, inode = place.association, place.inode
        if inode is not None:
            if inode.is_symlink or not inode.is_file:
                raise errors.NotPermitted(f"{place.text}: only regular files can be brought back; remove it first")
            pending = await self._engine.find_journal(inode.ino) is not None
            if pending or inode.is_dirty or inode.flags & InodeFlag.EXCLUDED:
                raise errors.NotPermitted(
                    f"{place.text} has changes that are not in the bucket: `s3lustrefs drain` brings them there, "
                    "then they are a version of their own"
                )
        elif await self._engine.find_lost_key(association.assoc_id, place.key) is not None:
            raise errors.NotPermitted(f"{place.text}: its removal is not in the bucket yet: `s3lustrefs drain` brings it there")
        known = await self._engine.find_object(association.assoc_id, place.key)
        if inode is not None and (known is None or known.ino != inode.ino):
            known = await self._engine.source_of(inode)
        if (known.etag if known else None) != (current.etag if current else None):
            raise errors.NotPermitted(
                f"{place.text} was changed in the bucket, which was not seen here yet: look at it first (`s3lustrefs refresh`)"
            )

    async def _take_object(self, place: _Place) -> None:
        """Of a file removed or renamed here, which the policy does not export: nobody else may need it. Raises: NotPermitted."""
        assoc = place.association.assoc_id
        other = await self._engine.dependant(await self._engine.find_object(assoc, place.key), NO_INO)
        if not await self._engine.free_object(assoc, place.key, NO_INO):
            path = await self._engine.path_of(other.ino) if other is not None and other.nlink else b"a removed file that is open"
            needed = path.decode(errors="replace")
            raise errors.NotPermitted(f"{place.text}: its object still has the content of {needed}: read that one first")
        await self._engine.sync()

    async def _copy(self, store: ObjectStore, place: _Place, wanted: ObjectVersion, current: ObjectVersion | None) -> None:
        head = await store.head(place.key, version_id=wanted.version_id)
        if head.archived:
            raise errors.ObjectArchived(
                f"{place.text}: version {wanted.version_id} is archived ({head.version.storage_class}): restore it with "
                f"`aws s3api restore-object --version-id`, then try again"
            )
        condition = Condition(current.etag if current else "")
        source = replace(head.version, version_id=wanted.version_id)
        headers = kept_headers(head)
        if source.size > COPY_BYTES:
            headers = replace(headers, tags=await _tags(store, place.key, head, wanted.version_id))
            await self._multipart.copy(store, place.key, store.bucket, place.key, source, headers, condition)
        else:
            await store.copy(place.key, store.bucket, place.key, source, headers, condition)
        log.info("version brought back key=%r version_id=%s", place.key, wanted.version_id)

    async def _make_file(self, place: _Place, store: ObjectStore) -> None:
        association = place.association
        known = await self._engine.find_object(association.assoc_id, place.key)
        if known is not None:  # removed here while the policy does not export that: now it is wanted again
            await self._engine.forget_object(association.assoc_id, place.key)
        v = (await store.head(place.key)).version
        association, relative = association.side_of(place.key), association.relative_of(place.key)
        directory, _, name = relative.rpartition(b"/")
        options = preparer_options(association)
        entry = preparer(**options)(relative, name, v.size, v.etag.encode(), v.mtime_ns, v.storage_class.encode())  # type: ignore[arg-type]
        with self._engine.sweep(frozenset(EVENTS)) as sweep:
            applied = await self._engine.apply_listing(association, [(directory, [entry])], sweep=sweep)
        announce(applied, self._notify)
        self._headers.expect()


def _is_here(kept: KeptVersion, known: ObjectRecord | None) -> bool:
    if known is None or kept.is_delete_marker or known.etag != kept.version.etag:
        return False
    return known.version_id == kept.version.version_id if known.version_id else kept.is_current


def _choose(place: _Place, version_id: str, history: Sequence[KeptVersion]) -> KeptVersion:
    found = next((each for each in history if each.version.version_id == version_id), None)
    if found is None:
        keeps = any(each.version.is_kept or not each.is_current for each in history)
        reason = "`s3lustrefs versions` lists those there are" if keeps else "its bucket keeps no versions"
        raise errors.NotFound(f"{place.text} has no version {version_id}: {reason}")
    if found.is_delete_marker:
        raise errors.InvalidArgument(f"{place.text}: {version_id} is a delete marker, it has no content: name a version before it")
    return found


def _check_policy(place: _Place, current: ObjectVersion | None) -> None:
    """The bucket is written only as far as the export policy goes."""
    if not place.association.is_written(place.key):
        raise errors.NotPermitted(
            f"{place.text} was imported from s3://{place.association.bucket}/{place.key.decode()}, which nothing here writes: "
            "copy that version with another tool"
        )
    event = "NEW" if current is None else "CHANGED"
    if event not in place.association.auto_export:
        raise errors.NotPermitted(
            f"{place.text}: auto_export of {place.association.file_system_path} excludes {event.lower()} objects"
        )


async def _tags(store: ObjectStore, key: bytes, head: ObjectHead, version_id: str) -> Sequence[tuple[str, str]]:
    return await store.get_tags(key, version_id=version_id) if head.tag_count else ()
