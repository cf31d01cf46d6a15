"""File and object both change: each policy, each pair of changes. Nothing disappears; `why` and `status` say what became of it.

The object changes first, or while the file is open for writing: an export can be done a millisecond after the local change.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import socket
import stat
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.cli.draining import poll
from tests.mount.background_proxy import BackgroundProxy, background_proxy
from tests.mount.conftest import fresh_bucket
from tests.mount.site import WAIT_SECONDS, Site, site
from tests.mount.test_keys import LONGEST_KEY, sized
from tests.servers import S3Server

POLICIES = ("keep-both", "bucket-wins", "file-wins")
OURS, THEIRS = b"ours", b"theirs, and longer"
EXPECTED = ["conflict (ino|kept)", "object changed", "delete given up", "export failed .*ESTALE", "errno=ESTALE"]
LOST_FOUND = ".s3lustrefs-lost+found"

LINKS = {
    **{policy: f'on_conflict = "{policy}"' for policy in POLICIES},
    "deaf": "auto_import = []",
    "mute": "auto_export = []",
    "old": 'auto_export = ["changed"]',
}
"""Directory, and prefix, of each association, and what is set for it."""


class Place:
    """One test's own directory in one association."""

    def __init__(self, here: Site, proxy: BackgroundProxy, link: str) -> None:
        self.site = here
        self.proxy = proxy
        self.path = f"{link}/{uuid.uuid4().hex[:8]}"
        self.root = here.root / self.path
        self.put("seed", b"")
        self.ask("Refresh", path=f"/{link}")

    def key(self, name: str) -> str:
        return f"{self.path}/{name}"

    def put(self, name: str, body: bytes, **more: Any) -> None:
        self.site.put(self.key(name), body, **more)

    def delete(self, name: str) -> None:
        self.site.s3.delete_object(Bucket=self.site.bucket, Key=self.key(name))

    def known(self, *names: str, whole: bool = True) -> None:
        """Objects that the mount knows, and has read if `whole`."""
        for name in names:
            self.put(name, b"before")
        self.refresh()
        while any(each["import"]["headers_pending"] for each in self.status()["associations"]):
            time.sleep(0.02)  # else a look at the headers might find what is put next
        for name in names:
            assert not whole or (self.root / name).read_bytes() == b"before"

    def rewrite(self, name: str, ours: bytes, theirs: bytes, **more: Any) -> None:
        """The file and the object, both before the mount hears of the other."""
        with open(self.root / name, "wb") as file:
            file.write(ours)
            file.flush()
            self.put(name, theirs, **more)

    def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """As the commands do, without a process for each."""
        answer: dict[str, Any] = ControlClient(str(self.site.state_dir / "control.sock")).call(operation, **arguments)
        return answer

    def refresh(self) -> None:
        self.ask("Refresh", path=f"/{self.path}")

    def drain(self) -> None:
        client = ControlClient(str(self.site.state_dir / "control.sock"))
        late, remaining, failed = poll(client, [f"/{self.path}"], timeout=WAIT_SECONDS, progress=lambda *_: None)
        assert not late and not failed, (remaining, failed)

    def objects(self) -> dict[str, bytes]:
        prefix = self.key("")
        found = {key.removeprefix(prefix): body for key, body in self.site.objects(prefix).items()}
        return {name: body for name, body in found.items() if not name.endswith("/") and name not in ("", "seed")}

    def files(self) -> dict[str, bytes]:
        found = {str(path.relative_to(self.root)): path.read_bytes() for path in self.root.rglob("*") if path.is_file()}
        return {name: body for name, body in found.items() if name != "seed"}

    def losers(self) -> dict[str, bytes]:
        top = self.site.root / LOST_FOUND / self.path
        return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}

    def why(self, name: str) -> str:
        return "\n".join(self.ask("Why", path=os.path.normpath(f"/{self.path}/{name}"))["lines"])

    def status(self) -> dict[str, Any]:
        return self.ask("Status")

    def agrees(self) -> None:
        """The tree and the bucket, also after looking again."""
        assert self.files() == self.objects()
        before = self.files()
        self.refresh()
        self.drain()
        assert self.files() == before == self.objects()


