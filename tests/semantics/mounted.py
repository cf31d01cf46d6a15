"""A bucket on a local S3 server, mounted with the commands a user has; for the demo and the README's promises."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.servers import S3Server

S3LUSTREFS = str(Path(sys.executable).parent / "s3lustrefs")
IMPORT_SECONDS = 120.0


def can_mount() -> bool:
    """Whether this host lets us mount at all."""
    return os.path.exists("/dev/fuse") and (os.geteuid() == 0 or shutil.which("fusermount3") is not None)


@dataclass(frozen=True)
class Place:
    """One mount: where it is, where it keeps its state, and the bucket behind it."""

    server: S3Server
    bucket: str
    scratch: Path
    source: str
    options: dict[str, str] = field(default_factory=dict)

    @property
    def mount_point(self) -> Path:
        return self.scratch / "mnt"

    @property
    def state_dir(self) -> Path:
        return self.scratch / "state"

    @property
    def option_string(self) -> str:
        options = {"state_dir": str(self.state_dir), "endpoint_url": self.server.endpoint_url, "addressing_style": "path"}
        return ",".join(f"{key}={value}" for key, value in {**options, **self.options}.items())

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command with the server's credentials. Raises: RuntimeError with what it said."""
        environment = {**os.environ, **self.server.environment()}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def s3lustrefs(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(S3LUSTREFS, *arguments, check=check)

    def mount_command(self) -> list[str]:
        """mount(8) where it knows us, else our own command."""
        if os.geteuid() == 0 and os.path.exists("/sbin/mount.fuse.s3lustrefs"):
            return ["mount", "-t", "fuse.s3lustrefs", self.source, str(self.mount_point), "-o", self.option_string]
        return [S3LUSTREFS, "mount", self.source, str(self.mount_point), "-o", self.option_string]

    def mount(self) -> list[str]:
        self.mount_point.mkdir(exist_ok=True)
        command = self.mount_command()
        self.run(*command)
        return command

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.s3lustrefs("status", str(self.mount_point), "--json").stdout)
        return answer

    def wait_for_import(self) -> dict[str, Any]:
        """The status once everything is listed; POSIX headers may still be on their way, they are fetched when asked for."""
        deadline = time.monotonic() + IMPORT_SECONDS
        while True:
            status = self.status()
            progress = [association["import"] for association in status["associations"]]
            if all(each["state"] == "DONE" for each in progress):
                return status
            if time.monotonic() > deadline:
                raise RuntimeError(f"the import is not done after {IMPORT_SECONDS:.0f} s: {progress}")
            time.sleep(0.1)

    def unmount(self) -> None:
        self.s3lustrefs("unmount", str(self.mount_point), "--timeout", "120")

    def clear(self) -> None:
        """Leave no mount behind, whatever went wrong before."""
        while subprocess.run(["umount", "-l", str(self.mount_point)], capture_output=True, check=False).returncode == 0:
            continue


@contextlib.contextmanager
def place(server: S3Server, bucket: str, prefix: str = "", **options: str) -> Iterator[Place]:
    """A bucket that exists and a place to mount it; everything local is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="s3lustrefs-") as scratch:
        here = Place(server, bucket, Path(scratch), f"s3://{bucket}/{prefix}".rstrip("/"), options)
        try:
            yield here
        finally:
            here.clear()


def put_objects(server: S3Server, bucket: str, objects: Sequence[tuple[str, bytes, dict[str, str]]], *, threads: int = 8) -> None:
    """Upload (key, body, user metadata) in parallel."""
    client = server.client()

    def put(each: tuple[str, bytes, dict[str, str]]) -> None:
        client.put_object(Bucket=bucket, Key=each[0], Body=each[1], Metadata=each[2])

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(put, objects):
            continue


def bucket_content(server: S3Server, bucket: str, *, threads: int = 8) -> dict[str, tuple[bytes, dict[str, str]]]:
    """Every object as plain boto3 sees it: key to (body, user metadata)."""
    client = server.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [each["Key"] for page in pages for each in page.get("Contents", [])]

    def get(key: str) -> tuple[bytes, dict[str, str]]:
        answer = client.get_object(Bucket=bucket, Key=key)
        return answer["Body"].read(), answer["Metadata"]

    with ThreadPoolExecutor(threads) as pool:
        return dict(zip(keys, pool.map(get, keys), strict=True))


def wait_for_end(pidfd: int) -> None:
    """Until the process of this descriptor has ended; the descriptor is closed."""
    try:
        if not select.select([pidfd], [], [], 60)[0]:
            raise RuntimeError("the daemon has not ended after 60 s")
    finally:
        os.close(pidfd)
