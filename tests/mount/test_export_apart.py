"""Associations that export to another prefix than they import from: what is imported stays as it is, whatever is done here."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.mount.background_proxy import BackgroundProxy
from tests.mount.conftest import fresh_bucket
from tests.mount.site import WAIT_SECONDS, Site
from tests.mount.test_auto_import import tree
from tests.mount.test_events import events, wait, wait_state
from tests.servers import S3Server

BIG = os.urandom((2 << 20) + 3)
OBJECTS = {
    "d/": b"", "d/x": b"x in d", "d/y": b"y in d", "edited": b"as imported", "exchanged": b"one", "for": b"the other",
    "gone": b"gone", "implied/deep/z": b"z", "kept": b"kept", "linked": b"linked", "mode": BIG, "moved": b"moved",
}  # fmt: skip
NEW = "(0x00000000)"
ARCHIVED = "(0x00000009) exists archived, archive_id:1"
DIRTY = "(0x0000000b) exists dirty archived, archive_id:1"
RELEASED = "(0x0000000d) released exists archived, archive_id:1"

Make = Callable[..., Site]


@pytest.fixture(params=["in/ beside out/", "in/ around in/out/", "bucket around out/"])
def forms(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Prefixes of import and export."""
    return {"in/ b": ("in/", "out/"), "in/ a": ("in/", "in/out/"), "bucke": ("", "out/")}[request.param[:5]]


@pytest.fixture
def make(moto_server: S3Server, make_site: Make) -> Callable[..., Site]:
    """make("in/", "out/", option=value, ...): `OBJECTS` below the one, to be exported below the other; not mounted yet."""

    def made(imported: str = "in/", exported: str = "out/", *, proxy: BackgroundProxy | None = None, **options: Any) -> Site:
        bucket = fresh_bucket(moto_server)
        where = {"endpoint_url": proxy.endpoint_url} if proxy else {}
        place = make_site(imported, bucket=bucket, import_interval="0", **where, **options)
        for path, body in OBJECTS.items():
            place.put(imported + path, body)
        source = place.scratch / "apart.toml"
        source.write_text(
            f'[[dra]]\nfile_system_path = "/"\ndata_repository_path = "s3://{bucket}/{imported}"\n'
            f'export_repository_path = "s3://{bucket}/{exported}"\n'
        )
        place.source = str(source)
        return place

    return made


def imported(place: Site, prefix: str, apart_from: str = "out/") -> dict[str, tuple[bytes, str]]:
    """Objects to be imported, with what a write would change of them."""
    found = {}
    for key in place.keys(prefix):
        if not key.startswith(apart_from):
            found[key.removeprefix(prefix)] = (place.body(key), str(place.head(key)["LastModified"]))
    return found


def exported(place: Site, prefix: str = "out/") -> dict[str, bytes]:
    return {key.removeprefix(prefix): body for key, body in place.objects(prefix).items()}


def refresh(place: Site, path: str = "") -> tuple[int, int, int]:
    answer = json.loads(place.cli("refresh", place.root / path, "--json").stdout)
    return answer["new"], answer["changed"], answer["deleted"]


def fsck(place: Site) -> None:
    place.unmount()
    assert place.cli("fsck", place.state_dir).returncode == 0


# --- exports ---------------------------------------------------------------------------------------------------------------


