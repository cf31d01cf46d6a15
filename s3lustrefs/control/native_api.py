"""The operations behind `s3lustrefs status`, `drain`, `why`: what the FSx API has no words for."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

import trio

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.fs.status import InodeStatus, remedy
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.schema import JournalRecord, JournalState
from s3lustrefs.model.association import Association
from s3lustrefs.model.ids import AssocId
from s3lustrefs.model.inode import InodeFlag
from s3lustrefs.movers import event_plan
from s3lustrefs.movers.archive import Archive
from s3lustrefs.movers.exporter import Exporter
from s3lustrefs.movers.headers import HeaderFetcher
from s3lustrefs.movers.hsm_restores import HsmRestores
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.movers.links import Links
from s3lustrefs.movers.lost_found import LostFound
from s3lustrefs.movers.rate import Rate
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.sweeper import SweepResult

_SCAN = 500
_MOST_LISTED = 1000
_LATEST_CONFLICTS = 5
_LONGEST_DRAIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What the operations look at."""

    engine: MetadataEngine
    chunks: ChunkStore
    hydrator: Hydrator
    exporter: Exporter
    headers: HeaderFetcher
    lost_found: LostFound
    repositories: Repositories
    links: Links
    archive: Archive
    hsm_restores: HsmRestores
    status: InodeStatus
    requests: Counter[str]
    mount_point: str
    state_dir: str
    store_failure: Callable[[], str]
    """Why the inode table cannot be brought to disk; empty when it can."""
    read_only: bool
    wait_told: Callable[[], Awaitable[None]]
    """Returns once the kernel knows of what changed so far."""
    look_again: Callable[[], Awaitable[None]]
    """Returns once it is known whether associations that could not be used can be again."""


@dataclass(slots=True)
class Queue:
    """The export journal, counted."""

    due: int = 0
    open: int = 0
    failed: int = 0
    oldest_due_ns: int = 0


