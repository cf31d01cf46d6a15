"""Failpoints: named places between two durable effects, where a crash test lets the daemon die as `kill -9` would.

Armed by the environment variable S3LUSTREFS_FAILPOINT=NAME[:N], in which the process kills itself at the N-th pass
(default 1). Not armed, a pass is one comparison.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "S3LUSTREFS_FAILPOINT"


class _Armed:
    """What this process was told at its start."""

    def __init__(self, text: str) -> None:
        self.name, _, passes = text.partition(":")
        self.left = int(passes or 1)


_armed = _Armed(os.environ.get(VARIABLE, ""))


def failpoint(name: str) -> None:
    """Die here, at once and without any clean-up, if this is the armed place and its time has come."""
    if name == _armed.name:
        _armed.left -= 1
        if not _armed.left:
            os.kill(os.getpid(), signal.SIGKILL)
