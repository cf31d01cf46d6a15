"""Associations made, changed and deleted while mounted, with boto3 and the AWS CLI as users have them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
import trio

from s3lustrefs.control import unmounted
from s3lustrefs.control.api_credentials import load_or_make
from tests.mount.background_proxy import BackgroundProxy
from tests.mount.conftest import fresh_bucket
from tests.mount.site import WAIT_SECONDS, Site
from tests.servers import S3Server, free_ports

REGION = "us-east-1"
ALL = ["NEW", "CHANGED", "DELETED"]
BOTH = {"AutoImportPolicy": {"Events": ALL}, "AutoExportPolicy": {"Events": ALL}}
AWS = str(Path(sys.executable).parent / "aws")


class Scene:
    """A mount without associations, and clients of its API."""

    def __init__(self, place: Site, port: int) -> None:
        self.place = place
        self.url = f"http://127.0.0.1:{port}"
        self.source = place.scratch / "bare.toml"
        self.source.write_text(f'api_listen = "127.0.0.1:{port}"\nregion = "{REGION}"\nimport_interval = 0.5\n')
        place.source = str(self.source)

    def mount(self) -> None:
        self.place.mount(imported=False)
        pair = load_or_make(self.place.state_dir / "api-credentials", REGION)
        self.fsx: Any = boto3.client(
            "fsx", endpoint_url=self.url, region_name=REGION,
            aws_access_key_id=pair.access_key, aws_secret_access_key=pair.secret_key,
        )  # fmt: skip
        self.file_system_id = self.fsx.describe_file_systems()["FileSystems"][0]["FileSystemId"]

    def create(self, path: str, prefix: str, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.fsx.create_data_repository_association(
            FileSystemId=self.file_system_id, FileSystemPath=path, DataRepositoryPath=f"s3://{self.place.bucket}/{prefix}", **more
        )
        return answer["Association"]  # type: ignore[no-any-return]

    def made(self, path: str, prefix: str, **more: Any) -> str:
        """The id of an association that has become AVAILABLE, and is imported."""
        found = self.create(path, prefix, **more)
        assert found["Lifecycle"] == "CREATING"
        self.wait(found["AssociationId"], "AVAILABLE")
        self.place.wait_imported()
        return str(found["AssociationId"])

    def describe(self, association_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.fsx.describe_data_repository_associations(AssociationIds=[association_id])["Associations"][0]
        return found

    def wait(self, association_id: str, lifecycle: str) -> dict[str, Any]:
        deadline = time.monotonic() + WAIT_SECONDS
        while (found := self.describe(association_id))["Lifecycle"] != lifecycle:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found

    def delete(self, association_id: str, **more: Any) -> None:
        """And wait until nobody knows it any more."""
        answer = self.fsx.delete_data_repository_association(AssociationId=association_id, **more)
        assert answer["Lifecycle"] == "DELETING"
        self.wait_gone(association_id)

    def wait_gone(self, association_id: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        with contextlib.suppress(self.fsx.exceptions.DataRepositoryAssociationNotFound):
            while True:
                found = self.describe(association_id)
                assert found["Lifecycle"] == "DELETING" and time.monotonic() < deadline, found
                time.sleep(0.05)

    def aws(self, *arguments: str, check: bool = True) -> Any:
        """The AWS CLI, told where to find the API as the README says."""
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(self.place.scratch), "AWS_ENDPOINT_URL_FSX": self.url,
            "AWS_SHARED_CREDENTIALS_FILE": str(self.place.state_dir / "api-credentials"), "AWS_PAGER": "",
        }  # fmt: skip
        own, self.place.environment = self.place.environment, environment
        try:
            done = self.place.run(AWS, "fsx", *arguments, check=check)
        finally:
            self.place.environment = own
        return json.loads(done.stdout or "{}") if check else done

    def end(self) -> None:
        """Unmount, and find the state directory in order."""
        self.fsx.close()
        self.place.unmount()
        self.place.cli("fsck", self.place.state_dir)


@pytest.fixture
def scene(make_site: Callable[..., Site]) -> Iterator[Scene]:
    (port,) = free_ports(1)
    made = Scene(make_site(""), port)
    made.mount()
    yield made
    made.fsx.close()


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_directory_is_linked_used_and_parted_again(scene: Scene) -> None:
    place = scene.place
    place.put("data/cold", b"never read")
    place.put("data/sub/read", b"read here")
    (place.root / "work").mkdir()
    (place.root / "work" / "mine").write_text("older than the association")
    (place.root / "work" / "sub").mkdir()

    linked = scene.made("/work/", "data", BatchImportMetaDataOnCreate=True, S3=BOTH, Tags=[{"Key": "team", "Value": "a"}])
    shown = scene.describe(linked)
    assert (shown["FileSystemPath"], shown["DataRepositoryPath"]) == ("/work/", f"s3://{place.bucket}/data")
    assert shown["Tags"] == [{"Key": "team", "Value": "a"}] and shown["BatchImportMetaDataOnCreate"] and shown["S3"] == BOTH
    assert (place.root / "work/sub/read").read_text() == "read here"
    (place.root / "work/new").write_text("exported")
    (place.root / "work/sub/../cold2").write_text("x")
    place.drain()
    assert place.keys("data/") == ["data/cold", "data/cold2", "data/new", "data/sub/read"]
    (place.root / "work/mine").chmod(0o600)
    place.drain()
    assert place.body("data/mine") == b"older than the association"
    scene.fsx.close()
    place.kill_daemon()
    scene.mount()
    assert scene.wait(linked, "AVAILABLE")["Tags"] == [{"Key": "team", "Value": "a"}]

    scene.delete(linked)
    assert (place.root / "work/sub/read").read_text() == "read here"
    assert place.hsm("work/new") == "(0x00000000)" and (place.root / "work/new").read_text() == "exported"
    with pytest.raises(OSError) as caught:
        (place.root / "work/cold").read_bytes()
    assert caught.value.errno == errno.ENODATA and (place.root / "work/cold").stat().st_size == 10
    why = place.why("work/cold")
    assert f"s3://{place.bucket}/data/cold alone" in "\n".join(why["lines"]) and "dra create" in why["remedy"]
    (place.root / "work/late").write_text("local")
    (place.root / "work/new").unlink()
    place.drain()
    assert place.keys("data/") == ["data/cold", "data/cold2", "data/mine", "data/new", "data/sub/read"]
    assert place.status()["associations"] == []

    # Linked again, what was left behind can be read. What is here too stays as it is here, and that is told.
    place.expected_log.append("conflict kept kind=not-exported")
    scene.made("/work", "data", BatchImportMetaDataOnCreate=True)
    assert (place.root / "work/cold").read_bytes() == b"never read"
    scene.end()


def test_walk_through_of_the_documentation_with_the_aws_cli(scene: Scene) -> None:
    place = scene.place
    place.expected_log.append("changes not exported")  # the directory's own object, if the deletion is quicker
    for number in range(3):
        place.put(f"ns1/f{number}", b"x" * number)
    answer = scene.aws(
        "create-data-repository-association", "--file-system-id", scene.file_system_id, "--file-system-path", "/ns1/path1/",
        "--data-repository-path", f"s3://{place.bucket}/ns1/", "--batch-import-meta-data-on-create",
        "--s3", "AutoImportPolicy={Events=[NEW,CHANGED,DELETED]},AutoExportPolicy={Events=[NEW,CHANGED,DELETED]}",
    )  # fmt: skip
    association = answer["Association"]
    linked = association["AssociationId"]
    assert association["Lifecycle"] == "CREATING" and association["ResourceARN"].endswith(f"{scene.file_system_id}/{linked}")
    scene.wait(linked, "AVAILABLE")
    place.wait_imported()
    assert sorted(os.listdir(place.root / "ns1/path1")) == ["f0", "f1", "f2"]
    (shown,) = scene.aws("describe-data-repository-associations", "--association-ids", linked)["Associations"]
    assert (shown["FileSystemPath"], shown["DataRepositoryPath"]) == ("/ns1/path1/", f"s3://{place.bucket}/ns1/")
    updated = scene.aws("update-data-repository-association", "--association-id", linked, "--s3", "AutoExportPolicy={Events=[]}")
    assert updated["Association"]["Lifecycle"] == "UPDATING"
    scene.wait(linked, "AVAILABLE")
    (place.root / "ns1/path1/local").write_text("not exported by this policy")
    place.drain()
    with (place.root / "ns1/path1/f2").open("rb") as held:
        answer = scene.aws("delete-data-repository-association", "--association-id", linked, "--delete-data-in-file-system")
        assert answer == {"AssociationId": linked, "Lifecycle": "DELETING", "DeleteDataInFileSystem": True}
        scene.wait_gone(linked)
        refused = scene.aws("describe-data-repository-associations", "--association-ids", linked, check=False)
        assert refused.returncode and "DataRepositoryAssociationNotFound" in refused.stderr
        assert os.listdir(place.root / "ns1") == []
        assert os.fstat(held.fileno()).st_size == 2
    place.drain()
    assert place.keys() == ["ns1/f0", "ns1/f1", "ns1/f2"]
    scene.end()


def test_what_the_readme_shows_works_word_by_word(scene: Scene) -> None:
    place = scene.place
    place.expected_log.append("changes not exported")  # the directory's own object, if the deletion is quicker
    place.put("ns1/theirs", b"theirs")
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    section = readme.partition("### The FSx API")[2].partition("\n### ")[0]
    (example,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    linked, shown = "", []
    for line in example.replace("\\\n", " ").splitlines():
        given = {
            "fs-0123456789abcdef0": scene.file_system_id,
            "dra-0123456789abcdef0": linked,
            "s3://lab-results": f"s3://{place.bucket}",
        }
        for theirs, ours in given.items():
            line = line.replace(theirs, ours)
        words = shlex.split(line)
        if words[0] == "export":
            assert {word.partition("=")[0] for word in words[1:]} == {"AWS_SHARED_CREDENTIALS_FILE", "AWS_ENDPOINT_URL_FSX"}
            continue
        assert words[:2] == ["aws", "fsx"]
        answer = scene.aws(*words[2:])
        shown.append(words[2].partition("-")[0])
        if shown[-1] == "create":
            linked = answer["Association"]["AssociationId"]
            scene.wait(linked, "AVAILABLE")
            until((place.root / "ns1/path1/theirs").exists)
        elif shown[-1] == "describe":
            (found,) = answer["Associations"]
            assert (found["AssociationId"], found["Lifecycle"], found["S3"]) == (linked, "AVAILABLE", BOTH)
        elif shown[-1] == "update":
            found = scene.wait(linked, "AVAILABLE")
            assert found["S3"] == {"AutoImportPolicy": {"Events": ["NEW", "CHANGED"]}, "AutoExportPolicy": {"Events": ALL}}
        else:
            scene.wait_gone(linked)
            assert os.listdir(place.root / "ns1") == []
    assert shown == ["create", "describe", "update", "delete"]
    assert place.body("ns1/theirs") == b"theirs"
    scene.end()


def test_what_cannot_be_linked_is_refused_at_once(scene: Scene) -> None:
    place, fsx = scene.place, scene.fsx
    (place.root / "file").write_text("in the way")
    scene.made("/ns1", "one")
    refusals = [
        ("/ns1", "two", "one directory contains the other"),
        ("/ns1/below", "two", "one directory contains the other"),
        ("/other", "one/below", "one prefix contains the other"),
        ("/", "two", "'/' can only be linked alone"),
        ("relative", "two", "is not absolute"),
        ("/a/../b", "two", "'..'"),
        ("/file/below", "two", "exists and is not a directory"),
        ("/.s3lustrefs-lost+found", "two", "losers of conflicts"),
    ]
    for path, prefix, reason in refusals:
        with pytest.raises(fsx.exceptions.BadRequest, match=reason):
            scene.create(path, prefix)
    common = {"FileSystemId": scene.file_system_id, "FileSystemPath": "/x"}
    for url, reason in (("s3://t-there-is-no-such-bucket/p", "cannot validate access to the bucket.*s3:Get.*s3:List.*s3:PutObject"),
                        ("nfs://host/export", "is not of the form s3://")):  # fmt: skip
        with pytest.raises(fsx.exceptions.BadRequest, match=reason):
            fsx.create_data_repository_association(DataRepositoryPath=url, **common)
    with pytest.raises(fsx.exceptions.BadRequest, match="FileSystemPath is missing"):
        fsx.create_data_repository_association(
            DataRepositoryPath=f"s3://{place.bucket}/x", FileSystemId=scene.file_system_id
        )  # fmt: skip
    with pytest.raises(fsx.exceptions.FileSystemNotFound):
        fsx.create_data_repository_association(
            DataRepositoryPath=f"s3://{place.bucket}/x", FileSystemId="fs-00000000000000000", FileSystemPath="/x"
        )
    again = scene.create("/two", "two", ClientRequestToken="once")
    assert scene.create("/two", "two", ClientRequestToken="once")["AssociationId"] == again["AssociationId"]
    with pytest.raises(fsx.exceptions.IncompatibleParameterError):
        scene.create("/three", "three", ClientRequestToken="once")
    for number in range(3, 9):
        scene.create(f"/n{number}", f"n{number}")
    with pytest.raises(fsx.exceptions.BadRequest, match="at most 8"):
        scene.create("/n9", "n9")
    until(lambda: all(a["Lifecycle"] == "AVAILABLE" for a in fsx.describe_data_repository_associations()["Associations"]))
    assert len(fsx.describe_data_repository_associations()["Associations"]) == 8
    scene.end()


def test_without_an_initial_import_only_later_objects_come(scene: Scene) -> None:
    place = scene.place
    place.put("p/before", b"old")
    time.sleep(3.5)
    scene.made("/work", "p", S3={"AutoImportPolicy": {"Events": ALL}})
    time.sleep(1.1)
    place.put("p/after", b"new")
    until(lambda: os.listdir(place.root / "work") == ["after"])
    # Changed and deleted objects are followed only if they are files here.
    place.put("p/before", b"changed")
    until(lambda: sorted(os.listdir(place.root / "work")) == ["after", "before"])
    place.put("p/sub/x", b"1")
    place.cli("refresh", place.root / "work")
    assert sorted(os.listdir(place.root / "work")) == ["after", "before", "sub"]
    scene.end()


def test_changes_that_are_due_keep_the_command_from_deleting(scene: Scene) -> None:
    place = scene.place
    place.expected_log += ["changes not exported", "export failed", "sweep failed", "misconfigured", "listing"]
    linked = scene.made("/work", "p", S3=BOTH)
    place.s3.delete_bucket(Bucket=place.bucket)
    (place.root / "work/kept").write_text("nowhere else")
    refused = place.cli("dra", "delete", "--mount", place.root, "--association-id", linked, check=False)
    assert refused.returncode == 1 and "are not in the bucket yet" in refused.stderr
    done = place.cli("dra", "delete", "--mount", place.root, "--association-id", linked, "--abandon-unexported", "--wait")
    assert "deleted" in done.stdout and (place.root / "work/kept").read_text() == "nowhere else"
    assert "directory=/work changes=1" in place.log()
    place.drain()
    scene.end()


@pytest.mark.long
def test_lost_bucket_is_a_misconfiguration_that_ends_with_its_cause(scene: Scene) -> None:
    place = scene.place
    place.expected_log += ["export failed", "sweep failed", "misconfigured", "listing"]
    linked = scene.made("/work", "p", S3=BOTH)
    (place.root / "work/first").write_text("1")
    place.drain()
    place.s3.delete_object(Bucket=place.bucket, Key="p/first")
    place.s3.delete_bucket(Bucket=place.bucket)
    scene.fsx.update_data_repository_association(AssociationId=linked)
    shown = scene.wait(linked, "MISCONFIGURED")
    assert place.bucket in shown["FailureDetails"]["Message"]
    (place.root / "work/second").write_text("recorded meanwhile")
    scene.fsx.close()
    place.kill_daemon()
    scene.mount()
    assert scene.describe(linked)["Lifecycle"] == "MISCONFIGURED"
    place.s3.create_bucket(Bucket=place.bucket)
    scene.wait(linked, "AVAILABLE")
    place.drain()
    assert place.body("p/second") == b"recorded meanwhile"
    scene.end()


@pytest.mark.long
def test_removed_event_configuration_is_a_misconfiguration_that_an_update_ends(scene: Scene) -> None:
    place = scene.place
    place.expected_log += ["bucket events not available", "misconfigured", "export failed"]
    place.unmount()
    scene.source.write_text(scene.source.read_text().replace("0.5", "0") + 'event_queue_url = "create"\n')
    scene.fsx.close()
    scene.mount()
    linked = scene.made("/work", "p", S3=BOTH)

    def configured() -> Any:
        return place.s3.get_bucket_notification_configuration(Bucket=place.bucket).get("QueueConfigurations", [])

    until(configured)
    place.put("p/told", b"1")
    until(lambda: os.listdir(place.root / "work") == ["told"])
    time.sleep(11.0)  # until it is known that somebody listens
    place.s3.put_bucket_notification_configuration(Bucket=place.bucket, NotificationConfiguration={})
    deadline = time.monotonic() + 60.0
    while scene.describe(linked)["Lifecycle"] != "MISCONFIGURED":
        assert time.monotonic() < deadline, place.status()
        time.sleep(1.0)
    assert "notification configuration" in scene.describe(linked)["FailureDetails"]["Message"]
    (place.root / "work/mine").write_text("sent afterwards")
    assert place.try_drain().returncode == 1 and place.keys() == ["p/told"]
    scene.fsx.update_data_repository_association(AssociationId=linked)
    scene.wait(linked, "AVAILABLE")
    until(configured)
    place.drain()
    assert place.keys() == ["p/mine", "p/told"]
    scene.delete(linked)
    assert not configured()
    scene.end()


# --- permissions -------------------------------------------------------------------------------------------------------------


class Refusing:
    """A bucket behind a proxy that answers as Amazon does to those who may not read: 403, whether the object is there or not."""

    def __init__(self, place: Site, proxy: BackgroundProxy) -> None:
        self._place, self._proxy = place, proxy

    def deny(self, *actions: str) -> None:
        self._proxy.clear_faults()
        for action in actions:
            assert action == "s3:GetObject"
            self._proxy.add("denied", method="GET", path=f"/{self._place.bucket}/p/", times=10**6)


class Guarded:
    """A bucket of one user of Ceph that another one mounts, who may do everything but what is `deny`d."""

    def __init__(self, place: Site, server: S3Server) -> None:
        self._place = place
        place.environment |= {"AWS_ACCESS_KEY_ID": server.other_access_key, "AWS_SECRET_ACCESS_KEY": server.other_secret_key}
        self.deny()

    def deny(self, *actions: str) -> None:
        """These from now on, and nothing else."""
        users = ["arn:aws:iam:::user/u0", "arn:aws:iam:::user/u1"]
        arn = f"arn:aws:s3:::{self._place.bucket}"
        statements = [{"Effect": "Allow", "Principal": {"AWS": users}, "Action": ["s3:*"], "Resource": [arn, f"{arn}/*"]}]
        if actions:
            lost = {"Principal": {"AWS": users[1:]}, "Action": list(actions), "Resource": [arn, f"{arn}/*"]}
            statements.append({"Effect": "Deny", **lost})
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        self._place.s3.put_bucket_policy(Bucket=self._place.bucket, Policy=policy)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("lost", "where", "seconds"),
    [
        pytest.param("s3:PutObject", "arn:aws:s3:::BUCKET/p/*", 15, marks=pytest.mark.long),
        pytest.param("s3:ListBucket", "arn:aws:s3:::BUCKET", 15, marks=pytest.mark.long),
        pytest.param("s3:GetObject", "arn:aws:s3:::BUCKET/p/*", 15, marks=pytest.mark.long),
        pytest.param("s3:PutObject", "arn:aws:s3:::BUCKET/p/*", 180, marks=pytest.mark.long),
    ],
)
def test_lost_permission_is_a_misconfiguration_until_it_is_given_back(
    make_site: Callable[..., Site], request: pytest.FixtureRequest, lost: str, where: str, seconds: float
) -> None:
    (port,) = free_ports(1)
    bucket: Guarded | Refusing
    if lost == "s3:GetObject":  # Ceph answers 404 for what is not there to whoever may list
        proxy: BackgroundProxy = request.getfixturevalue("proxy")
        place = make_site("", endpoint_url=proxy.endpoint_url)
        bucket = Refusing(place, proxy)
    else:
        server: S3Server = request.getfixturevalue("rgw_server")
        place = make_site("", server=server)
        bucket = Guarded(place, server)
    place.expected_log += ["export failed", "sweep failed", "misconfigured", "listing", "not fetched", "fetch failed"]
    scene = Scene(place, port)
    scene.mount()
    linked = scene.made("/work", "p", S3=BOTH)
    (place.root / "work/first").write_text("1")
    place.drain()

    def look() -> tuple[str, str]:
        """As the AWS command line shows it."""
        (found,) = scene.aws("describe-data-repository-associations", "--association-ids", linked)["Associations"]
        return found["Lifecycle"], found.get("FailureDetails", {}).get("Message", "")

    def wait_for(lifecycle: str, most_seconds: float) -> str:
        deadline = time.monotonic() + most_seconds
        while (found := look())[0] != lifecycle:
            assert time.monotonic() < deadline, (found, place.log()[-2000:])
            time.sleep(0.3)
        return found[1]

    bucket.deny(lost)
    (place.root / "work/second").write_text("recorded meanwhile")
    said = wait_for("MISCONFIGURED", 60)
    assert f"Allow {lost} on {where.replace('BUCKET', place.bucket)}" in said and len(said) <= 256
    (place.root / "work/second").write_text("written again meanwhile")
    (place.root / "work/first").rename(place.root / "work/moved")
    time.sleep(5)  # a sweep under way at that moment comes to its end
    place.s3.put_object(Bucket=place.bucket, Key="p/theirs", Body=b"theirs")
    until_then = time.monotonic() + seconds
    while time.monotonic() < until_then:
        assert look()[0] == "MISCONFIGURED"
        time.sleep(2)
    before = {"p/first", "p/theirs"}
    if lost != "s3:PutObject":  # what was due before it was known could be sent
        before.add("p/second")
    assert before - {"p/second"} <= set(place.keys()) <= before
    assert sorted(os.listdir(place.root / "work")) == ["moved", "second"]
    assert place.try_drain().returncode == 1

    bucket.deny()
    wait_for("AVAILABLE", 20)
    place.drain()
    assert place.objects() == {"p/moved": b"1", "p/second": b"written again meanwhile", "p/theirs": b"theirs"}
    until(lambda: (place.root / "work/theirs").exists())

    bucket.deny(lost)
    (place.root / "work/third").write_text("3")
    wait_for("MISCONFIGURED", 60)
    bucket.deny()
    asked = time.monotonic()
    scene.fsx.update_data_repository_association(AssociationId=linked)
    scene.wait(linked, "AVAILABLE")
    assert time.monotonic() - asked < 5  # and not only with the next look, every ten seconds
    place.drain()
    assert place.body("p/third") == b"3"
    scene.end()


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("days", "expected"), [(13, "AVAILABLE"), (15, "MISCONFIGURED")])
def test_queue_further_behind_than_it_keeps_its_messages(
    make_site: Callable[..., Site], proxy: BackgroundProxy, moto_server: S3Server, days: int, expected: str
) -> None:
    """Messages that were sent so many days ago come faster than the bucket says what became of their objects."""
    (port,) = free_ports(1)
    place = make_site("", endpoint_url=proxy.endpoint_url)
    place.expected_log += ["misconfigured", "export failed", "events wait"]
    scene = Scene(place, port)
    scene.source.write_text(scene.source.read_text().replace("0.5", "0") + 'event_queue_url = "create"\n')
    proxy.add(f"age:{days * 86400}", method="POST", times=10**6)
    scene.mount()
    linked = scene.made("/work", "p", S3=BOTH)

    def told() -> dict[str, Any]:
        found: dict[str, Any] = place.status()["associations"][0]["events"]
        return found

    until(lambda: told()["state"] == "LISTENING")
    place.put("p/gone", b"1")
    until((place.root / "work/gone").exists)
    proxy.add("hold", method="HEAD", path="/p/gone", times=10**6)
    place.s3.delete_object(Bucket=place.bucket, Key="p/gone")
    queue, sqs = told()["queue"], moto_server.client("sqs")
    for batch in range(60):
        bodies = [removed(place.bucket, f"p/gone-{batch}-{number}") for number in range(10)]
        entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies)]
        assert not sqs.send_message_batch(QueueUrl=queue, Entries=entries).get("Failed")
    sqs.close()
    until(lambda: (told()["oldest_queued_seconds"] or 0) > days * 86400 - 60)
    deadline = time.monotonic() + 60
    while (found := scene.describe(linked))["Lifecycle"] != "MISCONFIGURED" and time.monotonic() < deadline:
        time.sleep(0.5)
    assert found["Lifecycle"] == expected and ("14 days" in found.get("FailureDetails", {}).get("Message", "")) is (days > 14)
    (place.root / "work/mine").write_text("sent afterwards")
    proxy.clear_faults()
    scene.wait(linked, "AVAILABLE")
    place.cli("refresh", place.root / "work")
    assert os.listdir(place.root / "work") == ["mine"]
    place.drain()
    assert place.keys() == ["p/mine"]
    scene.end()


def removed(bucket: str, key: str) -> str:
    """A message of the bucket's, as S3 writes it."""
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    record = {"eventName": "ObjectRemoved:Delete", "eventTime": moment, "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}
    return json.dumps({"Records": [record]})


def test_configured_association_that_was_deleted_comes_back_with_a_change_only(make_site: Callable[..., Site]) -> None:
    place = make_site("p").mount()
    place.expected_log.append("conflict kept kind=not-exported")
    (place.root / "exported").write_text("x")
    place.drain()
    (shown,) = json.loads(place.cli("dra", "list", "--mount", place.root, "--json").stdout)["Associations"]
    place.cli("dra", "delete", "--mount", place.root, "--association-id", shown["AssociationId"], "--wait")
    place.unmount()
    place.mount()
    assert place.status()["associations"] == [] and os.listdir(place.root) == ["exported"]
    made = place.cli(
        "dra", "create", "--mount", place.root, "--file-system-path", "/again", "--data-repository-path",
        f"s3://{place.bucket}/p", "--batch-import-meta-data-on-create", "--wait",
    ).stdout  # fmt: skip
    assert "AVAILABLE" in made and "/again" in made
    linked = place.status()["associations"][0]["association_id"]
    place.wait_imported()
    assert os.listdir(place.root / "again") == ["exported"]
    place.cli("dra", "delete", "--mount", place.root, "--association-id", linked, "--delete-data-in-file-system", "--wait")
    place.unmount()
    place.options["auto_export"] = "new"
    place.mount()
    assert [a["file_system_path"] for a in place.status()["associations"]] == ["/"]
    place.unmount()
    place.cli("fsck", place.state_dir)


def test_other_bucket_is_linked_beside_a_configured_one(make_site: Callable[..., Site]) -> None:
    place = make_site("p")
    place.source = str(place.scratch / "one.toml")
    Path(place.source).write_text(f'[[dra]]\nfile_system_path = "/one"\ndata_repository_path = "s3://{place.bucket}/one"\n')
    place.mount()
    other = fresh_bucket(place.server)
    place.s3.put_object(Bucket=other, Key="deep/x", Body=b"there")
    place.cli(
        "dra", "create", "--mount", place.root, "--file-system-path", "/two", "--data-repository-path", f"s3://{other}",
        "--batch-import-meta-data-on-create", "--s3", "AutoExportPolicy={Events=[NEW]}", "--wait",
    )  # fmt: skip
    place.wait_imported()
    assert (place.root / "two/deep/x").read_bytes() == b"there"
    (place.root / "one/moved").write_text("from one to two")
    place.drain()
    (place.root / "one/moved").rename(place.root / "two/moved")
    place.drain()
    assert place.keys() == [] and place.s3.get_object(Bucket=other, Key="moved")["Body"].read() == b"from one to two"
    place.unmount()
    place.cli("fsck", place.state_dir)


def test_what_was_asked_for_while_nothing_was_mounted_is_done_by_the_next_mount(scene: Scene) -> None:
    place = scene.place
    place.expected_log += ["association cannot be made"]
    place.put("p/x", b"there")
    kept = scene.made("/kept", "kept")
    scene.fsx.close()
    place.unmount()
    request = {"FileSystemId": scene.file_system_id, "BatchImportMetaDataOnCreate": True}
    for path, bucket in (("/work", place.bucket), ("/nowhere", "t-there-is-no-such-bucket")):
        request |= {"FileSystemPath": path, "DataRepositoryPath": f"s3://{bucket}/p"}
        answer = trio.run(unmounted.change, place.state_dir, "CreateDataRepositoryAssociation", request)
        assert answer["Association"]["Lifecycle"] == "CREATING"
    trio.run(unmounted.change, place.state_dir, "DeleteDataRepositoryAssociation", {"AssociationId": kept})
    scene.mount()
    scene.wait_gone(kept)
    found = {each["FileSystemPath"]: each for each in scene.fsx.describe_data_repository_associations()["Associations"]}
    assert found.keys() == {"/work", "/nowhere"}
    scene.wait(found["/work"]["AssociationId"], "AVAILABLE")
    failed = scene.wait(found["/nowhere"]["AssociationId"], "FAILED")
    assert "t-there-is-no-such-bucket" in failed["FailureDetails"]["Message"]
    until(lambda: (place.root / "work/x").exists())
    assert (place.root / "work/x").read_bytes() == b"there"
    scene.delete(failed["AssociationId"])
    scene.end()


def test_deletion_does_not_wait_for_a_listing_that_hangs(make_site: Callable[..., Site], proxy: BackgroundProxy) -> None:
    (port,) = free_ports(1)
    scene = Scene(make_site("", endpoint_url=proxy.endpoint_url), port)
    scene.mount()
    scene.place.put("p/x", b"never listed")
    proxy.add("hold", method="GET", path="list-type=2", skip=1, times=1000)  # the first is the look at the bucket
    made = str(scene.create("/work", "p", BatchImportMetaDataOnCreate=True)["AssociationId"])
    scene.wait(made, "AVAILABLE")
    with ThreadPoolExecutor(1) as pool:
        listed = pool.submit(os.listdir, scene.place.root / "work")
        time.sleep(0.5)
        assert not listed.done()
        began = time.monotonic()
        scene.delete(made)
        assert listed.result(WAIT_SECONDS) == [] and time.monotonic() - began < WAIT_SECONDS
    proxy.clear_faults()
    scene.end()
