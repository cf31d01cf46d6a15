"""ImportJob: brings what is new or changed in linked prefixes into the table, whatever the import policies say; deletes nothing.

It is a sweep with other events (`sweeper`). The bucket is listed again from the beginning of a path after a crash: an object that
is known already costs microseconds. What could not become a file is noted with its reason by the sweep itself, and reported from
there.
"""

from __future__ import annotations

import logging
from typing import Literal

import trio

from s3lustrefs import errors
from s3lustrefs.meta import listing
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.listing import PATH_MAX
from s3lustrefs.meta.schema import ObjectRecord
from s3lustrefs.model.association import Association
from s3lustrefs.model.task import TaskFailure, TaskRecord
from s3lustrefs.model.task_paths import Span, spans, split_urls
from s3lustrefs.movers import event_log
from s3lustrefs.movers.links import Links
from s3lustrefs.movers.observer import Archived
from s3lustrefs.movers.sweeper import Sweeper, SweepResult
from s3lustrefs.movers.task_progress import Progress
from s3lustrefs.repository import posix_headers
from s3lustrefs.repository.retry import backoff_seconds

log = logging.getLogger(__name__)

_EVENTS = frozenset({"NEW", "CHANGED"})
_ATTEMPTS = 5
_PAGE = 500
_HEADS_AT_ONCE = 16


class ImportJob:
    """One import task; the sweepers of `links` list for it."""

    def __init__(self, engine: MetadataEngine, links: Links) -> None:
        self._engine = engine
        self._links = links

    async def run(self, progress: Progress) -> None:
        """Raises: TaskFailed, RepositoryError, StorageError."""
        wanted = self._spans(progress.record)
        done = int(progress.record.position.get("spans", "0"))
        missing = progress.record.position.get("missing", "")
        for number, span in enumerate(wanted[done:], done + 1):
            if not await self._import(span, progress):
                missing = missing or span.shown
            await progress.settled({"spans": str(number), "missing": missing}, progress.total, now=True)
        if missing:
            raise errors.TaskFailed(f"path {missing} does not exist: there is no object of this name, nor any below it")

    def _spans(self, task: TaskRecord) -> list[Span]:
        found: list[Span] = []
        for url in [each for path in task.paths or ["/"] for each in split_urls(path)]:
            meant = spans(self._engine.associations(), url)
            if not meant:
                raise errors.TaskFailed(f"path {url} is not in a linked data repository; write s3://BUCKET/PREFIX")
            found += meant
        distinct = {(span.association.assoc_id, span.relative): span for span in found}.values()
        return [span for span in distinct if not any(_contains(other, span) for other in distinct)]

    async def _import(self, span: Span, progress: Progress) -> bool:
        """Whether there was anything."""
        seen = await self._sweep_patiently(span, progress)
        return not span.relative or bool(seen)

    async def _sweep_patiently(self, span: Span, progress: Progress) -> int:
        """How many objects there were. Raises: RepositoryError once waiting is of no use."""
        attempt = 1
        while True:
            try:
                return await self._sweep(span, progress)
            except errors.RepositoryError as exc:
                if exc.terminal or attempt == _ATTEMPTS:
                    raise
                log.warning("import task waits task=%s attempt=%d error=%s", progress.record.task_id, attempt, exc)
                await trio.sleep(backoff_seconds(attempt))
                await progress.resume()  # this span begins anew, its warnings too
                attempt += 1

    async def _sweep(self, span: Span, progress: Progress) -> int:
        sweeper = self._links.of(span.association.assoc_id).sweeper
        report = _SpanReport(self._engine, progress, span, sweeper)
        result = SweepResult(on_archived=report.warn)
        progress.found = lambda: result.objects + result.skipped
        if span.relative:
            await sweeper.look_for(span.association.key_of(span.relative.encode()), _EVENTS, result)
        await sweeper.sweep(span.relative.encode(), _EVENTS, result)
        result.on_archived = None
        seen, progress.found = result.objects + result.skipped, lambda: 0
        progress.met(seen)
        await report.fail()
        return seen

    async def withdraw(self, progress: Progress) -> None:
        """Nothing is left behind: what was imported stays."""


