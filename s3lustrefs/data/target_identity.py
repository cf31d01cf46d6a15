"""Target identity: proof at start that every storage target is the one it was, in its place among the others.

A chunk file that is not there is a hole, so that a target whose file system is not mounted, or that stands in another place
of `cache_dir`, would turn files into zeros; one that belongs to another state directory would lend them its bytes.

Each target carries a line `ID NUMBER COUNT` in `chunks/.identity`, the state directory the ID in `targets`. The targets are
written first: without a record in the state directory, what the targets say is believed if it agrees (crash, older version).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from s3lustrefs import errors


def prove(targets: Sequence[Path], record: Path) -> None:
    """Check the targets, or at the first start mark them. Raises: StateDirError."""
    try:
        known = _read(record)
        said = [_read(_identity(target)) for target in targets]
        common = known or next((line.split()[0] for line in said if line), "") or secrets.token_hex(8)
        for number, (target, line) in enumerate(zip(targets, said, strict=True)):
            expected = f"{common} {number} {len(targets)}"
            if line != expected:
                _refuse(target, line, common, is_known=bool(known))
                _write(_identity(target), expected)
        if not known:
            _write(record, common)
    except OSError as exc:
        raise errors.StateDirError(f"storage targets cannot be identified: {exc.strerror}: {exc.filename}") from exc


def _refuse(target: Path, line: str, common: str, *, is_known: bool) -> None:
    if line and line.split()[0] != common:
        raise errors.StateDirError(
            f"storage target {target} holds content of another state directory: use that one, or another cache_dir"
        )
    if line:
        raise errors.StateDirError(
            f"storage target {target} was number {int(line.split()[1]) + 1} of {line.split()[2]} in cache_dir: "
            "list the targets as they were, since their order says where content is"
        )
    if is_known:
        raise errors.StateDirError(
            f"storage target {target} has lost its content, or its file system is not mounted: mount it there, then try again"
        )


def _identity(target: Path) -> Path:
    return target / "chunks" / ".identity"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""


def _write(path: Path, text: str) -> None:
    """Durably, all or nothing."""
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("w") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
