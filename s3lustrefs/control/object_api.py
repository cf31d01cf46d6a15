"""The operations behind `s3lustrefs versions` and `restore`: what a bucket has of single objects beyond their present content."""

from __future__ import annotations

import os
from typing import Any

from s3lustrefs import errors
from s3lustrefs.movers.restore_jobs import RestoreJobs
from s3lustrefs.movers.versions import HistoryEntry, Versions

TIERS = ("Expedited", "Standard", "Bulk")


class ObjectApi:
    """Handlers by operation name, as `NativeApi`."""

    def __init__(self, versions: Versions, restores: RestoreJobs, *, read_only: bool) -> None:
        self._versions = versions
        self._restores = restores
        self._read_only = read_only

    def operations(self) -> dict[str, Any]:
        return {
            "Versions": self.versions,
            "BringBackVersion": self.bring_back,
            "Restore": self.restore,
            "RestoreProgress": self.restore_progress,
        }

    async def versions(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"versions": [_entry(each) for each in await self._versions.history(_path(request))]}

    async def bring_back(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers once the mount shows the version; `changed` False: it was the current one already."""
        if self._read_only:
            raise errors.ReadOnly("the file system is mounted read-only")
        version_id = str(request.get("version_id", ""))
        brought = await self._versions.bring_back(_path(request), version_id)
        return {"changed": not brought.is_current, "size": brought.version.size, "time_ns": brought.version.mtime_ns}

    async def restore(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers at once with a number, to ask for the progress of."""
        days, tier = request.get("days"), request.get("tier")
        if not isinstance(days, int) or days < 1:
            raise errors.InvalidArgument(f"days={days!r}: must be a whole number from 1 on")
        if tier not in TIERS:
            raise errors.InvalidArgument(f"tier={tier!r}: must be one of {', '.join(TIERS)}")
        paths = [os.fsencode(str(path)).rstrip(b"/") for path in request.get("paths") or ["/"]]
        return {"restore": await self._restores.start(paths, days, tier)}

    async def restore_progress(self, request: dict[str, Any]) -> dict[str, Any]:
        job = self._restores.look(int(request.get("restore", 0)))
        return {
            "asked": job.is_asked,
            "readable": job.readable,
            "waiting": len(job.waiting),
            "failed": job.failed,
            "failures": [{"path": path.decode(errors="replace"), "error": reason} for path, reason in job.failures],
        }


def _path(request: dict[str, Any]) -> bytes:
    return os.fsencode(str(request.get("path", "/"))).rstrip(b"/")


def _entry(entry: HistoryEntry) -> dict[str, Any]:
    version = entry.kept.version
    return {
        "version_id": version.version_id,
        "time_ns": version.mtime_ns,
        "size": None if entry.kept.is_delete_marker else version.size,
        "etag": version.etag or None,
        "storage_class": None if entry.kept.is_delete_marker else version.storage_class,
        "current": entry.kept.is_current,
        "delete_marker": entry.kept.is_delete_marker,
        "here": entry.is_here,
        "posix_headers": entry.has_posix_headers,
    }
