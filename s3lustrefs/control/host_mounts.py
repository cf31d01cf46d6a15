"""Mounts: the state directories of what is mounted now, as the mounts themselves say.

So file systems are known whose state directory nothing else leads to. To ask a mount is to ask its daemon, which may hang: one
thread at most waits for each, and who asked goes on without it.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path

import trio

from s3lustrefs.mountinfo import MOUNTINFO, MountEntry, mounted_at, read_mounts

log = logging.getLogger(__name__)

_CONTROL_XATTR = "user.s3lustrefs.control"
_ANSWER_SECONDS = 2.0


class Mounts:
    """See the module docstring."""

    def __init__(self, mountinfo: Path = MOUNTINFO) -> None:
        self._mountinfo = mountinfo
        self._asked: set[str] = set()
        self._known: dict[str, Path | None] = {}
        """By number of the mount. Threads put answers in; None: it does not say."""
        self._limiter = trio.CapacityLimiter(64)

    async def state_dirs(self) -> list[Path]:
        """In the order of the mounts. A mount that another one hides cannot be reached by its path."""
        mounts = read_mounts(self._mountinfo)
        ours = [entry for entry in mounts if entry.is_ours and mounted_at(entry.mount_point, mounts) is entry]
        numbers = {entry.number for entry in ours}
        self._asked &= numbers
        for gone in self._known.keys() - numbers:
            del self._known[gone]  # in place: a thread may still be about to put an answer in
        fresh = [entry for entry in ours if entry.number not in self._asked]
        if fresh:
            with trio.move_on_after(_ANSWER_SECONDS):
                async with trio.open_nursery() as nursery:
                    for entry in fresh:
                        self._asked.add(entry.number)
                        deed = partial(_ask, entry, self._known)
                        nursery.start_soon(partial(trio.to_thread.run_sync, deed, abandon_on_cancel=True, limiter=self._limiter))
        return [path for entry in ours if (path := self._known.get(entry.number)) is not None]


def _ask(entry: MountEntry, known: dict[str, Path | None]) -> None:
    try:
        known[entry.number] = Path(os.fsdecode(os.getxattr(entry.mount_point, _CONTROL_XATTR))).parent
    except OSError as exc:
        log.debug("mount does not name its state directory mount_point=%s reason=%s", entry.mount_point, exc.strerror)
        known[entry.number] = None
