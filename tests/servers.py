"""S3 servers for tests, demo and benchmarks: moto in a subprocess, and Ceph's RADOS Gateway from Debian's packages.

As context managers: `with moto() as server: server.client().create_bucket(...)`. From a shell, until SIGTERM or SIGINT:
`python -m tests.servers moto --port-file F` writes the port number to F once the server answers.

Every process is ended by its pid, and dies with its parent even when that is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

REGION = "us-east-1"
START_SECONDS = 60.0

_MOTO = """
import logging, sys
logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", int(sys.argv[1]), verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


@dataclasses.dataclass(frozen=True)
class S3Server:
    """One running server and the keys of its users; `other_*` is a second user who owns nothing."""

    kind: str
    endpoint_url: str
    access_key: str
    secret_key: str = dataclasses.field(repr=False)
    other_access_key: str = ""
    other_secret_key: str = dataclasses.field(default="", repr=False)

    def client(self, service: str = "s3", **overrides: Any) -> Any:
        """Plain boto3 on this server, for independent verification."""
        options: dict[str, Any] = {
            "endpoint_url": self.endpoint_url,
            "region_name": REGION,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
        }
        checksums = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
        config = Config(s3={"addressing_style": "path"}, retries={"mode": "standard"}, **checksums) if service == "s3" else None
        return boto3.client(service, config=config, **{**options, **overrides})

    def environment(self) -> dict[str, str]:
        """What a child process needs to find its credentials, and nothing of this host's own configuration."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def reset(self) -> None:
        """Forget everything (moto only)."""
        request = urllib.request.Request(f"{self.endpoint_url}/moto-api/reset", method="POST", data=b"")
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()


@contextlib.contextmanager
def moto(port: int = 0) -> Iterator[S3Server]:
    """A fresh moto server on a free port, or on `port`."""
    with _process([sys.executable, "-c", _MOTO, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line:
            raise RuntimeError("moto did not start: is moto[server] installed in this environment?")
        yield S3Server("moto", f"http://127.0.0.1:{int(line)}", _new_key(20), _new_key(40))


@contextlib.contextmanager
def radosgw() -> Iterator[S3Server]:
    """A fresh Ceph cluster of one monitor, one in-memory OSD and one gateway; about 12 seconds. Two users exist."""
    missing = [name for name in _CEPH_PROGRAMS if shutil.which(name) is None]
    if missing:
        raise RuntimeError(f"{', '.join(missing)} not found: apt-get install radosgw ceph-mon ceph-osd ceph-common")
    with tempfile.TemporaryDirectory(prefix="s3lustrefs-ceph-", dir=_shm()) as scratch, contextlib.ExitStack() as stack:
        cluster = _Ceph(Path(scratch), stack)
        cluster.start()
        keys = [(_new_key(20), _new_key(40)) for _ in range(2)]
        for number, (access_key, secret_key) in enumerate(keys):
            cluster.create_user(f"u{number}", access_key, secret_key)
        yield S3Server("radosgw", f"http://127.0.0.1:{cluster.gateway_port}", *keys[0], *keys[1])


_CEPH_PROGRAMS = ("radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph", "monmaptool", "ceph-authtool", "setpriv")


class _Ceph:
    """The processes of one cluster, in the order they must start.

    Lessons kept: cephx with one keyring for all, since without it the gateway never gets past the monitor; pools only after the
    OSD is up, and no autoscaler; a garbage collector of seconds, or overwritten data fills the memory store and writes hang.
    """

    def __init__(self, scratch: Path, stack: contextlib.ExitStack) -> None:
        self.scratch = scratch
        self.stack = stack
        self.gateway_port = 0
        self.conf = scratch / "ceph.conf"

    def start(self) -> None:
        v1, v2, self.gateway_port = free_ports(3)
        fsid = str(uuid.uuid4())
        for name in ("mon", "osd", "rgw", "run", "log"):
            (self.scratch / name).mkdir()
        self.conf.write_text(
            _CEPH_CONF.format(fsid=fsid, mon=v1, gateway=self.gateway_port, scratch=self.scratch, sts=_new_key(16))
        )
        addresses = f"[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", addresses, str(self.scratch / "monmap"))
        self._make_keys()
        self._run(
            "ceph-mon", "-i", "a", "--mkfs", "--monmap", str(self.scratch / "monmap"), "--mon-data", str(self.scratch / "mon")
        )
        self._daemon("ceph-mon", "-f", "-i", "a")
        _wait_port(v1)
        osd = str(uuid.uuid4())
        self._run("ceph", "osd", "new", osd, "0")
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd, "--osd-data", str(self.scratch / "osd"))
        self._daemon("ceph-osd", "-f", "-i", "0")
        deadline = time.monotonic() + START_SECONDS
        while "1 up" not in self._run("ceph", "osd", "stat"):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the OSD did not come up: {self._log_tail()}")
        self._daemon("radosgw", "-f", "-n", "client.rgw")
        _wait_port(self.gateway_port)

    def create_user(self, name: str, access_key: str, secret_key: str) -> None:
        caps = "roles=*;users=*;user-policy=*"
        options = [
            f"--uid={name}",
            f"--display-name={name}",
            f"--access-key={access_key}",
            f"--secret-key={secret_key}",
            f"--caps={caps}",
        ]
        self._run("radosgw-admin", "-n", "client.rgw", "user", "create", *options)

    def _make_keys(self) -> None:
        tool = ("ceph-authtool", str(self.scratch / "keyring"))
        self._run(*tool, "--create-keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        for name, caps in _CEPH_CAPS.items():
            self._run(
                *tool, "--gen-key", "-n", name, *(word for what, allowed in caps.items() for word in ("--cap", what, allowed))
            )

    def _run(self, *command: str) -> str:
        result = subprocess.run(command, env=self._env(), capture_output=True, text=True, timeout=START_SECONDS, check=False)
        if result.returncode:
            raise RuntimeError(f"{command[0]} failed: {result.stderr.strip()[-500:]}")
        return result.stdout

    def _daemon(self, *command: str) -> None:
        log = self.stack.enter_context(open(self.scratch / "log" / f"{command[0]}.out", "wb"))
        guarded = ["setpriv", "--pdeathsig", "KILL", *command]
        self.stack.enter_context(_process(guarded, env=self._env(), stdout=log, stderr=log, stdin=subprocess.DEVNULL))

    def _env(self) -> dict[str, str]:
        return {**os.environ, "CEPH_CONF": str(self.conf)}

    def _log_tail(self) -> str:
        return " ".join(path.read_text(errors="replace")[-500:] for path in (self.scratch / "log").glob("*.out"))


_CEPH_CAPS = {
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
    "client.rgw": {"mon": "allow rw", "osd": "allow rwx", "mgr": "allow rw"},
}

_CEPH_CONF = """
[global]
fsid = {fsid}
mon host = 127.0.0.1:{mon}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {scratch}/keyring
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon max pg per osd = 2000
mon allow pool size one = true
mon warn on pool no redundancy = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
run dir = {scratch}/run
log file = {scratch}/log/$name.log
admin socket = {scratch}/run/$name.asok
pid file =
[mon]
mon data = {scratch}/mon
mon data avail crit = 1
[osd]
osd objectstore = memstore
memstore device bytes = 6442450944
memstore page set = false
osd data = {scratch}/osd
osd crush update on start = true
[client.rgw]
rgw data = {scratch}/rgw
rgw frontends = beast endpoint=127.0.0.1:{gateway}
rgw enable usage log = false
rgw s3 auth use sts = true
rgw sts key = {sts}
rgw gc obj min wait = 5
rgw gc processor period = 5
rgw gc processor max time = 5
rgw dns name = localhost
"""


@contextlib.contextmanager
def _process(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A child that is ended by its pid, and reaped, whatever happens."""
    process = subprocess.Popen(list(command), **options)
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.terminate()
        try:
            process.wait(timeout=3)
        except subprocess.TimeoutExpired:  # radosgw does not end by itself once its cluster is gone
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_port(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"nothing listens on 127.0.0.1:{port}") from None
            time.sleep(0.05)


