"""Two hosts have one prefix mounted and write the same few names at random: no version that was closed is ever lost.

Each version is a line nobody else writes. A job gives up a version only by replacing what it has just read through the same
descriptor, which fails when the file has become another one meanwhile. Names are taken away by moving files out of the linked
directory, so that whatever a name stood for at that moment is still there to be looked at.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.cli.draining import poll
from s3lustrefs.meta.namespace import RENAME_NOREPLACE
from tests.mount.conftest import fresh_bucket
from tests.mount.site import WAIT_SECONDS, Site
from tests.posix.calls import renameat2
from tests.servers import S3Server

POLICIES = ("keep-both", "bucket-wins", "file-wins")
NAMES = ("a", "b", "d/c", "d/e/f")
LOST_FOUND = ".s3lustrefs-lost+found"
EXPECTED = [
    "conflict (ino|kept)", "delete given up", "errno=(ESTALE|EIO|ENODATA)", "object changed", "export failed", "not fetched"
]  # fmt: skip
ROUNDS = 12
PAUSE_SECONDS = 0.1


class Host:
    """One mount, and a job on it that keeps books."""

    def __init__(self, here: Site, name: str) -> None:
        self.site = here
        self.name = name
        self.closed: set[bytes] = set()
        self.replaced: set[bytes] = set()
        self._count = 0

    def mount(self, bucket: str) -> None:
        tables = [
            f'[[dra]]\nfile_system_path = "/{policy}"\ndata_repository_path = "s3://{bucket}/{policy}/"\n'
            f'import_interval = "1s"\non_conflict = "{policy}"\n'
            for policy in POLICIES
        ]
        path = self.site.scratch / "mount.toml"
        path.write_text("\n".join(tables))
        self.site.source = str(path)
        self.site.expected_log += EXPECTED
        self.site.mount()
        (self.site.root / "out").mkdir()

    # --- the job ---------------------------------------------------------------------------------------------------------

    def work(self, seed: int, seconds: float) -> None:
        choose = random.Random(seed)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._step(choose)
            time.sleep(choose.random() * PAUSE_SECONDS)

    def exchange(self, seconds: float) -> None:
        """Beside the job, what is due goes out at once and what others did comes in."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.client().call("Drain", paths=["/"], urgent=True, again=True)
            for policy in POLICIES:
                self.client().call("Refresh", path=f"/{policy}")

    def _step(self, choose: random.Random) -> None:
        policy = choose.choice(POLICIES)
        path, other = (self.site.root / policy / name for name in choose.sample(NAMES, 2))
        try:
            match choose.choices(("append", "replace", "rename", "take"), (6, 6, 3, 2))[0]:
                case "append":
                    self._write(path, keep=True)
                case "replace":
                    self._write(path, keep=False)
                case "rename":
                    self._take(other)
                    other.parent.mkdir(parents=True, exist_ok=True)
                    renameat2(path, other, RENAME_NOREPLACE)
                case "take":
                    self._take(path)
        except OSError:
            pass  # not there, another file now, or there already: as jobs meet it

    def _write(self, path: Path, *, keep: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            base = os.pread(fd, 1 << 20, 0)
            self._count += 1
            line = f"{self.name}-{self._count}\n".encode()
            if not keep:
                os.ftruncate(fd, 0)
                self.replaced.update(base.splitlines())
            if os.pwrite(fd, line, len(base) if keep else 0) == len(line):
                self.closed.add(line.strip())
        finally:
            os.close(fd)

    def _take(self, path: Path) -> None:
        """Away from the linked directory, if it is there."""
        self._count += 1
        with contextlib.suppress(FileNotFoundError):
            path.rename(self.site.root / "out" / f"{self._count}")

    # --- the end ---------------------------------------------------------------------------------------------------------

    def client(self) -> ControlClient:
        return ControlClient(str(self.site.state_dir / "control.sock"), timeout=WAIT_SECONDS)

    def settle(self) -> None:
        late, remaining, failed = poll(self.client(), ["/"], timeout=WAIT_SECONDS, progress=lambda *_: None)
        assert not late, remaining
        for each in failed:
            # A file that was renamed here before it was read, and whose object the other host has moved away. Not deleted: the
            # next sweep may have found another version for it by now.
            assert each["code"] == "S3ObjectNotFound", failed
            self._take(self.site.root / each["path"].lstrip("/"))
        for policy in POLICIES:
            self.client().call("Refresh", path=f"/{policy}")

    def tree(self) -> dict[str, bytes]:
        return {name: body for name, body in self.everything() if name.partition("/")[0] in POLICIES}

    def everything(self) -> Iterator[tuple[str, bytes]]:
        for path in self.site.root.rglob("*"):
            name = str(path.relative_to(self.site.root))
            try:
                if path.is_file():
                    yield name, path.read_bytes()
            except OSError:
                if not name.startswith("out/"):  # taken away here before it was read, and there too
                    raise


def run(make_site: Callable[..., Site], server: S3Server, seconds: float, seed: int) -> None:
    bucket = fresh_bucket(server)
    hosts = [Host(make_site(server=server, bucket=bucket), name) for name in ("one", "two")]
    for host in hosts:
        host.mount(bucket)
    with ThreadPoolExecutor(2 * len(hosts)) as pool:
        jobs = [pool.submit(host.work, seed + number, seconds) for number, host in enumerate(hosts)]
        jobs += [pool.submit(host.exchange, seconds) for host in hosts]
        for job in jobs:
            job.result()
    objects = agreed(hosts)
    check_nothing_is_lost(hosts, objects)
    for host in hosts:
        print(host.name, len(host.closed), "versions,", host.client().call("Status")["conflicts"], "conflicts")
        host.site.unmount()
        assert host.site.cli("fsck", host.site.state_dir).returncode == 0


def agreed(hosts: list[Host]) -> dict[str, bytes]:
    """Drain and refresh both until nothing changes any more: then both trees are what is in the bucket."""
    trees: list[dict[str, bytes]] = []
    objects: dict[str, bytes] = {}
    for _ in range(ROUNDS):
        for host in hosts:
            host.settle()
        objects = {key: body for key, body in hosts[0].site.objects().items() if not key.endswith("/")}
        try:
            trees = [host.tree() for host in hosts]
        except OSError:
            continue  # the other host was a step ahead
        if all(tree == objects for tree in trees):
            return objects
    differing = {
        name: (objects.get(name), [tree.get(name) for tree in trees])
        for name in {*objects, *trees[0], *trees[1]}
        if any(tree.get(name) != objects.get(name) for tree in trees)
    }
    raise AssertionError(f"bucket and trees differ: {differing}")


def check_nothing_is_lost(hosts: list[Host], objects: dict[str, bytes]) -> None:
    kept = {line for body in objects.values() for line in body.splitlines()}
    kept |= {line for host in hosts for _, body in host.everything() for line in body.splitlines()}
    replaced = hosts[0].replaced | hosts[1].replaced
    for host in hosts:
        lost = sorted(host.closed - replaced - kept)
        assert not lost, f"{host.name}: {len(lost)} of {len(host.closed)} versions are nowhere: {lost[:20]}"


def test_two_mounts_that_write_the_same_names_lose_nothing(make_site: Callable[..., Site], moto_server: S3Server) -> None:
    run(make_site, moto_server, 6.0, 1)


@pytest.mark.long
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_two_mounts_for_long(make_site: Callable[..., Site], s3_server: S3Server, seed: int) -> None:
    run(make_site, s3_server, float(os.environ.get("S3LUSTREFS_TWO_MOUNTS_SECONDS", "60")), seed)
