"""Data repository tasks on real mounts, asked for with boto3 and with our own command."""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from s3lustrefs.control.api_credentials import load_or_make
from tests.mount.background_proxy import BackgroundProxy
from tests.mount.endpoint import AWS
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
    place.put("p/link", b"archived", StorageClass="GLACIER", Metadata={"file-permissions": "0120777"})
    task = fsx.run(IMPORT, Report=report)
    lines = place.body(f"p/reports/{task['TaskId']}/report.csv").decode().splitlines()
    assert (
        "d//no,failed,S3ObjectPathNotPosixCompliant" in lines
        and "archived,succeeded with warning,S3ObjectInUnsupportedTier" in lines
    )
    assert "fine,failed,S3ObjectTypeMismatch" in lines and "link,failed,S3SymlinkInUnsupportedTier" in lines and len(lines) == 4
    assert task["Lifecycle"] == "FAILED" and task["Status"]["FailedCount"] == 3


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


# --- as FSx's guide has it, with AWS's own command line --------------------------------------------------------------------------


class Guide:
    """Runs a command line of the guide; the ids and the bucket are those of the mount."""

    def __init__(self, place: Site, port: int, file_system_id: str) -> None:
        self._place = place
        place.environment |= {
            "AWS_SHARED_CREDENTIALS_FILE": str(place.state_dir / "api-credentials"),
            "AWS_ENDPOINT_URL_FSX": f"http://127.0.0.1:{port}",
            "AWS_REGION": REGION,
        }
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            place.environment.pop(name, None)
        self._given = {"fs-0123456789abcdef0": file_system_id, "s3://bucketname1/dir1": f"s3://{place.bucket}/p"}

    def __call__(self, line: str) -> Task:
        for theirs, ours in self._given.items():
            line = line.replace(theirs, ours)
        answer: Task = json.loads(self._place.run(*shlex.split(line.replace("aws ", f"{AWS} --output json ", 1))).stdout)
        return answer


@pytest.mark.skipif(AWS is None, reason="needs the AWS command line")
def test_command_lines_of_the_guide(make_site: Callable[..., Site]) -> None:
    (port,) = free_ports(1)
    place = make_site(region=REGION, api_listen=f"127.0.0.1:{port}", auto_export="none", auto_import="none").mount()
    (place.root / "path2").mkdir()
    for name in ("path1", "path2/file1", "path3"):
        (place.root / name).write_text(name)
    with client(place, port) as fsx:
        aws = Guide(place, port, fsx.file_system_id)
        export = aws(
            "aws fsx create-data-repository-task --file-system-id fs-0123456789abcdef0 --type EXPORT_TO_REPOSITORY "
            "--paths path1,path2/file1 --report Enabled=true"
        )["DataRepositoryTask"]
        assert counts(fsx.ended(export)) == ("SUCCEEDED", 2, 2, 0)
        assert sorted(place.keys()) == ["p/path1", "p/path2/file1"]  # without Path the report has nowhere to go

        place.put("p/path4/new", b"new")
        imported = aws(
            "aws fsx create-data-repository-task --file-system-id fs-0123456789abcdef0 --type IMPORT_METADATA_FROM_REPOSITORY "
            "--paths s3://bucketname1/dir1/path4 --report Enabled=true,Path=s3://bucketname1/dir1/reports,"
            'Format="REPORT_CSV_20191124",Scope="FAILED_FILES_ONLY"'
        )["DataRepositoryTask"]
        assert counts(fsx.ended(imported)) == ("SUCCEEDED", 1, 1, 0)
        assert place.body(f"p/reports/{imported['TaskId']}/report.csv") == b""
        assert (place.root / "path4" / "new").read_bytes() == b"new"

        released = aws(
            "aws fsx create-data-repository-task --file-system-id fs-0123456789abcdef0 --type RELEASE_DATA_FROM_FILESYSTEM "
            "--paths path1,path2/file1 --report Enabled=false "
            """--release-configuration '{"DurationSinceLastAccess":{"Unit":"DAYS","Value":0}}'"""
        )["DataRepositoryTask"]
        assert counts(fsx.ended(released)) == ("SUCCEEDED", 2, 2, 0)

        found = aws("aws fsx describe-data-repository-tasks --filters Name=file-system-id,Values=fs-0123456789abcdef0")
        assert {each["TaskId"] for each in found["DataRepositoryTasks"]} == {
            each["TaskId"] for each in (export, imported, released)
        }
        assert (
            aws(f"aws fsx describe-data-repository-tasks --task-ids {export['TaskId']}")["DataRepositoryTasks"][0]["Type"] == EXPORT
        )
        ended = place.run(str(AWS), "fsx", "cancel-data-repository-task", "--task-id", export["TaskId"], check=False)
        assert ended.returncode != 0 and "DataRepositoryTaskEnded" in ended.stderr


