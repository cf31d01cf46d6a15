"""The real launch of a real process, with stand-ins for what the daemon does after its first steps."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from s3lustrefs.cli.launch import start_daemon
from s3lustrefs.config import Config, load
from s3lustrefs.errors import UsageError

STAND_IN = """
import pickle, sys, os
from s3lustrefs.cli.daemon import Parent
orders = pickle.load(sys.stdin.buffer)
parent = Parent(orders.status_fd)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "stand_in.py"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load("s3://bucket/p", f"state_dir={tmp_path}/state", mountpoint="/mnt/x")


def launch(config: Config, seconds: float = 60) -> int:
    return start_daemon(config, "/mnt/x", module="stand_in", ready_seconds=seconds)


def test_pid_is_returned_once_the_daemon_is_ready_and_it_lives_on(module: Path, config: Config, tmp_path: Path) -> None:
    module.write_text(
        STAND_IN
        + f"open({str(tmp_path / 'told')!r}, 'w').write(f'{{orders.config.dras[0].bucket}} {{os.getcwd()}} {{os.getsid(0)}}')\n"
        "parent.ready()\nimport signal\nsignal.pause()\n"
    )
    pid = launch(config)
    pidfd = os.pidfd_open(pid)
    try:
        assert (tmp_path / "told").read_text() == f"bucket / {pid}"
        assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)} == {os.devnull}
        assert b"bucket" in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert not select.select([pidfd], [], [], 0)[0]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(pidfd)


def test_error_of_the_daemon_is_raised_in_its_words(module: Path, config: Config) -> None:
    module.write_text(STAND_IN + "parent.say(error='bucket nosuch does not exist')\nsys.exit(1)\n")
    with pytest.raises(UsageError, match="^bucket nosuch does not exist$"):
        launch(config)


def test_what_libfuse_says_on_standard_error_is_added(module: Path, config: Config) -> None:
    module.write_text(STAND_IN + "print('fuse: no such option', file=sys.stderr)\nparent.say(error='cannot mount')\nsys.exit(1)\n")
    with pytest.raises(UsageError, match=r"^cannot mount \(fuse: no such option\)$"):
        launch(config)


def test_daemon_that_dies_without_a_word_is_told_with_its_last_one(module: Path, config: Config) -> None:
    module.write_text(STAND_IN + "sys.exit('libfuse3.so.3: cannot open')\n")
    with pytest.raises(UsageError, match=r"ended before the mount answered \(exit status 1\): libfuse3.so.3: cannot open"):
        launch(config)


def test_daemon_that_dies_before_reading_its_orders_is_told(module: Path, config: Config) -> None:
    module.write_text("raise SystemExit('no such thing')\n")
    with pytest.raises(UsageError, match="no such thing"):
        launch(config)


def test_daemon_that_never_answers_is_stopped(module: Path, config: Config, tmp_path: Path) -> None:
    module.write_text(STAND_IN + f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\nimport signal\nsignal.pause()\n")
    with pytest.raises(UsageError, match="did not answer within 2 s; the daemon was stopped"):
        launch(config, seconds=2)
    if (tmp_path / "pid").exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


def test_real_daemon_reports_an_unusable_state_directory(config: Config, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file in the way")
    with pytest.raises(UsageError, match="state directory .*/state: File exists"):
        start_daemon(config, "/mnt/x")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a read-only file system")
def test_real_daemon_reports_a_read_only_state_directory(config: Config, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path / "state")], check=True)
    try:
        with pytest.raises(UsageError, match="state directory .*/state: Read-only file system"):
            start_daemon(config, "/mnt/x")
    finally:
        subprocess.run(["umount", str(tmp_path / "state")], check=True)


def test_crash_report_never_lands_in_another_file(tmp_path: Path) -> None:
    """The log is set aside between opening it and the crash."""
    script = (
        "import faulthandler, logging, pathlib, sys; from s3lustrefs import log; from s3lustrefs.cli import daemon;"
        "log.LOG_BYTES = 100; state = pathlib.Path(sys.argv[1]); daemon.open_log(state, 'info');"
        "[logging.getLogger('s3lustrefs').info('line number=%d', number) for number in range(50)];"
        "others = [open(state / f'other-{number}', 'w') for number in range(10)]; faulthandler._sigsegv()"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "state")], capture_output=True, check=False)
    assert done.returncode == -signal.SIGSEGV
    files = list((tmp_path / "state").iterdir())
    assert [path.stat().st_size for path in files if path.name.startswith("other")] == [0] * 10
