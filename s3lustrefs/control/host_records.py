"""HostRecords: what the endpoint of a host must remember itself: file systems being made or removed, and requests done.

A small JSON file, replaced as a whole and synced, so that it holds either what it held before a request or all of what the request
has settled. Everything else is in the file systems' own tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from s3lustrefs.durable_files import replace_file
from s3lustrefs.errors import StateDirError
from s3lustrefs.model.file_system import Asked, FileSystemRecord

_MOST_ASKED = 1000


@dataclass(frozen=True, slots=True)
class Work:
    """A file system on its way into being or out of it. `failure`: why it got stuck; it stays so until it is deleted."""

    kind: Literal["create", "delete"]
    record: FileSystemRecord
    state_dir: str
    config_path: str
    """Empty: none is to be removed."""
    config_text: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    associations: tuple[str, ...] = ()
    """As the table holds them."""
    failure: str = ""

    @property
    def resource_id(self) -> str:
        return self.record.file_system_id

    @property
    def lifecycle(self) -> str:
        return "FAILED" if self.failure else "CREATING" if self.kind == "create" else "DELETING"


@dataclass(frozen=True, slots=True)
class Done:
    """A request with a token, and the file system it was about."""

    asked: Asked
    resource_id: str


class HostRecords:
    """See the module docstring. Every change is durable when it returns."""

    def __init__(self, path: Path) -> None:
        """Raises: StateDirError."""
        self._path = path
        self.works: dict[str, Work] = {}
        self._done: dict[str, Done] = {}
        try:
            stored = json.loads(path.read_text()) if path.exists() else {}
            for each in stored.get("works", []):
                work = Work(**{**each, "record": FileSystemRecord(**each["record"]), "associations": tuple(each["associations"])})
                self.works[work.resource_id] = work
            for each in stored.get("done", []):
                self._done[each["asked"]["token"]] = Done(Asked(**each["asked"]), each["resource_id"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
            raise StateDirError(
                f"{path} cannot be read: {exc}; if it is lost, move it away: requests are only repeated then"
            ) from exc

    def find_done(self, token: str) -> Done | None:
        return self._done.get(token)

    def begin(self, work: Work, asked: Asked | None) -> None:
        """Raises: StateDirError; nothing has begun then."""
        done = dict(self._done)
        if asked is not None:
            done[asked.token] = Done(asked, work.resource_id)
            if len(done) > _MOST_ASKED:
                oldest = sorted(done, key=lambda token: done[token].asked.at_ns)[: _MOST_ASKED // 2]
                done = {token: each for token, each in done.items() if token not in oldest}
        self._save({**self.works, work.resource_id: work}, done)

    def fail(self, work: Work, reason: str) -> None:
        self._save({**self.works, work.resource_id: replace(work, failure=reason)}, self._done)

    def finish(self, resource_id: str) -> None:
        self._save({key: work for key, work in self.works.items() if key != resource_id}, self._done)

    def _save(self, works: dict[str, Work], done: dict[str, Done]) -> None:
        stored: dict[str, Any] = {
            "works": [asdict(each) for each in works.values()],
            "done": [asdict(each) for each in done.values()],
        }
        try:
            replace_file(self._path, json.dumps(stored))
        except OSError as exc:
            raise StateDirError(f"{self._path} cannot be written: {exc.strerror}") from exc
        self.works, self._done = works, done
