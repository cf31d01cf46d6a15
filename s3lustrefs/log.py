"""Logging set-up, request-context filter.

One line per event: time (UTC), level, module, message, and what was being worked on (`op=read ino=7`, `mover=exporter`)
as set by `working_on`. Requests for credentials pass through botocore and awscrt, whose debug logs quote headers:
foreign loggers never go below WARNING, whatever level is asked for.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

LOG_BYTES = 10_000_000
"""Size at which daemon.log is set aside as daemon.log.1; three old ones are kept."""

LEVELS = ("debug", "info", "warning", "error")
_FOREIGN = ("awscrt", "boto3", "botocore", "hypercorn", "s3transfer", "trio", "urllib3")
_context: ContextVar[str] = ContextVar("s3lustrefs_log_context", default="")


@contextlib.contextmanager
def working_on(**fields: object) -> Iterator[None]:
    """Add `name=value` words to every line logged in this block, by this task and those it starts."""
    words = " ".join(f"{name}={value}" for name, value in fields.items())
    token = _context.set(f"{_context.get()} {words}".strip())
    try:
        yield
    finally:
        _context.reset(token)


class ContextFilter(logging.Filter):
    """Gives every record its `context`: empty, or a blank and the words of `working_on`."""

    def filter(self, record: logging.LogRecord) -> bool:
        words = _context.get()
        record.context = f" {words}" if words else ""
        return True


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """pyfuse3 calls it an error that the kernel takes no answer any more: whoever asked was killed, or has been interrupted."""
    return not record.getMessage().endswith("fuse_reply_* failed with No such file or directory")


def _handler(file: Path | None) -> logging.Handler:
    if file is None:
        return logging.StreamHandler(sys.stderr)
    # Created before the handler opens it, so that it is never readable by others, whatever the umask.
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
    return logging.handlers.RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=3, encoding="utf-8")


def setup(level: str = "info", *, file: Path | None = None) -> logging.Handler:
    """Log to `file` (foreground: None, standard error) from `level` on, replacing an earlier set-up.

    Raises: OSError when the file cannot be opened.
    """
    handler = _handler(file)
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s%(context)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.addFilter(ContextFilter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("s3lustrefs").setLevel(level.upper())
    for name in _FOREIGN:
        logging.getLogger(name).setLevel(logging.WARNING)
    pyfuse3 = logging.getLogger("pyfuse3")
    pyfuse3.removeFilter(_is_worth_a_line)
    pyfuse3.addFilter(_is_worth_a_line)
    logging.captureWarnings(True)
    return handler
