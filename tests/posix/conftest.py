"""Where the expectations of this directory are tested: on the mount in every setting, and on a reference file system.

The reference is a plain directory of this host (pytest's `tmp_path`, ext4 as a rule), so that an expectation which is wrong
fails there. One mount serves the whole session: it links `one` and `two` with two prefixes and leaves room outside.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.mount.conftest import area_name, fresh_bucket
from tests.mount.site import Site, can_mount, site, two_associations
from tests.posix.calls import opened
from tests.semantics.mounted import put_objects
from tests.servers import S3Server

MIB = 1 << 20
CONTENT = bytes(range(251)) * 4178 + b"z" * 4096
"""A little over one block of residency, so that a file of it can be partly resident; no zeros but one in 251 bytes."""
REFERENCE, LOCAL, LINKED = "reference", "local", "linked"
COLD, PARTLY, RESIDENT = "cold", "partly", "resident"
IMPORTED = (COLD, PARTLY, RESIDENT)


@dataclass(frozen=True)
class Place:
    """One test's own empty directory, `root`, in one setting; `site` is None on the reference file system."""

    setting: str
    root: Path
    site: Site | None

    @property
    def is_reference(self) -> bool:
        return self.site is None

    def mount(self) -> Site:
        assert self.site is not None
        return self.site

    def file(self, name: str = "f", content: bytes = b"content") -> Path:
        path = self.root / name
        path.write_bytes(content)
        return path

    def dir(self, name: str = "d") -> Path:
        path = self.root / name
        path.mkdir()
        return path


@dataclass(frozen=True)
class FileCase:
    """A file that holds `CONTENT`, in one setting and state of residency."""

    setting: str
    path: Path
    site: Site | None

    @property
    def is_reference(self) -> bool:
        return self.site is None

    def resident_bytes(self) -> int:
        assert self.site is not None
        return int(self.site.about(str(self.path.relative_to(self.site.root)))["resident_bytes"])


@dataclass(frozen=True)
class Across:
    """Two empty directories that an operation connects; on the mount they differ in what they are linked with."""

    setting: str
    source: Path
    target: Path
    site: Site | None


@pytest.fixture(scope="session")
def mounted(request: pytest.FixtureRequest, moto_server: S3Server) -> Iterator[Site]:
    """The mount; at the end everything can be exported, and the state directory is sound."""
    if not can_mount():
        pytest.skip("mounting needs /dev/fuse and root")
    bucket = fresh_bucket(moto_server)
    put_objects(moto_server, bucket, [(f"one/{key}", CONTENT, {}) for key in _seeds(request.session.items)])
    with site(moto_server, bucket) as here:
        here.expected_log.append("is not UTF-8")
        here.scratch.chmod(0o755)  # for other users
        here.source = str(two_associations(bucket, here.scratch, "allow_other = true"))
        here.mount()
        for name in ("local", "one", "two"):
            (here.root / name).mkdir(exist_ok=True)
        yield here
        here.drain()
        here.unmount()
        here.cli("fsck", here.state_dir)


def _seeds(items: list[pytest.Item]) -> Iterator[str]:
    """Keys of the imported files that the collected tests ask for."""
    for item in items:
        params = getattr(item, "callspec", None)
        if params is not None and params.params.get("file") in IMPORTED:
            yield f"{_area(item)}/f"


def _area(item: Any) -> str:
    return f"{item.path.stem}-{area_name(item)}"


def _directory(mounted: Site, under: str, item: Any) -> Path:
    path = mounted.root / under / _area(item)
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture(params=[REFERENCE, LOCAL, LINKED])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Each setting that names and attributes can tell apart."""
    if request.param == REFERENCE:
        found = Place(REFERENCE, tmp_path / "place", None)
        found.root.mkdir()
    else:
        here: Site = request.getfixturevalue("mounted")
        under = "local" if request.param == LOCAL else "one"
        found = Place(request.param, _directory(here, under, request.node), here)
    before = Path.cwd()
    yield found
    os.chdir(before)


@pytest.fixture(params=[REFERENCE, LOCAL, LINKED, *IMPORTED])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> FileCase:
    """A file in each setting and state that content can tell apart."""
    if request.param == REFERENCE:
        case = FileCase(REFERENCE, tmp_path / "f", None)
        case.path.write_bytes(CONTENT)
        return case
    here: Site = request.getfixturevalue("mounted")
    case = FileCase(request.param, _directory(here, "local" if request.param == LOCAL else "one", request.node) / "f", here)
    if request.param in (LOCAL, LINKED):
        case.path.write_bytes(CONTENT)
    elif request.param == PARTLY:
        assert read_direct(case.path, 0, 4096) == CONTENT[:4096]
        assert case.resident_bytes() == MIB
    elif request.param == RESIDENT:
        assert case.path.read_bytes() == CONTENT
    return case


@pytest.fixture(params=[REFERENCE, "local-linked", "linked-local", "linked-linked"])
def across(request: pytest.FixtureRequest, tmp_path: Path) -> Across:
    """Every kind of border there is inside the mount."""
    if request.param == REFERENCE:
        (tmp_path / "source").mkdir()
        (tmp_path / "target").mkdir()
        return Across(REFERENCE, tmp_path / "source", tmp_path / "target", None)
    here: Site = request.getfixturevalue("mounted")
    source, target = {
        "local-linked": ("local", "two"),
        "linked-local": ("one", "local"),
        "linked-linked": ("one", "two"),
    }[request.param]
    return Across(request.param, _directory(here, source, request.node), _directory(here, target, request.node), here)


def read_direct(path: Path, offset: int, size: int) -> bytes:
    """One read of just that much, past the kernel's cache and readahead; both numbers are multiples of 4096."""
    with mmap.mmap(-1, size) as aligned, opened(path, os.O_RDONLY | os.O_DIRECT) as descriptor:
        count = os.preadv(descriptor, [aligned], offset)
        return aligned[:count]
