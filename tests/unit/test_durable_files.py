"""A file is replaced as a whole, whatever a death has left beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from s3lustrefs.durable_files import replace_file, write_synced


def test_file_is_replaced_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path, left = tmp_path / "file", tmp_path / ".file.new"
    path.write_text("before")
    left.write_text("half of what was to be written when we died")
    left.chmod(0o644)
    replace_file(path, "after")
    assert path.read_text() == "after" and path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_file_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    (tmp_path / ".file.new").mkdir()
    with pytest.raises(OSError):
        replace_file(path, "after")
    assert path.read_text() == "before"


def test_link_under_the_name_of_a_new_file_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("somebody else's")
    (tmp_path / "file").symlink_to(other)
    write_synced(tmp_path / "file", "ours", mode=0o644)
    assert other.read_text() == "somebody else's" and (tmp_path / "file").read_text() == "ours"
