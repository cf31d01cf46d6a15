"""FileExport: what a due file, directory or symlink needs in the bucket, and doing it.

Content that changed goes up: one PUT, or a multipart upload above a threshold. Anything else, a rename or new attributes, is
a server-side copy, never a download. What the object carried beside our own headers (foreign metadata, Content-Type, storage class,
tags) is read with a HEAD before and written again.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from functools import partial

import trio

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.export_targets import ExportView, Target
from s3lustrefs.meta.schema import Change, JournalRecord, ObjectRecord
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import AssocId, Ino
from s3lustrefs.model.inode import Inode, InodeFlag
from s3lustrefs.movers.disputes import Disputes
from s3lustrefs.movers.export_headers import carries, check_key, headers_of, holds
from s3lustrefs.movers.export_order import ExportOrder, HoldKey, LeftBehind, NotYet
from s3lustrefs.movers.export_outcome import MULTIPART_BYTES, ExportOutcome
from s3lustrefs.movers.export_source import event_of, head_if, is_as_imported, place_of
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.movers.kept_tags import KeptTags
from s3lustrefs.movers.multipart import Multipart
from s3lustrefs.movers.object_versions import head_of_source, record_of
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.sent_objects import SentObjects, Tags
from s3lustrefs.repository.object_store import Condition, FileSlice, ObjectHead, ObjectStore, ObjectVersion, PutHeaders

log = logging.getLogger(__name__)

_REQUESTS = 32
"""Objects written at once, of each association: a bucket that does not answer must not keep those of another from being written."""
SMALL_BYTES = 64 << 10
"""Smaller files are read into memory: no file has to be opened for a request."""
COPY_BYTES = 5 << 30
"""Larger objects are copied in parts. Source: Amazon S3 API Reference, "CopyObject"."""
MAX_OBJECT_BYTES = 5 << 40


AsItWas = Callable[[], AbstractAsyncContextManager[bool]]
"""Keeps writers of an open file away; whether they have written nothing since its snapshot."""


class FileExport:
    """Exports one inode record. `know_headers` returns once an inode's POSIX headers are known."""

    def __init__(
        self,
        engine: MetadataEngine,
        chunks: ChunkStore,
        hydrator: Hydrator,
        repositories: Repositories,
        know_headers: Callable[[Inode], Awaitable[Inode]],
        disputes: Disputes,
    ) -> None:
        self._engine = engine
        self._chunks = chunks
        self._hydrator = hydrator
        self._repositories = repositories
        self._know_headers = know_headers
        self._disputes = disputes
        self._multipart = Multipart(chunks)
        self._sent = SentObjects(engine)
        self._tags = KeptTags(engine, repositories)
        self._order = ExportOrder(engine, hydrator, disputes.vanished)
        self._outcome = ExportOutcome(engine, self._sent, self._multipart, disputes, self._tags)
        self._requests: defaultdict[AssocId, trio.Semaphore] = defaultdict(partial(trio.Semaphore, _REQUESTS))
        self.exported_bytes = 0

    @property
    def exported_objects(self) -> int:
        return self._outcome.settled_objects

    def sent_bytes(self, ino: Ino) -> int:
        """Of a file that is being uploaded, what is in the bucket already."""
        return self._multipart.sent_bytes.get(ino, 0)

    async def export(self, record: JournalRecord, hold: HoldKey) -> LeftBehind | None:
        """The object it was copied from, if it was. Raises: NotYet, RepositoryError, StorageError."""
        view = await self._engine.export_view(record.ino)
        if view is None or not view.inode.nlink:
            await self._engine.finish(record)
            return None
        left: LeftBehind | None = None
        await self._know_headers(view.inode)
        excluded = False
        source = place_of(view)
        for key in [(t.association.assoc_id, t.key) for t in view.targets]:
            # The source's key too, in one order for everybody: few endpoints take a condition on the source of a copy.
            places = sorted({key, source or key})
            async with AsyncExitStack() as held:
                for place in places:
                    await held.enter_async_context(hold(*place))
                # Looked at again under the locks: the target before, or somebody else, may have changed it.
                fresh = await self._engine.export_view(record.ino)
                target = next((t for t in fresh.targets if (t.association.assoc_id, t.key) == key), None) if fresh else None
                if fresh is None or target is None:
                    continue
                if (place_of(fresh) or key) not in places:
                    raise NotYet(0.0)
                if is_as_imported(fresh, target, record):
                    continue
                is_wanted = event_of(fresh, target) in target.association.auto_export or record.change & Change.ORDERED
                if not is_wanted or fresh.inode.hsm & Hsm.NOARCHIVE:
                    excluded = True
                    continue
                started = trio.current_time()
                if await self._export_target(fresh, target, record) and fresh.source is not None and place_of(fresh) != key:
                    left = LeftBehind(fresh.source, started)
                source = key if len(view.targets) > 1 else None  # where its content is now
        if excluded:
            await self._engine.exclude(record)
        else:
            await self._engine.finish(record)
        return left

    async def _export_target(self, view: ExportView, target: Target, record: JournalRecord) -> bool:
        """Whether the object was copied from its source, which was looked at for that."""
        inode = view.inode
        check_key(target.key)
        await self._order.before_write(view, target)
        store = self._repositories.to_write(target.association.assoc_id)
        await self._sent.drop_uploads(store, target.association.assoc_id, target.key)
        if inode.is_dir or inode.is_symlink:
            await self._put_small(store, inode, target)
        elif inode.hsm & Hsm.DIRTY or view.source is None or (record.change & Change.CONTENT and target.known is None):
            await self._put_content(store, inode, target)
        elif (view.source.assoc, view.source.key) == (target.association.assoc_id, target.key):
            # What the policy of another day kept back goes with it.
            if record.change & (Change.METADATA | Change.CONTENT) or inode.flags & InodeFlag.EXCLUDED:
                return await self._copy(store, inode, target, view.source)
        else:  # another name of the file: what changed went up under the first one
            return await self._copy(store, inode, target, view.source)
        return False

    async def _put_small(self, store: ObjectStore, inode: Inode, target: Target) -> None:
        """Directory markers hold nothing, symlinks their target. A marker changed by others has nothing to lose."""
        body = inode.target if inode.is_symlink else b""
        known = target.known
        foreign = await head_if(store, target.key, known)
        await self._outcome.note(inode, target)
        try:
            written = await self._write_small(store, inode, target, body, foreign, _condition(known if foreign else None))
        except errors.ObjectChanged:
            head = await store.head(target.key)
            ours = await self._sent.wrote(target.association.assoc_id, target.key, head)
            is_known = known is not None and head.version.etag == known.etag  # and was said to be gone, or to have changed
            if inode.is_symlink and not ours and not is_known and not holds(head, body):
                await self._outcome.conflict(inode, target, head)
            written = await self._write_small(store, inode, target, body, head, Condition(head.version.etag))
        await self._outcome.settle(inode, target, written, content=True)

    async def _write_small(
        self, store: ObjectStore, inode: Inode, target: Target, body: bytes, there: ObjectHead | None, condition: Condition
    ) -> ObjectVersion:
        """Content that others keep in a directory's object, and nobody here can see, stays: only its attributes change."""
        headers = headers_of(inode, target.key, there)
        if there is not None and carries(there, headers) and (inode.is_dir or holds(there, body)):
            await self._tags.put_back(target, there)
            return there.version  # written by an earlier request, whose answer was lost
        if inode.is_dir and there is not None and there.version.size:
            version = replace(there.version, version_id="")
            tags = await self._tags.to_copy(target, record_of(target.association.assoc_id, target.key, version), version, there)
            if tags:
                await self._outcome.note(inode, target, tags=tags)
            condition = Condition(there.version.etag)
            return await store.copy(target.key, store.bucket, target.key, version, headers, condition, there, tags)
        headers = await self._tags.with_tags(target.association.assoc_id, target.key, headers, there)
        return await store.put(target.key, body, headers, condition)

    async def _put_content(self, store: ObjectStore, inode: Inode, target: Target) -> None:
        if inode.size > MAX_OBJECT_BYTES:
            raise errors.ObjectTooLarge(
                f"{target.key.decode()}: {inode.size} bytes; an object holds at most 5 TiB", key=target.key.decode()
            )
        foreign = await self._complete(store, inode, target)
        if foreign is not None and target.known is not None and foreign.version.etag != target.known.etag:
            await self._outcome.resolve(inode, target, foreign)
            return
        headers = await self._headers(store, inode, target, foreign)
        condition = _condition(target.known if foreign else None)
        try:
            written = await self._send(store, inode, target, headers, condition)
        except errors.ObjectChanged as exc:
            try:
                head = await store.head(target.key)
            except errors.ObjectNotFound:
                raise errors.RepositoryUnavailable(f"{exc}; but there is no object") from exc
            await self._outcome.resolve(inode, target, head)
            return
        await self._outcome.settle(inode, target, written, content=True)
        if foreign is None:
            await self._disputes.deleted_there(inode, target)

    async def _headers(self, store: ObjectStore, inode: Inode, target: Target, there: ObjectHead | None) -> PutHeaders:
        """Of others' what the object to be replaced carries, or (exported apart) the one it was imported from."""
        key, model = target.key, there
        source = await self._engine.source_of(inode) if there is None and target.association.export_prefix else None
        if source is not None and source.assoc == target.association.assoc_id:
            key, model = source.key, await head_if(store, source.key, source)
        return await self._tags.with_tags(target.association.assoc_id, key, headers_of(inode, target.key, model), model)

    async def _send(
        self, store: ObjectStore, inode: Inode, target: Target, headers: PutHeaders, condition: Condition
    ) -> ObjectVersion:
        in_parts = inode.size > MULTIPART_BYTES
        await self._outcome.note(inode, target, in_parts=in_parts)
        async with self._requests[target.association.assoc_id]:
            if in_parts:
                written = await self._multipart.upload(store, inode, target.key, headers, condition)
            else:
                body = await self._body(inode)
                failpoint("put.before")
                written = await store.put(target.key, body, headers, condition)
                failpoint("put.answered")
        self.exported_bytes += inode.size
        return written

    async def export_snapshot(self, frozen: Inode, record: JournalRecord | None, as_it_was: AsItWas, hold: HoldKey) -> None:
        """Write the snapshot of a file that is still open; whatever cannot be done at once is left to its close.

        `frozen` is the inode at that moment, with the content version its bytes are kept under, `record` its journal record then.
        Raises: RepositoryError, StorageError.
        """
        view = await self._engine.export_view(frozen.ino)
        if record is None or view is None or len(view.targets) != 1:
            return
        place = (view.targets[0].association.assoc_id, view.targets[0].key)
        async with hold(*place):
            view = await self._engine.export_view(frozen.ino)
            target = next((t for t in view.targets if (t.association.assoc_id, t.key) == place), None) if view else None
            if view is None or target is None or event_of(view, target) not in target.association.auto_export:
                return
            if view.inode.hsm & Hsm.NOARCHIVE:
                return
            check_key(target.key)
            store = self._repositories.to_write(place[0])
            try:
                await self._order.before_write(view, target)
                await self._sent.drop_uploads(store, *place)
                foreign = await head_if(store, target.key, target.known)
                headers = await self._headers(store, frozen, target, foreign)
                written = await self._send(store, frozen, target, headers, _condition(target.known if foreign else None))
            except (NotYet, errors.ObjectChanged) as reason:
                log.info("open file left to its close ino=%d reason=%s", frozen.ino, reason)
                return
            failpoint("snapshot.sent")
            async with as_it_was() as is_unchanged:
                await self._outcome.settle(frozen, target, written, content=is_unchanged, version=view.inode.content_version)
                if is_unchanged and not await self._engine.finish(record):
                    await self._engine.make_due(frozen.ino)  # its name or attributes changed meanwhile

    async def _complete(self, store: ObjectStore, inode: Inode, target: Target) -> ObjectHead | None:
        """Fetch what is not local yet; what the object to be replaced carries. Raises: ObjectNotFound when the version to fetch is
        no longer in the bucket; NotYet when its successor has won."""
        try:
            await self._hydrator.ensure(inode, 0, inode.size)
            return await head_if(store, target.key, target.known)
        except errors.StaleInode as exc:
            key = target.key.decode()
            head = await head_if(store, target.key, target.known)
            if head is not None and target.association.on_conflict == "bucket-wins":
                await self._outcome.conflict(inode, target, head)
            raise errors.ObjectNotFound(
                f"{key}: not all of the file was local when its object was replaced ({exc})", key=key
            ) from exc

    async def _body(self, inode: Inode) -> FileSlice | bytes:
        if not inode.size:
            return b""
        if inode.size > SMALL_BYTES:
            return await self._multipart.body(inode, 0, inode.size)
        return bytes(await self._chunks.read(inode.ino, inode.content_version, inode.chunk_bytes, 0, inode.size))

    async def _copy(self, store: ObjectStore, inode: Inode, target: Target, source: ObjectRecord) -> bool:
        origin = self._engine.association(source.assoc)
        if origin is None or not self._repositories.same_endpoint(origin, target.association):
            await self._put_content(store, inode, target)
            return False
        await self._outcome.note(inode, target, in_parts=source.size > COPY_BYTES, copy_of=source.etag)
        try:
            async with self._requests[target.association.assoc_id]:
                # As late as possible: where the endpoint takes no condition on a copy, this is what stands in for it.
                head, is_current = await head_of_source(self._repositories.of(source.assoc), source)
                written = await self._copy_version(store, inode, target, source, head, is_current=is_current)
        except (errors.ObjectChanged, errors.ObjectNotFound):
            await self._copy_failed(store, inode, target, source)
            return False
        await self._outcome.settle(inode, target, written, content=True)
        return is_current

    async def _copy_version(
        self, store: ObjectStore, inode: Inode, target: Target, source: ObjectRecord, head: ObjectHead, *, is_current: bool
    ) -> ObjectVersion:
        if head.archived:
            raise _cannot_be_copied(source, head)
        headers = headers_of(inode, target.key, head)
        onto_itself = (source.assoc, source.key) == (target.association.assoc_id, target.key)
        if is_current and onto_itself and carries(head, headers):
            await self._tags.put_back(target, head)
            return head.version  # done before a crash, or changed there and back
        # Naming a version takes a permission of its own, so it is done only where it must be.
        version = replace(head.version, version_id="") if is_current else head.version
        in_parts = version.size > COPY_BYTES
        tags = await self._tags.to_copy(target, source, version, head, in_parts=in_parts)
        if tags:
            await self._outcome.note(inode, target, in_parts=in_parts, tags=tags, copy_of=source.etag)
        failpoint("copy.before")
        written = await self._copy_object(store, target, source, version, head, headers, tags)
        failpoint("copy.answered")
        return written

    async def _copy_object(
        self,
        store: ObjectStore,
        target: Target,
        source: ObjectRecord,
        version: ObjectVersion,
        head: ObjectHead,
        headers: PutHeaders,
        tags: Tags,
    ) -> ObjectVersion:
        bucket = self._repositories.of(source.assoc).bucket
        if version.size > COPY_BYTES:
            return await self._multipart.copy(
                store, target.key, bucket, source.key, version, replace(headers, tags=tags), _condition(target.known)
            )
        return await store.copy(target.key, bucket, source.key, version, headers, _condition(target.known), head, tags)

    async def _copy_failed(self, store: ObjectStore, inode: Inode, target: Target, source: ObjectRecord) -> None:
        """Either end of a copy is not what we last saw."""
        try:
            there = await store.head(target.key)
        except errors.ObjectNotFound:
            there = None
        expected = target.known.etag if target.known else None
        onto_itself = (source.assoc, source.key) == (target.association.assoc_id, target.key)
        if there is not None and there.version.etag != expected:
            is_equal = there.version.size == inode.size and there.version.etag == source.etag
            place = (target.association.assoc_id, target.key)
            is_copy = is_equal and carries(there, headers_of(inode, target.key, there))
            if is_copy or await self._sent.copied(*place, there, source.etag):
                await self._outcome.settle_found(inode, target, there)  # our own copy, before a crash or a lost reply
            elif is_equal or await self._sent.wrote(*place, there):
                # The same bytes with other attributes, of a file that had the name before: the next attempt replaces them.
                await self._outcome.observe(target, there)
            else:
                await self._outcome.conflict(inode, target, there)
        elif there is None and expected is not None and (inode.is_complete or not onto_itself):
            await self._engine.forget_object(target.association.assoc_id, target.key)
            await self._disputes.deleted_there(inode, target)
            raise NotYet(0.0)
        elif await self._engine.find_object(source.assoc, source.key) != source or (
            inode.nlink > 1 and await self._disputes.follow(inode)
        ):
            raise NotYet(0.0)  # out of date: another inode was exported there meanwhile, or it is the object of another name
        elif inode.is_complete:
            await self._disputes.leave(source)
            await self._put_content(store, inode, target if there else replace(target, known=None))
        elif (head := await head_if(self._repositories.of(source.assoc), source.key, source)) and head.version.etag == source.etag:
            raise errors.RepositoryUnavailable(f"{source.key.decode()}: the endpoint refuses a copy of a version that it has")
        elif await self._disputes.follow(inode):
            raise NotYet(0.0)
        else:
            raise errors.ObjectNotFound(
                f"{source.key.decode()}: the object this file came from was changed or removed in the bucket",
                key=source.key.decode(),
            )


def _cannot_be_copied(source: ObjectRecord, head: ObjectHead) -> errors.ObjectArchived:
    key = source.key.decode()
    return errors.ObjectArchived(
        f"{key} is archived ({head.version.storage_class}): what changed of it but its content is exported once it is restored",
        key=key,
    )


def _condition(known: ObjectRecord | None) -> Condition:
    return Condition(known.etag if known else "")
