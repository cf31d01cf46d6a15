"""HSM commands on a real mount: texts, flags, exit status, who may, races; by `lfs` as `install-helper` puts it in place."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import S3LUSTREFS, Site

MIB = 1 << 20
RELEASED = "(0x0000000d) released exists archived, archive_id:1"
ARCHIVED = "(0x00000009) exists archived, archive_id:1"
DIRTY = "(0x0000000b) exists dirty archived, archive_id:1"
NEW = "(0x00000000)"
STRANGER = 4711
_DROP = """
import os, sys
sys.path.append({place!r})
from s3lustrefs.cli import lfs
os.setgroups([]); os.setresgid({uid}, {uid}, {uid}); os.setresuid({uid}, {uid}, {uid})
sys.argv[0] = "lfs"
sys.exit(lfs.main())
"""


@dataclass(frozen=True)
class Lfs:
    """`lfs` on a mount; `root` is what relative paths are below."""

    path: Path
    root: Path

    def run(self, command: str, *arguments: str | Path, uid: int = 0) -> subprocess.CompletedProcess[str]:
        words: Sequence[str] = [str(self.path)]
        if uid:
            # The interpreter may be where only root can read: its user changes once everything is loaded.
            words = [sys.executable, "-ISc", _DROP.format(place=str(Path(__file__).parents[2]), uid=uid)]
        return subprocess.run(
            [*words, f"hsm_{command}", *map(str, arguments)], capture_output=True, text=True, check=False, cwd=self.root, timeout=60
        )

    def ok(self, command: str, *arguments: str | Path, uid: int = 0) -> None:
        done = self.run(command, *arguments, uid=uid)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done

    def refused(self, number: int, words: str, command: str, *arguments: str | Path, uid: int = 0) -> None:
        done = self.run(command, *arguments, uid=uid)
        assert done.returncode == number and words in done.stderr and not done.stdout, done

    def state(self, path: str) -> str:
        return self.run("state", path).stdout.removeprefix(f"{path}: ").rstrip("\n")

    def action(self, path: str) -> str:
        return self.run("action", path).stdout.removeprefix(f"{path}: ").rstrip("\n")


@pytest.fixture(scope="module")
def lfs_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bin")
    command = [sys.executable, "-m", "s3lustrefs", "install-helper", "--directory", str(place), "--lfs-directory", str(place)]
    subprocess.run(command, check=True, capture_output=True)
    return place / "lfs"


@pytest.fixture
def lfs(here: Site, lfs_path: Path) -> Lfs:
    return Lfs(lfs_path, here.root)


@pytest.fixture
def shared(make_site: Callable[..., Site], lfs_path: Path) -> Iterator[tuple[Site, Lfs]]:
    """A mount that other users get into."""
    place = make_site(allow_other="")
    place.options = {"allow_other": "true"}
    place.scratch.chmod(0o755)
    yield place, Lfs(lfs_path, place.root)


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def held(proxy: BackgroundProxy, path: str) -> Iterator[None]:
    """The bucket answers GETs of an object only when the block is left."""
    proxy.add("hold", method="GET", path=path, times=10**6)
    try:
        yield
    finally:
        proxy.clear_faults()


# --- state ---------------------------------------------------------------------------------------------------------------


def test_states_of_a_files_life(here: Site, lfs: Lfs) -> None:
    here.put("p/cold", b"cold")
    here.mount()
    assert lfs.state("cold") == RELEASED
    (here.root / "cold").read_bytes()
    assert lfs.state("cold") == ARCHIVED
    with (here.root / "cold").open("ab") as file:
        file.write(b"more")
        assert lfs.state("cold") == ARCHIVED  # still in the program's own buffer
        file.flush()
        assert lfs.state("cold") == DIRTY
    here.drain()
    assert lfs.state("cold") == ARCHIVED
    (here.root / "cold").chmod(0o600)
    assert lfs.state("cold") == ARCHIVED
    (here.root / "new").touch()
    both = lfs.run("state", "cold", "new")
    assert both.stdout.splitlines()[0] == f"cold: {ARCHIVED}" and both.stdout.count("\n") == 2


def test_the_count_of_files_not_yet_exported(here: Site, lfs: Lfs) -> None:
    """Source: FSx for Lustre User Guide, "Exporting files using HSM commands"."""
    here.mount()
    (here.root / "d").mkdir()
    for number in range(5):
        (here.root / f"d/{number}").write_bytes(b"x")
    here.drain()
    with (here.root / "d/2").open("ab") as file:
        file.write(b"y")
        file.flush()
        (here.root / "d/5").touch()
        line = (
            f"find {here.root}/d -type f -print0 | xargs -0 -n 2 -P 8 {shlex.quote(str(lfs.path))} hsm_state"
            " | awk '!/ archived/ || / dirty/' | wc -l"  # the Guide's has word boundaries, which only one awk knows
        )
        assert here.run("sh", "-c", line).stdout.strip() in ("1", "2")  # the new file may be there already
        (here.root / "d/5").unlink()
    here.drain()
    assert here.run("sh", "-c", line).stdout.strip() == "0"


def test_what_has_no_state_is_refused_with_its_errno(here: Site, lfs: Lfs, tmp_path: Path) -> None:
    here.mount()
    (here.root / "d").mkdir()
    (here.root / "file").touch()
    (tmp_path / "foreign").touch()
    lfs.refused(errno.ENOENT, "absent: No such file or directory", "state", "absent")
    lfs.refused(errno.EINVAL, "d: Invalid argument: not a regular file", "state", "d")
    lfs.refused(errno.EOPNOTSUPP, "not in a file system mounted by s3lustrefs", "state", tmp_path / "foreign")
    done = lfs.run("state", "absent", "file")
    assert done.returncode == errno.ENOENT and done.stdout.startswith("file: (0x")


@pytest.mark.parametrize("request_", ["archive", "restore", "release", "remove", "cancel"])
def test_nothing_is_asked_for_unless_all_can_be(here: Site, lfs: Lfs, tmp_path: Path, request_: str) -> None:
    here.put("p/cold", b"x")
    here.mount()
    (here.root / "link").symlink_to("cold")
    (tmp_path / "foreign").touch()
    lfs.refused(errno.ENOENT, "absent: No such file or directory", request_, "cold", "absent")
    lfs.refused(errno.EINVAL, "link: Invalid argument: not a regular file", request_, "cold", "link")
    lfs.refused(errno.EXDEV, "all files must be in one file system", request_, "cold", tmp_path / "foreign")
    lfs.refused(errno.EXDEV, "all files must be in one file system", request_, "--mntpath", tmp_path, "cold")
    lfs.refused(errno.EINVAL, "no file is given", request_)
    assert lfs.state("cold") == RELEASED


# --- restore -------------------------------------------------------------------------------------------------------------


def test_restore_and_release(here: Site, lfs: Lfs) -> None:
    body = os.urandom(20 * MIB + 5)
    here.put("p/big", body)
    here.put("p/small", b"small")
    here.mount()
    before = (here.root / "big").stat()
    lfs.ok("restore", "big", "small")
    eventually(lambda: lfs.state("big") == ARCHIVED and lfs.state("small") == ARCHIVED)
    assert lfs.action("big") == "NOOP"
    lfs.ok("restore", "big")
    assert (here.root / "big").read_bytes() == body
    lfs.ok("release", "big", "small")
    assert lfs.state("big") == RELEASED and (here.root / "big").stat().st_blocks == 1
    lfs.ok("release", "big")
    after = (here.root / "big").stat()
    assert (after.st_mtime_ns, after.st_ctime_ns, after.st_size) == (before.st_mtime_ns, before.st_ctime_ns, before.st_size)
    assert (here.root / "big").read_bytes() == body


def test_a_restore_is_shown_while_it_goes_on(here: Site, lfs: Lfs, proxy: BackgroundProxy) -> None:
    here.put("p/file", b"x" * (3 * MIB))
    here.mount()
    with held(proxy, "/p/file"):
        lfs.ok("restore", "file")
        proxy.wait_held()
        assert lfs.action("file") == "RESTORE running (0 bytes moved)"
        assert lfs.state("file") == RELEASED
    eventually(lambda: lfs.action("file") == "NOOP")
    assert lfs.state("file") == ARCHIVED


def test_racing_restores_and_readers_fetch_each_byte_once(here: Site, lfs: Lfs, proxy: BackgroundProxy) -> None:
    body = os.urandom(3 * MIB)
    here.put("p/file", body)
    here.mount()
    with ThreadPoolExecutor(40) as pool:
        with held(proxy, "/p/file"):
            restores = [pool.submit(lfs.ok, "restore", "file") for _ in range(4)]
            readers = [pool.submit((here.root / "file").read_bytes) for _ in range(32)]
            proxy.wait_held()
            time.sleep(0.3)
        assert all(reader.result() == body for reader in readers)
        for restore in restores:
            restore.result()
    eventually(lambda: lfs.action("file") == "NOOP")
    assert here.status()["hydration"]["bytes"] == len(body)


def test_restore_is_refused_where_it_would_cost_something(here: Site, lfs: Lfs) -> None:
    here.put("p/file", b"x" * 100)
    here.mount()
    with (here.root / "file").open("r+b") as file:
        file.write(b"y")
        file.flush()
        lfs.refused(errno.EPERM, "changes which are not archived", "restore", "file")
    here.drain()
    lfs.ok("restore", "file")
    (here.root / "new").touch()
    lfs.ok("restore", "new")


def test_a_restore_can_be_cancelled_and_readers_get_theirs(here: Site, lfs: Lfs, proxy: BackgroundProxy) -> None:
    body = os.urandom(40 * MIB)
    here.put("p/file", body)
    here.mount()
    with ThreadPoolExecutor(1) as pool:
        with held(proxy, "/p/file"):
            lfs.ok("restore", "file")
            proxy.wait_held()
            reader = pool.submit((here.root / "file").read_bytes)
            time.sleep(0.1)
            lfs.ok("cancel", "file")
        assert reader.result() == body
    lfs.ok("cancel", "file")


def test_a_cancelled_restore_fetches_no_more(here: Site, lfs: Lfs, proxy: BackgroundProxy) -> None:
    here.put("p/huge", b"x" * (400 * MIB))
    here.mount()
    with held(proxy, "/p/huge"):
        lfs.ok("restore", "huge")
        proxy.wait_held()
        lfs.ok("cancel", "huge")
    fetched = here.status()["hydration"]["bytes"]
    eventually(lambda: here.status()["hydration"]["bytes"] > fetched)
    assert len(proxy.requests("GET", "/p/huge")) <= 33 < 400 // 8  # what was on its way is not thrown away
    assert lfs.state("huge") == RELEASED


def test_a_failed_restore_leaves_the_file_released(here: Site, lfs: Lfs) -> None:
    here.put("p/cold", b"x", StorageClass="GLACIER")
    here.mount()
    here.expected_log.append("restore failed")
    lfs.ok("restore", "cold")
    eventually(lambda: lfs.action("cold") == "NOOP" and "restore failed" in here.log())
    assert lfs.state("cold") == RELEASED


def test_documented_preload_line(here: Site, lfs: Lfs) -> None:
    """Source: FSx for Lustre User Guide, "Preloading files into your file system"."""
    for number in range(40):
        here.put(f"p/d {number % 4}/f'{number}", b"x" * number)
    here.mount()
    here.run("sh", "-c", f"find {here.root} -type f -print0 | xargs -0 -n 1 -P 8 {shlex.quote(str(lfs.path))} hsm_restore")
    # An empty file has nothing that could be released.
    eventually(lambda: all("released" not in here.hsm(f"d {n % 4}/f'{n}") for n in range(40)))


def test_restore_works_in_a_mount_that_is_read_only(here: Site, lfs: Lfs) -> None:
    here.put("p/file", b"x" * 100)
    here.mount(ro="true")
    lfs.ok("restore", "file")
    eventually(lambda: lfs.state("file") == ARCHIVED)
    lfs.ok("release", "file")
    for refused in (("archive",), ("remove",), ("set", "-r")):
        lfs.refused(errno.EROFS, "read-only", *refused, "file")


# --- release -------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_released(here: Site, lfs: Lfs) -> None:
    here.put("p/file", b"x" * 100)
    here.mount()
    (here.root / "new").write_bytes(b"new")
    with (here.root / "file").open("rb") as reader:
        assert reader.read()
        lfs.refused(errno.EBUSY, "somebody has it open", "release", "file")
    eventually(lambda: lfs.run("release", "file").returncode == 0)
    (here.root / "file").read_bytes()
    with (here.root / "file").open("r+b") as writer:
        writer.write(b"y")
        writer.flush()
        lfs.refused(errno.EPERM, "changes which are not archived", "release", "file")
    here.drain()
    lfs.ok("set", "--norelease", "file")
    lfs.refused(errno.EPERM, "never_release is set", "release", "file")
    assert lfs.state("file") == "(0x00000019) exists archived never_release, archive_id:1"
    lfs.ok("clear", "--norelease", "file")
    lfs.ok("release", "file")
    (here.root / "empty").touch()
    here.drain()
    lfs.ok("release", "empty")


def test_release_right_after_reading(here: Site, lfs: Lfs) -> None:
    here.put("p/file", b"x" * 100)
    here.mount()
    for _ in range(5):
        here.run("cat", here.root / "file")
        lfs.ok("release", "file")


# --- archive and remove --------------------------------------------------------------------------------------------------


def test_archive_whatever_the_policy(here: Site, lfs: Lfs) -> None:
    here.options["auto_export"] = "none"
    here.mount()
    (here.root / "file").write_bytes(b"content")
    here.drain()
    assert lfs.state("file") == NEW and here.keys() == []
    lfs.ok("archive", "--archive", "1", "--data", "whatever", "file")
    eventually(lambda: lfs.state("file") == ARCHIVED)
    assert here.objects() == {"p/file": b"content"}
    version = here.head("p/file")["LastModified"]
    lfs.ok("archive", "file")
    assert lfs.action("file") == "NOOP" and here.head("p/file")["LastModified"] == version
    with (here.root / "file").open("ab") as file:
        file.write(b", more")
    here.drain()
    assert lfs.state("file") == DIRTY and here.body("p/file") == b"content"
    lfs.ok("archive", "file")
    eventually(lambda: lfs.state("file") == ARCHIVED)
    assert here.body("p/file") == b"content, more"


def test_archive_of_an_open_file_follows_with_its_close(here: Site, lfs: Lfs) -> None:
    here.options["auto_export"] = "none"
    here.mount()
    with (here.root / "file").open("wb") as file:
        file.write(b"half")
        file.flush()
        lfs.ok("archive", "file")
        assert lfs.action("file") == "ARCHIVE waiting (from 0 to EOF)"
        file.write(b" and whole")
    eventually(lambda: lfs.state("file") == ARCHIVED)
    assert here.body("p/file") == b"half and whole"


def test_an_archive_is_shown_while_it_goes_on(here: Site, lfs: Lfs, proxy: BackgroundProxy) -> None:
    here.options["auto_export"] = "none"
    here.mount()
    with (here.root / "file").open("wb") as file:
        file.truncate(40 * MIB)
        file.write(b"x")
    here.drain()
    proxy.add("hold", method="PUT", path="partNumber=2", times=10**6)
    lfs.ok("archive", "file")
    proxy.wait_held()
    eventually(lambda: "running" in lfs.action("file") and "(0 bytes" not in lfs.action("file"))
    assert int(lfs.action("file").split("(")[1].split()[0]) % (8 * MIB) == 0
    proxy.clear_faults()
    eventually(lambda: lfs.state("file") == ARCHIVED)


def test_never_archive_keeps_the_exporter_away(here: Site, lfs: Lfs) -> None:
    here.mount()
    (here.root / "file").write_bytes(b"1")
    here.drain()
    lfs.ok("set", "--noarchive", "file")
    (here.root / "file").write_bytes(b"22")
    here.drain()
    assert here.body("p/file") == b"1"
    assert lfs.state("file") == "(0x0000002b) exists dirty archived never_archive, archive_id:1"
    lfs.refused(errno.EPERM, "never_archive is set", "archive", "file")
    assert "never_archive keeps the change local" in here.cli("why", here.root / "file").stdout
    lfs.ok("clear", "--noarchive", "file")
    here.drain()
    assert here.body("p/file") == b"22" and lfs.state("file") == ARCHIVED


def test_remove_leaves_a_local_file(here: Site, lfs: Lfs) -> None:
    here.options["import_interval"] = "1s"
    here.put("p/file", b"content")
    here.put("p/cold", b"cold")
    here.mount()
    lfs.refused(errno.EPERM, "it is released", "remove", "cold")
    (here.root / "file").read_bytes()
    lfs.ok("remove", "file")
    eventually(lambda: here.keys() == ["p/cold"])
    assert lfs.state("file") == NEW and (here.root / "file").read_bytes() == b"content"
    lfs.refused(errno.EPERM, "it is not archived", "release", "file")
    here.cli("refresh", here.root)
    here.drain()
    assert here.keys() == ["p/cold"] and (here.root / "file").read_bytes() == b"content"
    assert "lfs hsm_remove" in here.cli("why", here.root / "file").stdout
    eventually(lambda: lfs.action("file") == "NOOP")
    lfs.ok("remove", "file")
    lfs.ok("archive", "file")
    eventually(lambda: lfs.state("file") == ARCHIVED)
    assert here.body("p/file") == b"content"


def test_archive_outside_every_association_is_refused(here: Site, lfs: Lfs) -> None:
    from tests.mount.site import two_associations

    here.source = str(two_associations(here.bucket, here.scratch))
    here.mount()
    (here.root / "local").write_bytes(b"x")
    lfs.refused(errno.EINVAL, "it is in no association", "archive", "local")
    lfs.refused(errno.EPERM, "it is not archived", "release", "local")
    lfs.ok("restore", "local")


# --- flags ---------------------------------------------------------------------------------------------------------------


def test_illegal_combinations_and_what_could_cost_bytes(here: Site, lfs: Lfs) -> None:
    here.put("p/cold", b"cold")
    here.options["auto_export"] = "none"
    here.mount()
    (here.root / "new").write_bytes(b"x")
    lfs.refused(errno.EINVAL, "dirty without exists", "set", "--dirty", "new")
    lfs.refused(errno.EINVAL, "released with dirty", "set", "--dirty", "cold")
    lfs.refused(errno.EINVAL, "released without archived", "clear", "--archived", "cold")
    lfs.refused(errno.EINVAL, "lost without archived", "set", "--lost", "new")
    lfs.refused(errno.EPERM, "no object is known", "set", "--exists", "--archived", "new")
    lfs.refused(errno.EINVAL, "no flag is given", "set", "new")
    lfs.refused(errno.EINVAL, "there is no archive 7", "set", "--archive-id", "7", "new")
    lfs.refused(errno.EINVAL, "no such option", "clear", "--archive-id", "1", "new")
    lfs.ok("set", "-i", "1", "new")
    lfs.ok("set", "--exists", "new")
    assert lfs.state("new") == "(0x00000001) exists, archive_id:1"
    lfs.ok("set", "-dra", "new")
    assert lfs.state("new") == "(0x00000033) exists dirty never_release never_archive, archive_id:1"
    lfs.ok("clear", "-der", "--noarchive", "new")
    assert lfs.state("new") == NEW
    (here.root / "cold").write_bytes(b"changed")
    lfs.refused(errno.EPERM, "its changes are only here", "clear", "--dirty", "cold")


def test_a_file_set_dirty_is_exported_again(here: Site, lfs: Lfs) -> None:
    here.put("p/file", b"content")
    here.mount()
    (here.root / "file").read_bytes()
    lfs.ok("set", "--dirty", "file")
    assert lfs.state("file") in (DIRTY, ARCHIVED)
    here.drain()
    assert lfs.state("file") == ARCHIVED and here.body("p/file") == b"content"


def test_reading_a_file_flagged_lost_fails(here: Site, lfs: Lfs) -> None:
    here.put("p/file", b"content")
    here.mount()
    here.expected_log.append("lost_from_hsm")
    lfs.ok("set", "--lost", "file")
    assert lfs.state("file") == "(0x0000004d) released exists archived lost_from_hsm, archive_id:1"
    with pytest.raises(OSError) as caught:
        (here.root / "file").read_bytes()
    assert caught.value.errno == errno.EIO
    lfs.refused(errno.EPERM, "its archived copy is lost", "restore", "file")
    lfs.ok("clear", "--lost", "file")
    assert (here.root / "file").read_bytes() == b"content"


def test_clearing_archived_forgets_the_object(here: Site, lfs: Lfs) -> None:
    here.put("p/file", b"content")
    here.mount()
    (here.root / "file").read_bytes()
    lfs.ok("clear", "--exists", "--archived", "file")
    assert lfs.state("file") == NEW
    here.drain()
    assert here.body("p/file") == b"content"
    lfs.ok("archive", "file")
    eventually(lambda: lfs.state("file") == ARCHIVED)


def test_flags_survive_restarts_and_kills(here: Site, lfs: Lfs) -> None:
    here.mount()
    (here.root / "file").write_bytes(b"x")
    here.drain()
    lfs.ok("set", "-ra", "file")
    here.kill_daemon()
    here.clear()
    here.mount()
    assert lfs.state("file") == "(0x00000039) exists archived never_release never_archive, archive_id:1"
    lfs.ok("clear", "-a", "file")
    here.unmount()
    here.mount()
    assert lfs.state("file") == "(0x00000019) exists archived never_release, archive_id:1"


# --- who may -------------------------------------------------------------------------------------------------------------


def test_what_users_may(shared: tuple[Site, Lfs]) -> None:
    here, lfs = shared
    here.put("p/mine", b"mine", Metadata={"file-owner": str(STRANGER), "file-group": "1", "file-permissions": "0100600"})
    here.put("p/theirs", b"theirs", Metadata={"file-owner": "1", "file-group": "1", "file-permissions": "0100600"})
    here.mount()
    for path in ("mine", "theirs"):
        lfs.ok("restore", path, uid=STRANGER)
        eventually(lambda path=path: lfs.state(path) == ARCHIVED)  # type: ignore[misc]
        done = lfs.run("state", path, uid=STRANGER)
        assert (done.returncode, done.stdout) == (0, f"{path}: {ARCHIVED}\n")
        assert lfs.run("action", path, uid=STRANGER).stdout == f"{path}: NOOP\n"
        for request in ("archive", "remove", "cancel"):
            lfs.refused(errno.EPERM, f"only root may {request} it", request, path, uid=STRANGER)
    lfs.ok("release", "mine", uid=STRANGER)
    lfs.refused(errno.EPERM, "only the owner or root may release it", "release", "theirs", uid=STRANGER)
    for letter in ("-r", "-a"):
        lfs.ok("set", letter, "mine", uid=STRANGER)
        lfs.ok("clear", letter, "mine", uid=STRANGER)
        lfs.refused(errno.EPERM, "only the owner or root may change its flags", "set", letter, "theirs", uid=STRANGER)
    for letter in ("-e", "-A", "-l", "-re"):
        lfs.refused(errno.EPERM, "only root may change flags other than", "set", letter, "mine", uid=STRANGER)
    (here.root / "closed").mkdir(mode=0o700)
    (here.root / "closed/file").touch()
    lfs.refused(errno.EACCES, "Permission denied", "state", "closed/file", uid=STRANGER)


# --- command lines -------------------------------------------------------------------------------------------------------


def test_file_lists_and_mount_points(here: Site, lfs: Lfs, tmp_path: Path) -> None:
    for name in ("a", "b c", "d"):
        here.put(f"p/{name}", b"x")
    here.mount()
    (tmp_path / "list").write_text("a\nb c\n")
    lfs.ok("restore", "--filelist", tmp_path / "list", "-m", here.root, "d")
    eventually(lambda: all(lfs.state(name) == ARCHIVED for name in ("a", "b c", "d")))
    lfs.ok("release", f"--filelist={tmp_path / 'list'}", "--mntpath", here.root)
    assert [lfs.state(name) for name in ("a", "b c", "d")] == [RELEASED, RELEASED, ARCHIVED]
    lfs.refused(errno.ENOENT, "No such file", "restore", "-l", tmp_path / "absent")
    lfs.refused(errno.EINVAL, "no such option", "restore", "--archive", "1", "a")
    lfs.refused(errno.EINVAL, "there is no archive 2", "archive", "-a", "2", "a")


def test_the_same_commands_without_lfs(here: Site) -> None:
    here.put("p/file", b"x")
    here.mount()
    here.cli("hsm", "restore", here.root / "file")
    eventually(lambda: here.hsm("file") == ARCHIVED)
    assert here.cli("hsm", "action", here.root / "file").stdout == f"{here.root}/file: NOOP\n"
    here.cli("hsm", "set", "--norelease", here.root / "file")
    done = here.cli("hsm", "release", here.root / "file", check=False)
    assert done.returncode == errno.EPERM and "never_release is set" in done.stderr
    here.cli("hsm", "clear", "-r", here.root / "file")
    here.cli("hsm", "release", here.root / "file")
    assert here.hsm("file") == RELEASED


def test_install_helper_leaves_a_real_lfs_alone(tmp_path: Path) -> None:
    real = tmp_path / "real" / "lfs"
    real.parent.mkdir()
    real.write_text("#!/bin/sh\n")
    real.chmod(0o755)
    command = [sys.executable, "-m", "s3lustrefs", "install-helper", "--directory", str(tmp_path), "--lfs-directory"]
    path = {**os.environ, "PATH": f"{real.parent}:{os.environ['PATH']}"}
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, env=path, check=True)
    assert "another lfs" in done.stdout and not (tmp_path / "lfs").exists()
    done = subprocess.run([*command, str(real.parent)], capture_output=True, text=True, check=True)
    assert "another lfs" in done.stdout and real.read_text() == "#!/bin/sh\n"
    for _ in range(2):  # ours is replaced
        subprocess.run([*command, str(tmp_path)], capture_output=True, check=True)
        assert stat.S_IMODE((tmp_path / "lfs").stat().st_mode) == 0o755
    assert subprocess.run([tmp_path / "lfs", "--help"], capture_output=True, check=True).stdout.startswith(b"usage: lfs hsm_state")


# --- many at once --------------------------------------------------------------------------------------------------------


def test_hydrate_brings_a_tree_and_says_what_it_did(here: Site) -> None:
    bodies = {f"d/{number % 3}/{number}": os.urandom(number * 1000) for number in range(30)}
    bodies["d/large"] = os.urandom(30 * MIB + 1)
    for path, body in bodies.items():
        here.put(f"p/{path}", body)
    here.put("p/other", b"x")
    here.mount()
    (here.root / "d/link").symlink_to("large")
    first = json.loads(here.cli("hydrate", here.root / "d", "--json").stdout)
    assert (first["brought"], first["local"], first["failed"], first["files"]) == (30, 1, 0, 31)
    assert first["bytes"] == first["brought_bytes"] == sum(map(len, bodies.values()))
    assert here.status()["hydration"]["bytes"] == first["bytes"]
    assert all("released" not in here.hsm(path) for path in bodies) and "released" in here.hsm("other")
    assert {path: (here.root / path).read_bytes() for path in bodies} == bodies
    again = here.cli("hydrate", here.root / "d", here.root / "d/large").stdout
    assert again == "0 files brought (0 B in 0 s), 32 here already, 0 failed\n"


def test_hydrate_lists_what_failed(here: Site) -> None:
    here.put("p/d/cold", b"x", StorageClass="GLACIER")
    here.put("p/d/gone", b"y")
    here.put("p/d/good", b"z")
    here.mount()
    here.s3.delete_object(Bucket=here.bucket, Key="p/d/gone")
    here.expected_log.append("restore failed")
    done = here.cli("hydrate", here.root / "d", check=False)
    assert done.returncode == 1 and "1 files brought" in done.stdout and "2 failed" in done.stdout
    assert {line.split(":")[0] for line in done.stderr.splitlines()} == {f"{here.root}/d/cold", f"{here.root}/d/gone"}
    assert (here.root / "d/good").read_bytes() == b"z"
    done = here.cli("hydrate", here.root / "absent", check=False)
    assert done.returncode == 3 and "absent" in done.stderr


def test_readers_go_before_what_is_hydrated(here: Site, proxy: BackgroundProxy) -> None:
    for number in range(60):
        here.put(f"p/d/{number}", b"x" * 5000)
    here.put("p/wanted", b"wanted")
    here.mount()
    proxy.add("hold", method="GET", path="/p/d/", times=10**6)
    with ThreadPoolExecutor(1) as pool:
        preload = pool.submit(here.cli, "hydrate", here.root / "d")
        proxy.wait_held()
        assert (here.root / "wanted").read_bytes() == b"wanted"
        here.cli("hsm", "restore", here.root / "d/1")
        proxy.clear_faults()
        assert "60 files brought" in preload.result().stdout


def test_an_interrupted_hydrate_is_given_up(here: Site, proxy: BackgroundProxy) -> None:
    for number in range(100):
        here.put(f"p/d/{number}", b"x" * 5000)
    here.mount()
    proxy.add("hold", method="GET", path="/p/d/", times=10**6)
    running = subprocess.Popen([S3LUSTREFS, "hydrate", here.root / "d"], env=here.environment, stderr=subprocess.PIPE, text=True)
    proxy.wait_held()
    eventually(lambda: len(proxy.content_gets()) >= 20)
    running.send_signal(signal.SIGINT)
    assert "interrupted" in running.communicate(timeout=30)[1] and running.returncode == 130
    proxy.clear_faults()
    eventually(lambda: here.status()["hydration"]["in_flight"] == 0)
    asked = len(proxy.content_gets())
    time.sleep(0.5)
    assert len(proxy.content_gets()) == asked
    assert sum("released" in here.hsm(f"d/{number}") for number in range(100)) >= 50


def test_a_thousand_restores_are_queued_soon(here: Site, lfs: Lfs, proxy: BackgroundProxy) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: here.put(f"p/{number}", b"x" * 100), range(1000)))
    here.mount()
    here.run("find", here.root, "-size", "+0")  # asks for the owner of each: not what is measured
    proxy.add("hold", method="GET", path="/p/", times=10**6)
    before = time.monotonic()
    lfs.ok("restore", *map(str, range(1000)))
    assert time.monotonic() - before < 5
    assert lfs.action("999") == "RESTORE waiting (from 0 to EOF)"
    before = time.monotonic()
    lfs.ok("cancel", *map(str, range(1000)))
    proxy.clear_faults()
    eventually(lambda: lfs.action("0") == "NOOP")
    here.run("sh", "-c", f"find {here.root} -type f -print0 | xargs -0 -n 50 -P 8 {shlex.quote(str(lfs.path))} hsm_restore")
    assert time.monotonic() - before < 10
    eventually(lambda: "released" not in here.hsm("0"))


def test_the_readmes_commands_run(here: Site, lfs: Lfs) -> None:
    for path in ("input.dat", "input/a", "input/b", "results/model.bin", "reference.fa", "reference/x"):
        here.put(f"p/{path}", b"x" * 100)
    here.mount()
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    section = readme.partition("### HSM commands")[2].partition("\n### ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        script = block.replace("/mnt/run", str(here.root)).replace("lfs hsm_", f"{lfs.path} hsm_")
        here.run("sh", "-ec", re.sub(r"^s3lustrefs ", f"{S3LUSTREFS} ", script, flags=re.MULTILINE))
    assert all("released" not in here.hsm(path) for path in ("input/a", "reference/x")) and "never_release" in here.hsm(
        "reference.fa"
    )
