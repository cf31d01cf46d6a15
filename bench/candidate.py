"""Candidate: a file system that can be measured, reduced to how it is mounted. One so far; others are added here."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.workplace import Workplace, child, tail
from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.cli.draining import poll
from s3lustrefs.cli.target import CONTROL_XATTR
from tests.servers import REGION, S3Server

MOUNT_SECONDS = 60.0
UNMOUNT_SECONDS = 60.0


@dataclass(frozen=True)
class Mounted:
    """One mount, ended with the block that made it. `cache` is where it keeps content."""

    path: Path
    pid: int
    cache: Path
    environment: Mapping[str, str]

    def status(self) -> dict[str, Any]:
        """The daemon's own account."""
        return ControlClient(os.fsdecode(os.getxattr(self.path, CONTROL_XATTR))).call("Status")

    def wait_imported(self) -> dict[str, Any]:
        """Wait until the listing is in the inode table; the daemon's account of it."""
        client = ControlClient(os.fsdecode(os.getxattr(self.path, CONTROL_XATTR)))
        while True:
            association: dict[str, Any] = client.call("Status")["associations"][0]  # type: ignore[index]
            if association.get("failure"):
                raise RuntimeError(f"import failed: {association['failure']}")
            if association["import"]["state"] == "DONE":
                return dict(association["import"])
            time.sleep(0.05)

    def refresh(self) -> dict[str, Any]:
        """Look for changes of everything in the bucket now; the daemon's account of it."""
        client = ControlClient(os.fsdecode(os.getxattr(self.path, CONTROL_XATTR)), timeout=None)
        return client.call("Refresh", path="/")

    def wait_headers(self) -> None:
        """Wait until nothing is left to be fetched in the background."""
        while self.status()["associations"][0]["import"]["headers_pending"]:
            time.sleep(0.05)

    def drain(self) -> None:
        """Wait until everything written is in the bucket, as the command does, but without starting an interpreter for it."""
        client = ControlClient(os.fsdecode(os.getxattr(self.path, CONTROL_XATTR)))
        _, _, failed = poll(client, ["/"], timeout=None, progress=lambda *_: None)
        if failed:
            raise RuntimeError(f"exports failed: {failed[:3]}")


class Candidate(Protocol):
    """A file system under measurement."""

    name: str

    def mounted(
        self, place: Workplace, server: S3Server | None, source: str, **options: str
    ) -> contextlib.AbstractContextManager[Mounted]:
        """Mount `source` (`s3://BUCKET/PREFIX`, or empty: no bucket at all) and unmount at the end, whatever happened."""
        ...


S3LUSTREFS = Path(sys.executable).with_name("s3lustrefs")


class S3LustreFS:
    """The file system of this repository, as installed beside the running interpreter."""

    name = "s3lustrefs"

    @contextlib.contextmanager
    def mounted(self, place: Workplace, server: S3Server | None, source: str, **options: str) -> Iterator[Mounted]:
        base = place.directory("mount")
        mount_point, state, cache = base / "mnt", base / "state", base / "cache"
        mount_point.mkdir()
        options = {"state_dir": str(state), "cache_dir": str(cache), **options}
        environment = {**os.environ}
        if server:
            options |= {"endpoint_url": server.endpoint_url, "region": REGION}
            environment |= server.environment()
        if not source:
            source = str(base / "local.toml")
            Path(source).write_text("")
        words = ",".join(f"{key}={value}" for key, value in options.items())
        command: list[str | Path] = [S3LUSTREFS, "mount", source, mount_point, "-o", words, "--foreground"]
        with (base / "output").open("wb") as log, _unmounting(mount_point):
            # In the foreground the daemon is our child, so that it can be ended by its pid.
            with child(command, UNMOUNT_SECONDS, env=environment, stdout=log, stderr=log) as process:
                deadline = time.monotonic() + MOUNT_SECONDS
                while not os.path.ismount(mount_point):
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"no mount: {tail(log)}")
                    time.sleep(0.01)
                yield Mounted(mount_point, process.pid, cache, environment)


@contextlib.contextmanager
def _unmounting(mount_point: Path) -> Iterator[None]:
    """Detach what a daemon that died left behind."""
    try:
        yield
    finally:
        if str(mount_point) in Path("/proc/self/mountinfo").read_text():
            subprocess.run(["umount", "-l", mount_point], check=True)
