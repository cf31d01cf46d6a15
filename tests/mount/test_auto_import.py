"""What others do in the bucket shows in the mount: by sweeps, at a mount, on `refresh`, as the import policy says."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from s3lustrefs.cli.control_client import ControlClient
from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import Site
from tests.servers import S3Server

OBJECTS = {
    "p/a": b"content of a",
    "p/d/b": b"content of b",
    "p/d/e/c": b"content of c",
    "p/m/": b"",
    "p/m/x": b"content of x",
    "p/gone/y": b"content of y",
}


@pytest.fixture(params=["moto", pytest.param("rgw", marks=[pytest.mark.rgw, pytest.mark.long])])
def here(request: pytest.FixtureRequest, make_site: Callable[..., Site]) -> Site:
    """`OBJECTS`, mounted and looked at: the kernel remembers all of it."""
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    place = make_site(server=server)
    for key, body in OBJECTS.items():
        place.put(key, body)
    place.mount()
    tree(place.root)
    return place


def tree(root: Path) -> dict[str, bytes]:
    """Every file with its content, read; directories as `name/`."""
    found = {}
    for path in root.rglob("*"):
        relative = str(path.relative_to(root))
        if path.is_dir():
            found[relative + "/"] = b""
        else:
            found[relative] = path.read_bytes()
    return found


def refresh(place: Site, path: str = "") -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(place.cli("refresh", place.root / path, "--json").stdout)
    return {name: answer[name] for name in ("new", "changed", "deleted")}


def test_new_changed_and_deleted_objects_show_after_a_refresh(here: Site) -> None:
    before = tree(here.root)
    absent = here.root / "d" / "new"
    assert not absent.exists()  # remembered by the kernel
    listed = here.root / "d"
    mtime = listed.stat().st_mtime_ns
    here.put("p/d/new", b"new")
    here.put("p/n/e/w", b"in new directories")
    here.put("p/a", b"another content of a")
    for key in ("p/d/e/c", "p/gone/y", "p/m/x", "p/m/"):
        here.s3.delete_object(Bucket=here.bucket, Key=key)
    found = refresh(here)
    assert (found["changed"], found["deleted"]) == (1, 4)
    after = {name: body for name, body in before.items() if name not in ("d/e/c", "gone/y", "m/x", "m/")}
    after |= {"d/new": b"new", "n/": b"", "n/e/": b"", "n/e/w": b"in new directories", "a": b"another content of a"}
    # `gone` and `d/e` had no object of their own: as local directories they stay when they become empty.
    assert tree(here.root) == after
    assert listed.stat().st_mtime_ns > mtime
    assert refresh(here) == {"new": 0, "changed": 0, "deleted": 0}
    here.unmount()
    assert here.cli("fsck", here.state_dir).returncode == 0


def test_other_attributes_of_the_same_bytes_show(here: Site) -> None:
    ino = os.stat(here.root / "a").st_ino
    (here.root / "mine").write_bytes(b"mine")
    here.drain()
    here.put("p/link", b"a", Metadata={"file-permissions": "0120777"})
    assert refresh(here) == {"new": 1, "changed": 0, "deleted": 0} and os.readlink(here.root / "link") == "a"
    time.sleep(3.1)  # times of objects, some of them in whole seconds, are compared with a margin
    for key, mode in (("p/a", "0100640"), ("p/m/", "0100640"), ("p/link", "0120777")):
        here.s3.copy_object(
            Bucket=here.bucket, Key=key, CopySource=f"{here.bucket}/{key}",
            Metadata={"file-permissions": mode, "file-owner": "7"}, MetadataDirective="REPLACE",
        )  # fmt: skip
    assert refresh(here) == {"new": 0, "changed": 3, "deleted": 0}
    assert (os.lstat(here.root / "link").st_uid, os.readlink(here.root / "link")) == (7, "a")
    for name in ("a", "m"):
        found = os.stat(here.root / name)
        assert (found.st_mode & 0o777, found.st_uid) == (0o640, 7)
    assert os.stat(here.root / "a").st_ino == ino and "released" not in here.hsm("a")
    assert refresh(here) == {"new": 0, "changed": 0, "deleted": 0}


def test_attributes_stay_when_the_new_object_carries_none(here: Site) -> None:
    here.put("p/d/own", b"old", Metadata={"file-permissions": "0100640", "file-owner": "7", "file-group": "8"})
    assert refresh(here)["new"] == 1
    for body in (b"old", b"new content"):
        found = os.stat(here.root / "d/own")
        assert (found.st_mode & 0o777, found.st_uid, found.st_gid, found.st_size) == (0o640, 7, 8, len(body))
        assert (here.root / "d/own").read_bytes() == body
        here.put("p/d/own", b"new content")
        assert refresh(here)["changed"] == (body == b"old")


def test_own_writes_renames_and_deletes_are_never_imported_back(here: Site) -> None:
    (here.root / "mine").write_bytes(b"mine")
    (here.root / "a").write_bytes(b"a of mine")
    (here.root / "d").rename(here.root / "moved")
    (here.root / "m/x").unlink()
    expected = tree(here.root)
    assert refresh(here) == {"new": 0, "changed": 0, "deleted": 0}  # some of it not exported yet
    here.drain()
    assert refresh(here) == {"new": 0, "changed": 0, "deleted": 0}
    assert tree(here.root) == expected


def test_sweeps_beside_a_busy_job_never_touch_what_it_writes(here: Site) -> None:
    stop = threading.Event()
    failures: list[str] = []

    def job() -> None:
        for number in range(150):
            path = here.root / f"d/f{number % 20}"
            path.write_bytes(f"{number}".encode())
            if path.read_bytes() != f"{number}".encode():
                failures.append(f"{path} has another content")
            if number % 3 == 0:
                path.unlink()
            elif number % 7 == 0:
                path.rename(here.root / f"m/g{number}")
        stop.set()

    worker = threading.Thread(target=job)
    worker.start()
    while not stop.is_set():
        found = refresh(here)
        assert found == {"new": 0, "changed": 0, "deleted": 0}
    worker.join()
    assert not failures
    here.drain()
    assert {key[2:]: body for key, body in here.objects().items() if not key.endswith("/")} == {
        name: body for name, body in tree(here.root).items() if not name.endswith("/")
    }


def test_a_change_made_here_survives_the_loss_of_its_object(make_site: Callable[..., Site]) -> None:
    place = make_site(auto_export="none")
    place.put("p/f", b"theirs")
    place.mount()
    place.expected_log.append("conflict kept kind=only-here path=/f")
    (place.root / "f").write_bytes(b"ours")
    place.drain()
    place.s3.delete_object(Bucket=place.bucket, Key="p/f")
    assert refresh(place)["deleted"] == 0
    assert (place.root / "f").read_bytes() == b"ours"
    assert "what of it is local is all there is" in place.cli("why", place.root / "f").stdout


def test_open_files_of_objects_that_go_or_change(here: Site) -> None:
    ino = (here.root / "a").stat().st_ino
    with (here.root / "a").open("rb", buffering=0) as gone, (here.root / "d/b").open("rb", buffering=0) as changed:
        here.s3.delete_object(Bucket=here.bucket, Key="p/a")
        here.put("p/d/b", b"another content of b")
        assert refresh(here) == {"new": 0, "changed": 1, "deleted": 1}
        assert gone.read() == OBJECTS["p/a"]  # resident, and kept by the handle
        with pytest.raises(OSError) as caught:
            changed.read()
        assert caught.value.errno == errno.ESTALE
    assert (here.root / "d/b").read_bytes() == b"another content of b"
    assert not (here.root / "a").exists()
    while list((here.state_dir / "data").rglob(f"{ino:x}.*")):
        pass  # the bytes go once nobody has the file open and the table is on disk


@pytest.mark.parametrize("policy", ["new", "changed", "deleted", "none"])
@pytest.mark.one_in(2)
def test_sweeps_follow_the_policy_and_refresh_does_not(make_site: Callable[..., Site], policy: str) -> None:
    place = make_site(auto_import=policy)
    for key in ("p/old", "p/gone"):
        place.put(key, b"content")
    place.mount()
    place.unmount()
    place.put("p/new", b"new")
    place.put("p/old", b"changed")
    place.s3.delete_object(Bucket=place.bucket, Key="p/gone")
    place.mount()  # everything was imported before: a sweep comes first
    if policy != "none":
        wait_for_sweep(place)
    names = {"old"} | ({"new"} if policy == "new" else set()) | (set() if policy == "deleted" else {"gone"})
    assert set(os.listdir(place.root)) == names
    assert os.stat(place.root / "old").st_size == (7 if policy == "changed" else len("content"))
    refresh(place)
    assert tree(place.root) == {"old": b"changed", "new": b"new"}


def wait_for_sweep(place: Site) -> dict[str, Any]:
    while True:
        (association,) = place.status()["associations"]
        if association["sweep"]["at"]:
            return dict(association["sweep"])
        assert not association["sweep"]["error"], association


def wait_next_sweep(place: Site) -> None:
    """One that began after now has ended."""
    client = ControlClient(str(place.state_dir / "control.sock"))

    def ended() -> float:
        (association,) = client.call("Status")["associations"]
        return float(association["sweep"]["at"] or 0)

    for _ in range(2):
        before = ended()
        while ended() == before:
            time.sleep(0.05)


def test_a_directory_object_beside_a_file_takes_nothing_along(make_site: Callable[..., Site]) -> None:
    """New objects are not imported, so the file does not make way; nor does it go with an object that is not its own."""
    place = make_site(auto_import="changed+deleted", import_interval="1")
    place.put("p/a", b"content")
    place.mount()
    mtime = os.stat(place.root / "a").st_mtime_ns
    place.put("p/a/")
    wait_next_sweep(place)
    assert os.stat(place.root / "a").st_mtime_ns == mtime
    place.s3.delete_object(Bucket=place.bucket, Key="p/a/")
    wait_next_sweep(place)
    assert tree(place.root) == {"a": b"content"}
    place.unmount()
    assert place.cli("fsck", place.state_dir).returncode == 0


def test_an_object_below_what_is_a_file_now_is_not_put_there(make_site: Callable[..., Site]) -> None:
    place = make_site(auto_import="changed", auto_export="new+changed", import_interval="1")
    place.put("p/d/x", b"content")
    place.mount()
    (place.root / "d/x").unlink()
    (place.root / "d").rmdir()
    (place.root / "d").write_bytes(b"a file")
    place.put("p/d/x", b"changed")
    wait_next_sweep(place)
    assert tree(place.root) == {"d": b"a file"}
    place.drain()
    place.unmount()
    assert place.cli("fsck", place.state_dir).returncode == 0
    assert place.objects() == {"p/d": b"a file", "p/d/x": b"changed"}


def test_sweeps_come_by_themselves(make_site: Callable[..., Site]) -> None:
    place = make_site(import_interval="1").mount()
    assert os.listdir(place.root) == []
    place.put("p/new", b"new")
    while not (place.root / "new").exists():
        pass
    place.s3.delete_object(Bucket=place.bucket, Key="p/new")
    while (place.root / "new").exists():
        pass
    assert "1 deleted" in place.cli("status", place.root).stdout or refresh(place)["deleted"] == 0


def test_changes_show_after_the_interval_and_the_time_of_a_sweep(make_site: Callable[..., Site]) -> None:
    interval, margin = 2.0, 1.0
    place = make_site(import_interval=f"{interval:.0f}")
    for key in ("p/a/changed", "p/a/gone", "p/z/changed", "p/z/gone"):
        place.put(key, b"before")
    place.mount()
    tree(place.root)
    client = ControlClient(str(place.state_dir / "control.sock"))

    def last_sweep() -> dict[str, Any]:
        (association,) = client.call("Status")["associations"]
        return dict(association["sweep"])

    while not last_sweep()["at"]:
        time.sleep(0.05)  # who changes something just after a sweep waits longest
    started = time.monotonic()
    for name in "az":
        place.put(f"p/{name}/new", b"new")
        place.put(f"p/{name}/changed", b"changed since")
        place.s3.delete_object(Bucket=place.bucket, Key=f"p/{name}/gone")
    after = {f"{name}/{what}": body for name in "az" for what, body in (("new", b"new"), ("changed", b"changed since"))}

    def sizes() -> dict[str, int]:
        with suppress(FileNotFoundError):  # a file may go between its name and its size
            return {str(path.relative_to(place.root)): path.stat().st_size for path in place.root.glob("*/*")}
        return {}

    while sizes() != {name: len(body) for name, body in after.items()}:
        time.sleep(0.05)
    lag = time.monotonic() - started
    assert lag < interval + last_sweep()["seconds"] + margin, last_sweep()
    assert tree(place.root) == {**after, "a/": b"", "z/": b""}


def test_a_refresh_of_one_subtree_or_file_leaves_the_rest(here: Site) -> None:
    for key in ("p/d/b", "p/d/e/c", "p/a"):
        here.put(key, b"changed")
    here.put("p/d/e/new", b"new")
    here.put("p/x", b"new")
    assert refresh(here, "d/e") == {"new": 1, "changed": 1, "deleted": 0}
    assert tree(here.root / "d/e") == {"c": b"changed", "new": b"new"}
    assert os.stat(here.root / "a").st_size == len(OBJECTS["p/a"])
    assert refresh(here, "a")["changed"] == 1
    assert (here.root / "a").read_bytes() == b"changed"
    assert sorted(os.listdir(here.root)) == ["a", "d", "gone", "m"]
    here.s3.delete_object(Bucket=here.bucket, Key="p/a")
    assert refresh(here, "a")["deleted"] == 1
    assert not (here.root / "a").exists()
    done = here.cli("refresh", here.root / "d/e/not/there", check=False)
    assert done.returncode == 1 and "no such path" in done.stderr


def test_a_refresh_of_one_subtree_asks_about_nothing_else(make_site: Callable[..., Site], proxy: BackgroundProxy) -> None:
    place = make_site(endpoint_url=proxy.endpoint_url)
    for key in ("p/a/x", "p/b/", "p/b/x", "p/b/y", "p/b-/x", "p/c/x"):
        place.put(key, b"content")
    place.mount()
    tree(place.root)
    place.s3.delete_object(Bucket=place.bucket, Key="p/b/y")
    place.s3.delete_object(Bucket=place.bucket, Key="p/c/x")
    mark = proxy.mark()
    assert refresh(place, "b")["deleted"] == 1
    heads = proxy.requests("HEAD", since=mark)
    assert heads and all("/p/b/y" in head for head in heads), heads
    assert refresh(place)["deleted"] == 1


@pytest.mark.long
def test_pages_with_nothing_left_in_them_count(make_site: Callable[..., Site]) -> None:
    """Deleted objects are found also where whole pages, or the whole prefix, are gone; long keys too."""
    place = make_site()
    long = "/".join(["x" * 200] * 4)
    keys = [f"p/{number:05d}" for number in range(2500)] + [f"p/{long}/f{number}" for number in range(3)]
    for key in keys:
        place.put(key, b"")
    place.mount()
    gone = [*keys[300:2300], keys[-2]]
    for at in range(0, len(gone), 1000):
        place.s3.delete_objects(Bucket=place.bucket, Delete={"Objects": [{"Key": key} for key in gone[at : at + 1000]]})
    assert refresh(place)["deleted"] == len(gone)
    assert len(os.listdir(place.root)) == 501
    assert sorted(os.listdir(place.root / long)) == ["f0", "f2"]
    for key in set(keys) - set(gone):
        place.s3.delete_object(Bucket=place.bucket, Key=key)
    assert refresh(place)["deleted"] == 502
    assert sorted(os.listdir(place.root)) == ["x" * 200]


@pytest.mark.long
def test_a_key_that_may_not_be_looked_at_holds_no_other_up(make_site: Callable[..., Site], proxy: BackgroundProxy) -> None:
    place = make_site(endpoint_url=proxy.endpoint_url, posix_metadata="off")
    place.expected_log.append("name stays, the bucket does not say")
    keys = [f"p/f{number:04d}" for number in range(1050)]  # more than a page
    for key in (*keys, "p/gone", "p/m/"):
        place.put(key, b"")
    place.mount()
    for key in ("p/f0000", "p/f0001", "p/f1040", "p/gone", "p/m/"):
        place.s3.delete_object(Bucket=place.bucket, Key=key)
    place.put("p/new", b"new")
    for key in ("p/f0000", "p/f1040", "p/m/"):
        proxy.add("denied", method="HEAD", path=key, times=1000)
    found = json.loads(place.cli("refresh", place.root, "--json").stdout)
    assert [found[name] for name in ("new", "deleted", "refused")] == [1, 2, 3]
    assert {"f0000", "f1040", "m", "new"} < set(os.listdir(place.root)) and not (place.root / "gone").exists()
    assert "HeadObject" in place.why("f0000")["last_error"] and "s3:GetObject" in place.why("f0000")["remedy"]
    assert "3 left as they were" in place.cli("refresh", place.root).stdout
    place.put("p/f1040", b"again")
    refresh(place)
    assert place.why("f1040")["last_error"] is None  # a listing tells of it
    place.unmount()
    place.mount()  # the sweep of a mount comes to its end as well
    assert wait_for_sweep(place)["refused"] == 2 and "2 left as they were" in place.cli("status", place.root).stdout
    proxy.clear_faults()
    assert refresh(place)["deleted"] == 2
    assert sorted(set(os.listdir(place.root)) - {key[2:] for key in keys}) == ["new"]


def test_a_bucket_that_refuses_every_look_fails_the_sweep(make_site: Callable[..., Site], proxy: BackgroundProxy) -> None:
    place = make_site(endpoint_url=proxy.endpoint_url)
    place.expected_log.append("control failed operation=S3LustreFS.Refresh")
    for key in ("p/a", "p/gone"):
        place.put(key, b"")
    place.mount()
    place.s3.delete_object(Bucket=place.bucket, Key="p/gone")
    for action in ("denied", "slowdown"):
        proxy.add(action, method="HEAD", times=1000)
        done = place.cli("refresh", place.root, check=False)
        assert done.returncode == 1 and "HeadObject" in done.stderr and (place.root / "gone").exists()
        proxy.clear_faults()
    assert refresh(place)["deleted"] == 1


def test_a_refresh_of_a_subtree_goes_ahead_of_a_sweep(make_site: Callable[..., Site], proxy: BackgroundProxy) -> None:
    place = make_site(endpoint_url=proxy.endpoint_url, import_interval="1h", posix_metadata="off")
    keys = [f"p/f{number:04d}" for number in range(1001)]  # more than a page
    for key in (*keys, "p/z/changed", "p/z/gone", "p/z/kept", "p/z/m/"):
        place.put(key, b"old")
    place.mount()
    place.unmount()
    place.put("p/z/gone", b"changed first")
    place.put("p/z/fresh", b"first")
    for path in ("continuation-token", "start-after"):
        proxy.add("hold-reply", method="GET", path=path, times=1000)
    place.mount()  # the sweep gets an answer about `z` that is out of date when it arrives
    proxy.wait_held()
    place.put("p/z/changed", b"new content")
    place.put("p/z/fresh", b"changed since")
    place.put("p/z/new", b"new")
    place.put("p/z/n/m/", b"")
    for key in ("p/z/gone", "p/z/m/"):
        place.s3.delete_object(Bucket=place.bucket, Key=key)
    found = json.loads(place.cli("refresh", place.root / "z", "--json").stdout)
    assert (found["changed"], found["deleted"]) == (1, 2) and not place.status()["associations"][0]["sweep"]["error"]
    after = {"changed": b"new content", "fresh": b"changed since", "kept": b"old", "new": b"new", "n/": b"", "n/m/": b""}
    assert tree(place.root / "z") == after
    proxy.clear_faults()
    while place.status()["associations"][0]["sweep"]["objects"] < 1000:
        time.sleep(0.1)
    sizes = [os.stat(place.root / "z" / name).st_size for name in ("changed", "fresh")]  # a read would find out by itself
    assert sizes == [11, 13] and tree(place.root / "z") == after, "the older answer undid what the refresh had found"
    assert refresh(place) == {"new": 0, "changed": 0, "deleted": 0}


@pytest.mark.long
def test_a_tree_of_more_than_one_page_goes_with_its_directories(make_site: Callable[..., Site]) -> None:
    """Directories within a page and across pages; deeper ones, and one whose key is cut in the table."""
    here = make_site()
    long = "/".join("n" * 150 for _ in range(4))
    directories = ["", "many/", *(f"many/{n:02}/" for n in range(12)), "many/05/x/", "many/05/x/y/", f"{long}/"]
    keys = [f"p/{directory}" for directory in directories[1:]]
    keys += [f"p/{directory}f{n:02}" for directory in directories if directory != "many/" for n in range(45)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(here.put, [*keys, "p/many/07/stays", "p/zz/f"]))
    here.mount()
    before = tree(here.root)
    assert len([name for name in before if not name.endswith("/")]) == 722 and "many/05/x/y/" in before
    for at in range(0, len(keys), 1000):
        here.s3.delete_objects(Bucket=here.bucket, Delete={"Objects": [{"Key": key} for key in keys[at : at + 1000]]})
    assert refresh(here)["deleted"] == len(keys) - 2
    # What was above the directory of the long name had no object of its own.
    left = {f"{'/'.join(long.split('/')[:depth])}/" for depth in (1, 2, 3)}
    assert tree(here.root) == dict.fromkeys({"many/", "many/07/", "many/07/stays", "zz/", "zz/f", *left}, b"")
    assert refresh(here) == {"new": 0, "changed": 0, "deleted": 0}
    here.unmount()