class _SpanReport:
    """Rows about one span, which are numbered from what was settled on, in the order in which they become known.

    There may be as many as there are objects: none is kept in memory.
    """

    def __init__(self, engine: MetadataEngine, progress: Progress, span: Span, sweeper: Sweeper) -> None:
        self._engine = engine
        self._sweeper = sweeper
        self._progress = progress
        self._association = span.association
        self._below = span.relative.encode()
        self._number = progress.total

    async def warn(self, archived: Archived) -> None:
        """Of files that cannot be read before they are restored, unless they could not become files; symlinks among them have
        failed to become such. Raises: RepositoryUnavailable when the bucket does not say which they are."""
        for at in range(0, len(archived), _PAGE):
            page = archived[at : at + _PAGE]
            symlinks = await self._symlinks(page)
            rows = []
            for key, listed in page:
                if not await self._engine.skipped_reason(self._association, key):
                    is_symlink = key in symlinks
                    rows.append(self._archived_row(key, is_symlink=is_symlink))
                    event_log.note_archived(listed.storage_class, is_symlink=is_symlink, path=rows[-1].path)
            await self._progress.fail(*rows)
            await trio.lowlevel.checkpoint()

    async def _symlinks(self, archived: Archived) -> set[bytes]:
        """Only their headers tell: what is small enough to be one costs a HEAD."""
        found: set[bytes] = set()
        limit = trio.Semaphore(_HEADS_AT_ONCE)

        async def look(key: bytes) -> None:
            try:
                head = await self._sweeper.find(key)
                if head is not None and posix_headers.decode(head.metadata).is_symlink:
                    found.add(key)
            except errors.RepositoryError as exc:
                if not exc.terminal:
                    raise
                log.info("archived object not looked at key=%r error=%s", key, exc)  # it counts as a file, as it shows
            finally:
                limit.release()

        try:
            async with trio.open_nursery() as nursery:
                for key, listed in archived:
                    if self._may_be_symlink(listed):
                        await limit.acquire()
                        nursery.start_soon(look, key)
        except* errors.S3LustreError as group:
            raise group.exceptions[0] from None
        return found

    def _may_be_symlink(self, listed: ObjectRecord) -> bool:
        return 0 < listed.size < PATH_MAX and self._association.posix_metadata != "off"

    async def fail(self) -> None:
        """Of the keys that could not become files."""
        after = b""
        while page := await self._engine.skipped_page(self._association, self._below, after, _PAGE):
            after = page[-1][0]
            wanted = [(key, reason) for key, reason in page if reason != listing.MARKER_HAS_CONTENT and self._is_below(key)]
            await self._progress.fail(*(self._row(key, _code(reason)) for key, reason in wanted))
            await trio.lowlevel.checkpoint()
            if len(page) < _PAGE:
                break

    def _is_below(self, key: bytes) -> bool:
        return not self._below or key == self._below or key.startswith(self._below + b"/")

    def _archived_row(self, key: bytes, *, is_symlink: bool) -> TaskFailure:
        if is_symlink:
            return self._row(key, "S3SymlinkInUnsupportedTier")
        return self._row(key, "S3ObjectInUnsupportedTier", "succeeded with warning")

    def _row(self, key: bytes, code: str, status: Literal["failed", "succeeded with warning"] = "failed") -> TaskFailure:
        self._number += 1
        return TaskFailure(self._number, _path(self._association, key), code, status)


def _contains(outer: Span, inner: Span) -> bool:
    if outer is inner or outer.association.assoc_id != inner.association.assoc_id:
        return False
    return not outer.relative or inner.relative.startswith(outer.relative + "/")


def _code(reason: str) -> str:
    """Source: fsx-spec section 9.5."""
    return "S3ObjectTypeMismatch" if reason in listing.CLASHES else "S3ObjectPathNotPosixCompliant"


def _path(association: Association, relative: bytes) -> str:
    return association.file_system_path.rstrip("/") + "/" + relative.decode(errors="surrogateescape")
