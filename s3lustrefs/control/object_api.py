"""The operations behind `s3lustrefs versions`: what a bucket knows of single objects beyond their present content."""

from __future__ import annotations

import os
from typing import Any

from s3lustrefs import errors
from s3lustrefs.movers.versions import HistoryEntry, Versions


class ObjectApi:
    """Handlers by operation name, as `NativeApi`."""

    def __init__(self, versions: Versions, *, read_only: bool) -> None:
        self._versions = versions
        self._read_only = read_only

    def operations(self) -> dict[str, Any]:
        return {"Versions": self.versions, "BringBackVersion": self.bring_back}

    async def versions(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"versions": [_entry(each) for each in await self._versions.history(_path(request))]}

    async def bring_back(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers once the mount shows the version; `changed` False: it was the current one already."""
        if self._read_only:
            raise errors.ReadOnly("the file system is mounted read-only")
        version_id = str(request.get("version_id", ""))
        brought = await self._versions.bring_back(_path(request), version_id)
        return {"changed": not brought.is_current, "size": brought.version.size, "time_ns": brought.version.mtime_ns}


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
