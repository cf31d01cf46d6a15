"""Places: which file systems this host has, mounted or not: by the TOML files, by the state directories below the
host's own, and by the mounts there are.

Found anew at each request, since both are there for editing. A file system keeps its id as long as its table lives, so the
table's inode number is all that has to be compared.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from s3lustrefs.config import configured_state_dir
from s3lustrefs.errors import ConfigError

log = logging.getLogger(__name__)

OWN = "api"
"""Directory of the endpoint itself, beside the state directories of file systems."""


@dataclass(frozen=True, slots=True)
class Place:
    """One state directory with a table in it. `config_path`: the file that mounts it by name, if there is one."""

    state_dir: Path
    table: int
    """Inode number of the table."""
    config_path: Path | None = field(default=None, compare=False)

    @property
    def control_path(self) -> Path:
        return self.state_dir / "control.sock"

    def exists(self) -> bool:
        return (self.state_dir / "meta" / "data.mdb").exists()

    @property
    def name(self) -> str:
        """What mounts it, for messages."""
        return self.config_path.stem if self.config_path else str(self.state_dir)


class Places:
    """See the module docstring."""

    def __init__(self, state_root: Path, config_dir: Path) -> None:
        self.state_root = state_root
        self.config_dir = config_dir
        self._read: dict[Path, tuple[tuple[int, int], Path | None]] = {}
        """By TOML file: what tells whether it has changed, and the state directory it names."""

    def all(self, mounted: Iterable[Path] = ()) -> list[Place]:
        """`mounted`: state directories of mounts, wherever they are."""
        found: dict[Path, Place] = {}
        for path, state_dir in self._configured():
            _add(found, state_dir, path)
        for state_dir in _directories(self.state_root):
            if state_dir.name != OWN:
                _add(found, state_dir, None)
        for state_dir in mounted:
            _add(found, state_dir, None)
        return list(found.values())

    def _configured(self) -> list[tuple[Path, Path]]:
        read = {}
        for path in sorted(self.config_dir.glob("*.toml")):
            try:
                state = path.stat()
            except OSError:
                continue  # gone meanwhile
            mark = (state.st_mtime_ns, state.st_ino)
            known = self._read.get(path)
            read[path] = known if known is not None and known[0] == mark else (mark, _state_dir(path))
        self._read = read
        return [(path, state_dir) for path, (_, state_dir) in read.items() if state_dir is not None]


def _state_dir(path: Path) -> Path | None:
    try:
        return configured_state_dir(path)
    except ConfigError as exc:
        log.warning("file system not shown, its configuration cannot be read reason=%s", exc)
        return None


def _directories(root: Path) -> list[Path]:
    try:
        return sorted(each for each in root.iterdir() if not each.name.startswith("."))
    except OSError:
        return []


def _add(found: dict[Path, Place], state_dir: Path, config_path: Path | None) -> None:
    try:
        table = (state_dir / "meta" / "data.mdb").stat().st_ino
    except OSError:
        return  # it was never mounted
    found.setdefault(state_dir, Place(state_dir, table, config_path))
