"""ControlEngine: what the FSx API alone wants remembered in the inode table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from s3lustrefs.model.file_system import Asked, FileSystemRecord


class ControlEngine(Protocol):
    """See `engine` for what all verbs have in common."""

    def file_system(self) -> FileSystemRecord | None:
        """None: no mount has made it yet."""

    async def update_file_system(self, record: FileSystemRecord, asked: Asked | None = None) -> None:
        """Make or replace it; `asked`: the request that did it."""

    def tags(self, resource: str) -> dict[str, str]:
        """Of a resource by its id, in the order of their keys."""

    async def set_tags(self, resource: str, tags: Mapping[str, str]) -> None:
        """Replace all tags of a resource."""

    def find_asked(self, token: str) -> Asked | None:
        """The request that was done under a ClientRequestToken, if it is among the last thousand or so."""
