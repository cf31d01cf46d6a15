"""Following a task: on a terminal and without one, to its end and until the time is up."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import pytest

from s3lustrefs.cli import task_waiting
from s3lustrefs.cli.task_waiting import follow, status_of


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def task(lifecycle: str, total: int = 0, succeeded: int = 0, failed: int = 0) -> dict[str, Any]:
    counts = {"TotalCount": total, "SucceededCount": succeeded, "FailedCount": failed}
    return {"TaskId": "task-1", "Lifecycle": lifecycle, "Status": counts}


def answers(*tasks: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    left = list(tasks)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize(
    ("lifecycle", "status"),
    [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELED", 2), ("CANCELING", 2), ("EXECUTING", 2), ("PENDING", 2)],
)
def test_exit_status_tells_how_a_task_stands(lifecycle: str, status: int) -> None:
    assert status_of(task(lifecycle)) == status


@pytest.mark.parametrize("is_terminal", [True, False])
def test_task_is_followed_to_its_end(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    monkeypatch.setattr(task_waiting, "_LAST_POLL_SECONDS", 0.1)
    shown = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    end = task("FAILED", 5000, 4990, 10)
    look = answers(*[task("EXECUTING", 5000, done, 10) for done in (0, 1000, 2000, 3000)], end)
    assert follow(look, task("PENDING"), None, title="export") == end
    text = shown.getvalue()
    assert ("export" in text and "10 failed" in text and "/5000" in text and "/s" in text) is is_terminal


def test_time_is_up_and_the_task_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    running = task("EXECUTING", 3, 1)
    assert follow(answers(running), running, 0.1, title="export") == running
    assert capsys.readouterr().err == "s3lustrefs: time is up; task-1 goes on\n"
