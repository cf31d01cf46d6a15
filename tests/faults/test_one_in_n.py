"""One request in N goes wrong, whatever it asks for: every byte read is right, and what was written is in the bucket."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest

from tests.faults.job import Job
from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import WAIT_SECONDS, Site

long = pytest.mark.long
QUICK = ["expired"]
MORE = ["cut-head", "slowdown", "internal", "html", "reset", "lost-reply", "truncate:100", "trickle:250000"]
"""A retry is the cure: no application notices."""
TERMINAL = ["notfound", "precondition", *(pytest.param(fault, marks=long) for fault in ("denied", "skewed"))]
"""The endpoint gives a definite answer, which happens to be wrong."""


@pytest.fixture
def job(here: Site) -> Job:
    here.expected_log += ["failed", "not fetched", "conflict", "errno=(EACCES|EIO)", "left behind"]
    job = Job(here, "job")
    job.seed()
    return job


def run(job: Job, proxy: BackgroundProxy) -> None:
    job.read_everything()
    job.change_everything()
    job.site.cli("drain", job.site.root, "--timeout", "2", check=False)
    assert proxy.hits()
    proxy.clear_faults()
    job.site.drain()
    job.check_bucket()


@pytest.mark.parametrize("fault", [*QUICK, *(pytest.param(fault, marks=long) for fault in MORE)])
def test_passing_fault_is_not_noticed(job: Job, proxy: BackgroundProxy, fault: str) -> None:
    job.site.mount()
    proxy.add(fault, every=5, times=10**6)
    run(job, proxy)
    assert job.excused == []


@pytest.mark.parametrize("fault", TERMINAL)
def test_wrong_refusal_harms_nothing(job: Job, proxy: BackgroundProxy, fault: str) -> None:
    job.site.mount()
    proxy.add(fault, every=7, times=10**6)
    run(job, proxy)
    assert set(job.excused) <= ({errno.EACCES} if fault in ("denied", "skewed") else set())


def test_wrong_bytes_of_the_right_length_are_never_shown(job: Job, proxy: BackgroundProxy) -> None:
    """Objects fetched in one piece: nothing states what a part of an object must be."""
    job.site.mount()
    for kind in ("s", "m"):
        proxy.add("corrupt", method="GET", path=f"/job/{kind}", every=3, times=10**6)
    job.read_everything()
    assert proxy.hits() > 8
    assert "do not have the MD5 sum" in job.site.log()
    assert job.excused == []


def test_wrong_word_about_a_file_that_a_symlink_replaces_makes_no_conflict(job: Job, proxy: BackgroundProxy) -> None:
    """Its object is said to be gone, so the symlink must not replace one, and meets the very object that is known."""
    here = job.site
    here.mount()
    job.write("x", b"content")
    here.drain()
    os.symlink("s00", job.path("link"))
    proxy.add("notfound", method="HEAD", path="/job/x")
    os.rename(job.path("link"), job.path("x"))
    here.drain()
    assert proxy.hits() == 1
    assert os.readlink(job.path("x")) == "s00" and here.status()["conflicts"] == 0
    job.expected["x"] = b"s00"
    job.check_bucket()


def test_refusal_that_cannot_be_looked_into_costs_nobody_the_mount(job: Job, proxy: BackgroundProxy) -> None:
    """The GET of a part says that the object changed, and the HEAD that would tell fails."""
    here = job.site
    here.mount()
    os.stat(job.path("l00"))
    proxy.add("precondition", method="GET", path="/job/l00", times=10**6)
    proxy.add("slowdown", method="HEAD", path="/job/l00", times=10**6)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(job.read("l00")))
    reader.start()
    deadline = time.monotonic() + WAIT_SECONDS
    while "HeadObject" not in str(here.why("job/l00")["last_error"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    proxy.clear_faults()
    reader.join(100)
    assert read == [job.expected["l00"]]
    assert here.is_mounted()
