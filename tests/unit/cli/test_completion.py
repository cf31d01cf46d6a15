"""The scripts, run by the shells they are for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from s3lustrefs.cli.admin import cli
from s3lustrefs.cli.completion import SHELLS


def script(shell: str) -> str:
    done = CliRunner().invoke(cli, ["completion", shell], catch_exceptions=False)
    assert done.exit_code == 0 and done.output.strip()
    return done.output


@pytest.fixture
def path(tmp_path: Path) -> str:
    """With a command of our name that is this very code."""
    command = tmp_path / "s3lustrefs"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m s3lustrefs "$@"\n')
    command.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def said(command: list[str], path: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": path}, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["unm"], ["unmount"]), (["unmount", "--no"], ["--no-drain"]), (["completion", ""], list(SHELLS)), (["nothing"], [])],
)
def test_bash_completes_commands_options_and_values(words: list[str], expected: list[str], path: str) -> None:
    line = " ".join(f"'{word}'" for word in ("s3lustrefs", *words))
    asked = f'COMP_WORDS=({line}); COMP_CWORD={len(words)}; _s3lustrefs_completion s3lustrefs; echo "${{COMPREPLY[@]}}"'
    assert said(["bash", "-c", f"{script('bash')}\n{asked}"], path) == expected


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes_commands(path: str) -> None:
    assert "unmount" in " ".join(said(["fish", "-c", f"{script('fish')}\ncomplete -C 's3lustrefs unm'"], path))


@pytest.mark.parametrize("shell", SHELLS)
def test_script_asks_the_command_of_this_name(shell: str) -> None:
    assert "s3lustrefs" in script(shell) and f"_S3LUSTREFS_COMPLETE={shell}_complete" in script(shell)


def test_other_shells_are_refused() -> None:
    assert CliRunner().invoke(cli, ["completion", "csh"]).exit_code == 2
