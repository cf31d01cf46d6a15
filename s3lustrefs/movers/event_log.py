"""FSx's data repository event log: lines `event=NAME word="..." ...` in daemon.log, as far as the LogConfiguration asks for them.

Movers note here what they record as failed anyway. FSx sends these events to CloudWatch; here they go where all else goes, under a
logger of their own. As in FSx they are off until somebody sets a level (`aws fsx update-file-system`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from s3lustrefs.model.file_system import FileSystemRecord
from s3lustrefs.model.log_events import LEVELS, WARNINGS, LogEvent

LOGGER = "s3lustrefs.events"
events = logging.getLogger(LOGGER)


class _Wanted:
    """Which events the file system wants: asked for each, so that a change counts at once."""

    def __init__(self) -> None:
        self.record: Callable[[], FileSystemRecord | None] = lambda: None

    def __contains__(self, event: LogEvent) -> bool:
        record = self.record()
        settings = record.settings.get("LustreConfiguration", {}) if record else {}
        warnings, failures = LEVELS.get(settings.get("LogConfiguration", {}).get("Level", ""), (False, False))
        return warnings if event in WARNINGS else failures


_wanted = _Wanted()


def follow(record: Callable[[], FileSystemRecord | None]) -> None:
    """Whose LogConfiguration counts from now on: that of the one file system this process serves."""
    _wanted.record = record


def note(event: LogEvent, **fields: object) -> None:
    """One event; values are quoted as JSON where they are not plain words."""
    if event in _wanted:
        words = " ".join(f"{name}={_word(value)}" for name, value in fields.items())
        events.log(logging.WARNING if event in WARNINGS else logging.ERROR, "event=%s %s", event.value, words)


def _word(value: object) -> str:
    text = value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)
    return text if text and all(sign.isalnum() or sign in "/._-:@" for sign in text) else json.dumps(text)
