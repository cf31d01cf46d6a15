"""tar, rsync and cp bring a tree here and find it unchanged: content, times to the nanosecond, modes, links, attributes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.applications.conftest import Workplace, tree


@pytest.fixture
def original(workplace: Workplace) -> Path:
    """A tree on the host's own file system with a little of everything that these programs carry."""
    root = workplace.elsewhere / "original"
    for number in range(60):
        path = root / f"d{number % 5}" / "deeper" / f"file {number}.dat"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number * 997))
        os.utime(path, ns=(10**18 + number, 1_234_567_890_123_456_789 + number))
    (root / "empty").touch()
    (root / "nothing in it").mkdir(mode=0o700)
    (root / "größe").write_bytes(os.urandom(3_000_000))
    (root / "script").write_text("#!/bin/sh\n")
    (root / "script").chmod(0o751)
    (root / "link").symlink_to("d1/deeper")
    (root / "dangling").symlink_to("not there")
    os.link(root / "empty", root / "d0/second name")
    os.truncate(root / "d0/deeper/file 0.dat", 2_000_000)
    os.setxattr(root / "script", "user.origin", b"here")
    os.setxattr(root / "d2", "user.origin", b"a directory")
    os.chown(root / "d3", 1000, 1000)
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):  # rsync leaves fractions of the present second alone
        if path.is_dir() or path.is_symlink():
            os.utime(path, ns=(1, 987_654_321_000_000_001 * (number % 3 - 1)), follow_symlinks=False)
    return root


def test_tar_extracts_and_finds_no_difference(workplace: Workplace, original: Path) -> None:
    archive = workplace.root / "all.tar"
    workplace.run("tar", "--xattrs", "--format=pax", "-cf", archive, "-C", original, ".")
    (workplace.root / "copy").mkdir()
    workplace.run("tar", "--xattrs", "-xpf", archive, "-C", workplace.root / "copy")
    assert workplace.run("tar", "-df", archive, "-C", workplace.root / "copy") == ""
    workplace.settle()
    assert workplace.run("tar", "-df", archive, "-C", workplace.root / "copy") == ""
    assert tree(workplace.root / "copy") == tree(original)


def test_second_rsync_transfers_nothing(workplace: Workplace, original: Path) -> None:
    copy = workplace.root / "copy"
    command = ["rsync", "-aHX", "--itemize-changes", f"{original}/", f"{copy}/"]
    assert workplace.run(*command).count("\n") > 60
    assert workplace.run(*command) == ""
    workplace.settle()
    assert workplace.run(*command) == ""
    assert workplace.run(*command, "--checksum") == ""
    assert tree(copy) == tree(original)
    (original / "script").write_text("#!/bin/sh\nexit 1\n")
    assert workplace.run(*command).split()[1:] == ["script"]
    assert workplace.run("rsync", "-aHX", "--itemize-changes", f"{copy}/", f"{original}/") == ""


def test_cp_archives_there_and_back(workplace: Workplace, original: Path) -> None:
    workplace.run("cp", "-a", original, workplace.root / "copy")
    workplace.run("cp", "-a", workplace.root / "copy", workplace.root / "copy of the copy")
    workplace.settle()
    workplace.run("cp", "-a", workplace.root / "copy of the copy", workplace.elsewhere / "back")
    assert workplace.run("diff", "-r", "--no-dereference", original, workplace.elsewhere / "back") == ""
    assert tree(workplace.elsewhere / "back") == tree(original)
