"""Roots: which directories and files here the paths of a task mean."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from s3lustrefs import errors
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.association import paths_overlap
from s3lustrefs.model.task_paths import below, outermost, readings
from s3lustrefs.movers.directory_importer import DirectoryImporter
from s3lustrefs.movers.importer import Importer
from s3lustrefs.movers.links import Links


class Roots:
    """The importers of `links` may still bring names."""

    def __init__(self, engine: MetadataEngine, links: Links) -> None:
        self._engine = engine
        self._links = links

    async def of_paths(self, paths: Sequence[str]) -> list[str]:
        """Absolute paths inside the mount that exist, none below another; no paths: the mount itself.

        Raises: TaskFailed for one that does not exist, or where the bucket, which is still being imported, does not say so in time.
        """
        return outermost([each for path in paths or ["/"] for each in await self._reading(path)])

    async def _reading(self, path: str) -> list[str]:
        missing = ""
        for way in readings(path):
            gone = [each for each in way if not await self._exists(each)]
            if not gone:
                return way
            missing = missing or gone[0]
        raise errors.TaskFailed(f"path {missing.lstrip('/')} does not exist in this file system")

    async def _exists(self, path: str) -> bool:
        if await self._is_known(path):
            return True
        for link in self._links:
            association = self._engine.association(link.assoc)
            relative = below(association.file_system_path, path) if association is not None else ""
            if relative:
                await self._ask(link.importer, path, relative)
        return await self._is_known(path)

    async def _ask(self, importer: Importer | DirectoryImporter, path: str, relative: str) -> None:
        """A name that an import under way has not come to yet."""
        try:
            await importer.ensure_name(os.fsencode(relative))
        except errors.RepositoryError as exc:
            raise errors.TaskFailed(f"cannot tell whether path {path.lstrip('/')} exists: {exc}") from exc

    async def _is_known(self, path: str) -> bool:
        try:
            await self._engine.resolve(os.fsencode(path))
        except errors.MetadataError:
            return False
        return True

    def within_associations(self, paths: Iterable[str]) -> tuple[list[str], list[str]]:
        """What of these paths lies in associations, and those paths that reach outside of all of them."""
        inside, outside = [], []
        for path in paths:
            linked = [a.file_system_path for a in self._engine.associations() if paths_overlap(a.file_system_path, path)]
            above = [each for each in linked if (path.rstrip("/") + "/").startswith(each.rstrip("/") + "/")]
            if above:
                inside.append(path)
            else:
                inside += linked
                outside.append(path)
        return inside, outside