def _new_key(length: int) -> str:
    return secrets.token_hex(length)[:length].upper()


def _shm() -> str | None:
    """Scratch in memory where there is room: the monitor's fsyncs are most of Ceph's start time."""
    shm = Path("/dev/shm")
    return str(shm) if shm.is_dir() and shutil.disk_usage(shm).free > 2 << 30 else None


def main() -> None:
    """Run one server until told to stop."""
    parser = argparse.ArgumentParser(description="Run an S3 test server on 127.0.0.1 until SIGTERM or SIGINT.")
    parser.add_argument("server", choices=["moto", "radosgw"])
    parser.add_argument("--port-file", type=Path, help="where to write the port number once the server answers")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (moto only; default: a free one)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with moto(arguments.port) if arguments.server == "moto" else radosgw() as server, contextlib.suppress(KeyboardInterrupt):
        if arguments.port_file:
            partial = arguments.port_file.with_name(arguments.port_file.name + ".part")
            partial.write_text(server.endpoint_url.rpartition(":")[2])
            partial.replace(arguments.port_file)
        print(
            f"{server.kind} {server.endpoint_url} AWS_ACCESS_KEY_ID={server.access_key} AWS_SECRET_ACCESS_KEY={server.secret_key}",
            flush=True,
        )
        signal.pause()


if __name__ == "__main__":
    main()