@pytest.fixture(scope="module", params=["moto", pytest.param("rgw", marks=[pytest.mark.rgw, pytest.mark.long])])
def shared(request: pytest.FixtureRequest) -> Iterator[tuple[Site, BackgroundProxy]]:
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    bucket = fresh_bucket(server)
    with background_proxy(server.endpoint_url) as proxy, site(server, bucket, endpoint_url=proxy.endpoint_url) as here:
        here.expected_log += EXPECTED
        here.scratch.chmod(0o711)
        here.source = str(configuration(bucket, here.scratch))
        here.mount(allow_other="true")
        yield here, proxy
        here.drain()
        here.unmount()
        assert here.cli("fsck", here.state_dir).returncode == 0


def configuration(bucket: str, folder: Path) -> Path:
    tables = [
        f'[[dra]]\nfile_system_path = "/{name}"\ndata_repository_path = "s3://{bucket}/{name}/"\nimport_interval = "1h"\n{more}\n'
        for name, more in LINKS.items()
    ]
    path = folder / "mount.toml"
    path.write_text("\n".join(tables))
    return path


@pytest.fixture
def place(shared: tuple[Site, BackgroundProxy]) -> Callable[[str], Place]:
    return lambda link: Place(*shared, link)


# --- change against change --------------------------------------------------------------------------------------------------


def test_a_symlink_that_changed_on_both_sides_ends_the_drain(place: Callable[[str], Place]) -> None:
    here = place("keep-both")
    link = {"file-permissions": "0120777"}
    here.put("link", b"one", Metadata=link)
    here.refresh()
    assert os.readlink(here.root / "link") == "one"
    here.put("link", b"two", Metadata=link)
    os.chown(here.root / "link", 7, 8, follow_symlinks=False)
    here.drain()
    assert sorted(here.objects().values()) == [b"one", b"two"] and here.objects()["link"] == b"two"
    assert os.readlink(here.root / "link") == "two"


@pytest.mark.parametrize(
    ("policy", "how"),
    [
        *((policy, "rewrite") for policy in POLICIES),
        ("keep-both", "append"),
        ("bucket-wins", "create"),
        ("file-wins", "empty"),
        *(pytest.param(policy, "large", marks=() if policy == "file-wins" else pytest.mark.long) for policy in POLICIES),
    ],
)
def test_both_versions_are_kept_and_the_policy_says_which_has_the_name(
    place: Callable[[str], Place], policy: str, how: str
) -> None:
    here = place(policy)
    ours, theirs = {"append": b"before" + OURS, "large": os.urandom(17 << 20)}.get(how, OURS), b"" if how == "empty" else THEIRS
    if how != "create":
        here.known("a.txt")
    count = here.status()["conflicts"]
    with open(here.root / "a.txt", "ab" if how == "append" else "wb") as file:
        file.write(ours.removeprefix(b"before"))
        here.put("a.txt", theirs)
    here.drain()
    winner = ours if policy == "file-wins" else theirs
    assert here.objects()["a.txt"] == winner == (here.root / "a.txt").read_bytes()
    kept = here.losers() if policy != "keep-both" else {n: b for n, b in here.files().items() if n != "a.txt"}
    ((name, body),) = kept.items()
    assert body == (theirs if policy == "file-wins" else ours)
    assert name == "a.txt" or re.fullmatch(rf"a\.txt\.conflict-20\d{{6}}T\d{{6}}Z-{re.escape(socket.gethostname())}", name)
    here.agrees()
    status = here.status()
    assert status["conflicts"] == count + 1
    latest = status["latest_conflicts"][0]
    assert latest["path"] == f"/{here.path}/a.txt" and name in latest["text"]
    assert re.search(rf"WARNING .*conflict kept kind={latest['kind']} path={latest['path']} other=", here.site.log())
    assert latest["text"] in here.why("a.txt")
    assert latest["text"] in here.why(name if policy == "keep-both" else f"../../{LOST_FOUND}/{here.path}/a.txt")
    if how == "rewrite":
        assert latest["text"] in here.site.cli("status", here.site.root).stdout


