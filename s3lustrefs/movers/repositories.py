"""Repositories: the object store of each association, for all movers."""

from __future__ import annotations

from s3lustrefs import errors
from s3lustrefs.model.association import Association
from s3lustrefs.model.ids import AssocId
from s3lustrefs.repository.object_store import ObjectStore


class Repositories:
    """Association -> ObjectStore, or the reason why there is none at the moment."""

    def __init__(self) -> None:
        self._stores: dict[AssocId, ObjectStore] = {}
        self._failures: dict[AssocId, errors.RepositoryError] = {}

    def connect(self, assoc: AssocId, store: ObjectStore) -> None:
        self._stores[assoc] = store
        self._failures.pop(assoc, None)

    def fail(self, assoc: AssocId, reason: errors.RepositoryError) -> None:
        """The association cannot be used until somebody changes something; it keeps its store for when that happens."""
        self._failures[assoc] = reason

    def recover(self, assoc: AssocId) -> None:
        self._failures.pop(assoc, None)

    def failure(self, assoc: AssocId) -> errors.RepositoryError | None:
        return self._failures.get(assoc)

    def of(self, assoc: AssocId) -> ObjectStore:
        """Raises: RepositoryUnavailable when the association is gone."""
        store = self._stores.get(assoc)
        if store is None:
            raise errors.RepositoryUnavailable(f"association {assoc} is not connected to its bucket")
        return store

    def same_endpoint(self, a: Association, b: Association) -> bool:
        """Whether a server-side copy between the two buckets is possible."""
        return a.endpoint == b.endpoint