class NativeApi:
    """Handlers by operation name: `operations()` is what the control server serves."""

    def __init__(self, parts: Parts) -> None:
        self._p = parts
        self._started = time.monotonic()
        self._export_rate = Rate()
        self._hydration_rate = Rate()

    def operations(self) -> dict[str, Any]:
        return {
            "Status": self.status,
            "Drain": self.drain,
            "Why": self.why,
            "Skipped": self.skipped,
            "Refresh": self.refresh,
        }

    # --- status --------------------------------------------------------------------------------------------------------

    async def status(self, request: dict[str, Any]) -> dict[str, Any]:
        p = self._p
        hydration = p.hydrator.statistics()
        space = p.chunks.space()
        export = await self._export()
        return {
            "mountpoint": p.mount_point,
            "state_dir": p.state_dir,
            "pid": os.getpid(),
            "uptime_seconds": time.monotonic() - self._started,
            "read_only": p.read_only,
            "inodes": p.engine.inode_count,
            **await self._conflicts(),
            "associations": [await self._association(a) for a in p.engine.all_associations()],
            "export": export,
            "metrics": {
                "AgeOfOldestQueuedMessage": {"AutoImport": self._oldest_event(), "AutoExport": export["oldest_due_seconds"]}
            },
            "hydration": {
                "in_flight": hydration.in_flight,
                "waiting_readers": hydration.waiting_readers,
                "restores_waiting": p.hsm_restores.waiting,
                "bytes": hydration.fetched_bytes,
                "bytes_per_second": self._hydration_rate.sample(hydration.fetched_bytes),
            },
            "cache": {
                "used_bytes": space.used_bytes,
                "capacity_bytes": space.capacity_bytes,
                "targets": [target._asdict() for target in p.chunks.targets()],
            },
            "restoring": p.archive.ongoing,
            "state_failure": p.store_failure() or None,
            "requests": dict(p.requests),
        }

    async def _conflicts(self) -> dict[str, Any]:
        count, latest = await self._p.engine.conflicts(_LATEST_CONFLICTS)
        return {
            "conflicts": count,
            "latest_conflicts": [{"path": c.path, "at": c.at_ns / 1e9, "kind": c.kind, "text": c.text()} for c in latest],
            "lost_found": asdict(await self._p.lost_found.statistics()),
        }

    async def _association(self, a: Association) -> dict[str, Any]:
        failure = self._p.repositories.failure(a.assoc_id)
        link = self._p.links.find(a.assoc_id)
        progress = link.importer.statistics() if link else None
        return {
            "association_id": a.association_id,
            "file_system_path": a.file_system_path,
            "data_repository_path": a.data_repository_path,
            "export_repository_path": f"s3://{a.bucket}/{a.export_prefix}" if a.export_prefix else None,
            "lifecycle": "MISCONFIGURED" if failure and a.lifecycle == "AVAILABLE" else a.lifecycle,
            "failure": a.failure or (str(failure) if failure else None),
            "import": {
                "state": progress.state if progress else a.import_state,
                "objects": progress.objects if progress else 0,
                "objects_per_second": progress.objects_per_second if progress else 0.0,
                "eta_seconds": None,
                "error": (progress.error or None) if progress else None,
                "skipped": len(await self._p.engine.skipped(a)),
                "headers_pending": self._p.headers.pending if a.posix_metadata != "off" else 0,
            },
            "sweep": self._sweep(a.assoc_id),
            "events": self._events(a),
            "auto_import": sorted(a.auto_import),
            "auto_export": sorted(a.auto_export),
            "capabilities": a.capabilities or {},
        }

    def _sweep(self, assoc: AssocId) -> dict[str, Any] | None:
        link = self._p.links.find(assoc)
        return {**asdict(link.sweeper.last), "error": link.sweeper.error or None} if link else None

    def _events(self, a: Association) -> dict[str, Any]:
        listener = self._p.links.listener_of(a.assoc_id)
        if listener is None:
            return {"state": "OFF", "error": None, "reason": event_plan.no_events(a, read_only=self._p.read_only)}
        told = asdict(listener.statistics())
        return {**told, "reason": "auto_import=none" if told["state"] == "OFF" else told["error"]}

    def _oldest_event(self) -> float | None:
        """Seconds, of the queue that is furthest behind; None when no queue tells."""
        ages = [listener.statistics().oldest_queued_seconds for listener in self._p.links.listeners()]
        return max((age for age in ages if age is not None), default=None)

    async def _export(self) -> dict[str, Any]:
        queue = await self._count_queue()
        exported = self._p.exporter.statistics()
        age = (time.time_ns() - queue.oldest_due_ns) / 1e9 if queue.oldest_due_ns else 0.0
        return {
            "due": queue.due,
            "open": queue.open,
            "failed": queue.failed,
            "oldest_due_seconds": max(0.0, age),
            "bytes_per_second": self._export_rate.sample(exported.exported_bytes),
            "eta_seconds": queue.due / exported.records_per_second if queue.due and exported.records_per_second else None,
            **asdict(exported),
        }

    async def _count_queue(self) -> Queue:
        queue = Queue()
        after = b""
        while True:
            rows = await self._p.engine.due(after, _SCAN)
            for _, record in rows:
                if record.state is JournalState.OPEN:
                    queue.open += 1
                    continue
                queue.due += 1
                queue.failed += record.terminal
                queue.oldest_due_ns = min(queue.oldest_due_ns or record.since_ns, record.since_ns)
            if len(rows) < _SCAN:
                return queue
            after = rows[-1][0]
            await trio.lowlevel.checkpoint()

    # --- drain ---------------------------------------------------------------------------------------------------------

    async def drain(self, request: dict[str, Any]) -> dict[str, Any]:
        """How much under the paths is not in the bucket yet, and how many records the exporter settles per second.

        `urgent`: try at once what waits or failed before; `again`: also what failed a moment ago. `wait_seconds`: as long as
        something remains, answer only then, or once the exporter has nothing under way.
        """
        paths = [os.fsencode(str(p).rstrip("/")) for p in request.get("paths") or ["/"]]
        for path in paths:
            await self._p.links.resolve(path)
        if request.get("again"):
            await self._p.look_again()
        if request.get("urgent"):
            self._p.exporter.urge(again=bool(request.get("again")))
        idle = self._p.exporter.idle
        answer = await self._remaining(paths)
        if answer["remaining"]:
            with trio.move_on_after(min(float(request.get("wait_seconds", 0)), _LONGEST_DRAIN_SECONDS)) as patience:
                await idle.wait()
            if not patience.cancelled_caught:
                answer = await self._remaining(paths)
        if not answer["remaining"]:
            await self._p.wait_told()  # a conflict may have given a name to another file
        return answer

    async def _remaining(self, paths: list[bytes]) -> dict[str, Any]:
        """`counting_seconds` is what finding it out took of the thread that exports."""
        started = trio.current_time()
        everywhere = b"" in paths
        remaining = 0
        failed: list[dict[str, Any]] = []
        after = b""
        while True:
            rows = await self._p.engine.due(after, _SCAN)
            for key, record in rows:
                is_failed = self._p.exporter.has_failed_since_urge(key, record)
                if everywhere and not is_failed:  # of many thousands: paths would take longer than exports
                    remaining += 1
                    continue
                path = await self._path(record)
                if not any(path == p or path.startswith(p + b"/") for p in paths):
                    continue
                if is_failed:
                    failed.append(_failure(path, record))
                else:
                    remaining += 1
            if len(rows) < _SCAN:
                break
            after = rows[-1][0]
            await trio.lowlevel.checkpoint()
        rate = self._p.exporter.statistics().records_per_second
        return {
            "remaining": remaining,
            "records_per_second": rate,
            "counting_seconds": trio.current_time() - started,
            "failed_count": len(failed),
            "failed": failed[:_MOST_LISTED],
        }

    async def _path(self, record: JournalRecord) -> bytes:
        if record.ino:
            try:
                return await self._p.engine.path_of(record.ino)
            except (errors.NotFound, errors.StaleInode):
                return b"/"
        association = self._p.engine.association(record.assoc)
        if association is None:
            return b"/"
        relative = association.relative_of(record.key)
        return association.file_system_path.rstrip("/").encode() + b"/" + relative.rstrip(b"/")

    # --- single files --------------------------------------------------------------------------------------------------

    async def why(self, request: dict[str, Any]) -> dict[str, Any]:
        path = os.fsencode(str(request.get("path", "/")))
        with contextlib.suppress(errors.MetadataError, errors.RepositoryError):  # what is known is told in any case
            await self._p.links.resolve(path)
        return await self._p.status.why(path)

    async def refresh(self, request: dict[str, Any]) -> dict[str, Any]:
        """Bring a file, or everything below a directory, into line with the bucket now; answers when that shows.

        A path that is not there means the directory it would be in.
        """
        path = os.fsencode(str(request.get("path", "/")).rstrip("/"))
        try:
            inode = await self._p.links.resolve(path)
        except errors.NotFound:
            path = path.rpartition(b"/")[0]
            inode = await self._p.links.resolve(path)
        location = await self._p.engine.locate(inode)
        if location is not None and not inode.is_dir:  # the name that was given, if there are several
            above, _, name = path.rpartition(b"/")
            directory = await self._p.engine.locate(await self._p.engine.resolve(above))
            location = directory.child(name) if directory is not None else None
        if location is None:
            raise errors.NotInRepository(
                f"{path.decode(errors='replace') or '/'} is in no association: it has nothing to refresh from"
            )
        sweeper = self._p.links.of(location.association.assoc_id).sweeper
        if inode.flags & InodeFlag.UNLISTED:
            await self._p.links.ensure_listed(inode)
            result = SweepResult()
        elif inode.is_dir:
            result = await sweeper.refresh_below(location.relative)
        else:
            result = await sweeper.look_at(inode, location.imported_key)
        await self._p.wait_told()
        return asdict(result)

    async def skipped(self, request: dict[str, Any]) -> dict[str, Any]:
        wanted = request.get("association_id")
        found = []
        for association in self._p.engine.associations():
            if wanted in (None, association.association_id):
                for key, reason in await self._p.engine.skipped(association):
                    found.append({"key": association.prefix + key.decode(errors="replace"), "reason": reason})
        return {"skipped": found}


def _failure(path: bytes, record: JournalRecord) -> dict[str, Any]:
    return {
        "path": path.decode(errors="replace"),
        "error": record.error_text,
        "code": record.error_code,
        "remedy": remedy(record.error_code),
    }