@pytest.mark.parametrize("policy", [p if p == "keep-both" else pytest.param(p, marks=pytest.mark.long) for p in POLICIES])
def test_a_sweep_before_the_export_leaves_the_conflict_to_it(place: Callable[[str], Place], policy: str) -> None:
    """The file is due, or still open, when the object is found to be another one."""
    here = place(policy)
    here.known("due", "open")
    with open(here.root / "open", "wb") as file:
        file.write(OURS)
        file.flush()
        here.rewrite("due", OURS, THEIRS)
        here.put("open", THEIRS)
        here.refresh()
        assert (here.root / "open").read_bytes() == OURS
    here.drain()
    winner = OURS if policy == "file-wins" else THEIRS
    assert {name: here.objects()[name] for name in ("due", "open")} == dict.fromkeys(("due", "open"), winner)
    kept = here.losers() if policy != "keep-both" else {n: b for n, b in here.files().items() if n not in ("due", "open")}
    assert list(kept.values()) == 2 * [THEIRS if policy == "file-wins" else OURS]
    here.agrees()


def test_the_buckets_version_is_here_before_it_is_replaced(place: Callable[[str], Place]) -> None:
    here = place("file-wins")
    here.known("a")
    theirs = os.urandom(3 << 20)
    here.rewrite("a", OURS, theirs)
    here.proxy.add("slowdown", method="GET", path=here.key("a"), times=2)  # the GET has to be tried again
    mark = here.proxy.mark()
    here.drain()
    asked = [r.split(" ")[0] for r in here.proxy.requests(path=here.key("a"), since=mark) if "list-type" not in r]
    assert asked.count("PUT") == 1 and "GET" not in asked[asked.index("PUT") :] and here.objects() == {"a": OURS}
    assert here.losers() == {"a": theirs}


def test_the_object_changes_once_more_before_the_file_wins(place: Callable[[str], Place]) -> None:
    """What is replaced is what was kept, whatever happens in between."""
    here = place("file-wins")
    here.known("a")
    here.proxy.add("hold", method="GET", path=here.key("a"))
    here.rewrite("a", OURS, THEIRS)
    drain = subprocess.Popen(
        [here.site.cli("--help").args[0], "drain", here.root, "--timeout", "30"],
        env=here.site.environment,
        stderr=subprocess.DEVNULL,
    )
    here.proxy.wait_held()
    here.put("a", b"theirs again")
    here.proxy.clear_faults()
    assert drain.wait(60) == 0
    assert here.objects() == {"a": OURS} and here.losers() == {"a": b"theirs again"}


@pytest.mark.parametrize("policy", POLICIES)
def test_losers_of_one_name_never_replace_each_other(place: Callable[[str], Place], policy: str) -> None:
    here = place(policy)
    here.known("a")
    versions = set()
    for number in range(3):
        here.rewrite("a", b"ours %d" % number, b"theirs %d" % number)
        here.drain()
        assert (here.root / "a").read_bytes()
        versions |= {b"ours %d" % number} if policy != "file-wins" else {b"theirs %d" % number}
    kept = here.losers() if policy != "keep-both" else {n: b for n, b in here.files().items() if n != "a"}
    assert set(kept.values()) == versions and len(kept) == 3
    here.agrees()


def test_the_name_of_what_is_kept_can_be_exported(place: Callable[[str], Place]) -> None:
    """Names and a key that leave no room for the rest: one of those with two bytes a character would be cut within one."""
    here = place("keep-both")
    names = ["ü" * 127, "n" + "ü" * 127, sized(LONGEST_KEY - len(here.key("")), "e" * 180)]
    here.known(*names)
    for name in names:
        here.rewrite(name, OURS, THEIRS)
    here.drain()
    assert sorted(here.objects().values()) == [OURS] * 3 + [THEIRS] * 3
    here.agrees()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_symbolic_link_against_a_file(place: Callable[[str], Place], policy: str) -> None:
    here = place(policy)
    here.put("a", THEIRS)
    os.symlink("target", here.root / "a")
    here.put("b", b"there", Metadata={"file-permissions": "0120777"})
    os.symlink("elsewhere", here.root / "b")
    here.drain()
    if policy == "keep-both":
        (link,) = here.root.glob("a.conflict-*")
        assert os.readlink(link) == "target" and (here.root / "a").read_bytes() == THEIRS
    elif policy == "bucket-wins":
        assert os.readlink(here.site.root / LOST_FOUND / here.path / "a") == "target"
        assert os.readlink(here.root / "b") == "there"
    else:
        assert os.readlink(here.root / "a") == "target" and here.losers() == {"a": THEIRS}
        assert os.readlink(here.root / "b") == "elsewhere"
        assert os.readlink(here.site.root / LOST_FOUND / here.path / "b") == "there"


