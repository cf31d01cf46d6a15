"""A deterministic job on a mount, run as a process of its own: does step after step, and notes which were acknowledged.

Steps are lists: [verb, arguments...]. `python workload.py ROOT STEPS ACKNOWLEDGED`: STEPS is JSON, ACKNOWLEDGED gets the number of
each step as soon as its system call has returned. Content is made from a seed and a length, so that nobody has to carry it.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

Step = list[object]


def content(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


class Job:
    """Files stay open between their `create` or `open` and their `close`."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._open: dict[str, int] = {}

    def do(self, verb: str, *arguments: object) -> None:
        getattr(self, f"_{verb}")(*arguments)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _mkdir(self, name: str) -> None:
        os.mkdir(self._path(name), 0o755)

    def _rmdir(self, name: str) -> None:
        os.rmdir(self._path(name))

    def _create(self, name: str) -> None:
        self._open[name] = os.open(self._path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)

    def _open_old(self, name: str) -> None:
        self._open[name] = os.open(self._path(name), os.O_RDWR)

    def _write(self, name: str, offset: int, seed: int, length: int) -> None:
        data = content(seed, length)
        while data:  # a short write is the head of one whose rest failed: the next one tells why
            written = os.pwrite(self._open[name], data, offset)
            data, offset = data[written:], offset + written

    def _fsync(self, name: str) -> None:
        os.fsync(self._open[name])

    def _sync_directory(self, name: str) -> None:
        descriptor = os.open(self._path(name), os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(descriptor)
        os.close(descriptor)

    def _close(self, name: str) -> None:
        os.close(self._open.pop(name))

    def _truncate(self, name: str, size: int) -> None:
        os.truncate(self._path(name), size)

    def _read(self, name: str, offset: int, length: int) -> None:
        with open(self._path(name), "rb") as file:
            file.seek(offset)
            assert len(file.read(length)) == length

    def _rename(self, old: str, new: str) -> None:
        os.rename(self._path(old), self._path(new))

    def _unlink(self, name: str) -> None:
        os.unlink(self._path(name))

    def _link(self, old: str, new: str) -> None:
        os.link(self._path(old), self._path(new))

    def _symlink(self, target: str, name: str) -> None:
        os.symlink(target, self._path(name))

    def _chmod(self, name: str, mode: int) -> None:
        os.chmod(self._path(name), mode)

    def _drain(self) -> None:
        """Ends when everything is in the bucket; asks the daemon by itself, as the command does."""
        from s3lustrefs.cli.control_client import ControlClient
        from s3lustrefs.cli.draining import poll

        client = ControlClient(f"{Path(self._root).parent}/state/control.sock")
        timed_out, _, failed = poll(client, [], timeout=20, progress=lambda *_: None)
        assert not timed_out and not failed, failed


def main() -> None:
    root, steps, acknowledged = sys.argv[1:]
    job = Job(root)
    with open(acknowledged, "w") as file:
        for number, (verb, *arguments) in enumerate(json.loads(Path(steps).read_text())):
            job.do(verb, *arguments)
            file.write(f"{number}\n")
            file.flush()


if __name__ == "__main__":
    main()