@pytest.mark.one_in(3)
def test_only_what_is_changed_here_is_exported_and_nothing_imported_is_touched(make: Make, forms: tuple[str, str]) -> None:
    below, out = forms
    place = make(below, out)
    place.put(f"{below}edited", b"as imported", ContentType="text/x-special", Metadata={"theirs": "kept"})
    place.put(f"{below}d/", Metadata={"file-permissions": "0040750"})
    before = imported(place, below, out)
    place.mount()
    root = place.root
    place.drain()
    assert exported(place, out) == {} and (root / "d").stat().st_mode == 0o040750
    (root / "edited").write_bytes(b"edited")
    (root / "mode").chmod(0o640)
    (root / "moved").rename(root / "d" / "moved")
    (root / "gone").unlink()
    (root / "d").rename(root / "e")
    (root / "for").rename(root / "third")
    (root / "exchanged").rename(root / "for")
    (root / "third").rename(root / "exchanged")
    (root / "kept").rename(root / "there")
    (root / "there").rename(root / "kept")
    (root / "new").mkdir()
    (root / "new" / "file").write_bytes(b"new")
    (root / "new" / "link").symlink_to("../kept")
    os.link(root / "linked", root / "second")
    place.drain()
    assert place.about("mode")["resident_bytes"] == 0, "attributes and names change by copies in the bucket"
    assert exported(place, out) == {
        "e/": b"", "e/x": b"x in d", "e/y": b"y in d", "e/moved": b"moved", "edited": b"edited",
        "exchanged": b"the other", "for": b"one", "mode": BIG, "new/": b"", "new/file": b"new", "new/link": b"../kept",
        "second": b"linked",
    }  # fmt: skip
    assert imported(place, below, out) == before
    head = place.head(f"{out}edited")
    assert head["ContentType"] == "text/x-special" and head["Metadata"]["theirs"] == "kept"
    assert place.head(f"{out}mode")["Metadata"]["file-permissions"] == "0100640"
    assert place.head(f"{out}e/")["Metadata"]["file-permissions"] == "040750"

    expected = tree(root)
    assert expected["edited"] == b"edited" and "gone" not in expected and "moved" not in expected and expected["mode"] == BIG
    assert refresh(place) == (0, 0, 0), "what was removed and renamed here does not come back"
    assert tree(root) == expected
    fsck(place)
    place.mount()
    assert refresh(place) == (0, 0, 0) and tree(root) == expected

    # What was exported is ours: the next changes replace, move and delete it.
    (root / "edited").write_bytes(b"edited again")
    (root / "mode").rename(root / "renamed")
    (root / "new" / "file").unlink()
    (root / "e" / "x").unlink()
    place.drain()
    after = exported(place, out)
    assert after["edited"] == b"edited again" and after["renamed"] == BIG
    assert not {"mode", "new/file", "e/x"} & after.keys()
    assert imported(place, below, out) == before
    assert refresh(place) == (0, 0, 0)
    assert place.status()["export"]["failed"] == 0
    fsck(place)


def test_policy_takes_a_changed_import_for_changed_and_not_for_new(make: Make) -> None:
    place = make(auto_export="changed").mount()
    (place.root / "edited").write_bytes(b"edited")
    (place.root / "d").chmod(0o700)
    (place.root / "new").write_bytes(b"new")
    place.drain()
    assert exported(place) == {"edited": b"edited", "d/": b""}
    assert "the export policy" in "\n".join(place.why("new")["lines"])


def test_released_change_comes_back_from_where_it_was_exported(make: Make, proxy: BackgroundProxy) -> None:
    place = make(proxy=proxy).mount()
    path = place.root / "edited"
    assert place.hsm("edited") == RELEASED
    place.cli("hsm", "archive", path)
    place.drain()
    assert exported(place) == {}, "the imported object is its archived copy"
    assert path.read_bytes() == b"as imported" and place.hsm("edited") == ARCHIVED
    with path.open("ab") as file:
        file.write(b", and changed")
        file.flush()
        os.fsync(file.fileno())
        assert place.hsm("edited") == DIRTY
    place.drain()
    assert place.hsm("edited") == ARCHIVED
    place.cli("hsm", "release", path)
    assert place.hsm("edited") == RELEASED
    place.cli("hsm", "restore", path)
    deadline = time.monotonic() + WAIT_SECONDS
    while place.hsm("edited") != ARCHIVED:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert path.read_bytes() == b"as imported, and changed"
    place.cli("hsm", "release", path)
    place.unmount()
    place.mount()
    assert path.read_bytes() == b"as imported, and changed" == place.body("out/edited")
    assert place.body("in/edited") == b"as imported"


