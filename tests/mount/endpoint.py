"""`s3lustrefs api` as a process of its own, and the unmodified AWS command line in front of it."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from s3lustrefs.control.api_credentials import load_or_make
from tests.mount.site import COMMAND_SECONDS, S3LUSTREFS, WAIT_SECONDS
from tests.servers import S3Server, free_ports

REGION = "eu-central-1"
_BESIDE = Path(sys.executable).parent / "aws"
AWS = str(_BESIDE) if _BESIDE.exists() else shutil.which("aws")


@dataclass
class Endpoint:
    """`environment` is that of a user: key file and address of the endpoint for AWS's clients, and where the TOML files are.

    `certificate`: serves TLS with it from the next start on; clients trust it.
    """

    server: S3Server
    scratch: Path
    port: int
    options: tuple[str, ...] = ()
    certificate: Path | None = None
    process: subprocess.Popen[str] | None = None
    mounts: list[Path] = field(default_factory=list)

    @property
    def state_dir(self) -> Path:
        return self.scratch / "state"

    @property
    def config_dir(self) -> Path:
        return self.scratch / "conf"

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Of whoever mounts; keys of buckets come from it."""
        return {**os.environ, **self.server.environment(), "S3LUSTREFS_CONFIG_DIR": str(self.config_dir)}

    def start(self, **environment: str) -> Endpoint:
        command = [
            S3LUSTREFS, "api", "--listen", f"127.0.0.1:{self.port}", "--state-dir", str(self.state_dir), "--region", REGION,
            "--no-mounts", *self.options, *(["--certificate", str(self.certificate)] if self.certificate else []),
        ]  # fmt: skip
        with open(self.scratch / "api.log", "w") as log:
            self.process = subprocess.Popen(command, stderr=log, text=True, env={**self.environment, **environment})
        deadline = time.monotonic() + WAIT_SECONDS
        while f"listening on {self.url}" not in self.log():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.05)
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(WAIT_SECONDS)
        self.process = None
        return status

    def log(self) -> str:
        path = self.scratch / "api.log"
        return path.read_text() if path.exists() else ""

    def run(self, *command: str | Path, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS,
            env={**self.environment, **more},
        )  # fmt: skip
        assert not check or done.returncode == 0, (
            f"{command}: exit status {done.returncode}\n{done.stdout}{done.stderr}\n{self.log()}"
        )
        return done

    def aws(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        assert AWS is not None
        keys = str(self.state_dir / "api" / "api-credentials")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "PYTHON"))}
        environment |= {"AWS_SHARED_CREDENTIALS_FILE": keys, "AWS_ENDPOINT_URL_FSX": self.url, "AWS_CONFIG_FILE": os.devnull}
        if self.certificate:
            environment["AWS_CA_BUNDLE"] = str(self.certificate)
        done = subprocess.run(
            [AWS, "fsx", *arguments], capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS, env=environment
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.log()}"
        return done

    @contextlib.contextmanager
    def boto(self) -> Iterator[Any]:
        pair = load_or_make(self.state_dir / "api" / "api-credentials", REGION)
        client: Any = boto3.client(
            "fsx", endpoint_url=self.url, region_name=REGION,
            aws_access_key_id=pair.access_key, aws_secret_access_key=pair.secret_key,
            verify=str(self.certificate) if self.certificate else None,
        )  # fmt: skip
        yield client
        client.close()

    def mount(self, source: str, *, by: str = "s3lustrefs") -> Path:
        point = self.scratch / f"mnt{len(self.mounts)}"
        point.mkdir()
        self.mounts.append(point)
        self.run(*(["mount", "-t", by] if by != "s3lustrefs" else [S3LUSTREFS, "mount"]), source, point)
        return point

    def unmount(self, point: Path) -> None:
        self.run(S3LUSTREFS, "unmount", point)

    def clear(self) -> None:
        for point in self.mounts:
            while str(point) in Path("/proc/self/mountinfo").read_text():
                subprocess.run(["umount", "-l", str(point)], capture_output=True, check=False)
        for lock in self.state_dir.glob("*/lock"):
            _end(lock)
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def _end(lock: Path) -> None:
    """The daemon that wrote its number there, if it is one."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(lock.read_text().strip().lstrip("-"))
        if b"s3lustrefs.cli.daemon" in Path(f"/proc/{pid}/cmdline").read_bytes():
            descriptor = os.pidfd_open(pid)
            os.kill(pid, signal.SIGTERM)
            select.select([descriptor], [], [], 15)
            os.close(descriptor)


@contextlib.contextmanager
def sweeping_endpoint(server: S3Server) -> Iterator[Endpoint]:
    """Its mounts have their buckets on that server, and look for changes there twice a second."""
    with endpoint(server, "-o", f"endpoint_url={server.endpoint_url},addressing_style=path,import_interval=0.5") as running:
        yield running


@contextlib.contextmanager
def endpoint(server: S3Server, *options: str) -> Iterator[Endpoint]:
    """Running; afterwards nothing is left of it or of what it made."""
    with tempfile.TemporaryDirectory(prefix="s3lustrefs-a-") as scratch:
        (port,) = free_ports(1)
        there = Endpoint(server, Path(scratch), port, options)
        try:
            yield there.start()
        except BaseException:
            print(f"--- api.log\n{there.log()}")
            for each in there.state_dir.glob("*/daemon.log"):
                print(f"--- {each}\n{each.read_text()}")
            raise
        finally:
            there.clear()