def test_what_the_readme_shows_works_word_by_word(behind_proxy: Mounted, proxy: BackgroundProxy) -> None:
    place, fsx = behind_proxy
    place.put("p/raw/new", b"new")
    for name in ("results", "raw", "path2"):
        (place.root / name).mkdir()
    for name in ("results/model", "path1", "path2/file1"):
        (place.root / name).write_text(name)
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    section = readme.partition("### Tasks")[2].partition("\n## ")[0]
    (example,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    aws = Guide(place, int(fsx.boto.meta.endpoint_url.rpartition(":")[2]), fsx.file_system_id)
    shown: list[str] = []
    for line in example.replace("\\\n", " ").splitlines():
        line = line.replace("s3://lab-results/run-17", f"s3://{place.bucket}/p").replace("/mnt/run", str(place.root))
        words = shlex.split(line, comments=True)
        if words[0] == "aws":
            shown.append("aws")
            task = fsx.ended(aws(line)["DataRepositoryTask"])
            assert counts(task) == ("SUCCEEDED", 2, 2, 0)
            assert {"p/path1", "p/path2/file1", f"p/reports/{task['TaskId']}/failures.csv"} <= set(place.keys())
            continue
        assert words[:2] == ["s3lustrefs", "task"]
        shown.append(words[2])
        if words[2] == "cancel":
            proxy.add("hold", method="GET", path="list-type", times=100_000)
            task = fsx.create(IMPORT)
            proxy.wait_held()
            words[-1] = task["TaskId"]
        if not any(word.startswith(str(place.root)) for word in words):
            words += ["--mount", str(place.root)]  # others may be mounted on this host
        out = place.cli(*words[1:]).stdout
        if "--wait" in words:
            assert " SUCCEEDED " in out
        elif words[2] == "list":
            assert len(out.splitlines()) == 4
        elif words[2] == "describe":
            assert json.loads(out)["DataRepositoryTasks"] == []
        else:
            assert fsx.ended(task)["Lifecycle"] == "CANCELED"
            proxy.clear_faults()
    assert shown == ["import", "export", "release", "list", "describe", "cancel", "aws"]
    assert (place.root / "raw" / "new").read_bytes() == b"new" and place.body("p/results/model") == b"results/model"


# --- cancel, and what stands in the way -----------------------------------------------------------------------------------------


def wait_for(fsx: Fsx, task: Task, lifecycle: str) -> Task:
    deadline = time.monotonic() + WAIT_SECONDS
    while (found := fsx.look(task))["Lifecycle"] != lifecycle:
        assert time.monotonic() < deadline and found["Lifecycle"] not in ENDED, found
        time.sleep(0.02)
    return found


def cancel(fsx: Fsx, task: Task) -> Task:
    assert fsx.boto.cancel_data_repository_task(TaskId=task["TaskId"])["Lifecycle"] == "CANCELING"
    return fsx.ended(task)


@pytest.fixture
def behind_proxy(proxy: BackgroundProxy, make_site: Callable[..., Site]) -> Iterator[Mounted]:
    (port,) = free_ports(1)
    place = make_site(
        endpoint_url=proxy.endpoint_url, region=REGION, api_listen=f"127.0.0.1:{port}", auto_export="none", auto_import="none"
    ).mount()
    with client(place, port) as fsx:
        yield place, fsx


def test_canceled_export_exports_only_what_is_in_flight(behind_proxy: Mounted, proxy: BackgroundProxy) -> None:
    place, fsx = behind_proxy
    place.expected_log.append("export failed|conditions are not enforced")
    for number in range(400):
        (place.root / str(number)).write_text("x")
    place.drain()
    proxy.add("slowdown", method="PUT", times=100_000)
    task = fsx.create(EXPORT)
    wait_for(fsx, task, "EXECUTING")
    waiting = fsx.create(EXPORT, "1")
    assert fsx.look(waiting)["Lifecycle"] == "PENDING"
    assert cancel(fsx, waiting)["Lifecycle"] == "CANCELED"
    ended = cancel(fsx, task)
    assert ended["Lifecycle"] == "CANCELED" and ended["Status"]["FailedCount"] == 0
    proxy.clear_faults()
    place.drain()
    in_flight = len(place.keys())
    assert in_flight <= 192 and place.status()["export"]["due"] == 0
    assert counts(fsx.run(EXPORT)) == ("SUCCEEDED", 400, 400, 0) and len(place.keys()) == 400


def test_export_waits_while_the_mount_is_read_only(behind_proxy: Mounted, proxy: BackgroundProxy) -> None:
    place, fsx = behind_proxy
    place.expected_log.append("export failed")
    for number in range(20):
        (place.root / str(number)).write_text("x")
    place.drain()
    proxy.add("slowdown", method="PUT", times=100_000)
    begun, waiting = fsx.create(EXPORT), fsx.create(EXPORT, "1")
    wait_for(fsx, begun, "EXECUTING")
    place.unmount()
    place.mount(ro="true")
    proxy.clear_faults()  # not before: what the daemon had sent may reach the proxy after its end
    assert cancel(fsx, begun)["Lifecycle"] == "CANCELED"
    assert counts(fsx.run(RELEASE)) == ("SUCCEEDED", 0, 0, 0)
    assert fsx.look(waiting)["Lifecycle"] == "PENDING" and place.keys() == []
    place.unmount()
    place.mount()
    assert counts(fsx.ended(waiting)) == ("SUCCEEDED", 1, 1, 0) and place.keys() == ["p/1"]


def test_canceled_import_ends_although_the_bucket_hangs(behind_proxy: Mounted, proxy: BackgroundProxy) -> None:
    place, fsx = behind_proxy
    place.put("p/new", b"new")
    proxy.add("hold", method="GET", path="list-type", times=100_000)
    task = fsx.create(IMPORT)
    proxy.wait_held()
    assert counts(cancel(fsx, task)) == ("CANCELED", 0, 0, 0)
    proxy.clear_faults()
    assert counts(fsx.run(IMPORT)) == ("SUCCEEDED", 1, 1, 0)


def test_file_that_may_not_be_written_fails_alone_and_is_not_tried_later(behind_proxy: Mounted, proxy: BackgroundProxy) -> None:
    place, fsx = behind_proxy
    place.expected_log += ["export failed", "event=S3ExportAccessDenied"]
    (place.root / "fine").write_text("x")
    (place.root / "secret").write_text("x")
    update = {"LustreConfiguration": {"LogConfiguration": {"Level": "ERROR_ONLY"}}}
    fsx.boto.update_file_system(FileSystemId=fsx.file_system_id, **update)
    proxy.add("denied", method="PUT", path="secret", times=100_000)
    report = {"Enabled": True, "Path": f"s3://{place.bucket}/p"}
    task = fsx.run(EXPORT, Report=report)
    assert counts(task) == ("FAILED", 2, 1, 1)
    assert place.body(f"p/{task['TaskId']}/failures.csv") == b"secret,failed,S3AccessDenied\r\n"
    assert "event=S3ExportAccessDenied" in place.log()
    proxy.clear_faults()
    place.drain()
    assert "p/secret" not in place.keys()
    assert fsx.run(EXPORT, "secret")["Lifecycle"] == "SUCCEEDED" and place.body("p/secret") == b"x"


def test_report_that_the_bucket_does_not_take_is_an_event_and_no_failure_of_the_task(
    behind_proxy: Mounted, proxy: BackgroundProxy
) -> None:
    place, fsx = behind_proxy
    place.expected_log += ["event=S3CompletionReportUploadFailure", "report not delivered"]
    (place.root / "fine").write_text("x")
    fsx.boto.update_file_system(FileSystemId=fsx.file_system_id, LustreConfiguration={"LogConfiguration": {"Level": "ERROR_ONLY"}})
    proxy.add("denied", method="PUT", path="failures.csv", times=100_000)
    report = {
        "Enabled": True, "Path": f"s3://{place.bucket}/p/reports", "Format": "REPORT_CSV_20191124", "Scope": "FAILED_FILES_ONLY",
    }  # fmt: skip
    task = fsx.run(EXPORT, Report=report)
    assert counts(task) == ("SUCCEEDED", 1, 1, 0) and place.keys() == ["p/fine"]
    assert f"event=S3CompletionReportUploadFailure task={task['TaskId']} path={report['Path']}" in place.log()
    assert not list(place.state_dir.glob("report-*"))
    proxy.clear_faults()


def test_events_are_logged_at_the_level_of_the_file_system(quiet: Mounted) -> None:
    place, fsx = quiet
    place.expected_log += ["event="]
    (place.root / "here").write_text("x")
    outside = {"Enabled": True, "Path": "s3://elsewhere/reports"}
    assert fsx.run(EXPORT, Report=outside)["Lifecycle"] == "SUCCEEDED"
    assert "event=" not in place.log()
    fsx.boto.update_file_system(FileSystemId=fsx.file_system_id, LustreConfiguration={"LogConfiguration": {"Level": "WARN_ERROR"}})
    assert fsx.run(EXPORT, Report=outside)["Lifecycle"] == "SUCCEEDED"
    place.put("p/a//b", b"")
    fsx.run(IMPORT)
    lines = [line.split(" s3lustrefs.events: ")[1] for line in place.log().splitlines() if " s3lustrefs.events: " in line]
    assert lines[0].startswith("event=S3CompletionReportValidateFailure task=task-") and "s3://elsewhere/reports" in lines[0]
    assert lines[1] == 'event=S3ImportObjectPathNotPosixCompliant key=a//b reason="has an empty path component"'


def test_command_gives_up_waiting_and_cancels(behind_proxy: Mounted, proxy: BackgroundProxy) -> None:
    place, fsx = behind_proxy
    proxy.add("hold", method="GET", path="list-type", times=100_000)
    late = place.cli("task", "import", "--mount", place.root, "--wait", "--timeout", "0.5", "--json", check=False)
    assert late.returncode == 2 and "time is up" in late.stderr
    task = json.loads(late.stdout)["DataRepositoryTask"]
    again = place.cli("task", "import", "--mount", place.root, check=False)
    assert again.returncode == 3 and task["TaskId"] in again.stderr
    assert "CANCELING" in place.cli("task", "cancel", "--mount", place.root, "--task-id", task["TaskId"]).stdout
    assert fsx.ended(task)["Lifecycle"] == "CANCELED"
    proxy.clear_faults()


def test_moved_directory_and_every_name_of_a_file_are_exported(quiet: Mounted) -> None:
    place, fsx = quiet
    (place.root / "old" / "sub").mkdir(parents=True)
    for name in ("a", "sub/b"):
        (place.root / "old" / name).write_text(name)
    assert fsx.run(EXPORT)["Lifecycle"] == "SUCCEEDED"
    fsx.run(RELEASE)
    (place.root / "old").rename(place.root / "new")
    os.link(place.root / "new" / "a", place.root / "second")
    place.drain()
    assert counts(fsx.run(EXPORT)) == ("SUCCEEDED", 5, 5, 0)
    expected = {"new/": b"", "new/a": b"a", "new/sub/": b"", "new/sub/b": b"sub/b", "second": b"a"}
    old = {key.replace("new", "old", 1): body for key, body in expected.items() if key.startswith("new")}
    assert place.objects("p/") == {f"p/{key}": body for key, body in (expected | old).items()}
    assert "released" in place.hsm("new/sub/b")  # copied in the bucket, not fetched
    assert counts(fsx.run(EXPORT)) == ("SUCCEEDED", 5, 5, 0)


def test_one_task_covers_several_associations_and_leaves_out_what_is_in_none(make_site: Callable[..., Site]) -> None:
    (port,) = free_ports(1)
    place = make_site(region=REGION, api_listen=f"127.0.0.1:{port}")
    place.expected_log.append("event=S3ExportLocalObjectNotMatchDra")
    text = "".join(
        f'[[dra]]\nfile_system_path = "/{name}"\ndata_repository_path = "s3://{place.bucket}/{name}/"\nauto_export = []\n\n'
        for name in ("one", "two")
    )
    place.source = str(place.scratch / "shared.toml")
    Path(place.source).write_text(text)
    place.mount()
    with client(place, port) as fsx:
        level = {"LogConfiguration": {"Level": "WARN_ONLY"}}
        fsx.boto.update_file_system(FileSystemId=fsx.file_system_id, LustreConfiguration=level)
        (place.root / "local").write_text("x")
        for name in ("one", "two"):
            (place.root / name / "file").write_text(name)
        assert counts(fsx.run(EXPORT, "local")) == ("SUCCEEDED", 0, 0, 0)
        assert "event=S3ExportLocalObjectNotMatchDra task=task-" in place.log() and " path=/local" in place.log()
        assert counts(fsx.run(EXPORT)) == ("SUCCEEDED", 2, 2, 0)
        assert place.objects() == {"one/file": b"one", "two/file": b"two"}
        ids = [each["AssociationId"] for each in fsx.boto.describe_data_repository_associations()["Associations"]]
        wanted = {"Filters": [{"Name": "data-repository-association-id", "Values": ids[:1]}]}
        assert len(fsx.boto.describe_data_repository_tasks(**wanted)["DataRepositoryTasks"]) == 1
        assert counts(fsx.run(IMPORT, f"s3://{place.bucket}")) == ("SUCCEEDED", 2, 2, 0)
