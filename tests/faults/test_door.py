"""Races at the door: the end of a mount in the middle of anything, two at once, and what is found there afterwards.

After each the next mount has everything, the queue drains, the bucket equals the files, and fsck finds nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.job import Job, content
from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import S3LUSTREFS, WAIT_SECONDS, Site, ended
from tests.semantics.mounted import put_objects

MANY = 1100
"""Names: more than one page of a listing."""


@pytest.fixture
def job(here: Site) -> Job:
    here.expected_log += ["failed", "not fetched", "left behind", "errno=EIO", "listing"]
    job = Job(here, "job")
    job.seed(small=6, middle=2)
    return job


@pytest.fixture
def begun(request: pytest.FixtureRequest, job: Job, proxy: BackgroundProxy) -> Iterator[Job]:
    """Something is under way and held at the bucket: an import, an upload in parts, a drain of many files."""
    here = job.site
    what: str = request.param
    if what == "import":
        put_objects(here.server, here.bucket, [(f"p/many/{number:04d}", b"x", {}) for number in range(MANY)], threads=8)
        proxy.add("hold", method="GET", path="continuation-token", times=10**6)
        proxy.add("hold", method="GET", path="start-after", times=10**6)
        here.mount(imported=False)
        job.write("during", b"written during the import")
        proxy.wait_held()
        yield job
        return
    here.mount()
    if what == "multipart":
        proxy.add("hold", method="PUT", path="partNumber=2")
        job.write("large", content("large", 40 << 20))
        proxy.wait_held()
        yield job
        return
    for number in range(200):
        job.write(f"new{number}", content(f"new{number}", 2000))
    proxy.add("hold", method="PUT", path="/job/new", skip=50, times=10**6)
    with subprocess.Popen([S3LUSTREFS, "drain", str(here.root)], env=here.environment, stderr=subprocess.PIPE) as drain:
        proxy.wait_held()
        yield job
        assert drain.wait(WAIT_SECONDS) == 3  # nobody answers any more


def recovers(job: Job, proxy: BackgroundProxy) -> None:
    here = job.site
    proxy.clear_faults()
    here.mount()
    here.drain()
    job.check_bucket()
    assert all(job.read(name) == body for name, body in job.expected.items())
    assert here.cli("unmount", here.root).returncode == 0
    assert here.cli("fsck", here.state_dir, check=False).returncode == 0


@pytest.mark.parametrize("begun", ["import", "multipart", pytest.param("drain", marks=pytest.mark.long)], indirect=True)
@pytest.mark.parametrize(
    "signals",
    [
        (signal.SIGTERM, signal.SIGTERM),
        pytest.param((signal.SIGTERM,), marks=pytest.mark.long),
        pytest.param((signal.SIGINT, signal.SIGTERM), marks=pytest.mark.long),
    ],
    ids=lambda signals: "+".join(each.name for each in signals),
)
def test_signal_in_the_middle(begun: Job, proxy: BackgroundProxy, signals: tuple[signal.Signals, ...]) -> None:
    pid = begun.site.note_daemon()
    with ended(pid) as descriptor:
        for number in signals:
            signal.pidfd_send_signal(descriptor, number)
    assert not begun.site.is_mounted()
    recovers(begun, proxy)
    if begun.site.keys("p/many/"):
        begun.site.mount()
        assert len(os.listdir(begun.site.root / "many")) == MANY


@pytest.mark.long
def test_second_signal_while_the_daemon_is_closing(job: Job, proxy: BackgroundProxy) -> None:
    """Sent again and again until it has ended, as an impatient init does."""
    here = job.site
    here.mount()
    for number in range(50):
        job.write(f"new{number}", b"new")
    pid = here.note_daemon()
    with ended(pid) as descriptor:
        try:
            while True:
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                time.sleep(0.01)
        except ProcessLookupError:
            pass
    recovers(job, proxy)


def test_lazy_unmount_with_a_file_open_for_writing(job: Job, proxy: BackgroundProxy) -> None:
    here = job.site
    here.expected_log.append("daemon ended reason")
    here.mount()
    pid = here.note_daemon()
    with ended(pid):
        with open(job.path("open"), "wb", buffering=0) as file:
            file.write(b"first ")
            assert here.run("umount", here.root, check=False).returncode
            here.run("umount", "-l", here.root)
            assert not here.is_mounted()
            file.write(b"second")  # who has it open goes on
            # Meanwhile the state directory is still in use: nobody else gets it.
            done = here.try_mount()
            assert done.returncode and "in use by another daemon" in done.stderr
    job.expected["open"] = b"first second"
    recovers(job, proxy)


def test_mounts_started_at_the_same_time(job: Job, proxy: BackgroundProxy, make_site: Callable[..., Site]) -> None:
    """Of several for one state directory one wins; the others say why not and leave nothing behind."""
    here = job.site
    others = [make_site(bucket=here.bucket, endpoint_url=proxy.endpoint_url) for _ in range(3)]
    for other in others:
        other.state_dir = here.state_dir
        other.expected_log = [*here.expected_log, "daemon ended reason"]
    here.expected_log.append("daemon ended reason")
    everyone = [here, *others]
    with ThreadPoolExecutor(len(everyone)) as pool:
        done = list(pool.map(lambda place: place.try_mount(), everyone))
    won = [place for place, each in zip(everyone, done, strict=True) if each.returncode == 0]
    assert len(won) == 1, [each.stderr for each in done]
    for each in done:
        assert each.returncode == 0 or "in use by another daemon" in each.stderr
    assert [place for place in everyone if place.is_mounted()] == won
    assert (won[0].root / "job/s00").read_bytes() == job.expected["s00"]
    won[0].unmount()
    recovers(job, proxy)


def test_mounts_started_at_the_same_time_on_one_mount_point(job: Job, proxy: BackgroundProxy) -> None:
    here = job.site
    here.expected_log.append("daemon ended reason")
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: here.try_mount(), range(3)))
    assert sorted(each.returncode for each in done) == [0, 1, 1], [each.stderr for each in done]
    assert (here.root / "job/s00").read_bytes() == job.expected["s00"]
    here.unmount()
    assert not here.is_mounted()
    recovers(job, proxy)


def test_mount_over_a_stale_one_while_programs_still_have_its_files_open(job: Job, proxy: BackgroundProxy) -> None:
    here = job.site
    here.mount()
    with open(job.path("open"), "wb", buffering=0) as file:
        file.write(b"acknowledged")
        inside = subprocess.Popen(["sleep", "600"], cwd=here.root / "job")
        try:
            here.kill_daemon()
            done = here.try_mount()
            assert done.returncode == 0 and "cleared a mount whose daemon is gone" in done.stderr
            job.expected["open"] = b"acknowledged"
            assert job.read("open") == b"acknowledged"
            with pytest.raises(OSError):
                os.write(file.fileno(), b"lost, and said so")
        finally:
            inside.kill()
            inside.wait()
            with pytest.raises(OSError):
                os.fsync(file.fileno())
    here.unmount()
    recovers(job, proxy)


@pytest.mark.long
def test_mount_point_that_is_removed_meanwhile(job: Job, proxy: BackgroundProxy) -> None:
    """The kernel lets nobody remove a mount point in this namespace; after the end of the mount it may be gone."""
    here = job.site
    here.mount()
    job.write("new", b"new")
    with pytest.raises(OSError):
        here.root.rmdir()
    pid = here.note_daemon()
    with ended(pid):
        os.kill(pid, signal.SIGTERM)
    here.root.rmdir()
    here.expected_log.append("daemon ended reason")
    done = here.try_mount()
    assert done.returncode == 1 and "no such directory" in done.stderr
    here.root.mkdir()
    recovers(job, proxy)
