"""Small files, and names, that survive a power cut once written. Everything here blocks, and raises OSError."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, text: str) -> None:
    """A file for its owner alone; whenever we die, it holds what it held or all of this."""
    fresh = path.with_name(f".{path.name}.new")
    write_synced(fresh, text, mode=0o600)
    fresh.rename(path)
    sync_directory(path.parent)


def write_synced(path: Path, text: str, *, mode: int) -> None:
    """A new file in place of what a death may have left under its name, which is not on disk yet when this returns."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path | str) -> None:
    """Names that were given and taken in a directory are so on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