def test_removing_the_archived_copy_never_removes_what_was_imported(make: Make) -> None:
    place = make().mount()
    path = place.root / "edited"
    path.read_bytes()
    done = place.cli("hsm", "remove", path, check=False)
    assert done.returncode == errno.EPERM and "imported from" in done.stderr
    path.write_bytes(b"edited")
    place.drain()
    place.cli("hsm", "remove", path)
    deadline = time.monotonic() + WAIT_SECONDS
    while place.keys("out/"):
        assert time.monotonic() < deadline, place.why("edited")
        time.sleep(0.05)
    assert place.hsm("edited") == NEW and path.read_bytes() == b"edited"
    assert refresh(place) == (0, 0, 0) and path.read_bytes() == b"edited"
    place.cli("hsm", "archive", path)
    place.drain()
    assert exported(place) == {"edited": b"edited"} and place.body("in/edited") == b"as imported"


def test_status_and_why_tell_both_objects(make: Make) -> None:
    place = make().mount()
    bucket = place.bucket
    (status,) = place.status()["associations"]
    assert status["data_repository_path"] == f"s3://{bucket}/in/" and status["export_repository_path"] == f"s3://{bucket}/out/"
    assert f"exported to  s3://{bucket}/out/" in place.cli("status", place.root).stdout
    about = place.about("edited")
    assert (about["key"], about["imported_key"]) == ("out/edited", "in/edited")
    said = place.cli("why", place.root / "edited").stdout
    assert f"linked to s3://{bucket}/out/edited" in said and f"imported from s3://{bucket}/in/edited" in said
    (place.root / "edited").write_bytes(b"edited")
    place.drain()
    assert place.about("edited")["imported_key"] is None
    assert "imported from" not in place.cli("why", place.root / "edited").stdout


def test_every_request_that_writes_is_below_the_prefix_to_export_to(make: Make, proxy: BackgroundProxy) -> None:
    """Those that find out what the bucket can do, too."""
    place = make(proxy=proxy)
    place.cli("check", place.source, "-o", f"endpoint_url={proxy.endpoint_url},addressing_style=path")
    place.mount()
    (place.root / "edited").write_bytes(b"edited")
    (place.root / "d").rename(place.root / "e")
    place.drain()
    (place.root / "e" / "x").unlink()
    (place.root / "kept").unlink()
    place.drain()
    written = [each for method in ("PUT", "POST", "DELETE") for each in proxy.requests(method)]
    assert len(written) > 20 and [each for each in written if f"/{place.bucket}/out/" not in each] == []


@pytest.mark.parametrize("policy", ["new+changed+deleted", "none"])
def test_rename_to_another_association_leaves_what_was_imported(make_site: Make, policy: str) -> None:
    place = make_site("in/", import_interval="0", auto_export=policy)
    place.put("in/cold", b"cold")
    place.put("in/d/x", b"x")
    place.put("in/edited", b"as imported")
    path = place.scratch / "two.toml"
    path.write_text(
        f'[[dra]]\nfile_system_path = "/one"\ndata_repository_path = "s3://{place.bucket}/in/"\n'
        f'export_repository_path = "s3://{place.bucket}/out/"\n'
        f'[[dra]]\nfile_system_path = "/two"\ndata_repository_path = "s3://{place.bucket}/two/"\n'
    )
    place.source = str(path)
    place.mount()
    one, two = place.root / "one", place.root / "two"
    (one / "edited").write_bytes(b"edited")
    place.drain()
    for name in ("cold", "d", "edited"):
        (one / name).rename(two / name)
    place.drain()
    expected = {"in/cold": b"cold", "in/d/x": b"x", "in/edited": b"as imported"}
    if policy != "none":
        expected |= {"two/cold": b"cold", "two/d/": b"", "two/d/x": b"x", "two/edited": b"edited"}
    assert place.objects() == expected
    place.cli("refresh", one)
    assert list(one.iterdir()) == [] and tree(two) == {"cold": b"cold", "d/": b"", "d/x": b"x", "edited": b"edited"}
    fsck(place)


