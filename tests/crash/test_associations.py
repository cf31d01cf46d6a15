"""The daemon dies at each durable step of making, changing and deleting an association: the next one finishes the request."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.cli.launch import start_daemon
from s3lustrefs.config import load
from s3lustrefs.errors import ControlFault, DaemonUnreachable, UsageError
from s3lustrefs.failpoints import VARIABLE
from s3lustrefs.meta.check import check_state_dir
from tests.crash.harness import Crashing

SECONDS = 30.0
ALL = ["NEW", "CHANGED", "DELETED"]
BOTH = {"AutoImportPolicy": {"Events": ALL}, "AutoExportPolicy": {"Events": ALL}}


class Bare:
    """A mount without associations, that may die."""

    def __init__(self, crashing: Crashing, monkeypatch: pytest.MonkeyPatch) -> None:
        self.crashing = crashing
        self._environment = monkeypatch
        self._source = crashing.scratch / "bare.toml"
        self._source.write_text("")

    @property
    def root(self) -> Path:
        return self.crashing.root

    def mount(self, failpoint: str = "") -> None:
        crashing = self.crashing
        self._environment.setenv(VARIABLE, failpoint)
        options = f"state_dir={crashing.state_dir},endpoint_url={crashing.server.endpoint_url},addressing_style=path"
        try:
            crashing.pid = start_daemon(load(str(self._source), options, mountpoint=str(self.root)), str(self.root))
        except UsageError as exc:
            assert failpoint and "exit status -9" in str(exc), exc
            crashing.pid = 0

    def call(self, operation: str, **request: Any) -> dict[str, Any]:
        path = str(self.crashing.state_dir / "control.sock")
        return dict(ControlClient(path, prefix="AWSSimbaAPIService_v20180301").call(operation, **request))

    def create(self, path: str, prefix: str) -> None:
        file_system = self.call("DescribeFileSystems")["FileSystems"][0]["FileSystemId"]
        self.call(
            "CreateDataRepositoryAssociation", FileSystemId=file_system, FileSystemPath=path, S3=BOTH,
            DataRepositoryPath=f"s3://{self.crashing.bucket}/{prefix}", BatchImportMetaDataOnCreate=True,
            ClientRequestToken=f"make{path[1:]}",
        )  # fmt: skip

    def described(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("DescribeDataRepositoryAssociations")["Associations"]
        return found

    def settle(self) -> list[dict[str, Any]]:
        """The associations once nothing is being worked on, and everything is imported."""
        deadline = time.monotonic() + SECONDS
        while any(each["Lifecycle"] in ("CREATING", "UPDATING", "DELETING") for each in self.described()):
            assert time.monotonic() < deadline, (self.described(), self.crashing.log())
            time.sleep(0.02)
        self.crashing.wait_import()
        return self.described()

    def die(self) -> None:
        assert self.crashing.wait_death() == -9
        self.crashing.clear()
        assert check_state_dir(self.crashing.state_dir) == []

    def end(self) -> None:
        assert self.crashing.end_cleanly() == 0
        assert check_state_dir(self.crashing.state_dir) == []


@pytest.fixture
def bare(crashing: Crashing, monkeypatch: pytest.MonkeyPatch) -> Bare:
    return Bare(crashing, monkeypatch)


@pytest.mark.parametrize(
    "failpoint", ["create.linked", "create.kept", "create.available", "import.batch", "import.complete.before"]
)
@pytest.mark.one_in(2)
def test_association_is_made_although_the_daemon_dies(bare: Bare, failpoint: str) -> None:
    crashing = bare.crashing
    crashing.s3.put_object(Bucket=crashing.bucket, Key="p/x", Body=b"x")
    bare.mount(failpoint)
    (bare.root / "work").mkdir()
    (bare.root / "work/old").write_text("before")
    with (bare.root / "work/old").open() as file:
        os.fsync(file.fileno())
    try:
        bare.create("/work", "p")
    except DaemonUnreachable:
        pass  # it died before it answered
    bare.die()
    bare.mount()
    (found,) = bare.settle()
    assert found["Lifecycle"] == "AVAILABLE"
    bare.create("/work", "p")  # the same request, asked again
    assert [each["AssociationId"] for each in bare.described()] == [found["AssociationId"]]
    assert sorted(os.listdir(bare.root / "work")) == ["old", "x"] and (bare.root / "work/x").read_bytes() == b"x"
    crashing.drain()
    assert crashing.keys() == ["p/x"]
    bare.end()


@pytest.mark.parametrize("failpoint", ["update.looked"])
def test_association_is_updated_although_the_daemon_dies(bare: Bare, failpoint: str) -> None:
    bare.mount(failpoint)
    bare.create("/work", "p")
    (found,) = bare.settle()
    try:
        bare.call("UpdateDataRepositoryAssociation", AssociationId=found["AssociationId"], S3={"AutoExportPolicy": {"Events": []}})
    except DaemonUnreachable:
        pass
    bare.die()
    bare.mount()
    (found,) = bare.settle()
    assert found["Lifecycle"] == "AVAILABLE" and found["S3"]["AutoExportPolicy"]["Events"] == []
    bare.end()


STEPS = ["unlink.objects:2", "unlink.skipped", "unlink.writes", "unlink.sources:2", "unlink.exports", "unlink.forgotten"]


@pytest.mark.parametrize(
    ("failpoint", "delete_data"),
    [*((each, False) for each in STEPS), ("unlink.tree:2", True), ("unlink.removed", True), ("unlink.sources", True)],
)
@pytest.mark.one_in(3)
def test_association_is_deleted_although_the_daemon_dies(bare: Bare, failpoint: str, delete_data: bool) -> None:
    crashing = bare.crashing
    keys = [f"p/d{number % 3}/f{number:04}" for number in range(250)]
    for key in keys:
        crashing.s3.put_object(Bucket=crashing.bucket, Key=key, Body=key.encode())
    bare.mount(failpoint)
    bare.create("/work", "p")
    bare.create("/other", "q")
    first, second = sorted(bare.settle(), key=lambda each: str(each["FileSystemPath"]), reverse=True)
    assert (bare.root / "work/d0/f0000").read_bytes() == b"p/d0/f0000"
    (bare.root / "work/new").write_text("new")
    (bare.root / "other/kept").write_text("of another association")
    crashing.drain()
    try:
        bare.call("DeleteDataRepositoryAssociation", AssociationId=first["AssociationId"], DeleteDataInFileSystem=delete_data)
    except DaemonUnreachable:
        pass
    bare.die()
    bare.mount()
    assert [each["AssociationId"] for each in bare.settle()] == [second["AssociationId"]]
    with pytest.raises(ControlFault, match="no data repository association"):
        bare.call("DescribeDataRepositoryAssociations", AssociationIds=[first["AssociationId"]])
    if delete_data:
        assert os.listdir(bare.root) == ["other"]
    else:
        assert (bare.root / "work/new").read_text() == "new" and (bare.root / "work/d0/f0000").read_bytes() == b"p/d0/f0000"
        assert sum(len(files) for _, _, files in os.walk(bare.root / "work")) == len(keys) + 1
    (bare.root / "other/later").write_text("still exported")
    crashing.drain()
    assert crashing.keys() == sorted([*keys, "p/new", "q/kept", "q/later"])
    bare.end()
