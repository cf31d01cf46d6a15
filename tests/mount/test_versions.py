"""Versioned buckets: what is imported, what a reader of a replaced object sees, what each change costs, and bringing back."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.mount.site import WAIT_SECONDS, Site
from tests.servers import S3Server

MIB = 1 << 20
BIG = os.urandom(12 * MIB)


def set_versioning(place: Site, status: str = "Enabled") -> None:
    place.s3.put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration={"Status": status})


@pytest.fixture
def here(request: pytest.FixtureRequest, make_site: Callable[..., Site]) -> Site:
    """A versioned bucket, not mounted yet; nothing is swept unless a test says so."""
    server: S3Server = request.getfixturevalue(f"{getattr(request, 'param', 'moto')}_server")
    place = make_site(server=server, import_interval="1h")
    set_versioning(place)
    return place


on_both_servers = pytest.mark.parametrize("here", ["moto", pytest.param("rgw", marks=pytest.mark.rgw)], indirect=True)
"""What depends on how a server keeps versions; the rest is told by the tests of the object store, on both."""


def history(place: Site, key: str) -> list[str]:
    """Sizes of the versions of a key, `x` for a delete marker, newest first, as boto3 sees them."""
    found = place.s3.list_object_versions(Bucket=place.bucket, Prefix=key)
    entries = [(e["LastModified"], e["IsLatest"], str(e["Size"])) for e in found.get("Versions", []) if e["Key"] == key]
    entries += [(e["LastModified"], e["IsLatest"], "x") for e in found.get("DeleteMarkers", []) if e["Key"] == key]
    return [what for _, _, what in sorted(entries, key=lambda e: (e[1], e[0]), reverse=True)]


def versions(place: Site, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(place.cli("versions", place.root / path, "--json").stdout)["versions"]
    return found


def refresh(place: Site, path: str = "") -> dict[str, int]:
    answer = json.loads(place.cli("refresh", place.root / path, "--json").stdout)
    return {name: answer[name] for name in ("new", "changed", "deleted")}


@on_both_servers
def test_each_change_makes_exactly_one_version(here: Site) -> None:
    here.mount()
    file = here.root / "d/f"
    file.parent.mkdir()
    file.write_bytes(b"first")
    here.drain()
    assert (history(here, "p/d/"), history(here, "p/d/f")) == (["0"], ["5"])
    with file.open("ab") as appending:
        for _ in range(5):
            appending.write(b"!")
            appending.flush()
    here.drain()
    assert history(here, "p/d/f") == ["10", "5"]
    file.chmod(0o640)
    os.chown(file, 7, 8)
    here.drain()
    assert history(here, "p/d/f") == ["10", "10", "5"]
    file.chmod(0o600)
    file.chmod(0o640)  # as the bucket has it
    here.drain()
    assert history(here, "p/d/f") == ["10", "10", "5"]
    os.truncate(file, 3)
    here.drain()
    assert history(here, "p/d/f") == ["3", "10", "10", "5"]
    file.rename(here.root / "d/g")
    here.drain()
    assert (history(here, "p/d/f"), history(here, "p/d/g")) == (["x", "3", "10", "10", "5"], ["3"])
    (here.root / "d/g").unlink()
    (here.root / "link").symlink_to("target")
    (here.root / "big").write_bytes(BIG + BIG)
    here.drain()
    assert (history(here, "p/d/g"), history(here, "p/link")) == (["x", "3"], ["6"])
    assert history(here, "p/big") == [str(24 * MIB)]
    (here.root / "d").chmod(0o700)
    here.drain()
    assert history(here, "p/d/") == ["0", "0"]
    assert refresh(here) == {"new": 0, "changed": 0, "deleted": 0}


def test_a_conflict_costs_one_version_of_the_new_name(here: Site) -> None:
    here.put("p/f", b"first")
    here.expected_log += ["conflict", "object changed"]
    here.mount()
    with (here.root / "f").open("ab") as appending:
        appending.write(b" mine")
        here.put("p/f", b"theirs")
    here.drain()
    (kept,) = (path.name for path in here.root.iterdir() if path.name != "f")
    assert (history(here, "p/f"), history(here, f"p/{kept}")) == (["6", "5"], ["10"])
    assert ((here.root / "f").read_bytes(), (here.root / kept).read_bytes()) == (b"theirs", b"first mine")


@on_both_servers
def test_the_current_versions_are_imported_and_followed(here: Site) -> None:
    set_versioning(here, "Suspended")
    here.put("p/older", b"before versioning")
    set_versioning(here)
    here.put("p/a", b"a one")
    newer = here.put("p/a", b"a, second")["VersionId"]
    here.put("p/gone", b"gone")
    marker = here.s3.delete_object(Bucket=here.bucket, Key="p/gone")["VersionId"]
    here.mount()
    assert {path.name: path.read_bytes() for path in here.root.iterdir()} == {"older": b"before versioning", "a": b"a, second"}
    here.s3.delete_object(Bucket=here.bucket, Key="p/gone", VersionId=marker)  # undelete
    here.s3.delete_object(Bucket=here.bucket, Key="p/a", VersionId=newer)  # the ETag goes back to an older one
    here.s3.delete_object(Bucket=here.bucket, Key="p/older")
    assert refresh(here) == {"new": 1, "changed": 1, "deleted": 1}
    assert {path.name: path.read_bytes() for path in here.root.iterdir()} == {"gone": b"gone", "a": b"a one"}


@pytest.mark.rgw
def test_a_bucket_whose_versioning_is_suspended(rgw_server: S3Server, make_site: Callable[..., Site]) -> None:
    """On Ceph only: moto drops all older versions when an object is replaced then."""
    place = make_site(server=rgw_server, import_interval="1h")
    set_versioning(place)
    place.put("p/f", b"kept")
    set_versioning(place, "Suspended")
    place.put("p/f", b"suspended")
    place.mount()
    assert (place.root / "f").read_bytes() == b"suspended"
    (place.root / "f").write_bytes(b"written over the null version")
    (place.root / "new").write_bytes(b"new")
    place.drain()
    assert (history(place, "p/f"), history(place, "p/new")) == (["29", "4"], ["3"])
    (place.root / "new").unlink()
    place.drain()
    assert history(place, "p/new") == ["x"]
    kept = versions(place, "f")[1]["version_id"]
    place.cli("versions", place.root / "f", "--restore", kept)
    assert (place.root / "f").read_bytes() == b"kept"
    assert history(place, "p/f") == ["4", "4"]


def test_a_reader_goes_on_with_the_version_it_opened(here: Site) -> None:
    here.put("p/f", BIG)
    here.mount()
    with (here.root / "f").open("rb", buffering=0) as reading:
        assert reading.read(1000) == BIG[:1000]
        here.put("p/f", b"new content")
        assert os.pread(reading.fileno(), 1000, 11 * MIB) == BIG[11 * MIB : 11 * MIB + 1000]
        here.s3.delete_object(Bucket=here.bucket, Key="p/f")
        here.put("p/f", b"newest content")
        assert reading.read() == BIG[1000:]
    deadline = time.monotonic() + WAIT_SECONDS
    while (here.root / "f").read_bytes() != b"newest content":  # the kernel tells of a close some time after it
        assert time.monotonic() < deadline


def test_a_renamed_file_takes_its_own_version_with_it(here: Site) -> None:
    here.put("p/f", BIG)
    here.expected_log += ["delete given up|conflict kept"]
    here.mount()
    (here.root / "f").stat()
    (here.root / "f").rename(here.root / "g")
    here.put("p/f", b"another file")
    here.drain()
    assert here.body("p/g") == BIG
    assert (here.root / "f").read_bytes() == b"another file"
    assert (here.root / "g").read_bytes() == BIG


@on_both_servers
def test_versions_are_listed_and_brought_back(here: Site) -> None:
    here.put("p/d/f", b"theirs", Metadata={"colour": "red"}, ContentType="text/x")
    here.mount()
    file = here.root / "d/f"
    file.write_bytes(b"mine, number two")
    file.chmod(0o600)
    here.drain()
    found = versions(here, "d/f")
    assert [(e["size"], e["current"], e["here"], e["posix_headers"]) for e in found] == [
        (16, True, True, True), (6, False, False, False)
    ]  # fmt: skip
    said = here.cli("versions", file, "--restore", found[1]["version_id"]).stdout
    assert "6 B" in said and "current version again" in said
    assert file.read_bytes() == b"theirs"
    assert (here.head("p/d/f")["Metadata"], here.head("p/d/f")["ContentType"]) == ({"colour": "red"}, "text/x")
    assert history(here, "p/d/f") == ["6", "16", "6"]
    here.cli("versions", file, "--restore", found[0]["version_id"])
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"mine, number two", 0o600)
    current = versions(here, "d/f")[0]["version_id"]
    assert "already" in here.cli("versions", file, "--restore", current).stdout
    file.chmod(0o640)
    here.drain()
    file_before = versions(here, "d/f")[1]
    here.cli("versions", file, "--restore", file_before["version_id"])  # the same bytes, other attributes
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"mine, number two", 0o600)
    assert refresh(here) == {"new": 0, "changed": 0, "deleted": 0}


def test_a_deleted_file_is_brought_back_with_its_directory(here: Site) -> None:
    here.put("p/d/e/f", b"content")
    here.mount()
    (here.root / "d/e/f").unlink()
    os.removedirs(here.root / "d/e")
    asked = here.cli("versions", here.root / "d/e/f", "--restore", "x", check=False)
    assert (asked.returncode, "drain" in asked.stderr) == (1, True)
    here.drain()
    marker, kept = versions(here, "d/e/f")
    assert (marker["delete_marker"], marker["current"], kept["size"]) == (True, True, 7)
    text = here.cli("versions", here.root / "d/e/f").stdout
    assert kept["version_id"] in text and "current, deleted" in text
    refused = here.cli("versions", here.root / "d/e/f", "--restore", marker["version_id"], check=False)
    assert (refused.returncode, "delete marker" in refused.stderr) == (1, True)
    here.cli("versions", here.root / "d/e/f", "--restore", kept["version_id"])
    assert (here.root / "d/e/f").read_bytes() == b"content"
    assert history(here, "p/d/e/f") == ["7", "x", "7"]
    (here.root / "d/e/f").write_bytes(b"goes on")
    here.drain()
    assert here.body("p/d/e/f") == b"goes on"


@pytest.mark.parametrize("number", [0, 1], ids=["the current version", "an older version"])
def test_a_removal_that_is_not_exported_is_taken_back(make_site: Callable[..., Site], number: int) -> None:
    place = make_site(auto_export="changed", import_interval="1h")
    set_versioning(place)
    bodies = [b"two, longer", b"one"]
    for key in ("p/removed", "p/renamed"):
        for body in reversed(bodies):
            place.put(key, body)
    place.mount()
    wanted = {name: versions(place, name)[number]["version_id"] for name in ("removed", "renamed")}
    (place.root / "removed").unlink()
    (place.root / "renamed").rename(place.root / "elsewhere")
    place.drain()
    place.cli("versions", place.root / "removed", "--restore", wanted["removed"])
    assert (place.root / "removed").read_bytes() == bodies[number] == place.body("p/removed")
    refused = place.cli("versions", place.root / "renamed", "--restore", wanted["renamed"], check=False)
    assert (refused.returncode, "/elsewhere: read that one first" in refused.stderr) == (1, True)
    assert (place.root / "elsewhere").read_bytes() == bodies[0]  # its only copy was the object
    place.cli("versions", place.root / "renamed", "--restore", wanted["renamed"])
    assert (place.root / "renamed").read_bytes() == bodies[number] == place.body("p/renamed")
    assert (place.root / "elsewhere").read_bytes() == bodies[0]
    assert place.keys() == ["p/removed", "p/renamed"]


def test_what_would_lose_something_is_refused(here: Site) -> None:
    here.put("p/f", b"one")
    here.put("p/f", b"two, longer")
    here.mount()
    old = versions(here, "f")[1]["version_id"]

    def refused(path: str, version_id: str) -> str:
        done = here.cli("versions", here.root / path, "--restore", version_id, check=False)
        assert done.returncode == 1
        return done.stderr

    with (here.root / "f").open("ab") as writing:
        writing.write(b"!")
        writing.flush()
        assert "not in the bucket" in refused("f", old)
    here.drain()
    assert "has no version nonsense" in refused("f", "nonsense")
    here.put("p/f", b"by another, not seen yet")
    assert "refresh" in refused("f", old)
    assert here.body("p/f") == b"by another, not seen yet"
    refresh(here, "f")
    here.cli("versions", here.root / "f", "--restore", old)
    assert (here.root / "f").read_bytes() == b"one"
    assert "no version of" in here.cli("versions", here.root / "none", check=False).stderr
    assert "directory" in here.cli("versions", here.root, check=False).stderr


def test_the_bucket_is_not_written_where_the_policy_forbids_it(make_site: Callable[..., Site]) -> None:
    place = make_site(auto_export="none")
    set_versioning(place)
    place.put("p/f", b"one")
    place.put("p/f", b"two")
    place.mount()
    old = versions(place, "f")[1]["version_id"]
    done = place.cli("versions", place.root / "f", "--restore", old, check=False)
    assert (done.returncode, "auto_export" in done.stderr) == (1, True)
    assert history(place, "p/f") == ["3", "3"]


def test_a_bucket_without_versions_says_so(make_site: Callable[..., Site]) -> None:
    place = make_site()
    place.put("p/f", b"only")
    place.mount()
    (only,) = versions(place, "f")
    assert (only["current"], only["here"], only["size"]) == (True, True, 4)
    done = place.cli("versions", place.root / "f", "--restore", "abc", check=False)
    assert (done.returncode, "keeps no versions" in done.stderr) == (1, True)
    assert "Unversioned" in place.cli("status", place.root).stdout


@pytest.mark.rgw
def test_conditions_hold_where_versioning_is_switched_on_later(rgw_server: S3Server, make_site: Callable[..., Site]) -> None:
    """Ceph silently ignores them in a versioned bucket, so what the endpoint enforces has to be found out again."""
    place = make_site(server=rgw_server, import_interval="1h")
    place.put("p/f", b"one")
    place.mount()
    assert "versioning   Unversioned" in place.cli("status", place.root).stdout
    place.unmount()
    set_versioning(place)
    place.mount()
    deadline = time.monotonic() + WAIT_SECONDS
    while "versioning   Enabled" not in place.cli("status", place.root).stdout:
        assert time.monotonic() < deadline, place.log()
    place.expected_log += ["conflict"]
    with (place.root / "f").open("wb") as file:
        file.write(b"mine")
        place.put("p/f", b"theirs")
    place.put("p/new", b"theirs")
    (place.root / "new").write_bytes(b"mine")
    place.drain()
    assert (place.body("p/f"), place.body("p/new")) == (b"theirs", b"theirs")
    assert not [key for key in place.keys() if "probe" in key]
