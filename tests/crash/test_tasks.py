"""The daemon dies in the middle of a data repository task of each kind: the next one brings it to its end, the same figures."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.errors import DaemonUnreachable
from s3lustrefs.movers import repair
from tests.crash.harness import Crashing

FSX = "AWSSimbaAPIService_v20180301"
EXPORT, IMPORT, RELEASE = "EXPORT_TO_REPOSITORY", "IMPORT_METADATA_FROM_REPOSITORY", "RELEASE_DATA_FROM_FILESYSTEM"
QUIET = ("auto_export=none", "auto_import=none")
FILES = {f"d{number % 3}/f{number}": f"content {number}".encode() * 10 for number in range(30)}
WAIT_SECONDS = 30.0


def fsx(here: Crashing, operation: str, **request: Any) -> dict[str, Any]:
    answer: dict[str, Any] = ControlClient(str(here.state_dir / "control.sock"), prefix=FSX).call(operation, **request)
    return answer


def create(here: Crashing, kind: str) -> None:
    """Whether or not the daemon lives to answer."""
    try:
        file_system_id = fsx(here, "DescribeFileSystems")["FileSystems"][0]["FileSystemId"]
        report = {
            "Enabled": True,
            "Path": f"s3://{here.bucket}/p/reports",
            "Format": "REPORT_CSV_20191124",
            "Scope": "FAILED_FILES_ONLY",
        }
        fsx(here, "CreateDataRepositoryTask", Type=kind, FileSystemId=file_system_id, Report=report, ClientRequestToken=kind)
    except DaemonUnreachable:
        assert here.wait_death() < 0


def tasks(here: Crashing) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = fsx(here, "DescribeDataRepositoryTasks")["DataRepositoryTasks"]
    return found


def wait_ended(here: Crashing) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        (task,) = tasks(here)
        if task["Lifecycle"] in ("SUCCEEDED", "FAILED", "CANCELED"):
            return task
        assert time.monotonic() < deadline, (task, here.log())
        time.sleep(0.05)


def write_files(here: Crashing) -> None:
    for path, data in FILES.items():
        target = here.root / path
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
    here.drain()


def die(here: Crashing) -> None:
    """Return once the daemon has died at its failpoint, and nothing is left of its mount."""
    if here.pid:
        assert here.wait_death() < 0, here.log()
    here.clear()
    assert not repair.find(here.state_dir)


def finish(here: Crashing) -> dict[str, Any]:
    here.mount("", *QUIET)
    task = wait_ended(here)
    status = task["Status"]
    assert status["TotalCount"] == status["SucceededCount"] + status["FailedCount"]
    return task


def check_end(here: Crashing) -> None:
    assert here.end_cleanly() == 0
    here.clear()
    assert not repair.find(here.state_dir)


@pytest.mark.parametrize(
    "failpoint",
    ["task.created", "task.executing", "task.ordered", "task.ordered:4", "put.before:3", "put.answered:9", "settle.after:17",
     "task.failure", "task.reported", "task.ended", "log.append.after:20"],
)  # fmt: skip
@pytest.mark.one_in(3)
def test_export_is_brought_to_its_end(crashing: Crashing, failpoint: str) -> None:
    crashing.mount("", *QUIET)
    write_files(crashing)
    long_name = "x" * 250
    deep = crashing.root / "/".join([long_name] * 5)  # its key is too long
    deep.parent.mkdir(parents=True)
    deep.write_text("never exported")
    crashing.drain()
    assert crashing.keys() == [] and crashing.end_cleanly() == 0
    crashing.clear()

    crashing.mount(failpoint, *QUIET)
    create(crashing, EXPORT)
    die(crashing)
    if failpoint.startswith("log.") and not _was_made(crashing):
        return
    task = finish(crashing)
    # 30 files, 3 + 4 directories and the one whose key is too long; four levels of the long name fit.
    assert task["Lifecycle"] == "FAILED" and task["FailureDetails"]["Message"].startswith("1 of 38 failed")
    assert (task["Status"]["TotalCount"], task["Status"]["FailedCount"]) == (38, 1)
    found = {key: crashing.s3.get_object(Bucket=crashing.bucket, Key=key)["Body"].read() for key in crashing.keys()}
    report = found.pop(f"p/reports/{task['TaskId']}/failures.csv").decode()
    assert report == f"{'/'.join([long_name] * 5)},failed,PathSizeTooLong\r\n"
    assert {key.removeprefix("p/"): data for key, data in found.items() if "/f" in key} == FILES
    check_end(crashing)


def _was_made(here: Crashing) -> bool:
    here.mount("", *QUIET)
    made = bool(tasks(here))
    here.end_cleanly()
    here.clear()
    return made


@pytest.mark.parametrize(
    "failpoint", ["task.executing", "sweep.batch", "task.failure", "task.settled", "task.reported", "task.ended"]
)
@pytest.mark.one_in(2)
def test_import_is_brought_to_its_end(crashing: Crashing, failpoint: str) -> None:
    crashing.mount("", *QUIET)
    crashing.wait_import()
    assert crashing.end_cleanly() == 0
    crashing.clear()
    for path, data in FILES.items():
        crashing.s3.put_object(Bucket=crashing.bucket, Key=f"p/{path}", Body=data)
    crashing.s3.put_object(Bucket=crashing.bucket, Key="p/a//b", Body=b"")

    crashing.mount(failpoint, *QUIET)
    create(crashing, IMPORT)
    die(crashing)
    task = finish(crashing)
    assert (task["Status"]["TotalCount"], task["Status"]["FailedCount"]) == (31, 1), task
    report = crashing.s3.get_object(Bucket=crashing.bucket, Key=f"p/reports/{task['TaskId']}/report.csv")["Body"].read()
    assert report == b"a//b,failed,S3ObjectPathNotPosixCompliant\r\n"
    assert {path: (crashing.root / path).read_bytes() for path in FILES} == FILES
    check_end(crashing)


@pytest.mark.parametrize(
    "failpoint", ["task.executing", "task.released", "task.released:20", "release.recorded:7", "task.reported", "task.ended"]
)
@pytest.mark.one_in(2)
def test_release_is_brought_to_its_end(crashing: Crashing, failpoint: str) -> None:
    crashing.mount("")
    write_files(crashing)
    assert crashing.end_cleanly() == 0
    crashing.clear()

    crashing.mount(failpoint, *QUIET)
    create(crashing, RELEASE)
    die(crashing)
    task = finish(crashing)
    assert task["Lifecycle"] == "SUCCEEDED" and task["Status"]["SucceededCount"] == 30
    states = {os.getxattr(crashing.root / path, "user.s3lustrefs.hsm").decode().split()[1] for path in FILES}
    assert states == {"released"}
    assert {path: (crashing.root / path).read_bytes() for path in FILES} == FILES
    check_end(crashing)


@pytest.mark.parametrize("failpoint", ["task.canceling", "task.ended"])
def test_canceled_export_exports_nothing_more_after_a_crash(crashing: Crashing, failpoint: str) -> None:
    crashing.mount("", *QUIET)
    write_files(crashing)
    assert crashing.end_cleanly() == 0
    crashing.clear()
    crashing.mount(failpoint, *QUIET)
    with (crashing.root / "d0" / "f0").open("ab") as held:
        # The bucket is gone, so that nothing ends before the request to cancel comes.
        for key in crashing.keys():
            crashing.s3.delete_object(Bucket=crashing.bucket, Key=key)
        crashing.s3.delete_bucket(Bucket=crashing.bucket)
        held.flush()
    create(crashing, EXPORT)
    (task,) = tasks(crashing)
    try:
        fsx(crashing, "CancelDataRepositoryTask", TaskId=task["TaskId"])
    except DaemonUnreachable:
        pass
    die(crashing)
    crashing.s3.create_bucket(Bucket=crashing.bucket)
    task = finish(crashing)
    assert task["Lifecycle"] == "CANCELED"
    crashing.drain()
    assert crashing.keys() == []
    check_end(crashing)
