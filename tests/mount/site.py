"""One mount as a user makes it: the installed command, a real kernel mount, a bucket behind it that plain boto3 looks into."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s3lustrefs.cli import draining
from s3lustrefs.cli.control_client import ControlClient
from tests.servers import S3Server

S3LUSTREFS = str(Path(sys.executable).parent / "s3lustrefs")
COMMAND_SECONDS = 120.0
WAIT_SECONDS = 30.0
_SERIOUS = re.compile(r"^\S+ (WARNING|ERROR|CRITICAL) ")


def can_mount() -> bool:
    return os.path.exists("/dev/fuse") and os.geteuid() == 0


@dataclass
class Site:
    """See the module docstring. `expected_log` are the warnings a test provokes; any other one fails it."""

    server: S3Server
    bucket: str
    scratch: Path
    source: str
    endpoint_url: str
    options: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    expected_log: list[str] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.environment = self.environment or {**os.environ, **self.server.environment()}
        self.s3 = self.server.client()
        self.root = self.scratch / "mnt"
        self.state_dir = self.scratch / "state"
        self.root.mkdir(exist_ok=True)

    # --- commands --------------------------------------------------------------------------------------------------------

    def option_string(self, **more: str) -> str:
        own = {"state_dir": str(self.state_dir), "endpoint_url": self.endpoint_url, "addressing_style": "path"}
        return ",".join(f"{key}={value}" for key, value in {**own, **self.options, **more}.items())

    def run(self, *command: str | Path, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
        """A command with the server's credentials. Raises: AssertionError with what it said."""
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, env=self.environment, check=False,
            timeout=COMMAND_SECONDS, **more,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def cli(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(S3LUSTREFS, *arguments, check=check)

    def try_mount(self, **more: str) -> subprocess.CompletedProcess[str]:
        done = self.cli("mount", self.source, self.root, "-o", self.option_string(**more), check=False)
        if done.returncode == 0:
            self.note_daemon()
        return done

    def mount(self, *, imported: bool = True, **more: str) -> Site:
        done = self.try_mount(**more)
        assert done.returncode == 0, done.stderr
        if imported:
            self.wait_imported()
        return self

    def unmount(self) -> None:
        """Without waiting for exports, but until the daemon has ended."""
        with ended(self.note_daemon()):
            self.run("umount", self.root)

    def client(self) -> ControlClient:
        """What the commands ask, without an interpreter for each of them."""
        return ControlClient(str(self.state_dir / "control.sock"))

    def drain(self, *paths: Path) -> None:
        """Return once the bucket has everything. Raises: AssertionError when it cannot be so."""
        inside = [f"/{path.relative_to(self.root)}" for path in paths] or ["/"]
        timed_out, remaining, failed = draining.poll(self.client(), inside, timeout=WAIT_SECONDS, progress=lambda *_: None)
        assert not timed_out and not failed, f"drain: {remaining} remaining, failed: {failed}\n{self.status()}"

    def try_drain(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """The command, whatever comes of it."""
        return self.cli("drain", *(arguments or (self.root,)), "--timeout", str(WAIT_SECONDS), check=False)

    def status(self) -> dict[str, Any]:
        return self.client().call("Status")

    def why(self, path: str) -> dict[str, Any]:
        return self.client().call("Why", path=f"/{path}")

    def hsm(self, path: str) -> str:
        return os.getxattr(self.root / path, "user.s3lustrefs.hsm", follow_symlinks=False).decode()

    def about(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(os.getxattr(self.root / path, "user.s3lustrefs.status", follow_symlinks=False))
        return found

    def wait_imported(self) -> dict[str, Any]:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            status = self.status()
            if all(a["import"]["state"] == "DONE" for a in status["associations"]):
                return status
            assert time.monotonic() < deadline, f"import not done: {status['associations']}"
            time.sleep(0.02)

    # --- the daemon ------------------------------------------------------------------------------------------------------

    def note_daemon(self) -> int:
        """Remember which process to end, whatever happens to the mount."""
        text = (self.state_dir / "lock").read_text().strip().lstrip("-")
        self.pids.add(int(text))
        return int(text)

    def kill_daemon(self) -> None:
        """SIGKILL, and wait until it is gone."""
        pid = self.note_daemon()
        with ended(pid):
            os.kill(pid, signal.SIGKILL)

    def log(self) -> str:
        path = self.state_dir / "daemon.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def unexpected_log(self) -> list[str]:
        lines = [line for line in self.log().splitlines() if _SERIOUS.match(line)]
        return [line for line in lines if not any(re.search(pattern, line) for pattern in self.expected_log)]

    def is_mounted(self) -> bool:
        return any(line.split()[4] == str(self.root) for line in Path("/proc/self/mountinfo").read_text().splitlines())

    def clear(self) -> None:
        """Leave neither mount nor daemon behind."""
        while self.is_mounted():
            subprocess.run(["umount", "-l", str(self.root)], capture_output=True, check=False)
        for pid in self.pids:
            if not _is_daemon(pid):
                continue
            with contextlib.suppress(ProcessLookupError), ended(pid, strict=False) as descriptor:
                os.kill(pid, signal.SIGTERM)
                if not select.select([descriptor], [], [], 15)[0]:
                    os.kill(pid, signal.SIGKILL)
        self.s3.close()

    # --- the bucket ------------------------------------------------------------------------------------------------------

    def put(self, key: str, body: bytes = b"", **more: Any) -> Any:
        return self.s3.put_object(Bucket=self.bucket, Key=key, Body=body, **more)

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [each["Key"] for page in pages for each in page.get("Contents", [])]

    def body(self, key: str) -> bytes:
        content: bytes = self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return content

    def head(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = self.s3.head_object(Bucket=self.bucket, Key=key)
        return found

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        return {key: self.body(key) for key in self.keys(prefix)}


def _is_daemon(pid: int) -> bool:
    try:
        return b"s3lustrefs" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextlib.contextmanager
def ended(pid: int, *, strict: bool = True) -> Iterator[int]:
    """The process has ended when the block is left. Works for processes of other parents."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        yield -1
        return
    try:
        yield descriptor
        gone = bool(select.select([descriptor], [], [], WAIT_SECONDS)[0])
        assert gone or not strict, f"process {pid} has not ended"
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def site(
    server: S3Server, bucket: str, prefix: str = "p", *, endpoint_url: str = "", options: Mapping[str, str] | None = None
) -> Iterator[Site]:
    """A place to mount a bucket; afterwards nothing is left, and the daemon's log held nothing unexpected."""
    with tempfile.TemporaryDirectory(prefix="s3lustrefs-t-") as scratch:
        source = f"s3://{bucket}/{prefix}".rstrip("/")
        here = Site(server, bucket, Path(scratch), source, endpoint_url or server.endpoint_url, dict(options or {}))
        try:
            yield here
        except BaseException:
            print(f"--- {here.state_dir}/daemon.log\n{here.log()}")
            raise
        finally:
            here.clear()
        unexpected = here.unexpected_log()
        if unexpected:
            print(f"--- {here.state_dir}/daemon.log, the end of it\n{here.log()[-20_000:]}")  # with the tracebacks
        assert not unexpected, "unexpected in daemon.log:\n" + "\n".join(unexpected)


def two_associations(bucket: str, folder: Path, top: str = "") -> Path:
    """A configuration that links `one` and `two` with prefixes of these names, and leaves room outside of them."""
    text = "".join(
        f'[[dra]]\nfile_system_path = "/{name}"\ndata_repository_path = "s3://{bucket}/{name}/"\n\n' for name in ("one", "two")
    )
    path = folder / "shared.toml"
    path.write_text(f"{top}\n{text}")
    return path
