"""KeptTags: tags that others gave an object stay with it, whatever an export does to the object.

Some endpoints drop them in a copy that replaces the metadata, so that they are set afterwards. Until that is done they are in the
note of the request (`sent_objects`): whoever then meets the copy without tags learns from it which ones are missing.
"""

from __future__ import annotations

from dataclasses import replace

from s3lustrefs.meta.engine_repository import RepositoryEngine
from s3lustrefs.meta.export_targets import Target
from s3lustrefs.meta.schema import ObjectRecord
from s3lustrefs.model.ids import AssocId
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.sent_objects import Tags
from s3lustrefs.repository.object_store import ObjectHead, ObjectVersion, PutHeaders


class KeptTags:
    """Callers hold the lock of the target's key. Each raises RepositoryError."""

    def __init__(self, engine: RepositoryEngine, repositories: Repositories) -> None:
        self._engine = engine
        self._repositories = repositories

    async def with_tags(self, assoc: AssocId, key: bytes, headers: PutHeaders, existing: ObjectHead | None) -> PutHeaders:
        """The same headers with the tags of the object under `key`: the one to be replaced, or imported from."""
        if existing is None:
            return headers
        if existing.tag_count:
            return replace(headers, tags=await self._repositories.of(assoc).get_tags(key))
        return replace(headers, tags=await self._dropped(assoc, key, existing))

    async def to_copy(
        self, target: Target, source: ObjectRecord, version: ObjectVersion, head: ObjectHead, *, in_parts: bool = False
    ) -> Tags:
        """What a copy of `source` is to be given; nothing where the endpoint sees to that."""
        if self._repositories.of(target.association.assoc_id).capabilities.copy_source_if_match and not in_parts:
            return ()
        if head.tag_count:
            return tuple(await self._repositories.of(source.assoc).get_tags(source.key, version_id=version.version_id))
        return await self._dropped(source.assoc, source.key, head)

    async def put_back(self, target: Target, head: ObjectHead) -> None:
        """Give an object the tags that it lost in an earlier copy of ours."""
        tags = await self._dropped(target.association.assoc_id, target.key, head)
        if tags:
            await self._repositories.to_write(target.association.assoc_id).put_tags(target.key, tags)

    async def _dropped(self, assoc: AssocId, key: bytes, head: ObjectHead) -> Tags:
        if head.tag_count:
            return ()
        noted = await self._engine.noted_writes(assoc, key)
        # Not by the size: what others keep in a directory's object is none of ours.
        return next((sent.tags for sent in reversed(noted) if sent.tags and sent.headers.items() <= head.metadata.items()), ())