def test_attributes_given_here_go_with_the_content_given_there(place: Callable[[str], Place]) -> None:
    here = place("keep-both")
    here.known("a")
    here.put("a", THEIRS)
    (here.root / "a").chmod(0o640)
    here.drain()
    assert here.files() == here.objects() == {"a": THEIRS}
    assert stat.S_IMODE((here.root / "a").stat().st_mode) == 0o640
    assert here.site.head(here.key("a"))["Metadata"]["file-permissions"] == "0100640"


def test_half_of_a_file_whose_object_was_replaced_is_kept_when_the_bucket_wins(place: Callable[[str], Place]) -> None:
    here = place("bucket-wins")
    here.site.expected_log.append("errno=E")
    here.put("big", b"x" * (3 << 20))
    here.refresh()
    with open(here.root / "big", "r+b") as file:
        file.write(b"#")
        file.flush()
        here.put("big", THEIRS)
    here.drain()
    assert here.files() == here.objects() == {"big": THEIRS}
    kept = here.site.root / LOST_FOUND / here.path / "big"
    with open(kept, "rb") as half:
        assert half.read(1) == b"#"
        half.seek(2 << 20)
        with pytest.raises(OSError, match="Input/output error"):
            half.read(1)


# --- change against deletion ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", [*POLICIES, "deaf"])
def test_what_was_changed_here_survives_a_deletion_there(place: Callable[[str], Place], link: str) -> None:
    here = place(link)
    here.known("a", "b")
    here.delete("a")
    here.delete("b")
    (here.root / "a").write_bytes(OURS)
    (here.root / "b").chmod(0o600)
    here.refresh()  # sees the deletion, if the export was not faster
    here.drain()
    assert here.files() == here.objects() == {"a": OURS, "b": b"before"}
    assert "deleted in the bucket: the local version was exported again" in here.why("a")
    assert "deleted in the bucket" in here.why("b")


@pytest.mark.parametrize("link", [*POLICIES, "deaf"])
@pytest.mark.parametrize("seen_by", ["export", "sweep"])
def test_what_was_changed_there_survives_a_deletion_here(place: Callable[[str], Place], link: str, seen_by: str) -> None:
    here = place(link)
    here.known("a", "d/e/b")
    here.put("a", THEIRS)
    here.put("d/e/b", THEIRS)
    (here.root / "a").unlink()
    subprocess.run(["rm", "-r", here.root / "d"], check=True)
    if seen_by == "sweep":
        here.refresh()
    here.drain()
    assert here.files() == here.objects() == {"a": THEIRS, "d/e/b": THEIRS}
    assert "the bucket's version is here again" in here.why("a")


# --- change against rename --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seen_by", ["export", "sweep"])
def test_what_was_changed_there_survives_a_rename_here(place: Callable[[str], Place], seen_by: str) -> None:
    """A file that is whole here keeps its content under the new name; one that is not is what its object is."""
    here = place("keep-both")
    here.known("whole")
    here.known("cold", "d/cold", whole=False)
    for name in ("whole", "cold", "d/cold"):
        here.put(name, THEIRS)
    (here.root / "whole").rename(here.root / "whole2")
    (here.root / "cold").rename(here.root / "cold2")
    (here.root / "d").rename(here.root / "d2")
    if seen_by == "sweep":
        here.refresh()
    here.drain()
    assert here.files() == here.objects() == {"whole": THEIRS, "whole2": b"before", "cold2": THEIRS, "d2/cold": THEIRS}
    assert not (here.root / "d").exists()
    assert "the bucket's version is here again" in here.why("whole")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_rename_onto_a_name_that_appeared_there(place: Callable[[str], Place], policy: str) -> None:
    here = place(policy)
    here.known("a", whole=False)
    here.put("b", THEIRS)
    (here.root / "a").rename(here.root / "b")
    here.drain()
    if policy == "keep-both":
        (name,) = here.files().keys() - {"b"}
        assert here.files() == here.objects() == {"b": THEIRS, name: b"before"}
    elif policy == "bucket-wins":
        assert (here.files(), here.losers()) == (here.objects(), {"b": b"before"}) and here.objects() == {"b": THEIRS}
    else:
        assert (here.files(), here.losers()) == (here.objects(), {"b": THEIRS}) and here.objects() == {"b": b"before"}


