"""Condemned: content versions nobody needs any more, on their way out.

Each passes three stages: condemned, when the table has dropped it; sealed, when a sync that covers that record begins;
removable, when that sync has succeeded. Before that a power cut would bring the file back, and has to find its bytes.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import trio

from s3lustrefs.model.ids import ContentVersion, Ino


class Sentence(NamedTuple):
    """A content version to be removed; `size` None: unknown, so look for its chunk files."""

    ino: Ino
    version: ContentVersion
    chunk_bytes: int
    size: int | None


class Condemned:
    """See the module docstring. True while anything is left."""

    def __init__(self) -> None:
        self._new: list[Sentence] = []
        self._sealed: list[Sentence] = []
        self._removable: deque[Sentence] = deque()
        self._may_remove = trio.Event()

    def __bool__(self) -> bool:
        return bool(self._new or self._sealed or self._removable)

    def add(self, sentence: Sentence) -> None:
        """The table has dropped it."""
        self._new.append(sentence)

    def seal(self) -> None:
        """A sync of the table begins."""
        self._sealed += self._new
        self._new = []

    def release(self, *, everything: bool) -> None:
        """What was sealed is durable; `everything`: what was added since, too."""
        self._removable += self._sealed
        self._sealed = []
        if everything:
            self._removable += self._new
            self._new = []
        if self._removable:
            self._may_remove.set()

    async def wait(self) -> None:
        """Return once something may be removed."""
        await self._may_remove.wait()

    def take(self, most: int) -> list[Sentence]:
        """Up to so many of what may be removed; empty: nothing is left for now."""
        if not self._removable:
            self._may_remove = trio.Event()
        return [self._removable.popleft() for _ in range(min(most, len(self._removable)))]
