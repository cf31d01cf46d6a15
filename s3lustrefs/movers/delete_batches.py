"""DeleteBatches: deletes that come at the same time go in one request.

Which way a delete goes:

- Where the endpoint enforces If-Match on DELETE, each key has a request of its own with that condition: no other version than
  the one the table knows can be deleted.
- Elsewhere a HEAD just before compares the version, as for every condition that an endpoint does not know, and what is to be
  deleted then goes with whatever else is waiting for the same: DeleteObjects, up to 1,000 keys. The callers hold the locks of
  their keys, so no write of ours comes between. What has waited long is looked at again. A key that the answer says is still there
  fails alone, and is tried again alone.
- An endpoint without DeleteObjects, and keys that XML cannot name, get single requests, each with such a HEAD of its own.

Batches form by themselves: while as many as may be are on their way, others wait for the next. A lone delete never waits.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field

import trio

from s3lustrefs import errors
from s3lustrefs.repository import batch_delete
from s3lustrefs.repository.object_store import Condition, ObjectStore

log = logging.getLogger(__name__)

_AT_ONCE = 8
"""Batches under way: some products (Ceph) work through one key after the other."""
_LEAST_KEYS = 2
_LOOKED_SECONDS = 1.0
"""How long what a HEAD said counts: that before a copy will do for the delete of what was copied."""
_LOOKS = 32
"""Keys looked at, or deleted by themselves, at once."""


@dataclass(slots=True)
class _Wish:
    """One key to be deleted, and how that ended."""

    key: bytes
    etag: str
    looked_at: float
    """When it was that version (trio's clock)."""
    is_done: bool = False
    is_late: bool = False
    """It was not sent: what was seen of the object is too old."""
    error: errors.RepositoryError | None = None
    turn: trio.Event = field(default_factory=trio.Event)
    """Set when it is done, or when it is up to this one to send the next batch."""

    def end(self, error: errors.RepositoryError | None = None, *, is_late: bool = False) -> None:
        self.is_done, self.is_late, self.error = True, is_late, error
        self.turn.set()


class DeleteBatches:
    """Deletes of one bucket."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._waiting: list[_Wish] = []
        self._running = 0
        self._takes_batches = True
        self._looks = trio.Semaphore(_LOOKS)

    async def delete(self, key: bytes, etag: str, looked_at: float = -math.inf) -> None:
        """Delete one object if it is still that version, as it was at `looked_at` (trio's clock); no object is fine.

        Raises: ObjectChanged; RepositoryError.
        """
        condition = Condition(etag)
        if self._store.capabilities.delete_if_match or not self._takes_batches or not batch_delete.can_name(key):
            async with self._looks:
                await self._store.delete(key, condition)
            return
        while True:
            if not _is_recent(looked_at):
                if not await self._is_there(key, etag):
                    return
                looked_at = trio.current_time()  # from the answer on: where that takes long, nothing else would ever be recent
            if await self._go_together(_Wish(key, etag, looked_at)):
                return

    async def _go_together(self, wish: _Wish) -> bool:
        """Whether it was sent, rather than too late for what was seen. Raises: RepositoryError."""
        self._waiting.append(wish)
        try:
            while not wish.is_done:
                if wish in self._waiting and self._running < _AT_ONCE:
                    await self._send()
                else:
                    await wish.turn.wait()
                    wish.turn = trio.Event()
        finally:
            if wish in self._waiting:
                self._waiting.remove(wish)
                self._hand_over()
        if wish.error is not None:
            raise wish.error
        return not wish.is_late

    async def _is_there(self, key: bytes, etag: str) -> bool:
        """Raises: ObjectChanged; RepositoryError."""
        try:
            async with self._looks:
                found = (await self._store.head(key)).version.etag
        except errors.ObjectNotFound:
            return False
        if found != etag:
            name = key.decode("utf-8", "backslashreplace")
            raise errors.ObjectChanged(f"{name}: has ETag {found} now, expected {etag}", bucket=self._store.bucket, key=name)
        return True

    def _hand_over(self) -> None:
        """Some other has to send what is waiting."""
        if self._waiting and self._running < _AT_ONCE:
            self._waiting[0].turn.set()

    def _take(self) -> list[_Wish]:
        """What is to go now; what has waited too long has to be looked at again."""
        recent = []
        for wish in self._waiting:
            if _is_recent(wish.looked_at):
                recent.append(wish)
            else:
                wish.end(is_late=True)
        self._waiting = recent[batch_delete.MOST_KEYS :]
        return recent[: batch_delete.MOST_KEYS]

    async def _send(self) -> None:
        """Send what waits, for all who wait. They hear of it in any case: whoever sends it may be cancelled."""
        wishes = self._take()
        self._running += 1
        ends: dict[bytes, errors.RepositoryError] = {}
        failure: errors.RepositoryError | None = errors.RepositoryUnavailable("given up with the others of its batch")
        try:
            ends = await self._request(wishes)
            failure = None
        except errors.RepositoryError as error:
            failure = error
        finally:
            self._running -= 1
            for wish in wishes:
                wish.end(ends.get(wish.key) or failure)
            self._hand_over()

    async def _request(self, wishes: list[_Wish]) -> dict[bytes, errors.RepositoryError]:
        if len(wishes) >= _LEAST_KEYS and self._takes_batches:
            try:
                return dict(await self._store.delete_batch([wish.key for wish in wishes]))
            except errors.RepositoryRejected as refusal:
                log.info("endpoint takes no batches of deletes bucket=%s reason=%s", self._store.bucket, refusal)
                self._takes_batches = False
        ends: dict[bytes, errors.RepositoryError] = {}
        for wish in wishes:
            try:
                # A lone one goes at once; of several each has its request after those before it, and is looked at once more.
                await self._store.delete(wish.key, Condition(wish.etag) if len(wishes) > 1 else None)
            except errors.RepositoryError as error:
                ends[wish.key] = error
        return ends


def _is_recent(looked_at: float) -> bool:
    return trio.current_time() - looked_at <= _LOOKED_SECONDS
