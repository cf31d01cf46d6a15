"""CapabilityWatch: what was found out about a bucket stays true when somebody switches its versioning.

Some products ignore conditions in versioned buckets only (Ceph), so what an endpoint enforces is probed again then.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace

import trio

from s3lustrefs import errors
from s3lustrefs.meta.engine_linking import LinkingEngine
from s3lustrefs.model.association import Association
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.repository.object_store import Capabilities

log = logging.getLogger(__name__)

_PERIOD_SECONDS = 600.0


class CapabilityWatch:
    """`probe` finds out what the endpoint of an association enforces."""

    def __init__(
        self, engine: LinkingEngine, repositories: Repositories, probe: Callable[[Association], Awaitable[Capabilities]]
    ) -> None:
        self._engine = engine
        self._repositories = repositories
        self._probe = probe

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look at once, and every ten minutes. Ends by cancellation."""
        task_status.started()
        while True:
            for association in self._engine.associations():
                try:
                    await self._look_at(association)
                except errors.S3LustreError as exc:  # the bucket is gone, or s3:GetBucketVersioning is not allowed
                    log.info("versioning not looked at association=%d reason=%s", association.assoc_id, exc)
            await trio.sleep(_PERIOD_SECONDS)

    async def _look_at(self, association: Association) -> None:
        store = self._repositories.of(association.assoc_id)
        before, now = store.capabilities.versioning, await store.versioning()
        if now == before:
            return
        found = await self._probe(association)
        store.capabilities = found
        current = self._engine.association(association.assoc_id)
        if current is None:
            return
        await self._engine.update_association(replace(current, capabilities=asdict(found)))
        log.info("versioning changed, probed again bucket=%s before=%s now=%s", store.bucket, before, now)
