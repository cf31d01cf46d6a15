from __future__ import annotations

import logging
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3lustrefs import log


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """Logging is the process's; pytest's own handlers come back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    for handler in handlers:
        root.removeHandler(handler)
    yield
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    logging.getLogger("s3lustrefs").setLevel(logging.NOTSET)
    logging.captureWarnings(False)


def test_line_has_time_level_module_message_and_context(tmp_path: Path) -> None:
    log.setup(file=tmp_path / "daemon.log")
    ours = logging.getLogger("s3lustrefs.movers.exporter")
    with log.working_on(mover="exporter"), log.working_on(ino=7):
        ours.info("object exported key=%s", "a/b")
    ours.info("exporter idle")
    first, second = (tmp_path / "daemon.log").read_text().splitlines()
    assert first.endswith("Z INFO s3lustrefs.movers.exporter: object exported key=a/b mover=exporter ino=7")
    assert second.endswith("exporter idle")


def test_levels_are_obeyed_for_our_modules(tmp_path: Path) -> None:
    log.setup("warning", file=tmp_path / "daemon.log")
    logging.getLogger("s3lustrefs.fs").info("quiet")
    logging.getLogger("s3lustrefs.fs").warning("loud")
    (line,) = (tmp_path / "daemon.log").read_text().splitlines()
    assert "loud" in line


def test_an_answer_nobody_waits_for_any_more_is_no_error(tmp_path: Path) -> None:
    log.setup(file=tmp_path / "daemon.log")
    pyfuse3 = logging.getLogger("pyfuse3")
    pyfuse3.error("fuse_read(): fuse_reply_* failed with %s", "No such file or directory")
    pyfuse3.error("fuse_read(): fuse_reply_* failed with %s", "Invalid argument")
    (line,) = (tmp_path / "daemon.log").read_text().splitlines()
    assert line.endswith("Invalid argument")


@pytest.mark.parametrize("name", ["botocore.auth", "boto3", "awscrt.http", "urllib3.connectionpool"])
def test_debug_lines_of_client_libraries_are_never_written(tmp_path: Path, name: str) -> None:
    """They quote request headers, credentials included."""
    log.setup("debug", file=tmp_path / "daemon.log")
    logging.getLogger(name).debug("Authorization: secret")
    logging.getLogger(name).info("Authorization: secret")
    assert "secret" not in (tmp_path / "daemon.log").read_text()


def test_file_is_for_its_owner_only(tmp_path: Path) -> None:
    log.setup(file=tmp_path / "daemon.log")
    assert stat.S_IMODE((tmp_path / "daemon.log").stat().st_mode) == 0o600


def test_full_file_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LOG_BYTES", 1000)
    log.setup(file=tmp_path / "daemon.log")
    for number in range(100):
        logging.getLogger("s3lustrefs").info("line number=%d", number)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["daemon.log", *(f"daemon.log.{n}" for n in (1, 2, 3))]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
