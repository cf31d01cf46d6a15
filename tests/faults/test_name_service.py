"""The endpoint's name stops resolving, at once or after long silence: nothing freezes, reads go on when it resolves again.

The daemon gets /etc/hosts and /etc/resolv.conf of its own, in a mount namespace of its own; its files are seen by way of
/proc/PID/root.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from s3lustrefs.cli.control_client import ControlClient
from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import S3LUSTREFS, WAIT_SECONDS, Site, ended

NAME = "faulty-endpoint"
"""Without a dot: moto takes the first of several labels for a bucket."""
SILENT = "127.98.76.54"
"""Where a name server may listen and say nothing."""


@pytest.fixture
def named(here: Site) -> Site:
    here.endpoint_url = here.endpoint_url.replace("127.0.0.1", NAME)
    here.expected_log += ["failed", "not fetched"]
    for number in range(30):
        here.put(f"p/c{number}", b"cold %d" % number)
    (here.scratch / "resolv.conf").write_text(f"nameserver {SILENT}\noptions timeout:3 attempts:2\n")
    return here


@pytest.fixture(params=["refused", pytest.param("silent", marks=pytest.mark.long)])
def name_server(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "refused":
        yield "refused"
        return
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as listener:
        listener.bind((SILENT, 53))
        yield "silent"


def resolve(here: Site, *, known: bool) -> None:
    """In place: the daemon sees this very file."""
    (here.scratch / "hosts").write_text("127.0.0.1 localhost\n" + (f"127.0.0.1 {NAME}\n" if known else ""))


def mount(here: Site) -> int:
    """In a namespace of its own; the daemon's pid."""
    script = 'mount --bind "$1/hosts" /etc/hosts && mount --bind "$1/resolv.conf" /etc/resolv.conf && shift && exec "$@"'
    here.run(
        *("unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh", here.scratch),
        *(S3LUSTREFS, "mount", here.source, here.root, "-o", here.option_string()),
    )
    return here.note_daemon()


def end(pid: int) -> None:
    with ended(pid):
        os.kill(pid, signal.SIGTERM)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare(1)")
def test_reads_wait_for_the_name_and_nothing_else_does(named: Site, proxy: BackgroundProxy, name_server: str) -> None:
    resolve(named, known=True)
    pid = mount(named)
    client = ControlClient(str(named.state_dir / "control.sock"))
    deadline = time.monotonic() + WAIT_SECONDS
    while "'DONE'" not in str(client.call("Status")["associations"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for number in range(30):
        os.stat(f"/proc/{pid}/root{named.root}/c{number}")
    end(pid)
    resolve(named, known=False)
    pid = mount(named)  # warm: nothing of this needs the bucket
    root = Path(f"/proc/{pid}/root{named.root}")
    read: dict[int, bytes] = {}

    def reader(number: int) -> None:
        read[number] = (root / f"c{number}").read_bytes()

    readers = [threading.Thread(target=reader, args=(number,)) for number in range(30)]
    for each in readers:
        each.start()
    longest = 0.0
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while not (error := client.call("Why", path="/c3")["last_error"]):
            started = time.monotonic()
            (root / "local").write_bytes(b"local work goes on")
            assert len(os.listdir(root)) == 31
            assert client.call("Status")["pid"] == pid
            longest = max(longest, time.monotonic() - started)
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert "DNS" in str(error) or "resolv" in str(error).lower() or "no answer" in str(error), error
        print(f"{name_server}: why says {error!r}; local work took {longest:.2f} s at most")
    finally:
        resolve(named, known=True)
        for each in readers:
            each.join(100)
    assert read == {number: b"cold %d" % number for number in range(30)}
    assert longest < 10
    assert (
        subprocess.run(["nsenter", "-t", str(pid), "-m", S3LUSTREFS, "drain", str(named.root), "--timeout", "60"]).returncode == 0
    )
    assert named.body("p/local") == b"local work goes on"
    end(pid)
