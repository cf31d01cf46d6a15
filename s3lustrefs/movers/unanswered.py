"""Unanswered: keys that the bucket says nothing about, while it answers for others: what is known of them here stays as it is.

In memory only: a mount begins with a sweep, which looks at all of them again.
"""

from __future__ import annotations

from collections.abc import Iterable

from s3lustrefs import errors
from s3lustrefs.model.ids import NO_INO, Ino
from s3lustrefs.movers.repositories import Troubles

_MOST = 10_000


class Unanswered:
    """Of one association. As long as one is remembered, `why` tells it of the file with that key."""

    def __init__(self, troubles: Troubles) -> None:
        self._troubles = troubles
        self._inodes: dict[bytes, Ino] = {}

    def __len__(self) -> int:
        return len(self._inodes)

    def note(self, key: bytes, ino: Ino, error: errors.ObjectRefused) -> bool:
        """`ino` is what has the key here, NO_INO for nothing. False: there are too many to remember this one, too."""
        if key not in self._inodes and len(self._inodes) >= _MOST:
            return False
        self._inodes[key] = ino
        if ino != NO_INO:
            self._troubles.note(ino, error)
        return True

    def forget(self, keys: Iterable[bytes]) -> None:
        """The bucket has told of them."""
        if not self._inodes:
            return
        for key in keys:
            ino = self._inodes.pop(key, NO_INO)
            if isinstance(self._troubles.find(ino), errors.ObjectRefused):
                self._troubles.forget(ino)
