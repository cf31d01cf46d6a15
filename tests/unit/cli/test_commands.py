"""The commands as a user runs them, against a real control server with canned operations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner, Result

from s3lustrefs.cli import admin, draining, mount_helper, reports
from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.cli.target import Target, find
from s3lustrefs.control.server import ControlServer
from s3lustrefs.errors import DaemonUnreachable, MountPointError, NotFound
from s3lustrefs.mountinfo import MountEntry

STATUS: dict[str, Any] = {
    "mountpoint": "/mnt/run",
    "state_dir": "/var/lib/s3lustrefs/run",
    "pid": 4711,
    "uptime_seconds": 3725.5,
    "read_only": False,
    "inodes": 12345,
    "associations": [
        {
            "association_id": "dra-0123456789abcdef0",
            "file_system_path": "/",
            "data_repository_path": "s3://lab/run/",
            "lifecycle": "MISCONFIGURED",
            "failure": "bucket lab does not exist",
            "import": {
                "state": "RUNNING",
                "objects": 10000,
                "objects_per_second": 5000.0,
                "eta_seconds": 65,
                "skipped": 2,
                "headers_pending": 7,
            },
            "sweep": {"objects": 10, "new": 1, "changed": 2, "deleted": 3, "seconds": 4.0, "at": 0.0, "error": "no answer"},
            "auto_import": ["NEW", "CHANGED"],
            "auto_export": [],
            "events": {"state": "OFF", "reason": "event_queue_url=off"},
            "capabilities": {"versioning": "Suspended"},
        }
    ],
    "export": {
        "due": 3,
        "open": 1,
        "in_flight": 2,
        "failed": 1,
        "oldest_due_seconds": 12,
        "exported_objects": 99,
        "exported_bytes": 3 << 30,
        "bytes_per_second": 1024,
        "records_per_second": 12.0,
        "eta_seconds": 90.0,
    },
    "restoring": 1200,
    "conflicts": 3,
    "latest_conflicts": [{"path": "/a", "at": 0.0, "kind": "both-changed", "text": "the bucket's version has the name"}],
    "lost_found": {"files": 2, "bytes": 1 << 20, "oldest_seconds": 90.0},
    "hydration": {"in_flight": 0, "waiting_readers": 0, "restores_waiting": 0, "bytes": 0, "bytes_per_second": 0},
    "cache": {"used_bytes": 1 << 20, "capacity_bytes": None, "targets": [{"path": "/nvme0", "free_bytes": 1 << 40}]},
}


class Daemon:
    """Canned answers; `remaining` is what each Drain answers in turn."""

    def __init__(self) -> None:
        self.remaining: list[int] = [0]
        self.failed: list[dict[str, str]] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def status(self, request: dict[str, Any]) -> dict[str, Any]:
        return STATUS

    async def drain(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(("Drain", request))
        remaining = self.remaining.pop(0) if len(self.remaining) > 1 else self.remaining[0]
        return {"remaining": remaining, "records_per_second": 100.0, "counting_seconds": 0.0, "failed": self.failed}

    async def why(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["path"] == "/absent":
            raise NotFound("/absent: no such file or directory")
        return {"lines": [f"{request['path']} is linked to s3://lab/run/x", "state: archived"], "key": "run/x"}

    async def skipped(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"skipped": [{"key": "a//b", "reason": "has an empty path component"}]}


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A control server in a thread of its own; every command finds it as the mount at /mnt/run."""
    canned = Daemon()
    socket_path = tmp_path / "control.sock"
    operations = {
        "Status": canned.status,
        "Drain": canned.drain,
        "Why": canned.why,
        "Skipped": canned.skipped,
    }
    ready = threading.Event()
    stop: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(ControlServer(socket_path, operations).run)
            stop.append((trio.lowlevel.current_trio_token(), nursery.cancel_scope))
            ready.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert ready.wait(10)
    monkeypatch.setattr(Target, "client", lambda self: ControlClient(str(socket_path)))
    ours = MountEntry("/mnt/run", "/", "fuse.s3lustrefs", "s3://lab/run")
    monkeypatch.setattr("s3lustrefs.cli.target.read_mounts", lambda _: [MountEntry("/", "/", "ext4", "/dev/vda"), ours])
    yield canned
    ((token, scope),) = stop
    token.run_sync_soon(scope.cancel)
    thread.join()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(admin.cli, list(arguments), catch_exceptions=False)


