"""The command line of `lfs`."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from s3lustrefs.cli import lfs
from s3lustrefs.cli.lfs_install import install_lfs

PLACE = Path(__file__).parents[3]
SWITCHES = {"-d": "dirty", "--dirty": "dirty", "-r": "norelease", "--norelease": "norelease", "--noarchive": "noarchive"}
VALUED = {"-i": "id", "--id": "id"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("f", (set(), {}, ["f"])),
        ("-d f -r g", ({"dirty", "norelease"}, {}, ["f", "g"])),
        ("-dr f", ({"dirty", "norelease"}, {}, ["f"])),
        ("--dirty -- -r", ({"dirty"}, {}, ["-r"])),
        ("--di --nor f", ({"dirty", "norelease"}, {}, ["f"])),
        ("-i 3 f", (set(), {"id": "3"}, ["f"])),
        ("-i3 --id=4 -", (set(), {"id": "4"}, ["-"])),
        ("-di5", ({"dirty"}, {"id": "5"}, [])),
    ],
)
def test_options_are_read_as_getopt_reads_them(words: str, expected: tuple[set[str], dict[str, str], list[str]]) -> None:
    assert lfs.parse(words.split(), SWITCHES, VALUED) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-x", "-x: no such option"),
        ("--no f", "--no: could be any of --norelease, --noarchive"),
        ("-i", "-i needs a value"),
        ("--dirty=1", "--dirty takes no value"),
    ],
)
def test_mistakes_are_told(words: str, message: str) -> None:
    with pytest.raises(lfs.Wrong, match=message):
        lfs.parse(words.split(), SWITCHES, VALUED)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.append({str(PLACE)!r}); from s3lustrefs.cli.lfs import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-ISc", code, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no command is given"),
        (("getstripe", "f"), "getstripe: not an HSM command"),
        (("hsm_state",), "no file is given"),
        (("hsm_archive", "-a", "x", "f"), "--archive x: not a number"),
    ],
)
def test_wrong_usage_is_22_and_says_how(arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert done.returncode == 22 and words in done.stderr and "usage:" in done.stderr and not done.stdout


def test_help_has_an_example() -> None:
    assert "Example:" in run("--help").stdout and "Example:" in run("hsm_restore", "--help").stdout


def test_nothing_is_loaded_that_takes_long() -> None:
    """A job may start it once for each of a million files."""
    code = f"import sys; sys.path.append({str(PLACE)!r}); import s3lustrefs.cli.lfs; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-ISc", code], capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in loaded if name.startswith("s3lustrefs")}
    assert ours == {"s3lustrefs", "s3lustrefs.cli", "s3lustrefs.cli.lfs", "s3lustrefs.cli.hsm_client"}
    assert not {"click", "trio", "json", "re", "typing", "argparse", "collections", "subprocess", "boto3", "botocore"} & set(loaded)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = install_lfs(tmp_path_factory.mktemp("bin"))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("words", "status", "out", "err"),
    [
        (["--help"], 0, lfs.USAGE, ""),
        (["hsm_state"], errno.EINVAL, "", f"lfs: no file is given\n{lfs.USAGE}"),
        (["hsm_state", "/", "/none"], errno.EOPNOTSUPP, "", "lfs hsm_state: /: "),
        ([], errno.EINVAL, "", f"lfs: no command is given\n{lfs.USAGE}"),
    ],
)
def test_everything_is_said_before_the_process_ends_at_once(
    installed: Path, words: list[str], status: int, out: str, err: str
) -> None:
    done = subprocess.run([installed, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, out) and done.stderr.startswith(err)
    assert "Traceback" not in done.stderr


def test_defect_is_told_and_a_reader_that_has_gone_is_no_defect(installed: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([installed, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode and "No space left on device" in done.stderr
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([installed, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (errno.EPIPE, "")
