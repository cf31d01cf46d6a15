"""A real daemon on a real mount, made to die, and everything that must hold afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.cli.draining import poll
from s3lustrefs.cli.launch import start_daemon
from s3lustrefs.config import load
from s3lustrefs.errors import UsageError
from s3lustrefs.failpoints import VARIABLE
from s3lustrefs.movers import repair
from tests.crash.tree import Directory, File, Node, Snapshot, Symlink, Tree, differences, is_between, look
from tests.crash.workload import Step, content
from tests.servers import S3Server

DRAIN_SECONDS = 20.0


class Crashing:
    """One bucket, one state directory, and a mount whose daemon may die."""

    def __init__(self, server: S3Server, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server = server
        self.s3 = server.client()
        self.bucket = f"t-{uuid.uuid4().hex[:16]}"
        self.s3.create_bucket(Bucket=self.bucket)
        self.root = scratch / "mnt"
        self.root.mkdir()
        self.scratch = scratch
        (scratch / "acknowledged").touch()
        self.state_dir = scratch / "state"
        self.endpoint_url = server.endpoint_url
        self._environment = monkeypatch
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        self.pid = 0
        self.source = f"s3://{self.bucket}/p"
        self._whole: set[bytes] = set()

    # --- the daemon ------------------------------------------------------------------------------------------------------

    def mount(self, failpoint: str = "", *more_options: str) -> bool:
        """False when the daemon died at the failpoint before the mount answered."""
        self._environment.setenv(VARIABLE, failpoint)
        fixed = f"state_dir={self.state_dir}", f"endpoint_url={self.endpoint_url}", "addressing_style=path"
        options = ",".join((*fixed, *more_options))
        config = load(self.source, options, mountpoint=str(self.root))
        try:
            self.pid = start_daemon(config, str(self.root))
        except UsageError as exc:
            assert failpoint and "exit status -9" in str(exc), exc
            return False
        return True

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait_death(self) -> int:
        """The exit status of the daemon, once it has ended."""
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def tell_to_end(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def end_cleanly(self) -> int:
        self.tell_to_end()
        return self.wait_death()

    def clear(self) -> None:
        """No process and no mount stays, whatever happened."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                self.kill()
            self.wait_death()
        while subprocess.run(["umount", "-l", str(self.root)], capture_output=True, check=False).returncode == 0:
            continue

    def wait_import(self) -> None:
        client = self.client()
        while any(a["import"]["state"] != "DONE" for a in client.call("Status")["associations"]):  # type: ignore[attr-defined]
            time.sleep(0.005)

    def client(self) -> ControlClient:
        return ControlClient(str(self.state_dir / "control.sock"))

    def drain(self) -> None:
        timed_out, remaining, failed = poll(self.client(), [], timeout=DRAIN_SECONDS, progress=lambda *_: None)
        assert not timed_out and not failed, (remaining, failed, self.log())

    def log(self) -> str:
        return "".join(
            line + "\n" for line in (self.state_dir / "daemon.log").read_text().splitlines() if "probe found" not in line
        )[-6000:]

    # --- the job ---------------------------------------------------------------------------------------------------------

    def start_job(self, steps: list[Step]) -> subprocess.Popen[str]:
        (self.scratch / "steps").write_text(json.dumps(steps))
        command = [sys.executable, "-m", "tests.crash.workload", self.root, self.scratch / "steps", self.scratch / "acknowledged"]
        root = Path(__file__).parents[2]
        return subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, cwd=root)

    def acknowledged(self) -> int:
        """How many steps returned."""
        return (self.scratch / "acknowledged").read_text().count("\n")

    def forget_job(self) -> None:
        """The next one starts to count anew."""
        (self.scratch / "acknowledged").write_text("")

    # --- what must hold --------------------------------------------------------------------------------------------------

    def recover(self, before: Tree, steps: list[Step]) -> Tree:
        """Clear the dead mount, check, mount again, compare with what was acknowledged; the tree as it is then."""
        self.clear()
        findings = repair.find(self.state_dir)
        assert not findings, (findings, self.log())
        done = self.acknowledged()
        self.mount()
        self.wait_import()
        found = look(self.root)
        for verb, *arguments in steps[:done]:
            before.apply(str(verb), *arguments)
        wrong = differences(found, before.snapshot())
        if wrong and done < len(steps):
            wrong = self._apply_half_done(before, steps[done], found)
        assert not wrong, (f"after step {done}", wrong, self.log())
        return before

    def _apply_half_done(self, tree: Tree, step: Step, found: Snapshot) -> list[str]:
        """The step that never returned may have happened, wholly or, for a write, in part."""
        verb, *arguments = step
        old = tree.snapshot()
        tree.apply(str(verb), *arguments)
        if verb == "write":
            name = str(arguments[0])
            file = tree.nodes[name]
            assert isinstance(file, File)
            if name in found and is_between(found[name][2], old[name][2], file.data):
                file.data = found[name][2]
        return differences(found, tree.snapshot())

    def check_bucket(self, tree: Tree) -> None:
        """The bucket holds exactly the tree, and nothing unfinished."""
        found: Snapshot = {}
        for key in self.keys():
            answer = self.s3.get_object(Bucket=self.bucket, Key=key)
            mode = int(answer["Metadata"].get("file-permissions", "0100644"), 8)
            kind = {0o12: "link", 0o04: "dir"}.get(mode >> 12, "file")
            found[key.removeprefix("p/").rstrip("/")] = (kind, mode & 0o7777, answer["Body"].read())
        assert not (wrong := differences(found, tree.snapshot())), (wrong, self.log())
        uploads = self.s3.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        assert uploads == [], (uploads, self.log())

    def keys(self) -> list[str]:
        return [each["Key"] for each in self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])]

    def check_no_torn_object(self, before: Tree, steps: list[Step]) -> None:
        """Every object is what some file was between two steps; while a file was open it was nobody's to export."""
        whole = self._whole
        whole |= {data for _, _, data in before.snapshot().values()}
        open_files: set[str] = set()
        tree = before.copy()
        for verb, *arguments in steps[: self.acknowledged() + 1]:
            tree.apply(str(verb), *arguments)
            if verb in ("create", "open_old"):
                open_files.add(str(arguments[0]))
            elif verb == "close":
                open_files.discard(str(arguments[0]))
            whole |= {data for name, (_, _, data) in tree.snapshot().items() if name not in open_files}
        for key in self.keys():
            with contextlib.suppress(self.s3.exceptions.NoSuchKey):  # a delete that was on its way is still carried out
                assert self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read() in whole, f"{key} is torn"

    # --- a beginning -------------------------------------------------------------------------------------------------------

    def fill(self) -> Tree:
        """A bucket with a little of everything."""
        nodes: dict[str, Node] = {
            "old": Directory(0o750), "old/a.txt": File(content(1, 1000), 0o600), "old/b.bin": File(content(2, (3 << 20) + 17)),
            "old/c.txt": File(content(3, 100)), "old/gone.txt": File(b"x"), "old/link": Symlink("a.txt"),
            "deep": Directory(), "deep/er": Directory(), "deep/er/x.txt": File(content(4, 10)),
        }  # fmt: skip
        for name, node in nodes.items():
            kind = {File: 0o10, Directory: 0o04, Symlink: 0o12}[type(node)] << 12
            key = f"p/{name}/" if isinstance(node, Directory) else f"p/{name}"
            body = node.data if isinstance(node, File) else node.target.encode() if isinstance(node, Symlink) else b""
            metadata = {"file-permissions": f"{kind | node.mode:07o}", "file-owner": "0", "file-group": "0"}
            self.s3.put_object(Bucket=self.bucket, Key=key, Body=body, Metadata=metadata)
        return Tree(nodes)
