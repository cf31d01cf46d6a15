"""Which state directories the mounts of a host name; one that hangs is asked once, and waited for by nobody for long."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import trio

from s3lustrefs.control import host_mounts
from s3lustrefs.control.host_mounts import Mounts

LINE = "{number} 27 0:{number} / {point} rw - fuse.s3lustrefs {source} rw\n"


def mounts(path: Path, *points: str) -> Mounts:
    path.write_text("".join(LINE.format(number=40 + n, point=point, source="s3://b") for n, point in enumerate(points)))
    return Mounts(path)


async def test_each_mount_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(path: str, name: str) -> bytes:
        asked.append(path)
        if path == "/denied":
            raise PermissionError(13, "Permission denied")
        return f"/state{path}/control.sock".encode()

    monkeypatch.setattr(os, "getxattr", answer)
    found = mounts(tmp_path / "mountinfo", "/a", "/denied", "/b")
    for _ in range(3):
        assert await found.state_dirs() == [Path("/state/a"), Path("/state/b")]
    assert sorted(asked) == ["/a", "/b", "/denied"]
    (tmp_path / "mountinfo").write_text("")
    assert await found.state_dirs() == []


async def test_mount_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wakes = threading.Event()
    asked: list[str] = []

    def answer(path: str, name: str) -> bytes:
        asked.append(path)
        if path == "/hung":
            assert wakes.wait(30)
        return f"/state{path}/control.sock".encode()

    monkeypatch.setattr(os, "getxattr", answer)
    monkeypatch.setattr(host_mounts, "_ANSWER_SECONDS", 0.3)
    found = mounts(tmp_path / "mountinfo", "/hung", "/well")
    with trio.fail_after(5):
        for _ in range(5):
            assert await found.state_dirs() == [Path("/state/well")]
    assert asked.count("/hung") == 1
    wakes.set()
    with trio.fail_after(5):
        while len(await found.state_dirs()) < 2:
            await trio.lowlevel.checkpoint()
