"""Random work on a mount that exports to another prefix, and the same in a plain directory: both trees are equal, and the bucket
has each file either where it was imported from, untouched, or where it was exported to."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import fresh_bucket
from tests.mount.site import Site
from tests.servers import S3Server

STEPS_BEFORE_A_LOOK = 25
IMPORTED = {
    **{f"f{number}": b"%d" % number * (1 << number) for number in range(8)},
    **{f"d{number}/": b"" for number in range(2)},
    **{f"d{number}/x{more}": b"x%d%d" % (number, more) for number in range(2) for more in range(3)},
    "d0/e/y": b"y", "i/z": b"z",
}  # fmt: skip


class Twins:
    """Does everything twice."""

    def __init__(self, ours: Path, plain: Path, seed: int) -> None:
        self.ours, self.plain, self.random = ours, plain, random.Random(seed)
        self.done: list[str] = []

    def step(self) -> None:
        contents, names = (self.write, self.append, self.chmod), (self.unlink, self.move, self.move, self.move_back)
        self.random.choice((*contents, *names, self.mkdir, self.symlink, self.link))()

    def both(self, text: str, deed: Callable[[Path], object]) -> None:
        outcomes = []
        for root in (self.plain, self.ours):
            try:
                outcomes.append((deed(root), 0))
            except OSError as exc:
                outcomes.append((None, exc.errno))
        self.done.append(text)
        assert outcomes[0] == outcomes[1], (self.done, outcomes)

    def name(self, *, files: bool = False, directories: bool = False) -> str:
        found = sorted(str(path.relative_to(self.plain)) for path in self.plain.rglob("*") if _is(path, files, directories))
        return self.random.choice(found or ["f0"])

    def new_name(self) -> str:
        above = self.random.choice(["", self.name(directories=True) + "/"])
        return above + self.random.choice(["f0", "f1", "f2", "d0", "x0", "x1", "new", "n2"])

    def write(self) -> None:
        name = self.random.choice([self.name(files=True), self.new_name()])
        body = self.random.randbytes(self.random.choice((0, 9, 70_000)))
        self.both(f"write {name} {len(body)}", lambda root: (root / name).write_bytes(body))

    def append(self) -> None:
        name = self.name(files=True)
        self.both(f"append {name}", lambda root: os.close(_append(root / name)))

    def chmod(self) -> None:
        name, mode = self.name(files=True, directories=True), self.random.choice((0o700, 0o744, 0o755))
        self.both(f"chmod {name} {mode:o}", lambda root: (root / name).chmod(mode))

    def unlink(self) -> None:
        name = self.name(files=True)
        self.both(f"unlink {name}", lambda root: (root / name).unlink())

    def move(self) -> None:
        old, new = self.name(files=True, directories=True), self.new_name()
        self.both(f"move {old} {new}", lambda root: os.rename(root / old, root / new))

    def move_back(self) -> None:
        name = self.name(files=True, directories=True)
        self.both(f"move {name} there", lambda root: os.rename(root / name, root / "there"))
        if self.random.random() < 0.3:
            time.sleep(0.05)
        self.both(f"move there {name}", lambda root: os.rename(root / "there", root / name))

    def mkdir(self) -> None:
        name = self.new_name()
        self.both(f"mkdir {name}", lambda root: (root / name).mkdir())

    def symlink(self) -> None:
        name = self.new_name()
        self.both(f"symlink {name}", lambda root: (root / name).symlink_to("target"))

    def link(self) -> None:
        old, new = self.name(files=True), self.new_name()
        self.both(f"link {old} {new}", lambda root: os.link(root / old, root / new, follow_symlinks=False))


def _append(path: Path) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
    os.write(descriptor, b"more")
    return descriptor


def _is(path: Path, files: bool, directories: bool) -> bool:
    is_dir = path.is_dir() and not path.is_symlink()
    return is_dir if not files else directories or not is_dir


def look(root: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content."""
    found = {}
    for path in root.rglob("*"):
        status = path.lstat()
        content = os.fsencode(os.readlink(path)) if path.is_symlink() else b"" if path.is_dir() else path.read_bytes()
        found[str(path.relative_to(root))] = (0 if path.is_symlink() else status.st_mode, content)
    return found


def check_bucket(place: Site, plain: dict[str, tuple[int, bytes]], before: dict[str, str]) -> None:
    assert {key: str(place.head(key)["LastModified"]) for key in place.keys("in/")} == before, "something imported was written"
    exported = place.objects("out/")
    names = {key.removeprefix("out/").rstrip("/") for key in exported}
    assert names <= plain.keys(), names - plain.keys()
    for name, (mode, content) in plain.items():
        is_dir = mode >> 12 == 0o04
        if is_dir:
            continue
        body = exported.get(f"out/{name}", IMPORTED.get(name))
        assert body == content, name


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 30))]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_work_is_exported_apart(moto_server: S3Server, make_site: Callable[..., Site], tmp_path: Path, seed: int) -> None:
    bucket = fresh_bucket(moto_server)
    place = make_site("in/", bucket=bucket, import_interval="0")
    for name, body in IMPORTED.items():
        place.put(f"in/{name}", body)
        if not name.endswith("/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(body)
    for path in tmp_path.rglob("*"):
        path.chmod(0o755)
    before = {key: str(place.head(key)["LastModified"]) for key in place.keys("in/")}
    source = place.scratch / "apart.toml"
    source.write_text(
        f'[[dra]]\nfile_system_path = "/"\ndata_repository_path = "s3://{bucket}/in"\n'
        f'export_repository_path = "s3://{bucket}/out"\n'
    )
    place.source = str(source)
    place.mount()
    twins = Twins(place.root, tmp_path, seed)
    for _ in range(4):
        for _ in range(STEPS_BEFORE_A_LOOK):
            twins.step()
        twins.done.append("drain")
        place.drain()
        for each in place.root.rglob("*"):
            if each.is_file() and not each.is_symlink():
                place.cli("hsm", "release", each, check=False)
                break
        check_bucket(place, look(tmp_path), before)
        place.cli("refresh", place.root)
        assert look(place.root) == look(tmp_path), twins.done
        twins.done.append("remount")
        place.unmount()
        assert place.cli("fsck", place.state_dir).returncode == 0, twins.done
        place.mount()
