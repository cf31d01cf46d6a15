"""Start the daemon of one mount and report once it answers.

The daemon is a fresh interpreter, not a fork: client libraries keep threads that would not survive one. The Config
goes to it over standard input, so that nothing of it shows in a process title. It says `ready` or what went wrong over
a pipe of its own; what it wrote to standard error is shown only if it died without a word.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

from s3lustrefs.cli.mount_checks import SYSTEM_PATH
from s3lustrefs.config import Config
from s3lustrefs.errors import UsageError

READY_SECONDS = 85.0
"""systemd gives a mount unit 90 s; a bucket that does not answer must be reported before that."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What the daemon is told over standard input."""

    config: Config
    mount_point: str
    log_level: str
    status_fd: int


def start_daemon(
    config: Config,
    mount_point: str,
    *,
    log_level: str = "info",
    module: str = "s3lustrefs.cli.daemon",
    ready_seconds: float = READY_SECONDS,
) -> int:
    """Start a daemon and return its pid once the mount answers. Raises: UsageError with the daemon's own reason."""
    read_fd, write_fd = os.pipe()
    with tempfile.TemporaryFile() as errors, open(read_fd, "rb", buffering=0) as status:
        try:
            child = subprocess.Popen(
                # -P: the working directory is /, and nothing may be imported from there.
                [sys.executable, "-P", "-m", module, config.source, mount_point],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd="/",
                env={"PATH": SYSTEM_PATH, **os.environ},
                start_new_session=True,
                pass_fds=(write_fd,),
            )
        finally:
            os.close(write_fd)
        try:
            _send(child, Orders(config, mount_point, log_level, write_fd))
            answer = _wait_for_answer(status.fileno(), ready_seconds)
        except BaseException:
            child.terminate()
            child.wait()
            raise
        if answer.get("ready"):
            child.returncode = 0  # it lives on without us: no warning about an unreaped child
            return child.pid
        code = child.wait()
        errors.seek(0)
        last_words = errors.read().decode(errors="replace").strip().splitlines()[-1:]
        raise UsageError(_reason(answer, code, last_words))


def _reason(answer: dict[str, object], code: int, last_words: list[str]) -> str:
    """What went wrong, in the daemon's words; libfuse tells its own part on standard error only."""
    if "error" not in answer:
        return f"the daemon ended before the mount answered (exit status {code}): {''.join(last_words) or 'no message'}"
    return f"{answer['error']}{''.join(f' ({words})' for words in last_words)}"


def _send(child: subprocess.Popen[bytes], orders: Orders) -> None:
    assert child.stdin is not None
    try:
        with child.stdin as pipe:
            pipe.write(pickle.dumps(orders))
    except BrokenPipeError:
        return  # it died at once; its status pipe ends, and its last words tell why


def _wait_for_answer(fd: int, seconds: float) -> dict[str, object]:
    """The daemon's one line; empty when it ended without one. Raises: UsageError when it takes too long."""
    deadline, received = time.monotonic() + seconds, b""
    while not received.endswith(b"\n"):
        if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise UsageError(f"the mount did not answer within {seconds:.0f} s; the daemon was stopped, daemon.log has its story")
        piece = os.read(fd, 65536)
        if not piece:
            return {}
        received += piece
    answer: dict[str, object] = json.loads(received)
    return answer


def run_in_foreground(config: Config, mount_point: str, announce: Callable[[], None]) -> None:
    """Serve in this process until unmounted."""
    from s3lustrefs import mount

    mount.serve(config, mount_point, ready=announce)
