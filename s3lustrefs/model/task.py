"""Data repository tasks: what an administrator asked for in bulk, how far it is, and which steps its life may take.

Source: fsx-spec section 9; Amazon FSx API Reference, "DataRepositoryTask".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

TaskType = Literal["IMPORT_METADATA_FROM_REPOSITORY", "EXPORT_TO_REPOSITORY", "RELEASE_DATA_FROM_FILESYSTEM", "AUTO_RELEASE_DATA"]
IMPORT: TaskType = "IMPORT_METADATA_FROM_REPOSITORY"
EXPORT: TaskType = "EXPORT_TO_REPOSITORY"
RELEASE: TaskType = "RELEASE_DATA_FROM_FILESYSTEM"
AUTO_RELEASE: TaskType = "AUTO_RELEASE_DATA"

Lifecycle = Literal["PENDING", "EXECUTING", "CANCELING", "SUCCEEDED", "FAILED", "CANCELED"]
_STEPS: Mapping[Lifecycle, frozenset[Lifecycle]] = {
    "PENDING": frozenset({"EXECUTING", "CANCELING", "FAILED"}),
    "EXECUTING": frozenset({"SUCCEEDED", "FAILED", "CANCELING"}),
    "CANCELING": frozenset({"CANCELED"}),
    "SUCCEEDED": frozenset(),
    "FAILED": frozenset(),
    "CANCELED": frozenset(),
}
DAY_SECONDS = 86400
MESSAGE_CHARACTERS = 256
"""FSx's limit for `FailureDetails.Message`."""


@dataclass(frozen=True, slots=True)
class TaskReport:
    """The completion report that was asked for; `path` is empty where none was given."""

    path: str = ""
    format: str = "REPORT_CSV_20191124"
    scope: str = "FAILED_FILES_ONLY"


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """One task, as it survives a crash.

    `paths` are as the client sent them. `position` is where the walk stood when `total` entries were done with, in the words of the
    mover that walks: whoever takes the task up again goes on from there.
    """

    task_id: str
    type: TaskType
    created_ns: int
    paths: Sequence[str] = ()
    report: TaskReport | None = None
    unused_seconds: int = 0
    """Of a release: files used within so many seconds before `created_ns` keep their bytes; 0: nobody asks when they were."""
    release_days: int | None = None
    """What the client gave as DurationSinceLastAccess, to be echoed; None: nothing."""
    associations: Sequence[str] = ()
    """Public ids of those that the paths reach into."""
    token: str = ""
    """The ClientRequestToken it was made with."""
    lifecycle: Lifecycle = "PENDING"
    started_ns: int = 0
    ended_ns: int = 0
    total: int = 0
    succeeded: int = 0
    failed: int = 0
    released_bytes: int = 0
    wanted_bytes: int = 0
    """Of an AUTO_RELEASE: how many bytes had to go."""
    counted_ns: int = 0
    """When the counts changed last."""
    failure: str = ""
    position: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_ended(self) -> bool:
        return not _STEPS[self.lifecycle]

    def step(self, lifecycle: Lifecycle, now_ns: int, *, failure: str = "") -> TaskRecord:
        """The same task one step further. Raises: ValueError for a step that no task takes."""
        if lifecycle not in _STEPS[self.lifecycle]:
            raise ValueError(f"task {self.task_id} is {self.lifecycle}, which {lifecycle} does not follow")
        ends = not _STEPS[lifecycle]
        return replace(
            self,
            lifecycle=lifecycle,
            started_ns=self.started_ns or (now_ns if lifecycle == "EXECUTING" else 0),
            ended_ns=now_ns if ends else 0,
            failure=failure[:MESSAGE_CHARACTERS],
            position={} if ends else self.position,
        )

    def does_the_same(self, other: TaskRecord) -> bool:
        """Whether one of the two would be enough. Source: FSx for Lustre User Guide, "Troubleshooting failed tasks"."""
        mine, theirs = (frozenset(path.strip("/") for path in task.paths) or frozenset({""}) for task in (self, other))
        return self.type == other.type and mine == theirs


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """One row of a completion report. `order` is the number of the entry in the order of the task's walk, from 1."""

    order: int
    path: str
    code: str
    status: Literal["failed", "succeeded with warning"] = "failed"


def was_unused(times_ns: Sequence[int], created_ns: int, unused_seconds: int) -> bool:
    """Whether a file with these times (access, modification, change) may be released.

    It was used last strictly more than `unused_seconds` before the task was created. Source: Amazon FSx API Reference,
    "DurationSinceLastAccess".
    """
    return not unused_seconds or created_ns - max(times_ns) > unused_seconds * 10**9
