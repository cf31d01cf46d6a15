"""Targets: every storage target says whose content it holds and which place it has.

So a disk that is not mounted, a list in another order, or the targets of another file system are never taken for content that is
all zeros. The identity is kept in the table; the mark is the file `s3lustrefs.json` in the target.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from s3lustrefs import errors
from s3lustrefs.durable_files import replace_file

_MARK = "s3lustrefs.json"


@dataclass(frozen=True, slots=True)
class Mark:
    """What the file says: target `index` of `count` with the content of the file system `identity`."""

    identity: str
    index: int
    count: int


def new_identity() -> str:
    return secrets.token_hex(16)


def defects(targets: Sequence[Path], identity: str) -> list[str]:
    """Why these are not the targets of the file system `identity`, in this order; empty: they are. Raises: StateDirError."""
    found = []
    for index, target in enumerate(targets):
        mark = read_mark(target)
        if mark is None:
            found.append(f"{target} does not hold its content: is its disk mounted?")
        elif mark.identity != identity:
            found.append(f"{target} holds the content of another file system")
        elif (mark.index, mark.count) != (index, len(targets)):
            found.append(
                f"{target} was number {mark.index + 1} of {mark.count} targets, and is number {index + 1} of {len(targets)} now"
            )
    return found


def claim(targets: Sequence[Path], identity: str) -> None:
    """Mark the targets of a file system that has not marked any. Raises: StateDirError when one holds other content."""
    for index, target in enumerate(targets):
        mark = read_mark(target)
        if mark is not None and mark.identity != identity and _has_content(target):
            raise errors.StateDirError(
                f"storage target {target} holds the content of another file system: choose another cache_dir"
            )
        write_mark(target, Mark(identity, index, len(targets)))


def write_mark(target: Path, mark: Mark) -> None:
    """Raises: StateDirError."""
    try:
        replace_file(target / _MARK, json.dumps(asdict(mark)))
    except OSError as exc:
        raise errors.StateDirError(f"storage target {target} cannot be written: {exc.strerror}") from exc


def read_mark(target: Path) -> Mark | None:
    """None: there is none. Raises: StateDirError."""
    try:
        return Mark(**json.loads((target / _MARK).read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as exc:
        raise errors.StateDirError(f"storage target {target}: {_MARK} cannot be read: {exc}") from exc


def _has_content(target: Path) -> bool:
    return any((target / "chunks").glob("*/*.*.*"))
