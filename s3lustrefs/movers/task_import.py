"""ImportJob: brings what is new or changed in linked prefixes into the table, whatever the import policies say; deletes nothing.

It is a sweep with other events (`sweeper`). The bucket is listed again from the beginning of a path after a crash: an object that
is known already costs microseconds. What could not become a file is noted with its reason by the sweep itself, and reported from
there.
"""

from __future__ import annotations

import logging

import trio

from s3lustrefs import errors
from s3lustrefs.meta import listing
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.association import Association
from s3lustrefs.model.log_events import LogEvent
from s3lustrefs.model.task import TaskFailure, TaskRecord
from s3lustrefs.model.task_paths import Span, spans, split_urls
from s3lustrefs.movers import event_log
from s3lustrefs.movers.links import Links
from s3lustrefs.movers.sweeper import SweepResult
from s3lustrefs.movers.task_progress import Progress
from s3lustrefs.repository.retry import backoff_seconds

log = logging.getLogger(__name__)

_EVENTS = frozenset({"NEW", "CHANGED"})
_ATTEMPTS = 5
_PAGE = 500


class ImportJob:
    """One import task; the sweepers of `links` list for it."""

    def __init__(self, engine: MetadataEngine, links: Links) -> None:
        self._engine = engine
        self._links = links

    async def run(self, progress: Progress) -> None:
        """Raises: TaskFailed, RepositoryError, StorageError."""
        wanted = self._spans(progress.record)
        done = int(progress.record.position.get("spans", "0"))
        missing = ""
        for number, span in enumerate(wanted[done:], done + 1):
            if not await self._import(span, progress):
                missing = missing or span.shown
            await progress.settled({"spans": str(number)}, progress.total, now=True)
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
        result = await self._sweep_patiently(span, progress)
        progress.found = lambda: 0
        rows = await self._failures(span, result, progress.total)
        progress.met(result.objects + result.skipped)
        for at in range(0, len(rows), _PAGE):
            await progress.fail(*rows[at : at + _PAGE])
            await trio.lowlevel.checkpoint()
        return not span.relative or bool(result.objects + result.skipped)

    async def _sweep_patiently(self, span: Span, progress: Progress) -> SweepResult:
        """Raises: RepositoryError once waiting is of no use."""
        attempt = 1
        while True:
            try:
                return await self._sweep(span, progress)
            except errors.RepositoryError as exc:
                if exc.terminal or attempt == _ATTEMPTS:
                    raise
                log.warning("import task waits task=%s attempt=%d error=%s", progress.record.task_id, attempt, exc)
                await trio.sleep(backoff_seconds(attempt))
                attempt += 1

    async def _sweep(self, span: Span, progress: Progress) -> SweepResult:
        sweeper = self._links.of(span.association.assoc_id).sweeper
        result = SweepResult(archived=[])
        progress.found = lambda: result.objects + result.skipped
        if span.relative:
            await sweeper.look_for(span.association.key_of(span.relative.encode()), _EVENTS, result)
        await sweeper.sweep(span.relative.encode(), _EVENTS, result)
        return result

    async def _failures(self, span: Span, result: SweepResult, before: int) -> list[TaskFailure]:
        """Rows of the report about one span, in the order of their keys; their numbers go on after `before`."""
        association, below = span.association, span.relative.encode()
        reasons = {
            key: _code(reason)
            for key, reason in await self._engine.skipped(association)
            if reason != listing.MARKER_HAS_CONTENT and (not below or key == below or key.startswith(below + b"/"))
        }
        warned = {key for key in result.archived or () if key not in reasons}
        rows = []
        for number, key in enumerate(sorted(reasons.keys() | warned), before + 1):
            path = _path(association, key)
            if key in reasons:
                rows.append(TaskFailure(number, path, reasons[key]))
            else:
                event_log.note(LogEvent.IMPORT_TIER, path=path)
                rows.append(TaskFailure(number, path, "S3ObjectInUnsupportedTier", "succeeded with warning"))
        return rows

    async def withdraw(self, progress: Progress) -> None:
        """Nothing is left behind: what was imported stays."""


def _contains(outer: Span, inner: Span) -> bool:
    if outer is inner or outer.association.assoc_id != inner.association.assoc_id:
        return False
    return not outer.relative or inner.relative.startswith(outer.relative + "/")


def _code(reason: str) -> str:
    """Source: fsx-spec section 9.5."""
    return "S3ObjectTypeMismatch" if reason in listing.CLASHES else "S3ObjectPathNotPosixCompliant"


def _path(association: Association, relative: bytes) -> str:
    return association.file_system_path.rstrip("/") + "/" + relative.decode(errors="surrogateescape")
