"""Records sent between tasks, upward: from the movers to the kernel's door."""

from __future__ import annotations

from dataclasses import dataclass

from s3lustrefs.model.ids import Ino


@dataclass(frozen=True, slots=True)
class InodeInvalidation:
    """The kernel must forget the attributes of an inode and, if `content`, its pages."""

    ino: Ino
    content: bool


@dataclass(frozen=True, slots=True)
class DentryInvalidation:
    """The kernel must forget what it knows of one name."""

    parent: Ino
    name: bytes


@dataclass(frozen=True, slots=True)
class BlocksChanged:
    """An inode occupies another number of blocks now; everything else the kernel knows of it is right. Not urgent."""

    ino: Ino


Invalidation = InodeInvalidation | DentryInvalidation
