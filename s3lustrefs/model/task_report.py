"""The completion report of a task: where it goes, and its rows. Source: fsx-spec section 9.4; RFC 4180."""

from __future__ import annotations

from collections.abc import Sequence

from s3lustrefs.model.association import MAX_KEY_BYTES, Association
from s3lustrefs.model.task import IMPORT, TaskFailure, TaskRecord

_SCHEME = "s3://"
_FORMULA_SIGNS = ("@", "+", "-", "=")
"""With which a spreadsheet begins a formula."""


def row(failure: TaskFailure) -> str:
    """One line, CRLF included: path relative to the mount, status, error code."""
    return ",".join(_field(text) for text in (failure.path.lstrip("/"), failure.status, failure.code)) + "\r\n"


def _field(text: str) -> str:
    """Quoted where RFC 4180 wants it; `@name` becomes `\"\"\"@name\"\"\"`, so that it is read as text."""
    if text.startswith(_FORMULA_SIGNS):
        text = f'"{text}"'
    return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in '",\r\n') else text


def place(task: TaskRecord, associations: Sequence[Association]) -> tuple[Association, bytes] | str:
    """The association and the key to write the report to, or why there is none."""
    path = task.report.path if task.report else ""
    if not path:
        return "Report has no Path"
    bucket, _, prefix = path.removeprefix(_SCHEME).partition("/")
    within = prefix.strip("/") + "/" if prefix.strip("/") else ""
    name = "report.csv" if task.type == IMPORT else "failures.csv"
    key = f"{within}{task.task_id}/{name}".encode()
    for each in associations:
        if path.startswith(_SCHEME) and each.bucket == bucket and within.startswith(each.write_prefix):
            return (each, key) if len(key) <= MAX_KEY_BYTES else f"Report.Path is too long: a key has at most {MAX_KEY_BYTES} bytes"
    return f"Report.Path {path} is not in a prefix that an association exports to"
