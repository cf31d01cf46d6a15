"""Names of one file are objects of their own: others change or delete one, the other one stays what it was, here and there."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable

import pytest

from s3lustrefs.cli.control_client import ControlClient
from tests.mount.conftest import fresh_bucket
from tests.mount.site import WAIT_SECONDS, Site
from tests.mount.test_conflicts import OURS, POLICIES, THEIRS, Place, place, shared
from tests.servers import S3Server

__all__ = ["fresh_bucket", "place", "shared"]

BEFORE = b"before"


def linked(here: Place, *, whole: bool) -> None:
    """`a` and `b` are one file and two objects."""
    here.known("a")
    os.link(here.root / "a", here.root / "b")
    here.drain()
    assert here.objects() == {"a": BEFORE, "b": BEFORE}
    if not whole:
        here.site.cli("hsm", "release", here.root / "a")


def wait_bytes(here: Place, name: str, body: bytes) -> None:
    """The kernel hears a moment later that the name stands for something else."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (found := (here.root / name).read_bytes()) != body:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)


def are_apart(here: Place) -> bool:
    a, b = os.stat(here.root / "a"), os.stat(here.root / "b")
    return a.st_ino != b.st_ino and (a.st_nlink, b.st_nlink) == (1, 1)


@pytest.mark.parametrize("changed", ["a", "b"])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("how", ["sweep", "refresh"])
@pytest.mark.one_in(2)
def test_a_name_whose_object_changed_is_a_file_of_its_own(
    place: Callable[[str], Place], changed: str, how: str, *, whole: bool
) -> None:
    here = place("keep-both")
    linked(here, whole=whole)
    (kept,) = {"a", "b"} - {changed}
    here.put(changed, THEIRS)
    found = here.ask("Refresh", path=f"/{here.path}" + (f"/{changed}" if how == "refresh" else ""))
    assert (found["new"], found["changed"], found["deleted"]) == (0, 1, 0)
    assert are_apart(here) and here.files() == {changed: THEIRS, kept: BEFORE} == here.objects()
    (here.root / kept).write_bytes(OURS)
    here.drain()
    assert here.files() == {changed: THEIRS, kept: OURS} == here.objects()
    here.agrees()


@pytest.mark.parametrize("whole", [True, False])
def test_who_has_the_file_open_goes_on_with_it(place: Callable[[str], Place], *, whole: bool) -> None:
    here = place("keep-both")
    linked(here, whole=whole)
    with open(here.root / "b", "rb", buffering=0) as file:
        here.put("b", THEIRS)
        here.refresh()
        assert file.read() == BEFORE
    assert here.files() == {"a": BEFORE, "b": THEIRS}


@pytest.mark.parametrize("read", ["a", "b"])
def test_a_read_that_meets_the_change_gets_the_file_as_it_was(place: Callable[[str], Place], read: str) -> None:
    """Nothing is imported here by itself."""
    here = place("deaf")
    linked(here, whole=False)
    here.put("b", THEIRS)
    assert (here.root / read).read_bytes() in ((BEFORE,) if read == "a" else (BEFORE, THEIRS))
    wait_bytes(here, "b", THEIRS)
    assert (here.root / "a").read_bytes() == BEFORE and are_apart(here)
    (here.root / "a").write_bytes(OURS)
    here.drain()
    assert here.objects() == {"a": OURS, "b": THEIRS} == here.files()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("changed", ["a", "b"])
@pytest.mark.one_in(2)
def test_a_change_on_both_sides_is_a_conflict_about_that_name(place: Callable[[str], Place], policy: str, changed: str) -> None:
    here = place(policy)
    linked(here, whole=True)
    (kept,) = {"a", "b"} - {changed}
    with open(here.root / "a", "wb") as file:
        file.write(OURS)
        file.flush()
        here.put(changed, THEIRS)
        here.refresh()
    here.site.drain()  # all of it: the file's first name may be in lost+found by now
    objects = here.objects()
    assert objects.pop(kept) == OURS == (here.root / kept).read_bytes()
    assert objects.pop(changed) == (OURS if policy == "file-wins" else THEIRS) == (here.root / changed).read_bytes()
    assert list(objects.values()) == ([OURS] if policy == "keep-both" else [])
    assert here.losers() == ({} if policy == "keep-both" else {changed: THEIRS if policy == "file-wins" else OURS})
    here.agrees()