def shell(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "s3lustrefs", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


# --- drain ---------------------------------------------------------------------------------------------------------------


def test_drain_waits_until_nothing_remains(daemon: Daemon) -> None:
    daemon.remaining = [5, 2, 0]
    result = run("drain")
    assert (result.exit_code, result.output) == (0, "")
    assert [request["wait_seconds"] > 0 for _, request in daemon.asked] == [False, True, True]
    assert [(request["paths"], request["urgent"], request["again"]) for _, request in daemon.asked] == [
        (["/"], True, again) for again in (True, False, False)
    ]


def test_drain_of_paths_names_them_as_seen_inside(daemon: Daemon) -> None:
    assert run("drain", "/mnt/run/results", "/mnt/run").exit_code == 0
    assert daemon.asked[0][1]["paths"] == ["/results", "/"]


def test_drain_with_failures_lists_them_and_exits_1(daemon: Daemon) -> None:
    daemon.failed = [{"path": "/x", "error": "access denied", "code": "S3AccessDenied", "remedy": "allow s3:PutObject"}]
    result = run("drain")
    assert result.exit_code == 1
    assert "/x: access denied [S3AccessDenied]\n    allow s3:PutObject" in result.output


def test_drain_out_of_time_exits_2_and_says_what_remains(daemon: Daemon) -> None:
    daemon.remaining = [7]
    result = run("drain", "--timeout", "0")
    assert result.exit_code == 2
    assert "time is up with 7 still to be exported" in result.output
    assert json.loads(run("drain", "--timeout", "0", "--json").stdout) == {"remaining": 7, "timed_out": True, "failed": []}


def test_drain_without_a_mount_exits_3() -> None:
    result = shell("drain", "/")
    assert result.returncode == draining.UNASKED
    assert result.stderr == "s3lustrefs: /: not in a file system mounted by s3lustrefs\n"


# --- reports -------------------------------------------------------------------------------------------------------------


def test_status_says_everything_once(daemon: Daemon) -> None:
    output = run("status").output
    for words in (
        "/mnt/run  read-write, up 1 h 2 min, process 4711",
        "12,345 inodes",
        "running, 10,000 objects, 5,000/s, 1 min 5 s to go, 7 headers to fetch, 2 skipped",
        "import new+changed, export off",
        "/  s3://lab/run/  MISCONFIGURED",
        "bucket lab does not exist",
        "versioning   Suspended",
        "events       sweeps alone: event_queue_url=off",
        "restoring  1,200 archived objects",
        "3 due, 2 in flight, 1 still open, 1 failed, oldest waits 12 s",
        "99 objects, 3.0 GiB exported, 12 changes/s, 1.0 KiB/s, 1 min 30 s to go",
        "/nvme0: 1.0 TiB free",
    ):
        assert words in output
    assert json.loads(run("status", "--json").stdout) == STATUS


def test_skipped_objects_are_listed_with_reasons(daemon: Daemon) -> None:
    assert run("status", "--skipped").output == "a//b: has an empty path component\n"


def test_why_prints_the_daemons_lines(daemon: Daemon) -> None:
    assert run("why", "/mnt/run/x").output == "/x is linked to s3://lab/run/x\nstate: archived\n"
    assert json.loads(run("why", "/mnt/run/x", "--json").stdout)["key"] == "run/x"


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.4, "0 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (90000, "1 d 1 h")]
)
def test_times_for_people(seconds: float | None, text: str) -> None:
    assert reports.time_text(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 50, "5120.0 TiB")])
def test_sizes_for_people(count: int, text: str) -> None:
    assert reports.size_text(count) == text


# --- finding the mount ----------------------------------------------------------------------------------------------------


def mount_table(tmp_path: Path, *points: Path) -> Path:
    table = tmp_path / "mountinfo"
    lines = ["1 1 254:0 / / rw - ext4 /dev/vda rw"]
    lines += [f"{number} 1 0:{number} / {point} rw - fuse.s3lustrefs src rw" for number, point in enumerate(points, start=40)]
    table.write_text("\n".join(lines) + "\n")
    return table


def test_only_mount_is_found_without_a_name(tmp_path: Path) -> None:
    assert find(None, (), mount_table(tmp_path, tmp_path / "one")) == (Target(str(tmp_path / "one")), [])


def test_several_mounts_need_a_name(tmp_path: Path) -> None:
    table = mount_table(tmp_path, tmp_path / "one", tmp_path / "two")
    with pytest.raises(MountPointError, match="several file systems are mounted .*one.*two.*--mount"):
        find(None, (), table)
    assert find(str(tmp_path / "two"), (), table)[0] == Target(str(tmp_path / "two"))


