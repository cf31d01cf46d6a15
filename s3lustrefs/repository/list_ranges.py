"""KeyRange: a part of a listing that one worker reads, and where to cut it so that another worker can take the rest.

Decides, never acts: no request is sent and no lock is taken here. A range is the keys in `(position, end]` under the
listing's prefix. Where it is cut is only a guess about where keys are; a bad guess costs one request, never a key, because
a cut counts only after the server has shown the first page behind it (see `listing`).

Guesses come from three sources, best first: subdirectory names from a delimiter listing (`hints`); such a listing of a
level not yet asked; a character after the part that the last keys have in common, for directories that are flat.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

from s3lustrefs.repository.list_page import Page

_DIGITS, _LETTERS = b"0123456789", b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Cut:
    """Ask for the keys after `boundary`; if there are any, the range may end there."""

    boundary: bytes


@dataclass(frozen=True, slots=True)
class Explore:
    """Ask which names directly below `level` (ends in `/`, or is empty) come after the range's position."""

    level: bytes


def is_ordered(keys: list[bytes], after: bytes) -> bool:
    """Whether keys ascend strictly and all come after `after`: what the server promises, and some servers do not keep."""
    return not keys or (keys[0] > after and all(map(bytes.__lt__, keys, keys[1:])))


@dataclass(slots=True)
class KeyRange:
    """Keys in `(position, end]`; `end` None is no limit. Everything up to `position` has been taken."""

    prefix: bytes
    position: bytes = b""
    end: bytes | None = None
    token: str | None = None
    empty_after: bytes | None = None
    """No key is known to be in `(empty_after, end]`. Only steers guesses."""
    hints: list[bytes] = field(default_factory=list)
    explored: dict[bytes, bytes | None] = field(default_factory=dict)
    """Level → name up to which its subdirectories are known; None: all of them."""
    previous: bytes = b""
    """First key of the last page taken: with `position`, what keys look like here."""
    pages: int = 0
    finished: bool = False
    probed: bool = False
    """A worker is out asking where this range can be cut."""

    def take(self, page: Page) -> None:
        """Move past a page, first dropping what lies behind the end."""
        if self.end is not None and page.keys:
            within = bisect_right(page.keys, self.end)
            self.finished = within < len(page.keys) or page.keys[-1] == self.end
            page.keep(0, within)
        if page.keys:
            self.previous, self.position = page.keys[0], page.keys[-1]
        self.token = page.token
        self.finished = self.finished or page.token is None
        self.pages += 1

    def cut(self, boundary: bytes) -> KeyRange:
        """Give everything after `boundary` to a new range."""
        at = bisect_right(self.hints, boundary)
        rest = KeyRange(self.prefix, boundary, self.end, None, self.empty_after, self.hints[at:], dict(self.explored))
        self.end, self.empty_after = boundary, None
        del self.hints[bisect_left(self.hints, boundary) :]
        return rest

    def learn(self, level: bytes, page: Page) -> None:
        """Take the answer to an Explore."""
        names = [name for name in page.common_prefixes if name.startswith(level) and name > self.position]
        self.explored[level] = names[-1] if names and page.token is not None else None
        self.hints = sorted({*self.hints, *names})

    def guess(self, may_explore: bool) -> Cut | Explore | None:
        """The next thing to ask, or None when nothing sensible is left."""
        if self.finished or not self.pages:
            return None
        upper = self._upper()
        low = bisect_right(self.hints, self.position)
        high = len(self.hints) if upper is None else bisect_left(self.hints, upper)
        self.hints = self.hints[low:high]
        if self.hints:
            return Cut(self.hints[len(self.hints) // 2])
        if may_explore:
            for level in self._levels(upper):
                known = self.explored.get(level, b"")
                if known is not None and known <= self.position:
                    return Explore(level)
        boundary = self._guess_character(upper)
        return Cut(boundary) if boundary is not None else None

    def _upper(self) -> bytes | None:
        limits = [limit for limit in (self.end, self.empty_after) if limit is not None]
        return min(limits) if limits else None

    def _levels(self, upper: bytes | None) -> list[bytes]:
        """Directories of the position, outermost first, beginning with the one that holds the whole range."""
        top = self.prefix
        if upper is not None:
            shared = _shared_start(self.position, upper)
            top = max(top, shared[: shared.rfind(b"/") + 1], key=len)
        levels = [top]
        slash = self.position.find(b"/", len(top))
        while slash >= 0:
            levels.append(self.position[: slash + 1])
            slash = self.position.find(b"/", slash + 1)
        return levels

    def _guess_character(self, upper: bytes | None) -> bytes | None:
        """A boundary between position and `upper` that shares the stem of the keys seen last.

        `run-00017` after `run-00001`: the stem is `run-`, and `run-1`, `run-01`, `run-001`, `run-0005` are tried in turn, each
        narrowing the empty part behind the last key.
        """
        key = self.position
        for at in range(len(self._stem()), len(key)):
            here = key[at]
            limit = _limit(here)
            if upper is not None and upper[:at] == key[:at]:
                limit = min(limit, upper[at] if at < len(upper) else 0)
            character = here + 1 if here == ord("0") else (here + limit) // 2
            if here < character < limit:
                return key[:at] + bytes([character])
        return None

    def _stem(self) -> bytes:
        """What the last page's keys share, less a number or word it may end in the middle of; at least their directory."""
        directory = self.position[: self.position.rfind(b"/") + 1]
        if not self.previous.startswith(directory):
            return directory
        shared = _shared_start(self.previous, self.position)
        run = _DIGITS if shared[-1:].isdigit() else _LETTERS
        return max(shared.rstrip(run), directory, key=len)


def _shared_start(a: bytes, b: bytes) -> bytes:
    """The bytes both begin with."""
    return a[: next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]


def _limit(character: int) -> int:
    """One past the largest character that plausibly stands where this one does; ASCII only, so that guesses stay UTF-8."""
    if character in _DIGITS:
        return ord("9") + 1
    if character >= 0x7F:
        return 0
    return ord("z") + 1 if character in _LETTERS else 0x7F
