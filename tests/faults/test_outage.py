"""The bucket is out of order for a while: what does not need it goes on, what does ends in time and says why, nothing is lost."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable

import pytest

from tests.faults.daemon import Cost, cost_of
from tests.faults.job import EXCUSABLE, Job, content
from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import WAIT_SECONDS, Site

# Answers to HEAD have no body, and so no code: there the status must do.
CAUSES = {
    "slowdown": "SlowDown|overloaded",
    "denied": "AccessDenied|access denied",
    "skewed": "clock differs|access denied",
    "expired": "expired",
    "reset": "",
    "hold": "",
}
QUICK = ("slowdown", "hold")
BLOCKING = ("slowdown", "reset", "hold")
"""While these last a reader waits, for a minute; the others refuse it at once."""


@pytest.fixture
def job(here: Site) -> Job:
    here.expected_log += ["failed", "not fetched", "errno=(EACCES|EIO)", "left behind", "association misconfigured", "urllib3"]
    job = Job(here, "job")
    job.seed(small=12, middle=3)
    return job


def wait_until(true: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def work_locally(job: Job) -> None:
    """Nothing here needs the bucket."""
    root = f"{job.site.root}/{job.folder}"
    assert len(os.listdir(root)) >= 16
    assert job.read("s00") == job.expected["s00"]  # resident
    for number in range(20):
        job.write(f"during{number}", content(f"during{number}", 3000))
    job.write("s00", b"overwritten during the outage")
    os.rename(f"{root}/during0", f"{root}/renamed")
    job.expected["renamed"] = job.expected.pop("during0")
    os.rename(f"{root}/s01", f"{root}/moved-cold")
    job.expected["moved-cold"] = job.expected.pop("s01")
    os.unlink(f"{root}/s02")
    del job.expected["s02"]
    os.mkdir(f"{root}/empty")
    os.rmdir(f"{root}/empty")
    assert os.statvfs(root).f_blocks


@pytest.mark.parametrize("fault", [pytest.param(each, marks=[] if each in QUICK else pytest.mark.long) for each in CAUSES])
def test_local_work_goes_on_and_everything_is_exported_afterwards(job: Job, proxy: BackgroundProxy, fault: str) -> None:
    here = job.site
    here.mount()
    job.read("s00")
    for name in job.expected:
        os.stat(job.path(name))
    proxy.add(fault, times=10**6)
    work_locally(job)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(job.read("s05")))
    reader.start()
    try:
        if fault != "hold":
            wait_until(lambda: bool(here.why("job/s05")["last_error"]), "why says nothing about a read that fails")
            assert re.search(CAUSES[fault], here.why("job/s05")["last_error"])
            wait_until(lambda: bool(here.why("job/s00")["last_error"]), "why says nothing about an export that fails")
            assert re.search(CAUSES[fault], here.why("job/s00")["last_error"])
        assert here.status()["export"]["due"]
    finally:
        proxy.clear_faults()
        reader.join(120)
    assert read == [job.expected["s05"]]
    assert not job.excused or fault not in BLOCKING
    here.drain()
    job.check_bucket()
    assert not here.why("job/s05")["last_error"]
    here.unmount()
    assert here.cli("fsck", here.state_dir, check=False).returncode == 0


@pytest.mark.long
@pytest.mark.parametrize("fault", ["slowdown", "hold", "trickle:100", "stall:10", "corrupt", "reset"])
def test_blocked_reads_end_within_their_bound(job: Job, proxy: BackgroundProxy, fault: str) -> None:
    here = job.site
    here.mount()
    for name in job.expected:
        os.stat(job.path(name))
    proxy.add(fault, times=10**6)
    names = [name for name in job.expected if name[0] in "sml"] if fault != "corrupt" else ["s03", "m01"]
    if fault.startswith("trickle"):
        names = ["m00", "m01"]
    started = time.monotonic()
    readers = [subprocess.Popen(["cat", job.path(name)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for name in names]
    for reader in readers:
        _, said = reader.communicate(timeout=120)
        assert reader.returncode and b"Input/output error" in said
    assert time.monotonic() - started < 90  # documented: a minute
    for name in names:
        assert here.why(f"job/{name}")["last_error"], name
    proxy.clear_faults()
    assert all(job.read(name) == job.expected[name] for name in names)


def test_total_outage_costs_little(job: Job, proxy: BackgroundProxy) -> None:
    """No busy loop, whatever is waiting: exports, readers, headers."""
    here = job.site
    here.mount()
    pid = here.note_daemon()
    proxy.add("reset", times=10**6)
    for number in range(200):
        job.write(f"due{number}", b"due")
    with subprocess.Popen(["cat", job.path("s03")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as reader:
        before = cost_of(pid)
        time.sleep(5)
        spent = cost_of(pid).cpu_seconds - before.cpu_seconds
        reader.kill()
    proxy.clear_faults()
    print(f"CPU seconds of the daemon during 5 s of outage: {spent:.2f}")
    assert spent < 2.5
    here.drain()
    job.check_bucket()


ROUND = ["slowdown", "reset", "truncate:50", "cut-head", "denied", "expired", "internal", "hold", "lost-reply", "html", "skewed"]


COLD = 100


def endure(job: Job, proxy: BackgroundProxy, seconds: float, pause: float) -> tuple[Cost, Cost]:
    """Faults of every kind in turn while a job works; cost of the daemon after the first rounds and at the end."""
    here = job.site
    pid = here.note_daemon()
    first: Cost | None = None
    started = time.monotonic()
    number = 0
    while time.monotonic() < started + seconds or first is None:
        proxy.add(ROUND[number % len(ROUND)], every=1 + number % 3, times=10**6)
        worker = threading.Thread(target=work, args=(job, number))
        worker.start()
        time.sleep(pause)
        proxy.clear_faults()
        worker.join(200)
        assert not worker.is_alive()
        number += 1
        if number == len(ROUND):
            here.drain()
            first = cost_of(pid)
    here.drain()
    assert first is not None
    return first, cost_of(pid)


def work(job: Job, number: int) -> None:
    """Write, overwrite, and read a few of the cold files."""
    for index in range(10):
        job.write(f"r{index}", content(f"{number}-{index}", 5000))
    job.write("large", content(f"large {number}", (17 << 20) + number))
    for index in range(4):
        name = f"s{(number * 4 + index) % COLD:02d}"
        assert job.read(name) == job.expected[name]


@pytest.mark.long
def test_faults_for_minutes_leave_threads_and_memory_as_they_were(job: Job, proxy: BackgroundProxy) -> None:
    job.seed(small=COLD)
    job.site.mount()
    first, last = endure(job, proxy, seconds=int(os.environ.get("FX", "240")), pause=6)
    print(f"after the first round {first}, at the end {last}")
    assert last.threads <= first.threads * 1.2 + 2
    assert last.resident_bytes <= first.resident_bytes * 1.2
    assert last.sockets <= first.sockets * 1.2 + 10
    job.check_bucket()
    assert set(job.excused) <= set(EXCUSABLE)


def test_drain_ends_when_all_that_is_left_waits_for_a_file_that_failed(job: Job, proxy: BackgroundProxy) -> None:
    """The old key of a renamed file goes once the copy is made, and the copy is denied."""
    here = job.site
    here.mount()
    proxy.add("denied", method="PUT", times=10**6)
    os.rename(job.path("s00"), job.path("renamed"))
    job.expected["renamed"] = job.expected.pop("s00")
    done = here.cli("drain", here.root, "--timeout", "60", check=False)
    assert done.returncode == 1, done.stderr
    assert "/job/renamed: " in done.stderr and "/job/s00: waits for another file" in done.stderr
    proxy.clear_faults()
    here.drain()
    job.check_bucket()
