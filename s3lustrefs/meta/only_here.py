"""What an unmounted file system holds that no bucket has: counted before anybody removes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from s3lustrefs.meta import content_place, location, schema
from s3lustrefs.meta.schema import SUPER_CONTENT_PLACE, Table
from s3lustrefs.meta.table_view import unmounted
from s3lustrefs.meta.unmounted_store import UnmountedStore
from s3lustrefs.model.hsm import Hsm


@dataclass(frozen=True, slots=True)
class OnlyHere:
    """`files`: without an object, or newer than theirs. `changes`: renames, deletions, attributes not exported yet."""

    files: int
    changes: int
    example: str
    """Path of one such file; empty: there is none."""
    targets: tuple[str, ...]
    """Where its content lies."""

    @property
    def is_nothing(self) -> bool:
        return not self.files and not self.changes

    def __str__(self) -> str:
        parts = [f"{self.files} files (such as {self.example})"] if self.files else []
        return " and ".join([*parts, *([f"{self.changes} changes"] if self.changes else [])])


def find(state_dir: Path) -> OnlyHere:
    """Looks at every inode: seconds per million. Blocks. Raises: StateDirInUse, StateDirError."""
    with unmounted(state_dir) as view:
        raw = view.get(Table.SUPER, SUPER_CONTENT_PLACE)
        targets = content_place.decode(raw).targets if raw else ()
        files, example = 0, None
        for key, value in view.rows(Table.INODES):
            inode = schema.decode_inode(schema.decode_u64(key), value)
            if inode.is_file and inode.nlink and (not inode.hsm & Hsm.ARCHIVED or inode.hsm & Hsm.DIRTY):
                files += 1
                example = example or inode.ino
        changes = sum(1 for _ in view.rows(Table.JOURNAL))
        path = location.path_of(UnmountedStore(state_dir, view).begin(), example) if example else b""
        return OnlyHere(files, max(0, changes - files), path.decode(errors="replace"), targets)
