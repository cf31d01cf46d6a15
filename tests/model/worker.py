"""A process of its own that does the operations: when the file system hangs, it hangs, and the test can still say so."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

from tests.model.operations import Doer, Operation, Outcome

ANSWER_SECONDS = 100.0
"""Longer than any wait the file system promises to end."""


class WorkerHangs(AssertionError):
    """An operation did not return."""


class Worker:
    """The test's end of the pipe."""

    def __init__(self, root: Path) -> None:
        command = [sys.executable, "-m", "tests.model.worker", str(root)]
        place = Path(__file__).parents[2]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=place)

    def do(self, operation: Operation) -> Outcome:
        """Raises: WorkerHangs."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        pickle.dump(operation, stdin)
        stdin.flush()
        if not select.select([stdout], [], [], ANSWER_SECONDS)[0]:
            raise WorkerHangs(f"no answer within {ANSWER_SECONDS:.0f} s: {operation}")
        outcome: Outcome = pickle.load(stdout)
        return outcome

    def end(self) -> None:
        """Its open files are closed by the kernel; one that hangs needs the mount's end first."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self._process.wait(ANSWER_SECONDS)


def serve(root: str, requests: BinaryIO, answers: BinaryIO) -> None:
    doer = Doer(root)
    while True:
        try:
            operation = pickle.load(requests)
        except EOFError:
            return
        pickle.dump(doer.do(operation), answers)
        answers.flush()


if __name__ == "__main__":
    os.umask(0)
    os.chdir("/")
    serve(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)
