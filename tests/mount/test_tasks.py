"""Data repository tasks on real mounts, asked for with boto3 and with our own command."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest

from s3lustrefs.control.api_credentials import load_or_make
from tests.mount.site import WAIT_SECONDS, Site
from tests.servers import free_ports

REGION = "us-east-1"
ENDED = ("SUCCEEDED", "FAILED", "CANCELED")
Task = dict[str, Any]


class Fsx:
    """boto3 for one mount, with the parameters that every request needs."""

    def __init__(self, place: Site, port: int) -> None:
        pair = load_or_make(place.state_dir / "api-credentials", REGION)
        self.boto = boto3.client(
            "fsx", endpoint_url=f"http://127.0.0.1:{port}", region_name=REGION,
            aws_access_key_id=pair.access_key, aws_secret_access_key=pair.secret_key,
        )  # fmt: skip
        self.file_system_id = self.boto.describe_file_systems()["FileSystems"][0]["FileSystemId"]

    def create(self, kind: str, *paths: str, **more: Any) -> Task:
        request = {"Type": kind, "FileSystemId": self.file_system_id, "Report": {"Enabled": False}, **more}
        made: Task = self.boto.create_data_repository_task(**({"Paths": list(paths)} if paths else {}), **request)[
            "DataRepositoryTask"
        ]
        return made

    def look(self, task: Task) -> Task:
        (found,) = self.boto.describe_data_repository_tasks(TaskIds=[task["TaskId"]])["DataRepositoryTasks"]
        return dict(found)

    def ended(self, task: Task) -> Task:
        deadline = time.monotonic() + WAIT_SECONDS
        while (found := self.look(task))["Lifecycle"] not in ENDED:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        status = found["Status"]
        assert status["TotalCount"] == status["SucceededCount"] + status["FailedCount"], found
        assert found["EndTime"] >= found.get("StartTime", found["CreationTime"]) >= found["CreationTime"]
        return found

    def run(self, kind: str, *paths: str, **more: Any) -> Task:
        return self.ended(self.create(kind, *paths, **more))


@contextmanager
def client(place: Site, port: int) -> Iterator[Fsx]:
    made = Fsx(place, port)
    yield made
    made.boto.close()


def counts(task: Task) -> tuple[str, int, int, int]:
    status = task["Status"]
    return task["Lifecycle"], status["TotalCount"], status["SucceededCount"], status["FailedCount"]


EXPORT, IMPORT, RELEASE = "EXPORT_TO_REPOSITORY", "IMPORT_METADATA_FROM_REPOSITORY", "RELEASE_DATA_FROM_FILESYSTEM"

Mounted = tuple[Site, Fsx]


@pytest.fixture
def quiet(make_site: Callable[..., Site]) -> Iterator[Mounted]:
    """A mount that neither imports nor exports by itself, and its API."""
    (port,) = free_ports(1)
    place = make_site(region=REGION, api_listen=f"127.0.0.1:{port}", auto_export="none", auto_import="none").mount()
    with client(place, port) as fsx:
        yield place, fsx


def test_export_brings_new_and_changed_and_moved_files_and_deletes_nothing(quiet: Mounted) -> None:
    place, fsx = quiet
    (place.root / "d").mkdir(mode=0o750)
    (place.root / "d" / "a").write_text("a")
    (place.root / "d" / "gone").write_text("gone")
    (place.root / "link").symlink_to("d/a")
    (place.root / "not-asked").write_text("x")
    place.drain()
    assert place.keys() == []
    assert counts(fsx.run(EXPORT, "d", "/link")) == ("SUCCEEDED", 4, 4, 0)
    assert place.objects() == {"p/d/": b"", "p/d/a": b"a", "p/d/gone": b"gone", "p/link": b"d/a"}
    assert place.head("p/d/")["Metadata"]["file-permissions"] == "040750"

    before = place.head("p/d/a")["LastModified"]
    (place.root / "d" / "gone").unlink()
    (place.root / "d" / "a").rename(place.root / "d" / "b")
    os.chmod(place.root / "d" / "b", 0o604)
    place.drain()
    assert counts(fsx.run(EXPORT, "d")) == ("SUCCEEDED", 2, 2, 0)
    assert place.objects("p/d/") == {"p/d/": b"", "p/d/a": b"a", "p/d/gone": b"gone", "p/d/b": b"a"}
    assert place.head("p/d/b")["Metadata"]["file-permissions"] == "0100604" and place.head("p/d/a")["LastModified"] == before
    # Nothing differs any more: the bucket is not asked at all.
    assert counts(fsx.run(EXPORT)) == ("SUCCEEDED", 4, 4, 0)
    assert place.body("p/not-asked") == b"x"


def test_import_brings_new_and_changed_objects_and_deletes_nothing(quiet: Mounted) -> None:
    place, fsx = quiet
    for key, body in {"p/d/one": b"1", "p/d/sub/two": b"2", "p/e/three": b"3", "p/four": b"4"}.items():
        place.put(key, body)
    assert os.listdir(place.root) == []
    bucket = f"s3://{place.bucket}/p"
    assert counts(fsx.run(IMPORT, f"{bucket}/d/sub/", f"{bucket}/four")) == ("SUCCEEDED", 2, 2, 0)
    assert sorted(os.listdir(place.root)) == ["d", "four"] and os.listdir(place.root / "d") == ["sub"]
    assert counts(fsx.run(IMPORT)) == ("SUCCEEDED", 4, 4, 0)
    assert (place.root / "e" / "three").read_bytes() == b"3"
    place.put("p/e/three", b"changed")
    place.s3.delete_object(Bucket=place.bucket, Key="p/four")
    assert counts(fsx.run(IMPORT, "/")) == ("SUCCEEDED", 3, 3, 0)
    assert (place.root / "e" / "three").read_bytes() == b"changed" and (place.root / "four").exists()


def test_release_drops_what_the_bucket_has_and_counts_it(quiet: Mounted) -> None:
    place, fsx = quiet
    (place.root / "d").mkdir()
    for name in ("a", "b", "open"):
        (place.root / "d" / name).write_text(name * 1000)
    fsx.run(EXPORT)
    (place.root / "d" / "local").write_text("not in the bucket")
    with (place.root / "d" / "open").open("rb"):
        assert counts(fsx.run(RELEASE, "d")) == ("SUCCEEDED", 2, 2, 0)
    assert [place.hsm(f"d/{name}").split()[1] for name in ("a", "b")] == ["released"] * 2
    assert "released" not in place.hsm("d/open") and "released" not in place.hsm("d/local")
    assert (place.root / "d" / "a").read_text() == "a" * 1000
    young = {"DurationSinceLastAccess": {"Unit": "DAYS", "Value": 1}}
    assert counts(fsx.run(RELEASE, "/", ReleaseConfiguration=young)) == ("SUCCEEDED", 0, 0, 0)
    assert counts(fsx.run(RELEASE, "/")) == ("SUCCEEDED", 3, 3, 0)


def test_report_lists_what_failed_in_fsx_s_csv(quiet: Mounted) -> None:
    place, fsx = quiet
    report = {
        "Enabled": True, "Path": f"s3://{place.bucket}/p/reports", "Format": "REPORT_CSV_20191124", "Scope": "FAILED_FILES_ONLY",
    }  # fmt: skip
    for name in ('say "hi", all', "@home", "fine"):
        (place.root / name).write_text(name)
    with (place.root / "@home").open("a") as open_file, (place.root / 'say "hi", all').open("a") as other:
        for file in (open_file, other):
            file.write("more")
            file.flush()
        task = fsx.run(EXPORT, Report=report)
        assert counts(task) == ("FAILED", 3, 1, 2) and task["Report"] == report
        assert task["FailureDetails"]["Message"] == "2 of 3 failed, the first with ResourceBusy: @home"
        rows = place.body(f"p/reports/{task['TaskId']}/failures.csv").decode()
        assert rows == '"""@home""",failed,ResourceBusy\r\n"say ""hi"", all",failed,ResourceBusy\r\n'
    assert counts(fsx.run(EXPORT)) == ("SUCCEEDED", 3, 3, 0)

    place.expected_log.append("conflict kept kind=directory-in-bucket path=/fine")
    place.put("p/d//no", b"")
    place.put("p/fine/beside", b"")
    place.put("p/archived", b"x", StorageClass="GLACIER")
    task = fsx.run(IMPORT, Report=report)
    lines = place.body(f"p/reports/{task['TaskId']}/report.csv").decode().splitlines()
    assert (
        "d//no,failed,S3ObjectPathNotPosixCompliant" in lines
        and "archived,succeeded with warning,S3ObjectInUnsupportedTier" in lines
    )
    assert "fine,failed,S3ObjectTypeMismatch" in lines and len(lines) == 3
    assert task["Lifecycle"] == "FAILED" and task["Status"]["FailedCount"] == 2


def test_paths_that_lead_nowhere_fail_the_task_later(quiet: Mounted) -> None:
    place, fsx = quiet
    (place.root / "there").write_text("x")
    (place.root / "a,b").write_text("x")
    for kind, path, reason in (
        (EXPORT, "nowhere", "path nowhere does not exist in this file system"),
        (RELEASE, "there,nowhere", "path there,nowhere does not exist in this file system"),
        (IMPORT, "s3://another/p", "path s3://another/p is not in a linked data repository; write s3://BUCKET/PREFIX"),
        (IMPORT, f"s3://{place.bucket}/p/nothing/", f"path s3://{place.bucket}/p/nothing does not exist: "),
    ):
        task = fsx.run(kind, path)
        assert task["Lifecycle"] == "FAILED" and task["FailureDetails"]["Message"].startswith(reason), task
    # As AWS's command line sends the guide's `--paths there,a`.
    (place.root / "a").mkdir()
    assert counts(fsx.run(EXPORT, "there,/a/")) == ("SUCCEEDED", 2, 2, 0)
    assert counts(fsx.run(EXPORT, "a,b")) == ("SUCCEEDED", 1, 1, 0)


def test_export_task_beside_automatic_export_is_refused_with_the_remedy(make_site: Callable[..., Site]) -> None:
    (port,) = free_ports(1)
    place = make_site(region=REGION, api_listen=f"127.0.0.1:{port}").mount()
    with client(place, port) as fsx:
        with pytest.raises(fsx.boto.exceptions.UnsupportedOperation) as caught:
            fsx.create(EXPORT)
        message = caught.value.response["Error"]["Message"]
        assert "UpdateDataRepositoryAssociation, S3 AutoExportPolicy={Events=[]}" in message
        (association,) = fsx.boto.describe_data_repository_associations()["Associations"]
        fsx.boto.update_data_repository_association(
            AssociationId=association["AssociationId"], S3={"AutoExportPolicy": {"Events": []}}
        )
        assert counts(fsx.run(EXPORT)) == ("SUCCEEDED", 0, 0, 0)
    done = place.cli("task", "export", "--mount", place.root, "--wait", "--json")
    assert json.loads(done.stdout)["DataRepositoryTask"]["Lifecycle"] == "SUCCEEDED"


def test_command_waits_and_its_exit_status_tells(quiet: Mounted) -> None:
    place, fsx = quiet
    (place.root / "d").mkdir()
    (place.root / "d" / "a").write_text("a")
    assert " SUCCEEDED " in place.cli("task", "export", place.root / "d", "--wait").stdout
    assert place.body("p/d/a") == b"a"
    failed = place.cli("task", "export", "--mount", place.root, "--paths", "nowhere", "--wait", check=False)
    assert failed.returncode == 1 and "path nowhere does not exist" in failed.stderr
    refused = place.cli("task", "import", "--mount", place.root, "--report", "Enabled=maybe", check=False)
    assert refused.returncode == 3 and "Report.Enabled" in refused.stderr
    late = place.cli("task", "release", place.root / "d", "--older-than", "1h", "--wait", "--json")
    assert json.loads(late.stdout)["DataRepositoryTask"]["Status"]["TotalCount"] == 0
    time.sleep(1.1)
    now = place.cli("task", "release", place.root / "d", "--older-than", "1s", "--wait", "--json")
    assert json.loads(now.stdout)["DataRepositoryTask"]["Status"]["SucceededCount"] == 1
    assert "released" in place.hsm("d/a")
    shown = place.cli("task", "list", "--mount", place.root).stdout.splitlines()
    assert [line.split()[1] for line in shown[1:]] == ["export", "export", "release", "release"]
    only = place.cli("task", "describe", "--mount", place.root, "--filters", "Name=task-lifecycle,Values=FAILED", "--json").stdout
    assert len(json.loads(only)["DataRepositoryTasks"]) == 1
    (tagged,) = fsx.boto.describe_data_repository_tasks(TaskIds=[shown[1].split()[0]])["DataRepositoryTasks"]
    fsx.boto.tag_resource(ResourceARN=tagged["ResourceARN"], Tags=[{"Key": "run", "Value": "17"}])
    assert fsx.look(tagged)["Tags"] == [{"Key": "run", "Value": "17"}]