# --- file against directory -------------------------------------------------------------------------------------------------


def test_a_directory_there_where_a_changed_file_is_here(place: Callable[[str], Place]) -> None:
    here = place("keep-both")
    here.known("a")
    with open(here.root / "a", "wb") as file:
        file.write(OURS)
        here.put("a/b", THEIRS)
        here.refresh()
        assert (here.root / "a").is_file()
        assert skipped(here)[here.key("a/b")].startswith("a file that is open, changed here")
        assert "a/b" in here.why("a")
    here.drain()
    assert here.objects() == {"a": OURS, "a/b": THEIRS}
    here.refresh()
    assert (here.root / "a/b").read_bytes() == THEIRS
    assert skipped(here)[here.key("a")] == "a directory of this name exists"
    assert "a directory of this name exists" in here.why("a")
    assert any(each["kind"] == "directory-in-bucket" for each in here.status()["latest_conflicts"])


def test_a_file_there_where_a_directory_is_here(place: Callable[[str], Place]) -> None:
    here = place("keep-both")
    here.known("a")
    (here.root / "a").unlink()
    (here.root / "a").mkdir()
    (here.root / "a/x").write_bytes(OURS)
    here.put("a", THEIRS)
    here.drain()
    assert here.objects() == {"a": THEIRS, "a/x": OURS}
    assert here.files() == {"a/x": OURS}
    here.refresh()
    assert skipped(here)[here.key("a")] == "a directory of this name exists"
    assert "a directory of this name exists" in here.why("a")


def skipped(here: Place) -> dict[str, str]:
    return {each["key"]: each["reason"] for each in here.ask("Skipped")["skipped"]}


# --- policies that keep a side where it is ----------------------------------------------------------------------------------


def test_a_change_that_is_not_exported_stays_and_says_that_there_is_another(place: Callable[[str], Place]) -> None:
    here = place("mute")
    here.known("a")
    (here.root / "a").write_bytes(OURS)
    here.drain()
    here.put("a", THEIRS)
    count = here.status()["conflicts"]
    for _ in range(2):
        here.refresh()
    assert here.files() == {"a": OURS} and here.objects() == {"a": THEIRS}
    assert here.status()["conflicts"] == count + 1
    assert "the bucket's version is not shown" in here.why("a")


def test_what_is_kept_beside_stays_local_where_new_files_are_not_exported(place: Callable[[str], Place]) -> None:
    here = place("old")
    here.known("a")
    here.rewrite("a", OURS, THEIRS)
    here.drain()
    (name,) = here.files().keys() - {"a"}
    for _ in range(2):
        assert here.files() == {"a": THEIRS, name: OURS} and here.objects() == {"a": THEIRS}
        here.refresh()
        here.drain()
    assert "released" not in here.site.hsm(f"{here.path}/{name}")
    assert here.site.cli("hsm", "release", here.root / name, check=False).returncode == 1


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "cold"])
def test_a_rename_that_is_not_exported_stays_when_others_use_the_name(place: Callable[[str], Place], whole: bool) -> None:
    here = place("mute")
    here.known("a", whole=whole)
    (here.root / "a").rename(here.root / "b")
    here.drain()
    here.put("b", THEIRS)
    count = here.status()["conflicts"]
    for _ in range(2):
        here.refresh()
    assert here.files() == {"b": b"before"} and here.objects() == {"a": b"before", "b": THEIRS}
    assert here.status()["conflicts"] == count + 1
    assert "the bucket's version is not shown" in here.why("b")
    here.put("a", b"theirs, under the old name")
    here.refresh()
    expected = {"a": b"theirs, under the old name", "b": b"before"}
    assert here.files() == expected  # it was read just now


