"""TreeWalk: goes through directories in the order of names, and knows where it stands, so that it can be taken up again.

A directory comes before what is in it. What is renamed or made behind the walk's back is met or not, as with find(1).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

import trio

from s3lustrefs import errors
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode

log = logging.getLogger(__name__)

PAGE = 256
"""Names looked at in one transaction: a few milliseconds."""


class Named(Protocol):
    """What a walk needs to know of one name in a directory."""

    @property
    def name(self) -> bytes: ...
    @property
    def inode(self) -> Inode: ...


Row = TypeVar("Row", bound=Named)


class Name(NamedTuple):
    """One name in a directory, for a walk that only looks."""

    name: bytes
    inode: Inode


@dataclass(frozen=True, slots=True)
class Position:
    """After `name` in `directory` (an absolute path inside the mount), which was reached from the path `root`."""

    root: bytes = b""
    directory: bytes = b""
    name: bytes = b""

    def as_words(self) -> dict[str, str]:
        return {"root": os.fsdecode(self.root), "directory": os.fsdecode(self.directory), "name": os.fsdecode(self.name)}

    @classmethod
    def of_words(cls, words: Mapping[str, str]) -> Position:
        return cls(*(os.fsencode(words.get(part, "")) for part in ("root", "directory", "name")))


@dataclass(frozen=True, slots=True)
class Met(Generic[Row]):
    """One name, met by a walk that stood at `before`."""

    path: bytes
    row: Row
    before: Position


@dataclass(slots=True)
class _Frame(Generic[Row]):
    """A directory on the way to where the walk is. `after`: the name that was handed out last."""

    path: bytes
    ino: Ino
    after: bytes = b""
    page: Sequence[Row] = ()
    at: int = 0
    is_last: bool = False
    """Nothing comes after this page."""


@dataclass(slots=True)
class TreeWalk(Generic[Row]):
    """`roots` are absolute paths, none below another; what a root is itself is not met. `read` gives a page of a directory."""

    engine: MetadataEngine
    roots: Sequence[bytes]
    read: Callable[[Ino, bytes, int], Awaitable[Sequence[Row]]]
    _root: int = -1
    _stack: list[_Frame[Row]] = field(default_factory=list)

    async def resume(self, position: Position) -> bool:
        """Go on from where another walk over the same roots stood. False: that cannot be found, this one begins anew."""
        if position.root not in self.roots:
            return False
        self._root = self.roots.index(position.root)
        parts = [part for part in position.directory[len(position.root.rstrip(b"/")) :].split(b"/") if part]
        path = position.root
        for name in [*parts, position.name]:
            frame = await self._enter(path)
            if frame is None:
                break  # what was in it is gone, too
            frame.after = name
            self._stack.append(frame)
            path = path.rstrip(b"/") + b"/" + name
        return True

    async def next(self) -> list[Met[Row]]:
        """Names of one directory, up to and including the next one that is a directory; empty at the end."""
        await trio.lowlevel.checkpoint()
        while True:
            if not self._stack and not await self._next_root():
                return []
            frame = self._stack[-1]
            try:
                met = await self._take(frame)
            except errors.MetadataError as exc:  # removed, or something else by now
                log.debug("directory not walked any further path=%r reason=%s", frame.path, exc)
                self._stack.pop()
                continue
            if met:
                return met
            self._stack.pop()

    async def _next_root(self) -> bool:
        while self._root + 1 < len(self.roots):
            self._root += 1
            frame = await self._enter(self.roots[self._root])
            if frame is not None:
                self._stack.append(frame)
                return True
        return False

    async def _enter(self, path: bytes) -> _Frame[Row] | None:
        try:
            inode = await self.engine.resolve(path)
        except errors.MetadataError:
            return None
        return _Frame(path, inode.ino) if inode.is_dir else None

    async def _take(self, frame: _Frame[Row]) -> list[Met[Row]]:
        if frame.at == len(frame.page):
            if frame.is_last:
                return []
            frame.page, frame.at = await self.read(frame.ino, frame.after, PAGE), 0
            frame.is_last = len(frame.page) < PAGE
        root, met = self.roots[self._root], []
        base = frame.path.rstrip(b"/") + b"/"
        while frame.at < len(frame.page):
            row = frame.page[frame.at]
            met.append(Met(base + row.name, row, Position(root, frame.path, frame.after)))
            frame.at += 1
            frame.after = row.name
            if row.inode.is_dir:
                self._stack.append(_Frame(base + row.name, row.inode.ino))
                break
        return met

    @property
    def position(self) -> Position:
        """After everything handed out so far."""
        if not self._stack:
            return Position(self.roots[self._root] if 0 <= self._root < len(self.roots) else b"", b"", b"\xff" * 256)
        frame = self._stack[-1]
        return Position(self.roots[self._root], frame.path, frame.after)


def walk_names(engine: MetadataEngine, roots: Sequence[bytes]) -> TreeWalk[Name]:
    """A walk that changes nothing of what it meets; see `TreeWalk` for the roots."""

    async def read(directory: Ino, after: bytes, limit: int) -> list[Name]:
        return [Name(*row) for row in await engine.readdir(directory, after, limit)]

    return TreeWalk(engine, roots, read)
