"""Following one task: a progress bar with rate and remaining time for people, and an exit status for scripts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import click

SUCCEEDED, FAILED, UNFINISHED, UNASKED = 0, 1, 2, 3
_ENDED = {"SUCCEEDED": SUCCEEDED, "FAILED": FAILED, "CANCELED": UNFINISHED}
_FIRST_POLL_SECONDS, _LAST_POLL_SECONDS = 0.05, 1.0
_RATE_SECONDS = 10.0

Task = dict[str, Any]


def status_of(task: Task) -> int:
    """The exit status that tells how a task stands: 0 succeeded, 1 failed, 2 canceled or not at its end yet."""
    return _ENDED.get(task["Lifecycle"], UNFINISHED)


def follow(look: Callable[[], Task], task: Task, timeout: float | None, *, title: str) -> Task:
    """The task once it has ended, or as it is when the time is up. Raises: DaemonUnreachable."""
    if not sys.stderr.isatty():
        return _poll(look, task, timeout, lambda _: None)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[failed]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=_RATE_SECONDS) as bar:
        line = bar.add_task(title, total=None, rate="", failed="")
        began = time.monotonic()

        def show(now: Task) -> None:
            status = now["Status"]
            done = status["SucceededCount"] + status["FailedCount"]
            speed = bar.tasks[0].speed or done / max(0.1, time.monotonic() - began)
            failed = f"{status['FailedCount']:,} failed" if status["FailedCount"] else ""
            total = status["TotalCount"] or None if now["Lifecycle"] == "EXECUTING" else None
            bar.update(line, total=total, completed=done, rate=f"{speed:,.0f}/s", failed=failed, description=_title(title, now))

        return _poll(look, task, timeout, show)


def _title(title: str, task: Task) -> str:
    return title if task["Lifecycle"] == "EXECUTING" else f"{title} {task['Lifecycle'].lower()}"


def _poll(look: Callable[[], Task], task: Task, timeout: float | None, show: Callable[[Task], None]) -> Task:
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = _FIRST_POLL_SECONDS
    while task["Lifecycle"] not in _ENDED:
        show(task)
        left = pause if deadline is None else min(pause, deadline - time.monotonic())
        if left <= 0:
            click.echo(f"s3lustrefs: time is up; {task['TaskId']} goes on", err=True)
            return task
        time.sleep(left)
        pause = min(pause * 1.5, _LAST_POLL_SECONDS)
        task = look()
    return task
