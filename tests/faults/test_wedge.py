"""A daemon whose bucket hangs never wedges the host: every way to end a mount works in time, and it always says how it is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from s3lustrefs.cli.control_client import ControlClient
from tests.faults.job import Job, content
from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import S3LUSTREFS, WAIT_SECONDS, Site, ended
from tests.semantics.mounted import put_objects

STATUS_SECONDS = 5.0
"""Promised is one; this machine may be busy with other things."""

DIRECT = """
import mmap, os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
os.readv(descriptor, [mmap.mmap(-1, 4096)])
"""
MANY = """
import os, sys, threading
threading.stack_size(65536)
root, count = sys.argv[1], int(sys.argv[2])
def read(number):
    try:
        with open(f"{root}/c{number:04d}", "rb", buffering=0) as file:
            file.read()
    except OSError:
        pass
threads = [threading.Thread(target=read, args=(number,)) for number in range(count)]
for thread in threads:
    thread.start()
print("reading", flush=True)
for thread in threads:
    thread.join()
"""


@dataclass
class Hung:
    """A mount whose bucket has just stopped answering, with all kinds of programs waiting for it."""

    job: Job
    direct: bool
    """Some read past the page cache: killed, they still wait until their request is answered (documented: a minute)."""
    readers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    drains: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, proxy: BackgroundProxy) -> None:
        here, job = self.job.site, self.job
        proxy.add("hold", times=10**6)
        for number in range(10):
            job.write(f"due{number}", content(f"due{number}", 5000))
        job.write("large", content("large", 17 << 20))
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        for name in ("s01", "s02", "m01", "l00"):
            self.readers.append(subprocess.Popen(["cat", job.path(name)], **quiet))  # type: ignore[call-overload]
        for name in ("s03", "m02") if self.direct else ():
            self.readers.append(subprocess.Popen([sys.executable, "-c", DIRECT, job.path(name)], **quiet))  # type: ignore[call-overload]
        self.drains.append(subprocess.Popen([S3LUSTREFS, "drain", str(here.root)], env=here.environment, **quiet))  # type: ignore[call-overload]
        client = ControlClient(str(here.state_dir / "control.sock"))
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            answer: dict[str, dict[str, int]] = client.call("Status")  # type: ignore[assignment]
            if answer["hydration"]["in_flight"] >= len(self.readers) and answer["export"]["in_flight"]:
                return
            assert time.monotonic() < deadline, answer

    def kill_readers(self) -> None:
        for reader in self.readers:
            reader.kill()

    def all_end(self) -> None:
        """Nobody waits for ever."""
        for process in (*self.readers, *self.drains):
            process.wait(WAIT_SECONDS)


@pytest.fixture
def hung(request: pytest.FixtureRequest, here: Site, proxy: BackgroundProxy) -> Iterator[Hung]:
    here.expected_log += ["failed", "not fetched", "errno=", "left behind"]
    job = Job(here, "job")
    job.seed(small=6, middle=3)
    here.mount()
    for name in job.expected:
        os.stat(job.path(name))
    found = Hung(job, direct=getattr(request, "param", True))
    try:
        found.start(proxy)
        yield found
    finally:
        for process in (*found.readers, *found.drains):
            process.kill()
        proxy.clear_faults()


def recovers(hung: Hung, proxy: BackgroundProxy) -> None:
    """The next mount has everything, and the bucket gets it."""
    here = hung.job.site
    proxy.clear_faults()
    here.mount()
    here.drain()
    hung.job.check_bucket()
    assert hung.job.read("s01") == hung.job.expected["s01"]
    assert here.cli("unmount", here.root).returncode == 0
    assert here.cli("fsck", here.state_dir, check=False).returncode == 0


@pytest.mark.parametrize(
    ("way", "hung"),
    [("umount -l", False), ("umount -f", True), ("SIGTERM", True), pytest.param("SIGKILL", True, marks=pytest.mark.long)],
    indirect=["hung"],
)
def test_mount_ends_although_everybody_waits_for_the_bucket(hung: Hung, proxy: BackgroundProxy, way: str) -> None:
    here = hung.job.site
    pid = here.note_daemon()
    started = time.monotonic()
    with ended(pid):
        if way.startswith("SIG"):
            os.kill(pid, getattr(signal, way))
        else:
            here.run(*way.split(), here.root, check=way == "umount -l")  # -f ends the daemon; the mount may be busy all the same
            if way == "umount -l":
                hung.kill_readers()  # the connection lives as long as they have files open
    hung.all_end()
    print(f"{way}: over after {time.monotonic() - started:.1f} s")
    recovers(hung, proxy)


@pytest.mark.parametrize("hung", [False, pytest.param(True, marks=pytest.mark.long)], indirect=True)
def test_umount_is_refused_at_once_and_works_once_nobody_reads(hung: Hung, proxy: BackgroundProxy) -> None:
    here = hung.job.site
    for command in (["umount", here.root], [S3LUSTREFS, "unmount", "--no-drain", here.root]):
        done = here.run(*command, check=False)
        assert done.returncode and "busy" in done.stderr, done.stderr
    done = here.cli("unmount", "--timeout", "1", here.root, check=False)
    assert done.returncode == 2 and "still mounted" in done.stderr
    pid = here.note_daemon()
    hung.kill_readers()
    for reader in hung.readers:
        reader.wait(90)
    with ended(pid):
        here.cli("unmount", "--no-drain", here.root)
    hung.all_end()
    recovers(hung, proxy)


def test_status_answers_whatever_else_is_going_on(here: Site, proxy: BackgroundProxy) -> None:
    """An import under way, a thousand blocked readers, exports that hang."""
    here.expected_log += ["failed", "not fetched", "errno=", "listing"]
    count = 1000
    rows = [(f"p/cold/c{number:04d}", b"cold", {}) for number in range(count)]
    put_objects(here.server, here.bucket, [*rows, *((f"p/z/{number:04d}", b"x", {}) for number in range(200))], threads=8)
    here.options["posix_metadata"] = "off"
    proxy.add("hold", method="GET", path="continuation-token", times=10**6)
    proxy.add("hold", method="GET", path="start-after", times=10**6)
    here.mount(imported=False)
    proxy.wait_held()
    assert len(os.listdir(here.root / "cold")) == count
    proxy.add("hold", times=10**6)
    (here.root / "cold/due").write_bytes(b"due")
    command = [sys.executable, "-c", MANY, str(here.root / "cold"), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as readers:
        try:
            assert readers.stdout is not None and readers.stdout.readline() == b"reading\n"
            client = ControlClient(str(here.state_dir / "control.sock"))
            longest, waiting = 0.0, 0
            deadline = time.monotonic() + WAIT_SECONDS
            while waiting < count * 0.9:
                started = time.monotonic()
                answer: dict[str, dict[str, int]] = client.call("Status")  # type: ignore[assignment]
                longest = max(longest, time.monotonic() - started)
                waiting = answer["hydration"]["waiting_readers"]
                assert time.monotonic() < deadline, answer["hydration"]
                time.sleep(0.1)
            assert here.status()["associations"][0]["import"]["state"] == "RUNNING"
            started = time.monotonic()
            assert len(os.listdir(here.root / "cold")) == count + 1
            (here.root / "cold/local").write_bytes(b"local work goes on")
            assert (here.root / "cold/local").read_bytes() == b"local work goes on"
            print(f"status took {longest:.3f} s at most, local work {time.monotonic() - started:.3f} s, {waiting} readers waiting")
            assert longest < STATUS_SECONDS
        finally:
            readers.kill()
            proxy.clear_faults()
    with contextlib.suppress(subprocess.TimeoutExpired):
        readers.wait(WAIT_SECONDS)
