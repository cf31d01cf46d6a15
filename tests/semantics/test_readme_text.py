"""What the README says about options, commands and examples is so; needs no mount."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from s3lustrefs.cli.admin import cli
from s3lustrefs.config import OPTION_KEYS, load
from s3lustrefs.model.log_events import WARNINGS, LogEvent

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_every_option_is_in_the_table_and_nothing_else() -> None:
    table = README.partition("### Options")[2].partition("mount(8)'s standard options")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert documented == set(OPTION_KEYS) - {"noatime"}


def test_every_event_of_the_log_is_in_the_table_with_its_level() -> None:
    table = README.partition("| event (W: warning")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = dict(pair for cell in cells for pair in re.findall(r"`(\w+)`(?: \((W)\))?", cell))
    assert documented == {event.value: "W" if event in WARNINGS else "" for event in LogEvent}


def test_example_file_is_valid(tmp_path: Path) -> None:
    example, apart = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "scratch.toml").write_text(example)
    config = load("scratch", "", mountpoint="/mnt/scratch", config_dir=tmp_path)
    assert [(dra.file_system_path, dra.bucket) for dra in config.dras] == [("/reference", "genomes"), ("/results", "lab-results")]
    assert config.dras[0].auto_export == frozenset()
    (tmp_path / "apart.toml").write_text(apart)
    (only,) = load("apart", "", mountpoint="/mnt/scratch", config_dir=tmp_path).dras
    assert (only.prefix, only.export_prefix) == ("raw/", "run-17/")


def test_example_fstab_lines_are_valid() -> None:
    lines = [line.split() for line in README.splitlines() if re.search(r"\s0 0$", line)]
    assert len(lines) == 2
    for source, mount_point, fs_type, options, _, _ in lines:
        assert fs_type == "s3lustrefs"
        load(source if source.startswith("s3://") else "s3://bucket", options, mountpoint=mount_point)


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_is_named(name: str) -> None:
    command = cli.commands[name]
    words = [f"{name} {sub}" for sub in command.commands] if isinstance(command, click.Group) else [name]
    assert all(f"s3lustrefs {word}" in README or f"`{word}`" in README for word in words)
