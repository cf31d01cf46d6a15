"""Room: where writers and fetches wait until the storage targets have room for their bytes, or are told that they never will.

The releaser makes the room, and ends every wait with what became of its attempt.
"""

from __future__ import annotations

import trio

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.data.space import SpaceBudget

_CREDIT_BYTES = 32 << 20
"""Bytes that may be written between two looks at the file system: asking costs 5 us."""
_PATIENCE_SECONDS = 20.0
"""How long a writer or a reader waits for room while exports may still make some, before it gets ENOSPC."""


class Room:
    """Waiting for room. Trio thread only."""

    def __init__(
        self, chunks: ChunkStore, *, budget: SpaceBudget | None = None, patience_seconds: float = _PATIENCE_SECONDS
    ) -> None:
        self.budget = budget or SpaceBudget()
        self._chunks = chunks
        self._patience_seconds = patience_seconds
        self._credit = 0
        self._wanted = trio.Event()
        self._round_over = trio.Event()
        self._hopeless = False

    # --- for those who need room -----------------------------------------------------------------------------------------

    async def ensure(self, size: int) -> None:
        """Return once `size` more bytes fit. Raises: OutOfSpace after a bounded time: the cache is full of unexported data."""
        if size <= self._credit:
            self._credit -= size
            return
        space = self._chunks.space()
        if self.budget.fits(space, size):
            self._credit = min(_CREDIT_BYTES, space.available_bytes // 16)
            return
        with trio.move_on_after(self._patience_seconds):
            while not self.budget.fits(self._chunks.space(), size):
                if not await self.round_():
                    break
            else:
                return
        space = self._chunks.space()
        raise errors.OutOfSpace(
            f"{size} bytes do not fit: {space.used_bytes} of {space.capacity_bytes} bytes hold data that is open or not "
            "exported yet; wait for the export, or raise cache_size"
        )

    def patience(self) -> Patience:
        """For a caller whose target may be full although there is room in all."""
        return Patience(self, trio.current_time() + self._patience_seconds)

    async def round_(self) -> bool:
        """Wait for one attempt to make room; False: it got nowhere, and nothing is to come."""
        self._wanted.set()
        await self._round_over.wait()
        return not self._hopeless

    # --- for the releaser ------------------------------------------------------------------------------------------------

    async def wait_wanted(self, seconds: float) -> bool:
        """Return when somebody waits for room (True), or when the time is up."""
        with trio.move_on_after(seconds):
            await self._wanted.wait()
        wanted, self._wanted = self._wanted.is_set(), trio.Event()
        return wanted

    def end_round(self, *, hopeless: bool) -> None:
        self._credit = 0
        self._hopeless = hopeless
        self._round_over.set()
        self._round_over = trio.Event()


class Patience:
    """How often somebody whose write was out of space may try again."""

    def __init__(self, room: Room, deadline: float) -> None:
        self._room = room
        self._deadline = deadline

    async def make_way(self) -> bool:
        """Have something released on the full target; whether trying again makes sense."""
        with trio.move_on_at(self._deadline):
            return await self._room.round_()
        return False