@pytest.mark.parametrize("changed", ["a", "b"])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.one_in(2)
def test_attributes_given_here_go_with_both(place: Callable[[str], Place], changed: str, *, whole: bool) -> None:
    here = place("keep-both")
    linked(here, whole=whole)
    count = here.status()["conflicts"]
    (kept,) = {"a", "b"} - {changed}
    here.put(changed, THEIRS)
    (here.root / "a").chmod(0o640)
    here.drain()
    assert here.files() == {changed: THEIRS, kept: BEFORE} == here.objects() and are_apart(here)
    for name in ("a", "b"):
        assert stat.S_IMODE((here.root / name).stat().st_mode) == 0o640
        assert here.site.head(here.key(name))["Metadata"]["file-permissions"] == "0100640"
    assert here.status()["conflicts"] == count
    here.agrees()


@pytest.mark.parametrize("gone", ["a", "b"])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.one_in(2)
def test_only_the_name_goes_whose_object_was_deleted(place: Callable[[str], Place], gone: str, *, whole: bool) -> None:
    here = place("keep-both")
    linked(here, whole=whole)
    (kept,) = {"a", "b"} - {gone}
    here.delete(gone)
    here.refresh()
    assert here.files() == {kept: BEFORE} == here.objects() and os.stat(here.root / kept).st_nlink == 1
    (here.root / kept).write_bytes(OURS)
    here.drain()
    assert here.objects() == {kept: OURS}
    here.agrees()


def test_a_read_that_misses_the_object_takes_the_other_one(place: Callable[[str], Place]) -> None:
    here = place("deaf")
    linked(here, whole=False)
    here.delete("b")
    assert here.files() == {"a": BEFORE, "b": BEFORE}
    assert "lost" not in here.site.hsm(f"{here.path}/a")


def test_a_read_ends_when_the_objects_of_all_names_are_gone(place: Callable[[str], Place]) -> None:
    here = place("deaf")
    linked(here, whole=False)
    here.site.expected_log.append("errno=EIO")
    for name in ("a", "b"):
        here.delete(name)
    started = time.monotonic()
    for name in ("a", "b"):
        with pytest.raises(OSError, match="Input/output error"):
            (here.root / name).read_bytes()
    assert time.monotonic() - started < WAIT_SECONDS


def test_a_change_survives_the_deletion_of_one_object(place: Callable[[str], Place]) -> None:
    here = place("keep-both")
    linked(here, whole=False)
    here.delete("b")
    (here.root / "a").chmod(0o600)
    here.drain()
    assert here.files() == {"a": BEFORE, "b": BEFORE} == here.objects()
    here.delete("a")
    (here.root / "b").write_bytes(OURS)
    here.drain()
    assert here.files() == {"a": OURS, "b": OURS} == here.objects()


def test_events_do_the_same(make_site: Callable[..., Site], moto_server: S3Server) -> None:
    here = make_site(event_queue_url="create")
    here.expected_log.append("bucket events not available")
    for name in ("a", "c"):
        here.put(f"p/{name}", BEFORE)
    here.mount()
    client = ControlClient(str(here.state_dir / "control.sock"))
    while client.call("Status")["associations"][0]["events"]["state"] != "LISTENING":
        time.sleep(0.02)
    os.link(here.root / "a", here.root / "b")
    os.link(here.root / "c", here.root / "d")
    here.drain()
    here.put("p/b", THEIRS)
    here.s3.delete_object(Bucket=here.bucket, Key="p/d")
    deadline = time.monotonic() + WAIT_SECONDS
    while (here.root / "d").exists() or (here.root / "b").stat().st_size != len(THEIRS):
        assert time.monotonic() < deadline, here.log()[-3000:]
        time.sleep(0.02)
    found = {name: (here.root / name).read_bytes() for name in sorted(os.listdir(here.root))}
    assert found == {"a": BEFORE, "b": THEIRS, "c": BEFORE}
    for name in ("a", "c"):
        (here.root / name).write_bytes(OURS)
    here.drain()
    assert here.objects() == {"p/a": OURS, "p/b": THEIRS, "p/c": OURS}
    here.unmount()
    assert here.cli("fsck", here.state_dir).returncode == 0
