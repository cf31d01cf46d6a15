"""After a mount the tree equals the bucket, no content was touched, and nobody had to wait for the whole of it."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.mount.background_proxy import BackgroundProxy
from tests.mount.conftest import fresh_bucket
from tests.mount.site import WAIT_SECONDS, Site
from tests.posix.calls import RENAME_EXCHANGE, fails, renameat2
from tests.semantics.mounted import put_objects
from tests.servers import S3Server

POSIX = {
    "file-permissions": "0100640",
    "file-owner": "1234",
    "file-group": "5678",
    "file-atime": "1595002920123456789ns",
    "file-mtime": "1595002920000000001ns",
}


def tree(root: Path) -> dict[str, int]:
    """Relative path -> size of every file, by find(1)."""
    done = subprocess.run(["find", ".", "-type", "f", "-printf", "%P\\0%s\\0"], cwd=root, capture_output=True, check=True)
    words = done.stdout.decode().split("\0")
    return {path: int(size) for path, size in zip(words[0:-1:2], words[1::2], strict=True)}


CROWD = [(f"p/d{n % 40}/s{n % 7}/f{n:04d}", b"x" * (n % 50), {}) for n in range(600)]
CROWD += [(f"p/m{n:05d}", b"x", {}) for n in range(2500)]
CROWD += [("p/with space/ünï%25+.txt", b"odd but fine", {}), ("outside", b"not below the prefix", {})]


@pytest.fixture(scope="module")
def crowded_bucket(moto_server: S3Server) -> str:
    bucket = fresh_bucket(moto_server)
    put_objects(moto_server, bucket, CROWD, threads=4)
    return bucket


@pytest.fixture
def crowded(make_site: Callable[..., Site], proxy: BackgroundProxy, crowded_bucket: str) -> Iterator[Site]:
    """More objects than three pages hold; what a test adds must be below `p/z/`."""
    here = make_site(endpoint_url=proxy.endpoint_url, bucket=crowded_bucket)
    yield here
    for key in here.keys("p/z/"):
        here.s3.delete_object(Bucket=here.bucket, Key=key)


def test_tree_equals_the_bucket_and_no_content_was_fetched(crowded: Site, proxy: BackgroundProxy) -> None:
    here = crowded.mount()
    wanted = {key.removeprefix("p/"): len(body) for key, body, _ in CROWD if key.startswith("p/")}
    assert tree(here.root) == wanted
    listed = here.run("ls", "-lR", here.root).stdout
    assert listed.count("\n-") == len(wanted)
    # A new association is probed: one byte of one object is read, and objects of the probe's own.
    gets = [request for request in proxy.content_gets() if ".s3lustrefs-probe-" not in request]
    assert len(gets) <= 1
    assert here.status()["hydration"]["bytes"] == 0
    assert here.status()["cache"]["used_bytes"] == 0
    assert here.status()["associations"][0]["import"]["objects"] == len(wanted)


def test_times_and_directories(here: Site) -> None:
    here.put("p/a/b/c/file", b"1")
    here.put("p/marked/", b"")
    here.mount()
    modified = here.head("p/a/b/c/file")["LastModified"]
    assert datetime.fromtimestamp((here.root / "a/b/c/file").stat().st_mtime, UTC) == modified
    for folder in ("a", "a/b", "a/b/c", "marked"):
        assert (here.root / folder).is_dir()
    assert os.listdir(here.root / "marked") == []
    assert (here.root).stat().st_nlink == 4
    assert (here.root / "a/b/c/file").stat().st_blocks == 1


@pytest.mark.parametrize("policy", ["lazy", "eager", "off"])
def test_posix_headers(make_site: Callable[..., Site], proxy: BackgroundProxy, policy: str) -> None:
    here = make_site(endpoint_url=proxy.endpoint_url, posix_metadata=policy, file_mode="0604", uid="42", gid="43")
    here.put("p/file", b"x", Metadata=POSIX)
    here.put("p/plain", b"x")
    here.put("p/dir/", b"", Metadata={**POSIX, "file-permissions": "040750"})
    here.put("p/dir/inside", b"x")
    mark = proxy.mark()
    here.mount()
    found = (here.root / "file").stat()
    if policy == "off":
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o604, 42, 43)
        assert proxy.requests("HEAD", "/p/file", since=mark) == []
        return
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 1234, 5678)
    assert found.st_mtime_ns == 1595002920000000001
    folder = (here.root / "dir").stat()
    assert (stat.S_IMODE(folder.st_mode), folder.st_uid, folder.st_gid) == (0o750, 1234, 5678)
    plain = (here.root / "plain").stat()
    assert (stat.S_IMODE(plain.st_mode), plain.st_uid, plain.st_gid) == (0o604, 42, 43)
    assert len(proxy.requests("HEAD", "/p/file", since=mark)) == 1


def test_no_permission_is_shown_or_enforced_from_unknown_headers(here: Site, proxy: BackgroundProxy) -> None:
    """While the headers cannot be had, attributes are an error, not a guess; names are there all the same."""
    here.put("p/file", b"x", Metadata=POSIX)
    here.expected_log.append("attributes not fetched|errno=EACCES")
    proxy.add("denied", method="HEAD", path="/p/file", times=10**6)
    here.mount()
    assert os.listdir(here.root) == ["file"]
    with pytest.raises(PermissionError):
        (here.root / "file").stat()
    proxy.clear_faults()
    assert (here.root / "file").stat().st_uid == 1234


def test_symlinks(here: Site) -> None:
    here.put("p/target", b"content")
    here.put("p/link", b"target", Metadata={"file-permissions": "0120777"})
    here.put("p/d/up", "../tärget".encode(), Metadata={"file-permissions": "0120777"})
    here.mount()
    assert os.readlink(here.root / "link") == "target"
    assert (here.root / "link").read_bytes() == b"content"
    assert os.readlink(here.root / "d/up") == "../tärget"
    assert stat.S_ISLNK((here.root / "d/up").lstat().st_mode)


def test_keys_that_cannot_be_files_are_skipped_and_listed(here: Site) -> None:
    reasons = {
        "p/double//slash": "empty path component",
        "p/dot/./file": "has a '.' or '..' component",
        "p/dots/../file": "has a '.' or '..' component",
        f"p/{'n' * 256}": "256 bytes",
        "p/a": "",
        "p/a/b": "",
    }
    for key in reasons:
        here.put(key, b"x")
    here.put("p/fine", b"x")
    here.mount()
    names = sorted(os.listdir(here.root))
    assert "fine" in names and "a" in names
    listed = {}
    for line in here.cli("status", here.root, "--skipped").stdout.splitlines():
        key, _, reason = line.rpartition(": ")
        listed[key] = reason
    for key, words in reasons.items():
        if words:
            assert words in listed[key], (key, listed)
    # Of `a` and `a/b` one is there, the other is listed.
    assert ("p/a" in listed) != ("p/a/b" in listed)
    assert (here.root / "a").is_dir() == ("p/a" in listed)
    assert here.status()["associations"][0]["import"]["skipped"] == len(listed) == 5


# --- while the import runs ------------------------------------------------------------------------------------------------


@pytest.fixture
def importing(crowded: Site, proxy: BackgroundProxy) -> Site:
    """Mounted, while every listing of a page that goes on from another is held."""
    return held_importing(crowded, proxy)


@pytest.fixture
def importing_one(crowded: Site, proxy: BackgroundProxy) -> Site:
    """The same, but linked with the directory `one`, so that there is room outside of the association."""
    path = crowded.scratch / "one.toml"
    path.write_text(f'[[dra]]\nfile_system_path = "/one"\ndata_repository_path = "s3://{crowded.bucket}/p/"\n')
    crowded.source = str(path)
    return held_importing(crowded, proxy)


def held_importing(here: Site, proxy: BackgroundProxy) -> Site:
    here.put("p/z/deep/file", b"content")
    here.put("p/z/other", b"other")
    proxy.add("hold", method="GET", path="continuation-token", times=10**6)
    proxy.add("hold", method="GET", path="start-after", times=10**6)
    here.mount(imported=False)
    proxy.wait_held()
    return here


def state(here: Site) -> Any:
    return here.status()["associations"][0]["import"]["state"]


def finish(here: Site, proxy: BackgroundProxy) -> None:
    assert state(here) == "RUNNING"
    proxy.clear_faults()
    here.wait_imported()


def test_name_and_directory_are_there_before_the_import_reaches_them(importing: Site, proxy: BackgroundProxy) -> None:
    assert (importing.root / "z/deep/file").read_bytes() == b"content"
    assert sorted(os.listdir(importing.root / "z")) == ["deep", "other"]
    assert not (importing.root / "absent").exists()
    assert not (importing.root / "z/absent").exists()
    finish(importing, proxy)
    assert len(tree(importing.root)) == len(CROWD) - 1 + 2


def test_working_in_a_directory_that_is_not_imported_yet(importing: Site, proxy: BackgroundProxy) -> None:
    (importing.root / "z/deep/new").write_bytes(b"new")
    (importing.root / "z/deep/made").mkdir()
    (importing.root / "z/other").unlink()
    (importing.root / "z/deep/file").rename(importing.root / "z/deep/renamed")
    with pytest.raises(FileExistsError):
        open(importing.root / "m02400", "x")
    finish(importing, proxy)
    assert sorted(os.listdir(importing.root / "z")) == ["deep"]
    assert sorted(os.listdir(importing.root / "z/deep")) == ["made", "new", "renamed"]
    importing.drain()
    assert importing.objects("p/z/") == {"p/z/deep/made/": b"", "p/z/deep/new": b"new", "p/z/deep/renamed": b"content"}


def test_directory_is_exchanged_only_once_it_is_wholly_imported(importing_one: Site, proxy: BackgroundProxy) -> None:
    """What the listing still brings belongs to the directory that had the name in the bucket, not to the one put in its place."""
    root = importing_one.root
    (root / "d").mkdir()
    (root / "d/mine").write_bytes(b"mine")
    with ThreadPoolExecutor(1) as pool:
        exchange = pool.submit(renameat2, root / "d", root / "one/z", RENAME_EXCHANGE)
        with pytest.raises(TimeoutError):
            exchange.result(1)
        finish(importing_one, proxy)
        exchange.result(WAIT_SECONDS)
    assert tree(root / "d") == {"deep/file": 7, "other": 5}
    assert tree(root / "one/z") == {"mine": 4}
    importing_one.drain()
    assert importing_one.objects("p/z/") == {"p/z/": b"", "p/z/mine": b"mine"}


def test_directory_not_listed_yet_is_neither_replaced_nor_removed(importing_one: Site, proxy: BackgroundProxy) -> None:
    root = importing_one.root
    (root / "d").mkdir()
    with fails(errno.ENOTEMPTY):
        os.rename(root / "d", root / "one/z")
    with fails(errno.ENOTEMPTY):
        os.rmdir(root / "one/z/deep")
    finish(importing_one, proxy)
    assert tree(root / "one/z") == {"deep/file": 7, "other": 5}


@pytest.mark.long  # a minute
def test_renaming_a_directory_does_not_wait_for_ever_for_a_stuck_import(importing_one: Site, proxy: BackgroundProxy) -> None:
    root = importing_one.root
    (root / "d").mkdir()
    with ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        renaming = pool.submit(os.rename, root / "one/z", root / "one/moved")
        with pytest.raises(TimeoutError):
            renaming.result(1)
        (root / "d/free").write_bytes(b"x")  # nobody waits elsewhere
        with fails(errno.EBUSY):
            renaming.result(WAIT_SECONDS + 60)
        assert 59 < time.monotonic() - started < 75
    told = importing_one.cli("why", root / "one/z").stdout
    assert "still being imported, " in told and "fails with EBUSY" in told
    assert (root / "one/z/other").stat().st_size == 5
    assert "EBUSY" not in importing_one.cli("why", root / "one/z/other").stdout
    assert importing_one.why("one/z")["import"]["error"] is None
    finish(importing_one, proxy)
    assert importing_one.why("one/z")["import"] is None
    os.rename(root / "one/z", root / "one/moved")
    assert tree(root / "one/moved") == {"deep/file": 7, "other": 5}
    os.rename(root / "one/moved", root / "one/z")  # so that this bucket is as it was
    importing_one.drain()


@pytest.mark.long
def test_import_that_was_cut_off_goes_on_after_the_next_mount(importing: Site, proxy: BackgroundProxy) -> None:
    importing.expected_log.append("import failed|listing")
    assert (importing.root / "z/other").read_bytes() == b"other"
    importing.kill_daemon()
    proxy.clear_faults()
    importing.mount()
    assert len(tree(importing.root)) == len(CROWD) - 1 + 2


@pytest.mark.long
def test_failures_of_the_listing_are_tried_again(here: Site, proxy: BackgroundProxy) -> None:
    put_objects(here.server, here.bucket, [(f"p/f{n:05d}", b"x", {}) for n in range(1100)], threads=4)
    here.expected_log.append("import failed|list")
    for action in ("slowdown", "reset", "internal", "truncate:200", "html"):
        proxy.add(action, method="GET", path="list-type=2", times=1, skip=1)
    here.mount()
    assert len(tree(here.root)) == 1100