def test_failed_export_is_told_by_drain_under_its_path(make: Make, proxy: BackgroundProxy) -> None:
    place = make(proxy=proxy).mount()
    place.expected_log.append("export failed .*out/edited")
    proxy.add("denied", path="/out/edited", times=10**6)
    (place.root / "edited").write_bytes(b"edited")
    done = place.try_drain(place.root / "edited")
    assert done.returncode == 1 and "/edited: " in done.stderr and "[S3AccessDenied]" in done.stderr
    proxy.clear_faults()
    place.drain()
    assert exported(place) == {"edited": b"edited"}


# --- others, where things are exported to -------------------------------------------------------------------------------------


def test_object_of_others_where_ours_is_to_go_is_not_overwritten(make: Make) -> None:
    place = make()
    place.put("out/edited", b"of others")
    place.put("out/mode", b"of others, too")
    place.put("out/unseen", b"never imported")
    place.expected_log.append("conflict")
    place.mount()
    assert refresh(place) == (0, 0, 0) and not (place.root / "unseen").exists() and not (place.root / "out").exists()
    assert (place.root / "edited").read_bytes() == b"as imported"
    (place.root / "edited").write_bytes(b"edited")
    (place.root / "mode").chmod(0o600)
    place.drain()
    assert (place.root / "edited").read_bytes() == b"of others" == place.body("out/edited")
    assert (place.root / "mode").read_bytes() == b"of others, too" == place.body("out/mode")
    for name, body in (("edited", b"edited"), ("mode", BIG)):
        (kept,) = place.root.glob(f"{name}.conflict-*")
        assert kept.read_bytes() == body == place.body(f"out/{kept.name}")
    assert place.body("in/edited") == b"as imported" and place.body("in/mode") == BIG
    fsck(place)


def test_exported_object_that_others_changed_is_a_conflict_of_the_next_change(make: Make) -> None:
    place = make(on_conflict="file-wins")
    place.expected_log += ["conflict", "object changed"]
    place.mount()
    (place.root / "edited").write_bytes(b"edited")
    place.drain()
    place.put("out/edited", b"of others")
    (place.root / "edited").write_bytes(b"edited again")
    place.drain()
    assert place.body("out/edited") == b"edited again" == (place.root / "edited").read_bytes()
    lost = place.root / ".s3lustrefs-lost+found" / "edited"
    assert lost.read_bytes() == b"of others" and place.body("in/edited") == b"as imported"


def test_exported_object_that_others_changed_comes_back_when_it_was_removed_here(make: Make) -> None:
    place = make()
    place.expected_log += ["delete given up", "conflict"]
    place.mount()
    (place.root / "d" / "x").write_bytes(b"edited")
    place.drain()
    place.put("out/d/x", b"of others")
    (place.root / "d" / "x").unlink()
    place.drain()
    assert (place.root / "d" / "x").read_bytes() == b"of others" == place.body("out/d/x")
    assert place.body("in/d/x") == b"x in d"
    assert refresh(place) == (0, 0, 0)
    fsck(place)


def test_exported_object_that_others_replaced_is_read_as_it_is(make: Make) -> None:
    place = make()
    place.expected_log += ["object changed", "errno=ESTALE"]
    place.mount()
    path = place.root / "edited"
    path.write_bytes(b"edited")
    place.drain()
    place.cli("hsm", "release", path)
    place.put("out/edited", b"of others, longer")
    refresh(place, "edited")
    assert path.read_bytes() == b"of others, longer"
    place.s3.delete_object(Bucket=place.bucket, Key="out/edited")
    refresh(place, "edited")
    assert path.exists(), "only what becomes of imported objects takes a name away"


# --- others, where things are imported from ----------------------------------------------------------------------------------


