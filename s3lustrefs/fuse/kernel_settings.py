"""What the kernel has in sysfs for one mount: readahead, how many requests may be in the background, the end of its connection."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path

log = logging.getLogger(__name__)

_READAHEAD_KIB = 4096
"""Requests grow from 128 KiB to 1 MiB with it: 0.7-3.1 GB/s became 3.5-4.4 GB/s on a page-cached file."""
_MAX_BACKGROUND = 512
_CONGESTION = 384
"""Above this the kernel stops reading ahead and asks page by page; its default of 9 is reached by as many readers of cold files."""
_CONNECTIONS = Path("/sys/fs/fuse/connections")


def tune(mount_point: str) -> None:
    """Raise them for this mount. Where we may not, the mount works all the same, only slower."""
    device = os.stat(mount_point).st_dev
    connection = _CONNECTIONS / str(os.minor(device))
    if not connection.exists() and os.geteuid() == 0:
        _mount_fusectl()
    settings = {
        Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"): _READAHEAD_KIB,
        connection / "max_background": _MAX_BACKGROUND,
        connection / "congestion_threshold": _CONGESTION,
    }
    for path, value in settings.items():
        try:
            path.write_text(str(value))
        except OSError as exc:
            log.info("kernel setting left as it is path=%s reason=%s", path, exc.strerror)


def open_abort(mount_point: str) -> int | None:
    """Descriptor of what severs the connection of this mount when it is written to; None where we may not.

    Once open it means this connection and no later one of the same number. Source: linux fs/fuse/control.c, fuse_ctl_remove_conn.
    """
    path = _CONNECTIONS / str(os.minor(os.stat(mount_point).st_dev)) / "abort"
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as exc:
        log.info("connection cannot be severed path=%s reason=%s", path, exc.strerror)
        return None


def _mount_fusectl() -> None:
    """What systemd does at boot (sys-fs-fuse-connections.mount); containers and small systems lack it."""
    done = subprocess.run(["mount", "-t", "fusectl", "fusectl", str(_CONNECTIONS)], capture_output=True, text=True, check=False)
    if done.returncode:
        log.info("fusectl not mounted reason=%s", done.stderr.strip())
