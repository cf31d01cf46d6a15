"""KeyLocks: one lock per object key, for everything that writes or deletes the object."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from s3lustrefs.model.ids import AssocId


class KeyLocks:
    """One lock per (association, key), existing only while wanted."""

    def __init__(self) -> None:
        self._locks: dict[tuple[AssocId, bytes], tuple[trio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, assoc: AssocId, key: bytes) -> AsyncIterator[None]:
        place = (assoc, key)
        lock, users = self._locks.get(place, (trio.Lock(), 0))
        self._locks[place] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[place]
            if users == 1:
                del self._locks[place]
            else:
                self._locks[place] = (lock, users - 1)
