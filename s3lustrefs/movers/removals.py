"""Removals: what follows once names are gone from the table: the kernel forgets them, bytes nobody needs any more are dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.meta.vanished import Removed
from s3lustrefs.model.events import DentryInvalidation, InodeInvalidation, Invalidation
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.hydrator import Hydrator


@dataclass(frozen=True, slots=True)
class Removals:
    """`note_nameless` has an open file that lost its last name buried when nobody has it open any more."""

    chunks: ChunkStore
    hydrator: Hydrator
    note_nameless: Callable[[Ino], None]
    notify: Callable[[Invalidation], None]

    def follow(self, directory: Ino, removed: Sequence[Removed]) -> None:
        """These names of a directory were removed from the table, not by the kernel's own request."""
        for each in removed:
            self.notify(DentryInvalidation(directory, each.name))
            if each.inode.nlink:
                self.notify(InodeInvalidation(each.inode.ino, content=False))
            elif each.is_open:
                self.note_nameless(each.inode.ino)
            elif each.inode.is_file:
                self.drop_content(each.inode)
        if removed:
            self.notify(InodeInvalidation(directory, content=False))

    def drop_content(self, inode: Inode) -> None:
        """The bytes of a content version that, says the table, is no file's any more."""
        self.hydrator.forget(inode.ino)
        self.chunks.condemn(inode.ino, inode.content_version, inode.chunk_bytes, inode.size)