def test_attributes_that_are_not_exported_stay_with_the_new_content(place: Callable[[str], Place]) -> None:
    here = place("mute")
    here.known("a")
    (here.root / "a").chmod(0o640)
    here.drain()
    here.put("a", THEIRS, Metadata={"file-permissions": "0100777", "file-owner": "7", "file-group": "8"})
    count = here.status()["conflicts"]
    for _ in range(2):
        here.refresh()
    assert here.files() == {"a": THEIRS}
    found = (here.root / "a").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_size) == (0o640, 0, len(THEIRS))
    assert here.status()["conflicts"] == count + 1
    assert "the attributes are the local ones" in here.why("a")


def test_a_file_renamed_here_alone_is_all_there_is_once_its_object_is_gone(place: Callable[[str], Place]) -> None:
    here = place("mute")
    here.site.expected_log.append("errno=EIO .*NoSuchKey")
    here.known("whole", "changed")
    here.known("cold", whole=False)
    for name in ("whole", "cold"):
        (here.root / name).rename(here.root / f"{name}2")
    (here.root / "changed").chmod(0o640)
    here.drain()
    for name in ("whole", "cold", "changed"):
        here.delete(name)
    count = here.status()["conflicts"]
    for _ in range(2):
        here.refresh()
    here.drain()
    assert here.status()["conflicts"] == count + 3
    for name in ("whole2", "changed"):
        assert (here.root / name).read_bytes() == b"before"
        refused = here.site.cli("hsm", "release", here.root / name, check=False)
        assert refused.returncode == 1 and "not archived" in refused.stderr
        assert "what of it is local is all there is" in here.why(name)
    with pytest.raises(OSError, match="Input/output error"):
        (here.root / "cold2").read_bytes()
    assert "lost_from_hsm" in here.site.hsm(f"{here.path}/cold2")
    assert "restore it in the bucket, or delete the file" in here.why("cold2")
    here.put("cold", THEIRS)  # restored
    here.refresh()
    assert here.files() == {"whole2": b"before", "changed": b"before", "cold2": THEIRS}


# --- lost+found -------------------------------------------------------------------------------------------------------------


def test_losers_are_for_their_owners_and_nothing_is_put_beside_them(place: Callable[[str], Place]) -> None:
    here = place("file-wins")
    here.put("a", b"before")
    here.refresh()
    here.rewrite("a", OURS, THEIRS, Metadata={"file-owner": "4711", "file-group": "4711", "file-permissions": "0100664"})
    here.drain()
    top = here.site.root / LOST_FOUND
    loser = top / here.path / "a"
    assert (loser.stat().st_uid, stat.S_IMODE(loser.stat().st_mode)) == (4711, 0o600)
    assert as_user(4711, f"cat {loser}") == THEIRS
    assert as_user(4712, f"cat {loser}") is None and as_user(4711, f"ls {loser.parent}") is None
    for command in (f"touch {top}/x", f"mkdir {top}/{here.path}/x", f"mv {here.root}/a {top}/x", f"mv {top} {here.root}/x"):
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        assert done.returncode and "Operation not permitted" in done.stderr, command
    loser.rename(here.root / "mine")  # taking away is what it is there for
    here.drain()
    assert here.objects() == {"a": OURS, "mine": THEIRS}


