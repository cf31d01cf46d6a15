"""File caches: the names in a directory come when somebody looks into it, and stay as they were then."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.namespace import RENAME_EXCHANGE
from s3lustrefs.meta.unmounted_store import reading
from s3lustrefs.model.ids import Ino
from s3lustrefs.movers import repair
from tests.mount.background_proxy import BackgroundProxy
from tests.mount.conftest import fresh_bucket
from tests.mount.file_cache import FileCache, file_cache
from tests.mount.site import WAIT_SECONDS
from tests.posix.calls import renameat2
from tests.semantics.mounted import put_objects
from tests.servers import S3Server

POSIX = {"file-permissions": "040700", "file-owner": "1234", "file-group": "4321"}
FILES = ("top", "a/one", "a/two", "a/deep/three", "a/deep/er/four", "b/five", "m/six")
BODIES = {name: name.encode() for name in FILES}


@pytest.fixture
def cache(moto_server: S3Server, proxy: BackgroundProxy) -> Iterator[FileCache]:
    bucket = fresh_bucket(moto_server)
    put_objects(moto_server, bucket, [(f"in/{name}", body, {}) for name, body in BODIES.items()])
    s3 = moto_server.client()
    s3.put_object(Bucket=bucket, Key="in/m/", Body=b"", Metadata=POSIX)
    s3.close()
    with file_cache(moto_server, bucket, proxy.endpoint_url) as made:
        yield made


def put(cache: FileCache, key: str, body: bytes = b"new") -> None:
    s3 = cache.host.server.client()
    s3.put_object(Bucket=cache.bucket, Key=f"in/{key}", Body=body)
    s3.close()


def remove(cache: FileCache, *keys: str) -> None:
    s3 = cache.host.server.client()
    for key in keys:
        s3.delete_object(Bucket=cache.bucket, Key=f"in/{key}")
    s3.close()


def in_bucket(cache: FileCache) -> set[str]:
    s3 = cache.host.server.client()
    found = s3.list_objects_v2(Bucket=cache.bucket)["Contents"]
    s3.close()
    return {each["Key"].removeprefix("in/") for each in found}


def known(cache: FileCache) -> set[str]:
    """What the table of the unmounted cache knows below the linked directory; nobody looks into anything for that."""
    assert repair.find(cache.state_dir) == []

    async def walk(engine: MetadataEngine, ino: Ino, path: str, found: set[str]) -> None:
        for name, inode in await engine.readdir(ino, b"", 10_000):
            found.add(path + os.fsdecode(name))
            if inode.is_dir:
                await walk(engine, inode.ino, f"{path}{os.fsdecode(name)}/", found)

    async def look() -> set[str]:
        with reading(cache.state_dir) as engine:
            found: set[str] = set()
            await walk(engine, (await engine.resolve(b"/data")).ino, "", found)
            return found

    return trio.run(look)


def listed(proxy: BackgroundProxy, since: int = 0) -> list[str]:
    """The prefixes of all listings, in order."""
    found = []
    for request in proxy.listings(since):
        query = urllib.parse.parse_qs(request.partition("?")[2])
        found.append(query.get("prefix", [""])[0])
    return found


def everything(data: Path) -> dict[str, bytes]:
    """All files below a directory with their content."""
    return {
        str((Path(directory) / name).relative_to(data)): (Path(directory) / name).read_bytes()
        for directory, _, names in os.walk(data)
        for name in names
    }


# --- looking --------------------------------------------------------------------------------------------------------------------


def test_directory_is_listed_when_somebody_looks_into_it_and_then_never_again(cache: FileCache, proxy: BackgroundProxy) -> None:
    data = cache.mount()
    mark = proxy.mark()
    assert stat.S_ISDIR(data.stat().st_mode) and listed(proxy, mark) == []
    assert sorted(os.listdir(data)) == ["a", "b", "m", "top"]
    assert stat.S_ISDIR((data / "a").stat().st_mode)
    assert listed(proxy, mark) == ["in/"]
    assert (data / "a" / "one").read_bytes() == b"a/one"
    assert sorted(os.listdir(data / "a")) == ["deep", "one", "two"]
    assert not (data / "a" / "no").exists()
    assert listed(proxy, mark) == ["in/", "in/a/"]
    cache.unmount()
    assert known(cache) == {"a", "b", "m", "top", "a/deep", "a/one", "a/two"}

    data = cache.mount()
    mark = proxy.mark()
    assert sorted(os.listdir(data)) == ["a", "b", "m", "top"] and not (data / "a" / "no").exists()
    assert listed(proxy, mark) == []
    assert not (data / "b" / "no").exists()
    assert listed(proxy, mark) == ["in/b/"], "a name that is not there is looked for in the bucket, once"
    assert everything(data) == BODIES
    assert sorted(listed(proxy, mark)) == ["in/a/deep/", "in/a/deep/er/", "in/b/", "in/m/"]
    cache.unmount()


def test_walk_by_link_counts_misses_nothing(cache: FileCache) -> None:
    data = cache.mount()
    assert (data / "a").stat().st_nlink == 1, "unknown, as on btrfs"
    found = cache.host.run("find", data, "-type", "f").stdout.split()
    assert {str(Path(path).relative_to(data)) for path in found} == set(FILES)
    assert (data / "a").stat().st_nlink == 3 and (data / "b").stat().st_nlink == 2
    cache.unmount()


def test_attributes_of_a_directory_show_before_anybody_looks_into_it_and_changes_of_them_stay(cache: FileCache) -> None:
    data = cache.mount()
    found = (data / "m").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o700, 1234, 4321)
    (data / "m").chmod(0o750)
    time.sleep(3)  # that it is not exported is settled by then
    assert os.listdir(data / "m") == ["six"]
    assert stat.S_IMODE((data / "m").stat().st_mode) == 0o750
    cache.unmount()


def test_many_who_look_into_one_directory_at_once_cost_one_listing(cache: FileCache, proxy: BackgroundProxy) -> None:
    data = cache.mount()
    os.listdir(data)
    mark = proxy.mark()
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(sorted(os.listdir(data / "a")))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["deep", "one", "two"]] * 16 and listed(proxy, mark) == ["in/a/"]
    cache.unmount()


def test_bucket_that_refuses_is_an_error_and_no_empty_directory(cache: FileCache, proxy: BackgroundProxy) -> None:
    data = cache.mount()
    os.listdir(data)
    proxy.add("denied", method="GET", path="in%2Fa%2F", times=1000)
    for look in (lambda: os.listdir(data / "a"), lambda: os.stat(data / "a" / "one"), lambda: os.stat(data / "a" / "no")):
        with pytest.raises(PermissionError):
            look()
    assert (data / "b" / "five").read_bytes() == b"b/five"
    proxy.clear_faults()
    assert (data / "a" / "one").read_bytes() == b"a/one" and not (data / "a" / "no").exists()
    cache.unmount()


# --- changes in the bucket -------------------------------------------------------------------------------------------------------


def test_what_was_listed_stays_until_a_refresh_which_leaves_the_rest_alone(cache: FileCache) -> None:
    data = cache.mount()
    assert sorted(os.listdir(data / "a")) == ["deep", "one", "two"]
    put(cache, "a/new")
    put(cache, "a/deep/new")
    put(cache, "c/new")
    remove(cache, "a/two", "b/five", "a/deep/three")
    assert sorted(os.listdir(data)) == ["a", "b", "m", "top"]
    assert sorted(os.listdir(data / "a")) == ["deep", "one", "two"]
    cache.run("refresh", data)
    assert sorted(os.listdir(data)) == ["a", "b", "c", "m", "top"]
    assert sorted(os.listdir(data / "a")) == ["deep", "new", "one"]
    cache.unmount()
    assert known(cache) == {"a", "b", "c", "m", "top", "a/deep", "a/one", "a/new"}
    data = cache.mount()
    assert os.listdir(data / "c") == ["new"] and sorted(os.listdir(data / "a" / "deep")) == ["er", "new"]
    assert os.listdir(data / "b") == []
    cache.unmount()


def test_directory_object_that_is_gone_takes_no_directory_along_that_nobody_looked_into(cache: FileCache) -> None:
    data = cache.mount()
    assert os.listdir(data / "m") == ["six"]
    put(cache, "m/n/", b"")
    put(cache, "m/n/seven", b"seven")
    cache.run("refresh", data)
    assert sorted(os.listdir(data / "m")) == ["n", "six"]
    remove(cache, "m/n/")
    cache.run("refresh", data)
    assert sorted(os.listdir(data / "m")) == ["n", "six"]
    assert (data / "m" / "n" / "seven").read_bytes() == b"seven"
    cache.unmount()


def test_refresh_waits_for_what_is_being_listed(cache: FileCache, proxy: BackgroundProxy) -> None:
    """Or it would leave a directory alone that then shows an answer from before."""
    data = cache.mount()
    os.listdir(data)
    proxy.add("hold-reply", method="GET", path="in%2Fa%2F")
    looking = threading.Thread(target=os.listdir, args=(data / "a",))
    looking.start()
    proxy.wait_held()
    put(cache, "a/new")
    refreshing = threading.Thread(target=cache.run, args=("refresh", data))
    refreshing.start()
    time.sleep(3)
    assert refreshing.is_alive()
    proxy.clear_faults()
    looking.join()
    refreshing.join()
    assert sorted(os.listdir(data / "a")) == ["deep", "new", "one", "two"]
    cache.unmount()


def test_refresh_of_a_path_nobody_has_looked_at(cache: FileCache, proxy: BackgroundProxy) -> None:
    data = cache.mount()
    mark = proxy.mark()
    cache.run("refresh", data / "a" / "deep")
    assert "in/a/deep/" in listed(proxy, mark) and "in/a/deep/er/" not in listed(proxy, mark)
    cache.unmount()
    assert known(cache) >= {"a/deep/three", "a/deep/er"} and "a/deep/er/four" not in known(cache)


def test_sweeps_of_a_cache_that_its_owner_lets_import_show_where_somebody_has_looked(cache: FileCache) -> None:
    data = cache.mount(options="auto_import=new+changed+deleted,import_interval=0.3")
    assert sorted(os.listdir(data / "a")) == ["deep", "one", "two"]
    put(cache, "a/new")
    put(cache, "a/deep/new")
    put(cache, "c/new")
    put(cache, "a/one", b"changed")
    remove(cache, "a/two", "b/five")
    deadline = time.monotonic() + WAIT_SECONDS
    while sorted(os.listdir(data / "a")) != ["deep", "new", "one"] or not (data / "c").exists():
        assert time.monotonic() < deadline, os.listdir(data / "a")
        time.sleep(0.1)
    while (data / "a" / "one").read_bytes() != b"changed":
        assert time.monotonic() < deadline
    cache.unmount()
    assert known(cache) == {"a", "b", "c", "m", "top", "a/deep", "a/one", "a/new"}


# --- changes here ----------------------------------------------------------------------------------------------------------------


def test_renamed_directory_takes_along_what_nobody_has_looked_at(cache: FileCache) -> None:
    data = cache.mount()
    (data / "a").rename(data / "z")
    moved = {name.replace("a/", "z/", 1) if name.startswith("a/") else name: body for name, body in BODIES.items()}
    assert sorted(os.listdir(data)) == ["b", "m", "top", "z"] and everything(data) == moved
    cache.run("refresh", data)
    assert everything(data) == moved and not (data / "a").exists()
    cache.unmount()
    data = cache.mount()
    assert everything(data) == moved
    assert in_bucket(cache) == {*FILES, "m/"}
    (data / "a").mkdir()
    assert os.listdir(data / "a") == []
    cache.unmount()


def test_directory_that_cannot_be_listed_stays_where_it_is(cache: FileCache, proxy: BackgroundProxy) -> None:
    data = cache.mount()
    proxy.add("denied", method="GET", path="in%2Fa%2Fdeep%2Fer%2F", times=1000)
    with pytest.raises(PermissionError):
        (data / "a").rename(data / "z")
    assert sorted(os.listdir(data)) == ["a", "b", "m", "top"]
    hydrated = cache.run("hydrate", data / "a", check=False)
    assert hydrated.returncode == 1 and "/: " in hydrated.stderr + hydrated.stdout
    with pytest.raises(PermissionError):
        shutil.rmtree(data / "a" / "deep")
    proxy.clear_faults()
    (data / "a").rename(data / "z")
    assert (data / "z" / "deep" / "er" / "four").read_bytes() == b"a/deep/er/four"
    cache.unmount()


def test_names_move_into_and_onto_directories_nobody_has_looked_into(cache: FileCache) -> None:
    data = cache.mount()
    (data / "top").rename(data / "b" / "top")
    assert sorted(os.listdir(data / "b")) == ["five", "top"]
    (data / "empty").mkdir()
    with pytest.raises(OSError) as caught:
        (data / "empty").rename(data / "a")
    assert caught.value.errno == errno.ENOTEMPTY
    with pytest.raises(OSError) as caught:
        (data / "m").rmdir()
    assert caught.value.errno == errno.ENOTEMPTY
    renameat2(data / "a" / "deep", data / "m", RENAME_EXCHANGE)
    assert os.listdir(data / "a" / "deep") == ["six"] and sorted(os.listdir(data / "m")) == ["er", "three"]
    os.link(data / "b" / "five", data / "m" / "er" / "link")
    assert sorted(os.listdir(data / "m" / "er")) == ["four", "link"]
    cache.unmount()
    assert repair.find(cache.state_dir) == []


def test_removed_tree_does_not_come_back(cache: FileCache) -> None:
    data = cache.mount()
    shutil.rmtree(data / "a")
    assert sorted(os.listdir(data)) == ["b", "m", "top"]
    cache.run("refresh", data)
    cache.unmount()
    data = cache.mount()
    assert sorted(os.listdir(data)) == ["b", "m", "top"] and not (data / "a").exists()
    (data / "a").mkdir()
    assert os.listdir(data / "a") == []
    put(cache, "a/deep/later", b"later")
    cache.run("refresh", data)
    assert everything(data / "a") == {"deep/later": b"later"}
    assert in_bucket(cache) == {*FILES, "m/", "a/deep/later"}, "a file cache deletes nothing in the bucket"
    cache.unmount()


def test_hydrate_brings_everything_below_a_directory_nobody_has_looked_into(cache: FileCache) -> None:
    data = cache.mount()
    cache.run("hydrate", data / "a")
    for name in [name for name in FILES if name.startswith("a/")]:
        assert b"released" not in os.getxattr(data / name, "user.s3lustrefs.hsm")
    cache.unmount()
    assert known(cache) == {"a", "b", "m", "top", "a/deep", "a/one", "a/two", "a/deep/three", "a/deep/er", "a/deep/er/four"}
    data = cache.mount()
    cache.run("hydrate", data.parent)
    for name in FILES:
        assert b"released" not in os.getxattr(data / name, "user.s3lustrefs.hsm")
    cache.unmount()


def test_commands_find_paths_nobody_has_looked_at(cache: FileCache) -> None:
    data = cache.mount()
    assert "in/a/deep/er/four" in cache.run("why", data / "a" / "deep" / "er" / "four", "--json").stdout
    cache.run("drain", data / "b" / "five")
    assert "in/b" in cache.run("why", data / "b", "--json").stdout
    status = cache.run("status", data.parent).stdout
    assert "lazy, " in status and "objects" in status
    cache.unmount()


def test_version_comes_back_where_nobody_has_looked(cache: FileCache) -> None:
    s3 = cache.host.server.client()
    s3.put_bucket_versioning(Bucket=cache.bucket, VersioningConfiguration={"Status": "Enabled"})
    old = s3.put_object(Bucket=cache.bucket, Key="in/v/w/file", Body=b"old")["VersionId"]
    s3.put_object(Bucket=cache.bucket, Key="in/v/w/file", Body=b"new")
    s3.close()
    data = cache.mount(options="auto_export=new+changed+deleted")
    path = data / "v" / "w" / "file"
    shown = json.loads(cache.run("versions", path, "--json").stdout)["versions"]
    assert [each["here"] for each in shown] == [True, False]
    cache.run("versions", path, "--restore", old)
    assert path.read_bytes() == b"old" and os.listdir(data / "v" / "w") == ["file"]
    cache.unmount()


def test_read_only_mount_looks_as_well(cache: FileCache) -> None:
    data = cache.mount(options="ro")
    assert everything(data) == BODIES
    cache.unmount()
    assert known(cache) >= set(FILES)


# --- deaths ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failpoint",
    [
        "directory.batch",
        "directory.batch:2",
        "directory.listed",
        "directory.recorded",
    ],
)
@pytest.mark.long
def test_directory_whose_listing_a_death_cut_is_listed_again(cache: FileCache, failpoint: str) -> None:
    """Of more than a page, with subdirectories: whoever died between them has recorded a part."""
    names = {f"big/f{number:04}" for number in range(1100)} | {f"big/d{number}/x" for number in range(5)}
    put_objects(cache.host.server, cache.bucket, [(f"in/{name}", b"x", {}) for name in names])
    data = cache.mount()
    assert len(os.listdir(data)) == 5
    cache.unmount()
    data = cache.mount(failpoint)
    with cache.dying():
        os.listdir(data / "big")
        os.listdir(data / "big" / "d0")
    partial = known(cache)
    data = cache.mount()
    shutil.rmtree(data / "big" / "d1")
    (data / "big" / "f0000").unlink()
    expected = {name for name in names if name not in ("big/f0000", "big/d1/x")}
    assert {f"big/{name}" for name in everything(data / "big")} == expected, (failpoint, len(partial))
    cache.run("refresh", data)
    assert {f"big/{name}" for name in everything(data / "big")} == expected
    cache.unmount()
    assert repair.find(cache.state_dir) == []


def test_rename_cut_by_a_death_leaves_one_whole_tree(cache: FileCache) -> None:
    data = cache.mount("directory.recorded:3")
    with cache.dying():
        (data / "a").rename(data / "z")
    data = cache.mount()
    assert everything(data) == BODIES
    cache.unmount()
    assert repair.find(cache.state_dir) == []


def test_repaired_cache_lists_again_what_it_may_have_lost(cache: FileCache, proxy: BackgroundProxy) -> None:
    data = cache.mount()
    assert everything(data) == BODIES
    (data / "b" / "ours").write_bytes(b"ours")
    ino = (data / "a" / "one").stat().st_ino
    cache.unmount()
    lose_inode(cache, ino)
    assert "/data/a/one: name removed" in cache.run("fsck", "--repair", cache.state_dir, check=False).stdout
    data = cache.mount()
    mark = proxy.mark()
    assert everything(data) == {**BODIES, "b/ours": b"ours"}
    assert "in/a/" in listed(proxy, mark)
    cache.unmount()
    assert repair.find(cache.state_dir) == []


def lose_inode(cache: FileCache, ino: int) -> None:
    import lmdb

    from s3lustrefs.meta.schema import Table

    with lmdb.open(str(cache.state_dir / "meta"), max_dbs=len(Table)) as environment:
        table = environment.open_db(b"inodes", create=False)
        with environment.begin(write=True) as txn:
            assert txn.delete(ino.to_bytes(8, "big"), db=table)
