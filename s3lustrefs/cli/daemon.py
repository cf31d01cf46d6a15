"""The daemon's first steps: read the orders, open the log, serve, and tell the parent when the mount answers.

Imports no more than it needs: what is loaded here stays in memory for the life of the mount.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import pickle
import sys
from pathlib import Path

from s3lustrefs import log as log_setup
from s3lustrefs.cli.launch import Orders
from s3lustrefs.errors import S3LustreError, StateDirError

log = logging.getLogger(__name__)


class Parent:
    """The process that waits for our one line."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_inheritable(fd, False)

    def say(self, **answer: object) -> None:
        """Answer once; a parent that has gone away is no reason to stop."""
        if self._fd < 0:
            return
        try:
            os.write(self._fd, json.dumps(answer).encode() + b"\n")
        except BrokenPipeError:
            log.warning("daemon started reason_unseen=nobody waits for it any more")
        os.close(self._fd)
        self._fd = -1

    def ready(self) -> None:
        """Let go of the terminal: whoever captures its output waits for the last holder of it."""
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)
        self.say(ready=True)


def open_log(state_dir: Path, level: str) -> None:
    """Log to <state_dir>/daemon.log. Raises: StateDirError."""
    file = state_dir / "daemon.log"
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        log_setup.setup(level, file=file)
        # A descriptor of its own: the handler's is closed when the file is set aside, and its number then means another file.
        faulthandler.enable(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
    except OSError as exc:
        raise StateDirError(f"state directory {state_dir}: {exc.strerror} (daemon.log cannot be written)") from exc


def main() -> int:
    """Serve one mount; the exit status is seen by nobody once the parent was answered."""
    os.umask(0o077)
    orders = pickle.load(sys.stdin.buffer)
    assert isinstance(orders, Orders)
    parent = Parent(orders.status_fd)
    try:
        open_log(orders.config.state_dir, orders.log_level)
        from s3lustrefs import mount

        mount.serve(orders.config, orders.mount_point, ready=parent.ready)
    except S3LustreError as exc:
        log.error("daemon ended reason=%s", exc)
        parent.say(error=str(exc))
        return 1
    except BaseException as exc:
        log.critical("daemon died", exc_info=True)
        parent.say(error=f"{type(exc).__name__}: {exc} (a defect; {orders.config.state_dir}/daemon.log has the traceback)")
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