@pytest.mark.one_in(3)
def test_imports_go_on_for_what_was_not_changed_here(make: Make, forms: tuple[str, str]) -> None:
    below, out = forms
    place = make(below, out)
    place.expected_log.append("conflict kept kind=exported-apart path=/(edited|mode|d/x|created) ")
    place.mount()
    root = place.root
    (root / "edited").write_bytes(b"edited")
    (root / "mode").chmod(0o600)
    (root / "d").chmod(0o700)
    (root / "d" / "x").write_bytes(b"x edited")
    (root / "created").write_bytes(b"created here")
    (root / "linked").unlink()
    (root / "moved").rename(root / "elsewhere")
    (root / "for").unlink()
    place.drain()
    here = exported(place, out)
    tree(root)

    for path in ("edited", "mode", "d/x", "created", "kept", "moved", "linked", "fresh", "dir/fresh"):
        place.put(below + path, b"changed by others: " + path.encode())
    for path in ("gone", "d/y", "d/", "implied/deep/z", "for"):
        place.s3.delete_object(Bucket=place.bucket, Key=below + path)
    place.put(f"{out}foreign", b"not ours")
    assert refresh(place) == (5, 1, 3)
    found = tree(root)
    theirs = {path: b"changed by others: " + path.encode() for path in ("kept", "moved", "linked", "fresh", "dir/fresh")}
    assert {path: found[path] for path in theirs} == theirs
    assert found["edited"] == b"edited" and found["mode"] == BIG and found["d/x"] == b"x edited"
    assert found["created"] == b"created here" and found["elsewhere"] == b"moved"
    assert not {"gone", "d/y", "implied/deep/z", "for", "foreign", "out/"} & found.keys()
    assert (root / "d").stat().st_mode & 0o777 == 0o700 and (root / "mode").stat().st_mode & 0o777 == 0o600
    assert "the local version stays" in "\n".join(place.why("edited")["lines"])
    assert place.status()["conflicts"] == 4

    assert refresh(place) == (0, 0, 0) and place.status()["conflicts"] == 4, "each version is told once"
    place.drain()
    assert exported(place, out) == {**here, "foreign": b"not ours"}, "nothing of this is exported"
    # Its removal here makes room for what the others have made of it.
    (root / "edited").unlink()
    place.drain()
    assert refresh(place) == (1, 0, 0) and (root / "edited").read_bytes() == b"changed by others: edited"
    assert "edited" not in exported(place, out)
    # The import object of what was changed here goes: the change stays.
    place.s3.delete_object(Bucket=place.bucket, Key=below + "mode")
    place.s3.delete_object(Bucket=place.bucket, Key=below + "d/x")
    assert refresh(place) == (0, 0, 0) and (root / "mode").read_bytes() == BIG and (root / "d" / "x").read_bytes() == b"x edited"
    fsck(place)


def test_events_are_heard_of_imported_objects_only(make: Make) -> None:
    place = make("", "out/", event_queue_url="create")
    place.expected_log.append("conflict kept kind=exported-apart path=/edited")
    place.mount()
    wait_state(place, "LISTENING")
    (place.root / "edited").write_bytes(b"edited")
    place.drain()
    place.put("edited", b"by others")
    place.s3.delete_object(Bucket=place.bucket, Key="moved")
    place.put("fresh", b"fresh")
    place.put("out/theirs", b"where others have no business")
    wait(lambda: (place.root / "fresh").exists() and not (place.root / "moved").exists(), lambda: events(place))
    wait(lambda: place.status()["conflicts"] == 1, lambda: events(place))
    assert (place.root / "edited").read_bytes() == b"edited" and not (place.root / "out").exists()
    assert refresh(place) == (0, 0, 0) and exported(place) == {"edited": b"edited", "theirs": b"where others have no business"}


