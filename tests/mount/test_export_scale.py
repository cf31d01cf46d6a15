"""Exports of much at once, behind a proxy that counts requests: how few they are, in which order, and what a crash leaves."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from s3lustrefs.failpoints import VARIABLE
from tests.mount.background_proxy import BackgroundProxy, background_proxy
from tests.mount.site import WAIT_SECONDS, Site, ended
from tests.semantics.mounted import put_objects
from tests.servers import S3Server

MANY = 100_000


def fill(here: Site, names: list[str], prefix: str = "p/") -> None:
    put_objects(here.server, here.bucket, [(f"{prefix}{name}", name.encode(), {}) for name in names], threads=4)


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


# --- as few requests as possible --------------------------------------------------------------------------------------------


def test_many_changes_of_one_file_cost_one_put(here: Site, proxy: BackgroundProxy) -> None:
    here.mount()
    mark = proxy.mark()
    for number in range(50):
        with open(here.root / "log", "ab") as file:
            file.write(b"line %d\n" % number)
        os.chmod(here.root / "log", 0o600 + number % 8)
    here.drain()
    assert len(proxy.changes(mark)) == 1, proxy.changes(mark)
    assert here.body("p/log").count(b"\n") == 50


def test_what_is_created_and_deleted_again_costs_nothing(here: Site, proxy: BackgroundProxy) -> None:
    here.mount()
    mark = proxy.mark()
    (here.root / "d").mkdir()
    for number in range(20):
        (here.root / "d" / str(number)).write_bytes(b"for a moment")
    for number in range(20):
        (here.root / "d" / str(number)).unlink()
    (here.root / "d").rmdir()
    here.drain()
    assert proxy.changes(mark) == []


def test_storm_of_chmods_costs_one_copy(here: Site, proxy: BackgroundProxy) -> None:
    fill(here, ["a"])
    here.mount()
    (here.root / "a").stat()
    mark = proxy.mark()
    for number in range(100):
        os.chmod(here.root / "a", 0o600 + number % 8)
    here.drain()
    assert len(proxy.copies(mark)) == len(proxy.changes(mark)) == 1
    assert here.head("p/a")["Metadata"]["file-permissions"] == "0100603"


def test_renames_before_the_first_one_is_exported_cost_one_copy(here: Site, proxy: BackgroundProxy) -> None:
    fill(here, ["d/a", "d/b", "d/c"])
    here.mount()
    mark = proxy.mark()
    for number in range(5):
        (here.root / ("d" if not number else f"d{number}")).rename(here.root / f"d{number + 1}")
    here.drain()
    assert len(proxy.copies(mark)) == 3
    assert here.objects("p/") == {"p/d5/": b"", "p/d5/a": b"d/a", "p/d5/b": b"d/b", "p/d5/c": b"d/c"}


@pytest.fixture
def batching(rgw_server: S3Server, make_site: Callable[..., Site]) -> Iterator[tuple[Site, BackgroundProxy]]:
    """A bucket on Ceph, which knows no conditional DELETE, so that a HEAD stands in for it: with 60 cold files, mounted."""
    with background_proxy(rgw_server.endpoint_url) as proxy:
        here = make_site(server=rgw_server, endpoint_url=proxy.endpoint_url)
        fill(here, [f"d/{number:02d}" for number in range(60)])
        here.mount()
        # Else a look at the headers may meet what a test puts there next, and the mount knows it then.
        wait_until(lambda: not here.status()["associations"][0]["import"]["headers_pending"])
        yield here, proxy


@pytest.mark.rgw
def test_deletes_go_together(batching: tuple[Site, BackgroundProxy]) -> None:
    here, proxy = batching
    mark = proxy.mark()
    shutil.rmtree(here.root / "d")
    here.drain()
    assert here.keys("p/") == []
    requests = proxy.changes(mark)
    assert len(requests) < 40, f"{len(requests)} requests for 60 deletes"
    assert any(request.startswith("POST") and "?delete" in request for request in requests)


@pytest.mark.rgw
@pytest.mark.parametrize("refusal", ["notfound", "denied", "lost-reply"])
@pytest.mark.one_in(3)
def test_batches_that_fail_lose_no_delete(batching: tuple[Site, BackgroundProxy], refusal: str) -> None:
    """`notfound`: an endpoint without such a request."""
    here, proxy = batching
    here.expected_log.append("export failed .*DeleteObjects")
    proxy.add(refusal, method="POST", path="?delete", times=1000 if refusal == "notfound" else 2)
    mark = proxy.mark()
    shutil.rmtree(here.root / "d")
    wait_until(lambda: bool(proxy.requests("POST", "?delete", mark)))
    here.drain()
    assert here.keys("p/") == []


@pytest.mark.rgw
def test_an_object_changed_by_others_is_not_deleted_with_its_batch(batching: tuple[Site, BackgroundProxy]) -> None:
    here, _ = batching
    here.expected_log.append("delete given up|conflict kept")
    here.put("p/d/30", b"theirs")
    shutil.rmtree(here.root / "d")
    here.drain()
    assert here.objects("p/") == {"p/d/30": b"theirs"}


# --- order ------------------------------------------------------------------------------------------------------------------


def test_deletes_never_overtake_what_is_made_anew(here: Site) -> None:
    names = [f"f{number:02d}" for number in range(40)]
    fill(here, names)
    here.mount()
    for turn in range(6):
        for name in names:
            (here.root / name).unlink()
            if (turn + int(name[1:])) % 3:
                (here.root / name).write_bytes(b"%s in turn %d" % (name.encode(), turn))
            else:
                (here.root / name).write_bytes(b"")
        if turn % 2:
            here.cli("drain", here.root, "--timeout", "0", check=False)
    here.drain()
    expected = {f"p/{name}": (here.root / name).read_bytes() for name in names}
    assert here.objects("p/") == expected and any(expected.values())


def test_directories_change_places_in_a_circle(here: Site) -> None:
    fill(here, [f"{directory}/{number}" for directory in "abc" for number in range(10)])
    here.mount()
    for old, new in ("at", "ba", "cb", "tc"):
        (here.root / old).rename(here.root / new)
    here.drain()
    found = {key: body for key, body in here.objects("p/").items() if not key.endswith("/")}
    came_from = {"a": "b", "b": "c", "c": "a"}
    assert found == {f"p/{new}/{n}": f"{old}/{n}".encode() for new, old in came_from.items() for n in range(10)}
    assert (here.root / "a/3").read_bytes() == b"b/3"


# --- a large directory is renamed --------------------------------------------------------------------------------------------


def test_what_arrives_under_the_old_name_meanwhile_is_new(here: Site, proxy: BackgroundProxy) -> None:
    names = [f"old/{number:02d}" for number in range(40)]
    fill(here, names)
    here.mount()
    proxy.add("hold", method="DELETE", path="/p/old/25")
    (here.root / "old").rename(here.root / "new")
    here.cli("drain", here.root, "--timeout", "0", check=False)
    proxy.wait_held()
    here.put("p/old/arrived", b"meanwhile")
    here.put("p/old/25", b"another 25")
    here.expected_log.append("delete given up|conflict kept")
    proxy.clear_faults()
    here.drain()
    here.cli("refresh", here.root)
    moved = {f"p/new/{number:02d}": f"old/{number:02d}".encode() for number in range(40)}
    arrived = {"p/old/arrived": b"meanwhile", "p/old/25": b"another 25"}
    assert {key: body for key, body in here.objects("p/").items() if not key.endswith("/")} == {**moved, **arrived}
    assert sorted(os.listdir(here.root / "new")) == [f"{number:02d}" for number in range(40)]
    assert {f"p/old/{path.name}": path.read_bytes() for path in (here.root / "old").iterdir()} == arrived


@pytest.mark.parametrize("failpoint", ["copy.answered:13", "delete.answered:20"])
@pytest.mark.one_in(2)
def test_rename_of_a_directory_goes_on_after_a_crash(here: Site, failpoint: str) -> None:
    names = [f"old/{number:02d}" for number in range(40)]
    fill(here, names)
    here.mount()
    here.unmount()
    here.environment[VARIABLE] = failpoint
    here.mount()
    del here.environment[VARIABLE]
    pid = here.note_daemon()
    with ended(pid):
        (here.root / "old").rename(here.root / "new")
        here.cli("drain", here.root, "--timeout", "30", check=False)
    here.mount()
    here.drain()
    found = {key: body for key, body in here.objects("p/").items() if not key.endswith("/")}
    assert found == {f"p/new/{number:02d}": f"old/{number:02d}".encode() for number in range(40)}
    assert sorted(os.listdir(here.root)) == ["new"]


@pytest.mark.long
@pytest.mark.rgw
@pytest.mark.timeout(3600)
def test_directory_of_many_files_is_renamed(rgw_server: S3Server, make_site: Callable[..., Site]) -> None:
    """At once here, in the bucket as fast as it goes, and in little memory."""
    here = make_site(server=rgw_server)
    fill(here, [f"old/{number:06d}" for number in range(MANY)])
    here.mount()
    pid = here.note_daemon()
    before, started = resident_mib(pid), time.monotonic()
    (here.root / "old").rename(here.root / "new")
    assert time.monotonic() - started < 5
    while here.cli("drain", here.root, "--timeout", "60", check=False).returncode == 2:
        pass
    assert here.cli("drain", here.root, "--timeout", "60").returncode == 0
    assert resident_mib(pid) - before < 300
    assert sorted(here.keys("p/")) == ["p/new/", *(f"p/new/{number:06d}" for number in range(MANY))]


def resident_mib(pid: int) -> int:
    """Memory of a process, without what it maps of files."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return next(int(words[1]) >> 10 for words in lines if words[0] == "RssAnon:")


