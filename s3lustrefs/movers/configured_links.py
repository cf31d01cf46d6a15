"""ConfiguredLinks: what the configuration says of associations, against what the table knows of them, when a mount begins.

An association that the API made stays, with the endpoint and the other settings that its request could not say taken from the
configuration of this mount. One that the API deleted does not come back until the configuration says something else about it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace

from s3lustrefs import errors
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model import association_rules
from s3lustrefs.model.association import Association, AssociationSettings
from s3lustrefs.movers.association_requests import AssociationRequests
from s3lustrefs.movers.links import Links
from s3lustrefs.movers.preflights import ready_to_export
from s3lustrefs.repository.object_store import Capabilities

log = logging.getLogger(__name__)


class ConfiguredLinks:
    """`probe` makes sure that a bucket can be used; `where` names the state directory in what is refused."""

    def __init__(
        self,
        engine: MetadataEngine,
        links: Links,
        requests: AssociationRequests,
        probe: Callable[[AssociationSettings], Awaitable[Capabilities]],
        where: str,
        *,
        read_only: bool,
    ) -> None:
        self._engine = engine
        self._links = links
        self._requests = requests
        self._probe = probe
        self._where = where
        self._read_only = read_only

    async def link_all(self, configured: Sequence[AssociationSettings], defaults: AssociationSettings) -> None:
        """Bring the stored associations in line with the configuration and connect them.

        Raises: ConfigError, RepositoryError.
        """
        stored = {each.file_system_path: each for each in self._engine.all_associations()}
        for settings in configured:
            await self._link(settings, stored.pop(settings.file_system_path, None))
        for association in stored.values():
            if not association.configured_as and association.lifecycle != "DELETING":
                await self._engine.update_association(association.with_defaults(defaults))
        for association in self._engine.all_associations():
            if association.is_linked and association.lifecycle != "CREATING":
                self._links.connect(association)

    async def _link(self, settings: AssociationSettings, old: Association | None) -> None:
        if old is None:
            await self._link_new(settings)
        elif old.lifecycle == "DELETING":
            log.info("association stays out until its deletion is complete directory=%s", settings.file_system_path)
        elif (old.bucket, old.prefix, old.export_prefix) != (settings.bucket, settings.prefix, settings.export_prefix):
            raise errors.ConfigError(
                f"{settings.file_system_path} is linked to {_paths(old)} in state directory {self._where}, "
                f"the configuration says {_paths(settings)}: a link cannot change, use another state_dir"
            )
        else:
            linked = replace(old.with_settings(settings), configured_as=fingerprint(settings))
            await self._engine.update_association(linked if self._read_only else await ready_to_export(linked))

    async def _link_new(self, settings: AssociationSettings) -> None:
        if self._engine.is_deleted(settings.file_system_path, fingerprint(settings)):
            log.info("association was deleted, it is not made again directory=%s", settings.file_system_path)
            return
        association = replace(
            Association(
                settings.file_system_path, settings.bucket, settings.prefix,
                association_id=new_association_id(), created_ns=time.time_ns(),
            ).with_settings(settings),
            configured_as=fingerprint(settings),
            is_lazy=self._is_cache(),
        )  # fmt: skip
        defect = association_rules.addition_defect(association, self._engine.all_associations())
        if defect is not None:
            raise errors.ConfigError(f"{defect} (state directory {self._where})")
        able = await self._probe(settings)
        linked = await self._engine.link_association(replace(association, capabilities=asdict(able)))
        await self._requests.keep_local(linked)

    def _is_cache(self) -> bool:
        record = self._engine.file_system()
        return record is not None and record.is_cache


def new_association_id() -> str:
    """As FSx's: 17 hexadecimal digits."""
    return f"dra-{secrets.token_hex(9)[:17]}"


def _paths(link: AssociationSettings) -> str:
    exported = f", exported to s3://{link.bucket}/{link.export_prefix}" if link.export_prefix else ""
    return f"s3://{link.bucket}/{link.prefix}{exported}"


def fingerprint(settings: AssociationSettings) -> str:
    """Equal for equal entries of a configuration, also one that was read by a version that did not know `export_prefix`."""
    said = {key: value for key, value in asdict(settings).items() if key != "export_prefix" or value}
    return hashlib.sha256(json.dumps(said, default=sorted, sort_keys=True).encode()).hexdigest()[:32]
