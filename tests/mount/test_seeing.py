"""What commands and attributes tell, and that everyday programs work on the mount."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import tarfile
from pathlib import Path

import pytest

from tests.mount.conftest import BIG, COLD, Area
from tests.mount.site import Site

MIB = 1 << 20


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# --- commands ---------------------------------------------------------------------------------------------------------------


def test_status_has_what_an_operator_looks_for(here: Site) -> None:
    here.put("p/cold", b"cold")
    here.put("p/odd//key", b"x")
    here.mount()
    assert (here.root / "cold").read_bytes() == b"cold"
    (here.root / "new").write_bytes(b"new!!")
    here.drain()
    status = here.status()
    assert status["mountpoint"] == str(here.root) and status["state_dir"] == str(here.state_dir)
    assert status["pid"] == here.note_daemon() and not status["read_only"] and status["conflicts"] == 0
    (association,) = status["associations"]
    assert association["data_repository_path"] == f"s3://{here.bucket}/p/" and association["file_system_path"] == "/"
    assert association["lifecycle"] == "AVAILABLE" and association["failure"] is None
    assert association["import"]["state"] == "DONE" and association["import"]["skipped"] == 1
    export = status["export"]
    assert (export["due"], export["open"], export["failed"], export["in_flight"]) == (0, 0, 0, 0)
    assert (export["exported_objects"], export["exported_bytes"]) == (1, 5)
    assert status["hydration"]["bytes"] == 4
    assert status["cache"]["used_bytes"] >= 9
    assert status["cache"]["targets"][0]["free_bytes"] > 0
    text = here.cli("status", here.root).stdout
    assert f"s3://{here.bucket}/p/" in text and "0 due" in text and "1 skipped" in text
    with open(here.root / "open", "wb"):
        assert here.status()["export"]["open"] == 1


def test_why_tells_each_state(here: Site) -> None:
    here.put("p/cold", b"cold")
    here.mount()
    cold = here.cli("why", here.root / "cold").stdout
    assert f"linked to s3://{here.bucket}/p/cold" in cold and "0 of 4 bytes are local" in cold and "nothing to export" in cold
    with open(here.root / "new", "wb") as file:
        file.write(b"x")
        file.flush()
        assert "waits for the last writer to close it" in here.cli("why", here.root / "new").stdout
    here.drain()
    assert "ETag" in here.cli("why", here.root / "new").stdout
    answer = here.why("new")
    assert answer["key"] == "p/new" and answer["etag"] == here.head("p/new")["ETag"].strip('"')
    done = here.cli("why", here.root / "absent", check=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1


def test_hsm_state_prints_as_lustre_does(here: Site) -> None:
    here.put("p/cold", b"cold")
    here.put("p/dir/inside", b"x")
    here.mount()
    (here.root / "new").write_bytes(b"x")
    here.drain()
    with open(here.root / "new", "ab") as file:
        file.write(b"y")
        file.flush()
        done = here.cli("hsm", "state", here.root / "cold", here.root / "new")
    assert done.stdout.splitlines() == [
        f"{here.root}/cold: (0x0000000d) released exists archived, archive_id:1",
        f"{here.root}/new: (0x0000000b) exists dirty archived, archive_id:1",
    ]
    (here.root / "open").touch()
    done = here.cli("hsm", "state", here.root / "absent", check=False)
    assert done.returncode == errno.ENOENT and done.stdout == "" and "absent" in done.stderr
    found = json.loads(here.cli("hsm", "state", "--json", here.root / "cold").stdout)
    assert found["states"][0]["flags"] == 0xD


def test_virtual_attributes_are_readable_but_not_listed(here: Site) -> None:
    here.put("p/cold", b"cold")
    here.mount()
    os.setxattr(here.root / "cold", "user.mine", b"1")
    assert os.listxattr(here.root / "cold") == ["user.mine"]
    assert os.getxattr(here.root / "cold", "user.s3lustrefs.hsm") == b"(0x0000000d) released exists archived, archive_id:1"
    status = json.loads(os.getxattr(here.root / "cold", "user.s3lustrefs.status"))
    assert status["key"] == "p/cold" and status["resident_bytes"] == 0 and status["hsm_flags"] == 0xD
    assert status["association"].startswith("dra-") and status["etag"] and status["last_error"] is None
    for change in (
        lambda: os.setxattr(here.root / "cold", "user.s3lustrefs.hsm", b"x"),
        lambda: os.removexattr(here.root / "cold", "user.s3lustrefs.hsm"),
    ):
        with pytest.raises(PermissionError):
            change()
    with pytest.raises(OSError) as caught:
        os.getxattr(here.root, "user.s3lustrefs.hsm")
    assert caught.value.errno == errno.ENODATA


# --- everyday programs ------------------------------------------------------------------------------------------------------


def test_cp_from_and_to_the_mount(area: Area, tmp_path: Path) -> None:
    area.site.run("cp", "-a", area.root, tmp_path / "copy")
    assert content(tmp_path / "copy") == COLD
    for path in COLD:
        assert (tmp_path / "copy" / path).stat().st_mtime_ns == (area.root / path).stat().st_mtime_ns
    os.utime(tmp_path / "copy/a", ns=(10**18, 10**18 + 7))
    os.chmod(tmp_path / "copy/a", 0o751)
    area.site.run("cp", "-a", tmp_path / "copy", area.root / "back")
    assert content(area.root / "back") == COLD
    copied = (area.root / "back/a").stat()
    assert (copied.st_mtime_ns, copied.st_mode & 0o777) == (10**18 + 7, 0o751)
    area.drain()
    found = {path: body for path, body in area.objects().items() if not path.endswith("/")}
    assert found == {**COLD, **{f"back/{path}": body for path, body in COLD.items()}}
    metadata = area.site.head(area.key("back/a"))["Metadata"]
    assert (metadata["file-mtime"], metadata["file-permissions"]) == (f"{10**18 + 7}ns", "0100751")


def test_copytree_from_and_to_the_mount(area: Area, tmp_path: Path) -> None:
    shutil.copytree(area.root, tmp_path / "copy")
    shutil.copytree(tmp_path / "copy", area.root / "back")
    assert content(area.root / "back") == COLD
    shutil.move(area.root / "back", tmp_path / "moved")
    assert content(tmp_path / "moved") == COLD
    area.drain()
    assert area.objects() == COLD


def test_git(area: Area) -> None:
    repository = area.root / "repo"
    git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "gc.auto=0"]
    area.site.run("git", "init", "-q", repository)
    for number in range(20):
        (repository / f"file{number}").write_text(f"line {number}\n")
    area.site.run(*git, "add", ".")
    area.site.run(*git, "commit", "-q", "-m", "first")
    (repository / "file3").write_text("changed\n")
    area.site.run(*git, "commit", "-q", "-am", "second")
    assert area.site.run(*git, "status", "--porcelain").stdout == ""
    area.site.run(*git, "fsck", "--strict")
    assert len(area.site.run(*git, "log", "--oneline").stdout.splitlines()) == 2
    area.drain()
    assert area.objects()["repo/file3"] == b"changed\n"


def test_sqlite(area: Area) -> None:
    for mode in ("delete", "wal"):
        path = area.root / f"{mode}.db"
        with sqlite3.connect(path) as connection:
            connection.execute(f"pragma journal_mode={mode}")
            connection.execute("create table t (n integer primary key, body blob)")
            for number in range(20):
                connection.execute("insert into t values (?, ?)", (number, os.urandom(3000)))
                connection.commit()
            assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        connection.close()
        with sqlite3.connect(path) as connection:
            assert connection.execute("select count(*) from t").fetchone() == (20,)
        connection.close()
    area.drain()
    assert area.objects()["delete.db"] == (area.root / "delete.db").read_bytes()


def test_tar(area: Area, tmp_path: Path) -> None:
    archive = tmp_path / "all.tar"
    area.site.run("tar", "--sparse", "-cf", archive, "-C", area.root, ".")
    with tarfile.open(archive) as found:
        members = {m.name.removeprefix("./"): found.extractfile(m) for m in found.getmembers() if m.isfile()}
        assert {name: stream.read() for name, stream in members.items() if stream} == COLD
    (area.root / "x").mkdir()
    area.site.run("tar", "-xf", archive, "-C", area.root / "x")
    assert content(area.root / "x") == COLD
    area.drain()
    assert area.objects()["x/big"] == BIG


def test_find_du_and_df(area: Area) -> None:
    site = area.site
    found = site.run("find", area.root, "-type", "f", "-size", "+1M").stdout.split()
    assert found == [str(area.root / "big")]
    assert (area.root / "big").stat().st_blocks == 1
    assert int(site.run("du", "-s", "--block-size=1", area.root).stdout.split()[0]) <= 512 * len(COLD) + 4096 * 10
    assert int(site.run("du", "-s", "--apparent-size", "--block-size=1", area.root / "big").stdout.split()[0]) == len(BIG)
    assert (area.root / "big").read_bytes() == BIG
    assert (area.root / "big").stat().st_blocks * 512 >= len(BIG)
    assert site.run("df", "--output=fstype,target", site.root).stdout.splitlines()[1].split() == ["fuse.s3lustrefs", str(site.root)]
    space = os.statvfs(site.root)
    assert 0 < space.f_bavail <= space.f_blocks and space.f_namemax == 255


def test_file_locks_work_between_processes(area: Area) -> None:
    done = area.site.run("flock", "--nonblock", area.root / "a", "true")
    assert done.returncode == 0
