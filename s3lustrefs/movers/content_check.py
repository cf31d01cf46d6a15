"""ContentCheck: whether the chunk files hold what the table says is local. Reads both, changes neither.

A chunk file that is missing or too short means missing bytes, unless the file is SPARSE: then they are zeros, and only a target
known to be lost makes them suspect. Chunk files of numbers or versions the table never handed out mean that the table is too old.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from s3lustrefs.data.layout import ChunkKey, Layout, split
from s3lustrefs.data.residency import BLOCK_BYTES, Residency, blocks_of
from s3lustrefs.meta import schema
from s3lustrefs.meta.schema import SUPER_NEXT_INO, Table
from s3lustrefs.meta.table_view import TableView
from s3lustrefs.model.ids import ROOT_INO, Ino
from s3lustrefs.model.inode import Inode, InodeFlag


@dataclass(frozen=True, slots=True)
class Missing:
    """A file some of whose local bytes are gone: byte extents `lost`, and what is left of its residency."""

    inode: Inode
    path: str
    lost: list[tuple[int, int]]
    intact: Residency

    @property
    def lost_bytes(self) -> int:
        return sum(end - start for start, end in self.lost)


class ContentCheck:
    """`suspect` are the targets (by number) known to have lost their content."""

    def __init__(self, view: TableView, layout: Layout, *, suspect: Collection[int] = ()) -> None:
        self._view = view
        self._layout = layout
        self._suspect = frozenset(suspect)

    def missing(self) -> Iterator[Missing]:
        """Files with missing bytes, by inode number. Rows that cannot be read are not content's business."""
        for key, raw in self._view.rows(Table.INODES):
            try:
                inode = schema.decode_inode(schema.decode_u64(key), raw)
                residency = self._residency(inode)
            except schema.UNREADABLE:
                continue
            if inode.is_file and inode.nlink and inode.size and inode.chunk_bytes:
                lost = list(self._lost(inode, residency))
                if lost:
                    yield Missing(inode, path_of(self._view, inode), lost, _without(residency, lost))

    def unknown(self) -> Iterator[tuple[ChunkKey, str]]:
        """(key, path) of chunk files that a newer table than this one must have spoken of."""
        next_ino = int(self._view.get(Table.SUPER, SUPER_NEXT_INO) or b"2")
        for key, _ in self._layout.entries():
            raw = self._view.get(Table.INODES, schema.pack_u64(key.ino))
            if key.ino >= next_ino or (raw is not None and schema.decode_inode(key.ino, raw).content_version < key.version):
                yield key, self._layout.path(key)

    def _residency(self, inode: Inode) -> Residency:
        if inode.is_complete:
            return Residency(inode.content_version, [(0, blocks_of(inode.size))])
        raw = self._view.get(Table.RESIDENCY, schema.pack_u64(inode.ino))
        version, extents = schema.decode_residency(raw) if raw else (inode.content_version, b"")
        if not extents or version != inode.content_version:
            return Residency(inode.content_version)
        return Residency.decode(extents)

    def _lost(self, inode: Inode, residency: Residency) -> Iterator[tuple[int, int]]:
        is_sparse = bool(inode.flags & InodeFlag.SPARSE)
        for first, stop in residency.extents():
            at = first * BLOCK_BYTES
            for piece in split(inode.chunk_bytes, at, min(stop * BLOCK_BYTES, inode.size)):
                key = ChunkKey(inode.ino, inode.content_version, piece.chunk_index)
                if not is_sparse or self._layout.target_of(key) in self._suspect:
                    there = max(0, min(piece.length, _length(self._layout.path(key)) - piece.offset))
                    if there < piece.length:
                        yield at + there, at + piece.length
                at += piece.length


def path_of(view: TableView, inode: Inode) -> str:
    """By primary names, as far up as they lead."""
    parts: list[bytes] = []
    seen: set[Ino] = set()
    while inode.ino != ROOT_INO and inode.ino not in seen:
        seen.add(inode.ino)
        parts.append(inode.name)
        raw = view.get(Table.INODES, schema.pack_u64(inode.parent))
        if raw is None:
            break
        inode = schema.decode_inode(inode.parent, raw)
    return "/" + b"/".join(reversed(parts)).decode(errors="backslashreplace")


def _length(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _without(residency: Residency, lost: list[tuple[int, int]]) -> Residency:
    """A block some of which is lost is lost."""
    gone = {block for start, end in lost for block in range(start // BLOCK_BYTES, blocks_of(end))}
    left = (block for first, stop in residency.extents() for block in range(first, stop) if block not in gone)
    return Residency(residency.content_version, ((block, block + 1) for block in left))
