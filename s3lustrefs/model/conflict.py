"""Conflict: what was found when file and object both changed, and where either version is now."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ConflictKind(StrEnum):
    """What happened, and which side has the name."""

    KEPT_BOTH = "kept-both"
    BUCKET_WON = "bucket-won"
    FILE_WON = "file-won"
    DELETED_THERE = "deleted-in-bucket"
    DELETED_HERE = "deleted-here"
    NOT_EXPORTED = "not-exported"
    EXPORTED_APART = "exported-apart"
    DIRECTORY_THERE = "directory-in-bucket"
    ATTRIBUTES_KEPT = "attributes-not-exported"
    ONLY_HERE = "only-here"


_BOTH = "changed here and in the bucket"
_TEXTS = {
    ConflictKind.KEPT_BOTH: _BOTH + ": the bucket's version has the name, the local one is {loser}",
    ConflictKind.BUCKET_WON: _BOTH + ": the bucket's version has the name, the local one is {loser}",
    ConflictKind.FILE_WON: _BOTH + ": the local version has the name, the bucket's is {loser}",
    ConflictKind.DELETED_THERE: "changed here and deleted in the bucket: the local version was exported again",
    ConflictKind.DELETED_HERE: "deleted or renamed here and changed in the bucket: the bucket's version is here again",
    ConflictKind.NOT_EXPORTED: _BOTH + ", and the export policy keeps the local change here: the bucket's version is not shown",
    ConflictKind.EXPORTED_APART: _BOTH
    + ": the local version stays, it is exported to a prefix of its own; the bucket's version is not shown",
    ConflictKind.ATTRIBUTES_KEPT: "owner or mode changed here, which the export policy keeps here, and the object in the bucket: "
    "the content is the bucket's, the attributes are the local ones",
    ConflictKind.ONLY_HERE: "renamed or changed here, where it is not exported, and deleted in the bucket: "
    "what of it is local is all there is",
    ConflictKind.DIRECTORY_THERE: "a file here and now a directory in the bucket: the object of the file is not shown any more",
}


@dataclass(frozen=True, slots=True)
class Conflict:
    """One conflict. Paths are inside the mount; `loser` is empty where no version had to move. An ino of 0: there is none."""

    kind: ConflictKind
    at_ns: int
    path: str
    loser: str = ""
    etag: str = ""
    """Of the bucket's version."""
    winner_ino: int = 0
    loser_ino: int = 0

    def text(self) -> str:
        """What happened, in words that follow the path."""
        return _TEXTS[self.kind].format(loser=self.loser)
