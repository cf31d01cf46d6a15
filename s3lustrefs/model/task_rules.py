"""The rules that tasks keep, as pure functions: each answers with the defect in words, or None."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from s3lustrefs.model.association import Association
from s3lustrefs.model.task import TaskRecord

MOST_UNFINISHED = 100
"""Tasks that wait or execute: FSx does not say how many it lets queue."""


def automatic_export_defect(associations: Iterable[Association]) -> str | None:
    """Automatic export and export tasks cannot run at the same time.

    Source: FSx for Lustre User Guide, "Exporting changes to the data repository".
    """
    for each in associations:
        if each.auto_export:
            return (
                f"{each.association_id} exports automatically, and no export task can run beside that: switch it off with "
                "UpdateDataRepositoryAssociation, S3 AutoExportPolicy={Events=[]}"
            )
    return None


def queue_defect(task: TaskRecord, unfinished: Sequence[TaskRecord]) -> str | None:
    """Why a task cannot be added to those that have not ended."""
    for other in unfinished:
        if task.does_the_same(other):
            return f"{other.task_id} does the same and is {other.lifecycle}: wait for it, or cancel it"
    if len(unfinished) >= MOST_UNFINISHED:
        return f"{len(unfinished)} tasks have not ended, and at most {MOST_UNFINISHED} can wait: try again when one has"
    return None
