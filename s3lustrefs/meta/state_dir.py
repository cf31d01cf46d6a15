"""StateDir: one daemon per state directory, kept by a lock that ends with the process."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from s3lustrefs import errors

_PATIENCE_SECONDS = 10.0
"""How long a new mount waits for the daemon of an unmounted one to finish: umount(8) returns before it has."""


class StateDir:
    """Context manager: `<path>/lock` is held exclusively while inside."""

    def __init__(self, path: Path, *, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self.path = path
        self._patience_seconds = patience_seconds
        self._fd = -1

    def __enter__(self) -> StateDir:
        """Raises: StateDirInUse; StateDirError when it cannot be written."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise errors.StateDirError(
                f"state directory {self.path}: {exc.strerror}; make it writable or choose another state_dir"
            ) from exc
        deadline = time.monotonic() + self._patience_seconds
        while not self._try_lock():
            holder = os.pread(self._fd, 20, 0).decode().strip()
            patience = 0.0 if holder.startswith("-") else self._patience_seconds - 1.0
            if time.monotonic() > deadline - patience:
                os.close(self._fd)
                raise errors.StateDirInUse(
                    f"state directory {self.path} is in use by another daemon (process {holder.lstrip('-') or 'unknown'}): "
                    "unmount that one first, or choose another state_dir"
                )
            time.sleep(0.05)
        self._note(f"{os.getpid()}")
        return self

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def stopping(self) -> None:
        """The mount point is free already, only the table is still being closed: a new mount may wait for that."""
        self._note(f"-{os.getpid()}")

    def _note(self, text: str) -> None:
        """For the message of whoever finds the lock taken; losing it is harmless."""
        with suppress(OSError):  # a full disk
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, text.encode(), 0)

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._fd)