def test_progress_of_a_rename_shows(here: Site, proxy: BackgroundProxy) -> None:
    names = [f"old/{number:03d}" for number in range(150)]
    fill(here, names)
    here.mount()
    proxy.add("hold", method="PUT", path="/p/new/100", times=1)
    (here.root / "old").rename(here.root / "new")
    here.cli("drain", here.root, "--timeout", "0", check=False)
    proxy.wait_held()
    wait_until(lambda: here.status()["export"]["exported_objects"] > 100)
    export = here.status()["export"]
    assert export["due"] >= 1 and export["records_per_second"] > 0 and export["eta_seconds"] > 0
    assert " changes/s" in here.cli("status", here.root).stdout
    proxy.clear_faults()
    here.drain()


# --- files held open --------------------------------------------------------------------------------------------------------


def test_file_held_open_is_exported_as_it_is(here: Site, proxy: BackgroundProxy) -> None:
    here.mount(export_open_after="1")
    with open(here.root / "log", "wb", buffering=0) as file:
        file.write(b"first")
        wait_until(lambda: here.keys("p/") == ["p/log"])
        assert here.body("p/log") == b"first"
        wait_until(lambda: "dirty" not in here.hsm("log"))
        here.drain()
        file.write(b", second")
        wait_until(lambda: here.body("p/log") == b"first, second")
        wait_until(lambda: "dirty" not in here.hsm("log"))
        mark = proxy.mark()
    here.drain()
    assert proxy.changes(mark) == [], "nothing had changed since"
    with open(here.root / "log", "ab", buffering=0) as file:
        file.write(b", third")
    here.drain()
    assert here.body("p/log") == b"first, second, third"