def as_user(uid: int, command: str) -> bytes | None:
    done = subprocess.run(command.split(), user=uid, group=uid, extra_groups=[], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def test_conflicts_are_remembered_and_losers_purged_by_a_later_mount(make_site: Callable[..., Site]) -> None:
    """With the whole mount in one association: lost+found is in none, and no object gets in."""
    here = make_site("", on_conflict="bucket-wins", import_interval="1h")
    here.expected_log += EXPECTED
    here.put("a", b"before")
    here.put(f"{LOST_FOUND}/d/mine", b"not ours")
    here.mount()
    assert not (here.root / LOST_FOUND).exists()
    with open(here.root / "a", "wb") as file:
        file.write(OURS)
        file.flush()
        here.put("a", THEIRS)
    here.drain()
    kept = here.root / LOST_FOUND / "a"
    assert kept.read_bytes() == OURS
    kept.write_bytes(b"changed where it is")
    kept.chmod(0o400)
    here.drain()
    assert here.objects() == {"a": THEIRS, f"{LOST_FOUND}/d/mine": b"not ours"}
    here.cli("refresh", here.root)
    assert sorted(os.listdir(here.root / LOST_FOUND)) == ["a"]
    assert here.status()["associations"][0]["import"]["skipped"] == 1
    here.unmount()
    assert here.cli("fsck", here.state_dir).returncode == 0
    here.mount(lost_found_age="1h")
    status = here.status()
    assert (status["conflicts"], status["lost_found"]["files"]) == (1, 1)
    assert "the local one is" in "\n".join(here.why("a")["lines"]) and "changed here" in here.why(f"{LOST_FOUND}/a")["lines"][1]
    here.unmount()
    here.mount(lost_found_age="1s")
    deadline = time.monotonic() + WAIT_SECONDS
    while (here.root / LOST_FOUND).exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert here.status()["conflicts"] == 1
    here.unmount()
    assert here.cli("fsck", here.state_dir).returncode == 0


# --- endpoints without conditions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [p if p == "keep-both" else pytest.param(p, marks=pytest.mark.long) for p in POLICIES])
def test_where_the_endpoint_knows_no_conditions_a_look_just_before_stands_in(
    proxy: BackgroundProxy, make_site: Callable[..., Site], policy: str
) -> None:
    proxy.strip_conditions()
    here = make_site(endpoint_url=proxy.endpoint_url, on_conflict=policy)
    here.expected_log += EXPECTED
    said = here.cli("check", here.source, "-o", here.option_string()).stdout
    for kind in ("writes", "multipart completion", "copies", "deletes"):
        assert f"conditional {kind}: not enforced by the endpoint: a HEAD just before" in said
    names = ("put", "parts", "copy", "delete")
    for name in names:
        here.put(f"p/{name}", b"before")
    here.put("p/source", b"source")
    here.mount()
    assert "conditions   a look just before stands in for" in here.cli("status", here.root).stdout
    for name in names:
        assert (here.root / name).read_bytes() == b"before"
        here.put(f"p/{name}", THEIRS)
    (here.root / "put").write_bytes(OURS)
    (here.root / "parts").write_bytes(OURS * (5 << 20))
    (here.root / "source").rename(here.root / "copy")
    (here.root / "delete").unlink()
    here.drain()
    everything = [*here.objects().values(), *(path.read_bytes() for path in here.root.rglob("*") if path.is_file())]
    for version in (OURS, OURS * (5 << 20), b"source", THEIRS):
        assert version in everything
    assert here.body("p/delete") == THEIRS == (here.root / "delete").read_bytes()
    assert here.status()["conflicts"] == 4


# --- what a job sees of a change there --------------------------------------------------------------------------------------


def test_who_opens_a_file_never_gets_pages_of_another_version(place: Callable[[str], Place]) -> None:
    """Else what it writes on top of them would replace a version that nobody here has seen."""
    here = place("keep-both")
    bodies = {hashlib.md5(body).hexdigest(): body for body in (b"%d\n" % number * (number + 1) for number in range(12))}
    here.put("a", bodies[next(iter(bodies))])
    here.refresh()
    ended = threading.Event()

    def read() -> int:
        seen = set()
        while not ended.is_set():
            with contextlib.suppress(OSError):  # EIO among others: somebody else opens a new version just now
                before = etag()
                with open(here.root / "a", "rb") as file:
                    content = file.read()
                    if etag() == before:
                        assert content == bodies[before]
                        seen.add(before)
        return len(seen)

    def etag() -> str:
        return str(json.loads(os.getxattr(here.root / "a", "user.s3lustrefs.status"))["etag"])

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        for body in bodies.values():
            here.put("a", body)
            here.refresh()
        ended.set()
        assert max(reader.result() for reader in readers) > 2


def test_what_is_open_fails_once_somebody_opens_what_replaced_it(place: Callable[[str], Place]) -> None:
    here = place("keep-both")
    here.put("a", b"before")
    here.refresh()
    older = os.open(here.root / "a", os.O_RDONLY)
    assert os.pread(older, 99, 0) == b"before"
    here.put("a", b"and after")
    here.refresh()
    assert (here.root / "a").read_bytes() == b"and after"
    for call in (lambda: os.pread(older, 99, 0), lambda: os.fstat(older), lambda: os.close(older)):
        with pytest.raises(OSError) as failed:
            call()
        assert failed.value.errno == errno.EIO
    assert (here.root / "a").read_bytes() == b"and after"
