"""What has to be known of a bucket before it is used: whether these credentials may, and what the endpoint enforces."""

from __future__ import annotations

from dataclasses import asdict, replace

from s3lustrefs.model.association import Association, AssociationSettings
from s3lustrefs.repository.credentials import Credentials
from s3lustrefs.repository.object_store import Capabilities
from s3lustrefs.repository.probe import preflight
from s3lustrefs.repository.s3 import S3Store


async def look_at(dra: AssociationSettings, *, writable: bool) -> Capabilities:
    """Make sure that the bucket can be used. Raises: RepositoryError with the remedy."""
    store = S3Store(dra.endpoint, dra.bucket, Credentials(dra.endpoint))
    try:
        return await preflight(store, dra.prefix, dra.write_prefix, writable=writable)
    finally:
        await store.aclose()


async def ready_to_export(association: Association) -> Association:
    """One that was made without exports has not been asked yet which conditions its endpoint enforces. Raises: RepositoryError."""
    if not association.auto_export or (association.capabilities or {}).get("is_write_probed", True):
        return association
    return replace(association, capabilities=asdict(await look_at(association, writable=True)))
