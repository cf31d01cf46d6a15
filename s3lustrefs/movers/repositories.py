"""Repositories: the object store of each association, for all movers, and what went wrong there last."""

from __future__ import annotations

from collections import OrderedDict

from s3lustrefs import errors
from s3lustrefs.model.association import Association
from s3lustrefs.model.ids import AssocId, Ino
from s3lustrefs.repository.object_store import ObjectStore

_REMEMBERED = 10_000


class Troubles:
    """Why content or attributes of an inode could not be fetched, until they could. In memory only: the latest few thousand."""

    def __init__(self) -> None:
        self._latest: OrderedDict[Ino, errors.S3LustreError] = OrderedDict()

    def note(self, ino: Ino, error: errors.S3LustreError) -> None:
        self._latest[ino] = error
        self._latest.move_to_end(ino)
        if len(self._latest) > _REMEMBERED:
            self._latest.popitem(last=False)

    def forget(self, ino: Ino) -> None:
        self._latest.pop(ino, None)

    def find(self, ino: Ino) -> errors.S3LustreError | None:
        return self._latest.get(ino)

    def late(self, ino: Ino, what: str, seconds: float) -> errors.RepositoryUnavailable:
        """The end of somebody's patience, with the cause as far as it is known."""
        known = self._latest.get(ino)
        error = errors.RepositoryUnavailable(f"{what} within {seconds:.0f} s{f' ({known})' if known else ''}")
        if known is None:
            self.note(ino, error)
        return error


class Repositories:
    """Association -> ObjectStore, or the reason why there is none at the moment."""

    def __init__(self) -> None:
        self._stores: dict[AssocId, ObjectStore] = {}
        self._failures: dict[AssocId, errors.RepositoryError] = {}
        self._gone: set[AssocId] = set()
        self.troubles = Troubles()

    def connect(self, assoc: AssocId, store: ObjectStore) -> None:
        self._stores[assoc] = store
        self._failures.pop(assoc, None)

    def disconnect(self, assoc: AssocId) -> None:
        """For good: nobody has to wait for it any more."""
        self._gone.add(assoc)
        self._stores.pop(assoc, None)
        self._failures.pop(assoc, None)

    def fail(self, assoc: AssocId, reason: errors.RepositoryError) -> None:
        """The association cannot be used until somebody changes something; it keeps its store for when that happens."""
        self._failures[assoc] = reason

    def recover(self, assoc: AssocId, reason: errors.RepositoryError | None = None) -> None:
        """It can be used again. `reason`: if that was why it could not."""
        if reason is None or self._failures.get(assoc) is reason:
            self._failures.pop(assoc, None)

    def failure(self, assoc: AssocId) -> errors.RepositoryError | None:
        return self._failures.get(assoc)

    def of(self, assoc: AssocId) -> ObjectStore:
        """Raises: AssociationGone once it was disconnected, RepositoryUnavailable while it is not connected yet."""
        store = self._stores.get(assoc)
        if assoc in self._gone:
            raise errors.AssociationGone(f"association {assoc} was deleted")
        if store is None:
            raise errors.RepositoryUnavailable(f"association {assoc} is not connected to its bucket")
        return store

    def to_write(self, assoc: AssocId) -> ObjectStore:
        """The store to export to. Raises: RepositoryError while the association cannot be used, with the reason."""
        reason = self._failures.get(assoc)
        if reason is not None:
            raise type(reason)(str(reason), bucket=reason.bucket)
        return self.of(assoc)

    def same_endpoint(self, a: Association, b: Association) -> bool:
        """Whether a server-side copy between the two buckets is possible."""
        return a.endpoint == b.endpoint
