"""What the FSx API knows of the file system itself, and of the requests it has done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOUNT_NAME = "fsx"
"""Of every file system: what FSx's mount commands have after the colon."""


@dataclass(frozen=True, slots=True)
class FileSystemRecord:
    """One file system is one state directory. Everything here is settled when it is first mounted, save `settings`."""

    file_system_id: str
    created_ns: int
    region: str
    """Part of every ARN, and what requests are signed for."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Members of FSx's FileSystem, as CreateFileSystem and UpdateFileSystem set them: what has no meaning on one host, kept to be
    shown. `DataRepositoryConfiguration` is there if it was linked at its creation."""

    @property
    def is_cache(self) -> bool:
        """Whether it is a file cache (`fc-...`)."""
        return self.file_system_id.startswith("fc-")

    @property
    def is_legacy(self) -> bool:
        """Whether it was linked with a bucket when it was created, by its ImportPath."""
        return "DataRepositoryConfiguration" in self.settings

    @property
    def log_level(self) -> str:
        """Of the event log, in FSx's words; that of a file cache is fixed. Source: fsx-spec section 9.6."""
        if self.is_cache:
            return "WARN_ERROR"
        level: str = self.settings.get("LustreConfiguration", {}).get("LogConfiguration", {}).get("Level", "DISABLED")
        return level


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was done under a ClientRequestToken; `parameters` has a fingerprint of each."""

    token: str
    operation: str
    parameters: Mapping[str, str]
    at_ns: int