def test_path_finds_its_mount_and_a_symlink_means_itself_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = tmp_path / "one", tmp_path / "shortcut"
    (inside / "d").mkdir(parents=True)
    (inside / "link").symlink_to("d")
    outside.symlink_to(inside / "d")
    table = mount_table(tmp_path, inside)
    monkeypatch.chdir(inside / "d")
    _, paths = find(None, (str(inside), str(inside / "link"), str(outside), "x", ".", "../y"), table)
    assert paths == ["/", "/link", "/d", "/d/x", "/d", "/y"]


def test_path_of_another_mount_is_refused(tmp_path: Path) -> None:
    table = mount_table(tmp_path, tmp_path / "one", tmp_path / "two")
    with pytest.raises(MountPointError, match="two/x: not in the file system mounted at .*one"):
        find(None, (str(tmp_path / "one/x"), str(tmp_path / "two/x")), table)
    with pytest.raises(MountPointError, match="nowhere: s3lustrefs has nothing mounted there"):
        find("/nowhere", (), table)


def test_mount_without_a_control_socket_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match="does not name its control socket"):
        Target(str(tmp_path)).client()


# --- the command line itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("mount",),
        ("unmount",),
        ("drain",),
        ("status",),
        ("why",),
        ("check",),
        ("fsck",),
        ("hsm",),
        ("hsm", "state"),
        ("hsm", "archive"),
        ("hsm", "set"),
        ("hydrate",),
        ("install-helper",),
    ],
    ids=" ".join,
)
def test_help_has_an_example(words: tuple[str, ...]) -> None:
    assert "Example:" in run(*words, "--help").output


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("mount", "s3://bucket"), 64, "Missing argument 'MOUNTPOINT'"),
        (("mont",), 64, "No such command 'mont'"),
        (("mount", "s3://bucket", "/no/such/dir"), 1, "s3lustrefs: mount point /no/such/dir: no such directory"),
        (("mount", "s3://bucket", "/", "-o", "regio=x"), 1, "did you mean 'region'?"),
        (("unmount", "/"), 1, "s3lustrefs: /: s3lustrefs has nothing mounted there"),
        (("why", "/etc"), 1, "s3lustrefs: /etc: not in a file system mounted by s3lustrefs"),
    ],
)
def test_mistake_is_one_clear_line(arguments: tuple[str, ...], status: int, words: str) -> None:
    result = shell(*arguments)
    assert result.returncode == status
    assert words in result.stderr
    assert "Traceback" not in result.stderr and not result.stdout


def test_helper_links_are_made_and_replaced(tmp_path: Path) -> None:
    (tmp_path / "mount.s3lustrefs").symlink_to("/somewhere/else")
    result = shell("install-helper", "--directory", str(tmp_path), "--lfs-directory", str(tmp_path / "absent"))
    assert result.returncode == 1 and "cannot be written" in result.stderr
    links = {path.name: os.readlink(path) for path in tmp_path.iterdir()}
    assert set(links) == {"mount.s3lustrefs", "mount.fuse.s3lustrefs"}
    assert set(links.values()) == {str(Path(sys.executable).parent / "mount.s3lustrefs")}


# --- mount(8)'s helper ----------------------------------------------------------------------------------------------------


def test_helper_takes_what_mount_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    point = tmp_path / "point"
    point.mkdir()
    arguments = [
        "s3://bucket/p",
        str(point),
        "-f",
        "-n",
        "-v",
        "-s",
        "-o",
        "rw,noexec,nosuid,user,_netdev",
        "-t",
        "fuse.s3lustrefs",
    ]
    assert mount_helper.main(arguments) == 0
    assert capsys.readouterr().err == ""


def test_helper_fails_as_mount_expects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mount_helper.main(["s3://bucket/p", str(tmp_path / "absent"), "-o", "rw"]) == 32
    assert capsys.readouterr().err.startswith(f"mount.s3lustrefs: mount point {tmp_path}/absent: no such directory")


@pytest.mark.skipif(os.geteuid() != 0, reason="mount(8) lets only root name options")
@pytest.mark.parametrize("fs_type", ["s3lustrefs", "fuse.s3lustrefs"])
def test_mount_8_finds_the_helper(tmp_path: Path, fs_type: str) -> None:
    if not os.path.exists(f"/sbin/mount.{fs_type}"):
        pytest.skip("no helper in /sbin: run `s3lustrefs install-helper`")
    command = ["mount", "-t", fs_type, "s3://bucket/p", str(tmp_path), "-o", "cache_size=5Q,x-note=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 32
    assert done.stderr.strip() == "mount.s3lustrefs: mount option cache_size=5Q: is not a size; write for example 500GiB"