def test_file_held_open_is_not_exported_by_itself_unless_told(here: Site) -> None:
    here.mount()
    with open(here.root / "log", "wb", buffering=0) as file:
        file.write(b"first")
        (here.root / "other").write_bytes(b"")
        wait_until(lambda: here.keys("p/") == ["p/other"])


def test_what_is_exported_of_an_open_file_is_of_one_moment(here: Site) -> None:
    """Every write changes the whole file in two places far apart: an object that mixes two moments has them different."""
    here.mount(export_open_after="1")
    size = 3 << 20
    seen = set()
    stop = threading.Event()

    def write(file: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for at in (0, size - 8):
                os.pwrite(file, b"%08d" % number, at)

    file = os.open(here.root / "both", os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, size)
    writer = threading.Thread(target=write, args=(file,))
    writer.start()
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while len(seen) < 3 and time.monotonic() < deadline:
            for key in here.keys("p/"):
                body = here.body(key)
                first, last = (int(part.replace(b"\0", b"0")) for part in (body[:8], body[-8:]))
                assert first > 0, "nothing was ever there without a number"
                assert first in (last, last + 1), "two moments are mixed"
                seen.add(first)
    finally:
        stop.set()
        writer.join()
        os.close(file)
    assert len(seen) >= 3
    here.drain()
    assert here.body("p/both") == (here.root / "both").read_bytes()


@pytest.mark.parametrize("failpoint", ["snapshot.taken", "snapshot.sent"])
@pytest.mark.one_in(2)
def test_a_death_while_an_open_file_is_exported_does_no_harm(here: Site, failpoint: str) -> None:
    here.mount()
    (here.root / "log").write_bytes(b"before")
    here.drain()
    here.unmount()
    here.environment[VARIABLE] = failpoint
    here.mount(export_open_after="1")
    del here.environment[VARIABLE]
    with ended(here.note_daemon()):
        file = os.open(here.root / "log", os.O_WRONLY | os.O_APPEND)
        os.write(file, b", and after")
    with pytest.raises(OSError):
        os.close(file)
    here.mount()
    assert (here.root / "log").read_bytes() == b"before, and after"
    here.drain()
    assert here.body("p/log") == b"before, and after"
    assert here.keys("p/") == ["p/log"]
    assert not list(Path(here.state_dir).glob("data/chunks/*/*.8*.*")), "the snapshot is gone"


def test_object_changed_by_others_survives_the_export_of_an_open_file(here: Site) -> None:
    here.expected_log += ["conflict (ino|kept)"]
    here.mount(export_open_after="1")
    (here.root / "log").write_bytes(b"before")
    here.drain()
    file = os.open(here.root / "log", os.O_WRONLY | os.O_APPEND)
    try:
        here.put("p/log", b"theirs")
        os.write(file, b", and after")
        wait_until(lambda: "open file left to its close" in here.log())
        assert here.body("p/log") == b"theirs"
    finally:
        os.close(file)
    here.drain()
    (kept,) = here.root.glob("log.conflict-*")
    assert kept.read_bytes() == b"before, and after" == here.body(f"p/{kept.name}")
    assert here.body("p/log") == b"theirs"
