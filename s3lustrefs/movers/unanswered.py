"""Unanswered: keys that the bucket says nothing about, while it answers for others: what is known of them here stays as it is.

They are asked about again, each after a longer time. In memory only: a mount begins with a sweep, which looks at all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import trio

from s3lustrefs import errors
from s3lustrefs.model.ids import NO_INO, Ino
from s3lustrefs.movers.repositories import Troubles

_MOST = 50_000
_FIRST_SECONDS, _LONGEST_SECONDS = 60.0, 3600.0
"""Between two looks at one key."""


@dataclass(slots=True)
class _Key:
    ino: Ino = NO_INO
    pause_seconds: float = _FIRST_SECONDS / 2
    due_at: float = 0.0


class Unanswered:
    """Of one association. As long as one is remembered, `why` tells it of the file with that key."""

    def __init__(self, troubles: Troubles) -> None:
        self._troubles = troubles
        self._keys: dict[bytes, _Key] = {}
        self._earliest = math.inf
        """No key is due before."""

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def note(self, key: bytes, ino: Ino = NO_INO, error: errors.ObjectRefused | None = None) -> bool:
        """`ino` is what has the key here, NO_INO for nothing. False: there are too many to remember this one, too."""
        if key not in self._keys and len(self._keys) >= _MOST:
            return False
        noted = self._keys.setdefault(key, _Key())
        noted.pause_seconds = min(noted.pause_seconds * 2, _LONGEST_SECONDS)
        noted.due_at = trio.current_time() + noted.pause_seconds
        self._earliest = min(self._earliest, noted.due_at)
        noted.ino = ino or noted.ino
        if error is not None and ino != NO_INO:
            self._troubles.note(ino, error)
        return True

    def forget(self, keys: Iterable[bytes]) -> None:
        """The bucket has told of them."""
        if not self._keys:
            return
        for key in keys:
            noted = self._keys.pop(key, None)
            if noted is not None and isinstance(self._troubles.find(noted.ino), errors.ObjectRefused):
                self._troubles.forget(noted.ino)

    def due(self, limit: int) -> list[bytes]:
        """Up to `limit` keys that are to be asked about again now. Whatever comes of that, they are due again after a while, unless
        they are forgotten."""
        now = trio.current_time()
        if now < self._earliest:
            return []
        found: list[bytes] = []
        earliest = math.inf
        for key, noted in self._keys.items():
            if noted.due_at <= now:
                if len(found) == limit:
                    earliest = now
                    break
                found.append(key)
                noted.due_at = now + noted.pause_seconds
            earliest = min(earliest, noted.due_at)
        self._earliest = earliest
        return found
