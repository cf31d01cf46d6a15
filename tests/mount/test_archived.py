"""Objects in archive storage classes: imported, unreadable until restored, and what becomes of changes meanwhile."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import WAIT_SECONDS, Site
from tests.servers import S3Server

MIB = 1 << 20
BIG = os.urandom(3 * MIB)
COLD = {"file-permissions": "0100640", "file-owner": "7", "file-group": "8"}


@pytest.fixture
def cold(proxy: BackgroundProxy, make_site: Callable[..., Site]) -> Site:
    """A tree of archived and other objects on moto, which restores at once; not mounted yet."""
    place = make_site(endpoint_url=proxy.endpoint_url, import_interval="1h")
    place.put("p/d/glacier", BIG, StorageClass="GLACIER", Metadata=COLD)
    place.put("p/d/e/deep", b"deep", StorageClass="DEEP_ARCHIVE")
    place.put("p/d/warm", b"warm", StorageClass="STANDARD_IA")
    return place


@contextmanager
def slowly(server: S3Server, transition: dict[str, Any]) -> Iterator[None]:
    """How moto goes from `asked for` over `under way` to `restored`, instead of at once."""
    _tell_moto(server, "set-transition", {"model_name": "s3::keyrestore", "transition": transition})
    try:
        yield
    finally:
        _tell_moto(server, "unset-transition", {"model_name": "s3::keyrestore"})


NEXT_AT_EACH_LOOK = {"progression": "manual", "times": 0}
NEVER = {"progression": "time", "seconds": 3600}


def _tell_moto(server: S3Server, what: str, order: dict[str, Any]) -> None:
    url = f"{server.endpoint_url}/moto-api/state-manager/{what}"
    request = urllib.request.Request(url, json.dumps(order).encode(), {"content-type": "application/json"})
    urllib.request.urlopen(request, timeout=10).close()


def restore(place: Site, *arguments: str | os.PathLike[str], check: bool = True) -> dict[str, Any]:
    done = place.cli("restore", *map(str, arguments), "--json", check=check)
    found: dict[str, Any] = json.loads(done.stdout)
    return {name: found[name] for name in ("readable", "waiting", "failed")}


def test_reading_fails_at_once_and_says_why_until_it_is_restored(cold: Site, proxy: BackgroundProxy) -> None:
    cold.mount()
    found = (cold.root / "d/glacier").stat()
    assert (found.st_size, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (len(BIG), 0o640, 7, 8)
    before = time.monotonic()
    for path in ("d/glacier", "d/e/deep"):
        with pytest.raises(OSError) as caught:
            (cold.root / path).read_bytes()
        assert caught.value.errno == errno.ENODATA
        said = cold.why(path)
        assert (said["archive"]["readable"], said["archive"]["ongoing"]) == (False, False)
        assert "s3lustrefs restore" in said["remedy"] and any("archived" in line for line in said["lines"])
    assert time.monotonic() - before < 15
    assert len(proxy.requests("GET", "d/glacier")) <= 3
    assert restore(cold, cold.root / "d", "--wait") == {"readable": 2, "waiting": 0, "failed": 0}
    assert ((cold.root / "d/glacier").read_bytes(), (cold.root / "d/e/deep").read_bytes()) == (BIG, b"deep")
    said = cold.why("d/glacier")
    assert said["archive"]["readable"] and said["archive"]["expires_ns"] > time.time_ns()
    assert restore(cold, cold.root / "d") == {"readable": 0, "waiting": 0, "failed": 0}  # all of it is local


def test_a_restore_is_waited_for(cold: Site, moto_server: S3Server) -> None:
    cold.mount()
    with slowly(moto_server, NEXT_AT_EACH_LOOK):
        assert restore(cold, cold.root / "d/glacier", "--days", "3", "--tier", "bulk") == {"readable": 0, "waiting": 1, "failed": 0}
        assert restore(cold, cold.root / "d/glacier", cold.root / "d/warm", "--wait") == {"readable": 2, "waiting": 0, "failed": 0}
    assert (cold.root / "d/glacier").read_bytes() == BIG


def test_a_restore_under_way_is_shown_and_found_again_after_a_remount(cold: Site, moto_server: S3Server) -> None:
    with slowly(moto_server, NEXT_AT_EACH_LOOK):
        cold.s3.restore_object(Bucket=cold.bucket, Key="p/d/glacier", RestoreRequest={"Days": 1})
        assert "true" in cold.head("p/d/glacier")["Restore"]
    with slowly(moto_server, NEVER):
        cold.mount()
        assert restore(cold, cold.root / "d/glacier") == {"readable": 0, "waiting": 1, "failed": 0}
        assert "restoring  1 archived" in cold.cli("status", cold.root).stdout
        cold.unmount()
        cold.mount()
        assert cold.why("d/glacier")["archive"]["ongoing"]
        with pytest.raises(OSError) as caught:
            (cold.root / "d/glacier").read_bytes()
        assert caught.value.errno == errno.ENODATA
    assert restore(cold, cold.root / "d/glacier", "--wait") == {"readable": 1, "waiting": 0, "failed": 0}
    assert (cold.root / "d/glacier").read_bytes() == BIG


def test_attributes_and_names_stay_local_until_the_object_is_restored(cold: Site) -> None:
    cold.mount()
    (cold.root / "d/e/deep").chmod(0o600)
    (cold.root / "d/glacier").rename(cold.root / "renamed")
    (cold.root / "d/warm").rename(cold.root / "d/warmer")
    drained = cold.try_drain()
    assert drained.returncode == 1
    assert "[S3ObjectInUnsupportedTier]" in drained.stderr and "s3lustrefs restore" in drained.stderr
    assert cold.keys() == ["p/d/e/deep", "p/d/glacier", "p/d/warmer"]
    said = cold.why("d/e/deep")
    assert (said["export"]["failed"], said["export"]["code"]) == (True, "S3ObjectInUnsupportedTier")
    assert json.loads(cold.cli("refresh", cold.root, "--json").stdout)["changed"] == 0
    assert stat.S_IMODE((cold.root / "d/e/deep").stat().st_mode) == 0o600
    assert restore(cold, cold.root, "--wait") == {"readable": 2, "waiting": 0, "failed": 0}
    cold.drain()
    assert cold.keys() == ["p/d/e/deep", "p/d/warmer", "p/renamed"]
    assert cold.head("p/d/e/deep")["Metadata"]["file-permissions"] == "0100600"
    assert (cold.root / "renamed").read_bytes() == cold.body("p/renamed") == BIG
    # What is used leaves the archive; other storage classes stay.
    assert ["StorageClass" in cold.head(key) for key in ("p/renamed", "p/d/e/deep")] == [False, False]
    assert cold.head("p/d/warmer")["StorageClass"] == "STANDARD_IA"


def test_archived_files_are_replaced_and_deleted_like_others(cold: Site) -> None:
    cold.mount()
    (cold.root / "d/glacier").write_bytes(b"new content")
    (cold.root / "d/warm").write_bytes(b"warmer")
    (cold.root / "d/e/deep").unlink()
    cold.drain()
    assert cold.objects() == {"p/d/glacier": b"new content", "p/d/warm": b"warmer"}
    assert "StorageClass" not in cold.head("p/d/glacier")
    assert cold.head("p/d/warm")["StorageClass"] == "STANDARD_IA"
    assert cold.head("p/d/glacier")["Metadata"]["file-permissions"] == "0100640"


def test_changes_that_need_archived_bytes_change_nothing(cold: Site, proxy: BackgroundProxy) -> None:
    cold.mount()
    path = cold.root / "d/glacier"
    os.stat(path)
    before, mark = (cold.hsm("d/glacier"), path.stat().st_mtime_ns), proxy.mark()
    with pytest.raises(OSError) as refused:
        os.truncate(path, 1000)
    assert refused.value.errno == errno.ENODATA
    fd = os.open(path, os.O_WRONLY)
    try:
        for change in (lambda: os.pwrite(fd, b"x", 10), lambda: os.ftruncate(fd, 2 * MIB + 1)):
            with pytest.raises(OSError) as refused:
                change()
            assert refused.value.errno == errno.ENODATA
    finally:
        os.close(fd)
    assert (cold.hsm("d/glacier"), path.stat().st_mtime_ns) == before
    cold.drain()
    assert not proxy.requests("PUT", "d/glacier", mark) and path.stat().st_size == len(BIG)
    cold.unmount()


def test_an_archived_symlink_is_a_link_once_it_is_restored(cold: Site) -> None:
    cold.put("p/link", b"d/warm", StorageClass="GLACIER", Metadata={"file-permissions": "0120777"})
    cold.mount()
    assert {path.name for path in cold.root.iterdir()} == {"d", "link"}
    with pytest.raises(OSError) as caught:
        (cold.root / "link").read_bytes()
    assert caught.value.errno == errno.ENODATA
    restore(cold, cold.root / "link", "--wait")
    deadline = time.monotonic() + WAIT_SECONDS
    while not (cold.root / "link").is_symlink():  # until the kernel has been told
        assert time.monotonic() < deadline
    assert (cold.root / "link").read_bytes() == b"warm"


def test_a_file_wins_against_an_archived_version_once_that_is_here(make_site: Callable[..., Site]) -> None:
    """What the bucket has is kept before it is replaced, and cannot be read before it is restored."""
    place = make_site(on_conflict="file-wins", import_interval="1h")
    place.expected_log += ["conflict", "object changed"]
    place.put("p/a", b"before")
    place.mount()
    assert (place.root / "a").read_bytes() == b"before"
    with open(place.root / "a", "wb") as file:
        file.write(b"ours")
        file.flush()
        place.put("p/a", b"theirs", StorageClass="GLACIER")
    drained = place.try_drain()
    assert drained.returncode == 1 and "[S3ObjectInUnsupportedTier]" in drained.stderr
    assert place.head("p/a")["StorageClass"] == "GLACIER" and (place.root / "a").read_bytes() == b"ours"
    loser = place.root / ".s3lustrefs-lost+found/a"
    assert "/.s3lustrefs-lost+found/a" in "\n".join(place.why("a")["lines"])
    assert restore(place, loser, "--wait") == {"readable": 1, "waiting": 0, "failed": 0}
    place.drain()
    assert place.objects() == {"p/a": b"ours"} and loser.read_bytes() == b"theirs"


def test_a_bucket_that_is_overloaded_by_restores_is_asked_again(cold: Site, proxy: BackgroundProxy) -> None:
    cold.mount()
    proxy.add("slowdown", method="POST", path="restore", times=8)
    assert restore(cold, cold.root, "--wait") == {"readable": 2, "waiting": 0, "failed": 0}
    assert (cold.root / "d/glacier").read_bytes() == BIG


def test_what_cannot_be_restored_is_listed(cold: Site) -> None:
    cold.put("p/gone", b"gone", StorageClass="GLACIER")
    cold.mount()
    cold.s3.delete_object(Bucket=cold.bucket, Key="p/gone")
    with (cold.root / "new").open("wb"):
        done = cold.cli("restore", cold.root / "gone", cold.root / "new", cold.root / "d/warm", check=False)
    assert done.returncode == 1
    assert "1 readable, 0 being restored, 2 failed" in done.stdout
    assert "/gone: " in done.stderr and "/new: has no object" in done.stderr
    assert cold.cli("restore", cold.root / "none", check=False).returncode == 1
    assert cold.cli("restore", cold.root, "--days", "0", check=False).returncode == 64
    assert cold.cli("restore", cold.root, "--tier", "Slow", check=False).returncode == 64