def test_change_that_is_not_exported_yet_survives_what_others_do_to_its_import(make: Make) -> None:
    place = make(auto_export="none")
    place.expected_log += ["conflict kept kind=not-exported path=/edited", "conflict kept kind=only-here path=/kept"]
    place.mount()
    (place.root / "edited").write_bytes(b"edited")
    (place.root / "kept").write_bytes(b"kept, edited")
    place.drain()
    place.put("in/edited", b"by others")
    place.s3.delete_object(Bucket=place.bucket, Key="in/kept")
    assert refresh(place) == (0, 0, 0)
    assert (place.root / "edited").read_bytes() == b"edited" and (place.root / "kept").read_bytes() == b"kept, edited"
    for name in ("edited", "kept"):
        place.cli("hsm", "archive", place.root / name)
    place.drain()
    assert exported(place) == {"edited": b"edited", "kept": b"kept, edited"} and place.body("in/edited") == b"by others"


def test_file_whose_import_was_replaced_before_its_attributes_were_exported_follows_it(make: Make) -> None:
    place = make()
    place.expected_log += ["object changed", "conflict"]
    place.mount()
    (place.root / "edited").stat()
    place.put("in/edited", b"by others, longer")
    (place.root / "edited").chmod(0o604)
    place.drain()
    assert (place.root / "edited").read_bytes() == b"by others, longer" == place.body("out/edited")
    assert place.head("out/edited")["Metadata"]["file-permissions"] == "0100604"
    assert refresh(place) == (0, 0, 0)


def test_interrupted_import_shows_nothing_that_was_exported(make: Make, proxy: BackgroundProxy) -> None:
    """Names asked for while the first import is under way go another way than the listing."""
    place = make("", "out/", proxy=proxy)
    place.put("out/a/b", b"exported before")
    proxy.add("hold", method="GET", path="?encoding-type=url&list-type=2&max-keys=1000", times=10**6)
    place.mount(imported=False)
    proxy.wait_held()
    assert (place.root / "d" / "x").read_bytes() == b"x in d"
    assert not (place.root / "out").exists() and "out" not in os.listdir(place.root)
    assert place.status()["associations"][0]["import"]["state"] == "RUNNING"
    proxy.clear_faults()
    place.wait_imported()
    assert "out" not in os.listdir(place.root) and not (place.root / "out").exists()
    (place.root / "out").mkdir()
    (place.root / "out" / "a").write_bytes(b"of the same name here")
    place.drain()
    assert exported(place) == {"a/b": b"exported before", "out/": b"", "out/a": b"of the same name here"}
    mark = proxy.mark()
    assert refresh(place) == (0, 0, 0)
    assert proxy.requests("HEAD", "/out/", since=mark) == [], "a sweep asks about nothing that was exported"


def test_versions_of_what_was_imported_are_only_shown(make: Make) -> None:
    place = make()
    place.s3.put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration={"Status": "Enabled"})
    old = place.put("in/edited", b"older")["VersionId"]
    place.put("in/edited", b"newer")
    place.mount()
    listed = json.loads(place.cli("versions", place.root / "edited", "--json").stdout)["versions"]
    assert listed[0]["here"] and old in [each["version_id"] for each in listed]
    done = place.cli("versions", place.root / "edited", "--restore", old, check=False)
    assert done.returncode and "in/edited, which nothing here writes" in done.stderr
    (place.root / "edited").write_bytes(b"edited")
    place.drain()
    (place.root / "edited").write_bytes(b"edited again")
    place.drain()
    listed = json.loads(place.cli("versions", place.root / "edited", "--json").stdout)["versions"]
    assert len(listed) == 2 and listed[0]["here"]
    place.cli("versions", place.root / "edited", "--restore", listed[1]["version_id"])
    assert (place.root / "edited").read_bytes() == b"edited" and place.body("in/edited") == b"newer"


def test_link_cannot_change_where_it_exports_to(make: Make) -> None:
    place = make().mount()
    place.unmount()
    path = Path(place.source)
    path.write_text(path.read_text().replace("/out/", "/other/"))
    place.expected_log.append("daemon ended reason=.*a link cannot change")
    done = place.try_mount()
    assert done.returncode and "exported to" in done.stderr and "a link cannot change" in done.stderr
