"""`s3lustrefs api` as the README has it: the AWS command line, real mounts, real ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError

from tests.certificates import self_signed
from tests.mount.endpoint import AWS, REGION, Endpoint, endpoint
from tests.mount.site import S3LUSTREFS, Site
from tests.servers import S3Server

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
needs_aws = pytest.mark.skipif(AWS is None, reason="needs the AWS command line: pip install awscli")
needs_helper = pytest.mark.skipif(not os.path.exists("/sbin/mount.fuse.s3lustrefs"), reason="needs `s3lustrefs install-helper`")


@pytest.fixture
def host(moto_server: S3Server) -> Iterator[Endpoint]:
    with endpoint(moto_server, "-o", f"endpoint_url={moto_server.endpoint_url},addressing_style=path") as running:
        yield running


def created(host: Endpoint, name: str = "", **lustre: Any) -> dict[str, Any]:
    more = {"Tags": [{"Key": "Name", "Value": name}]} if name else {}
    with host.boto() as fsx:
        made = fsx.create_file_system(
            FileSystemType="LUSTRE", SubnetIds=["subnet-0123456789abcdef0"], StorageCapacity=1200, FileSystemTypeVersion="2.15",
            LustreConfiguration={"DeploymentType": "SCRATCH_2", **lustre}, **more,
        )["FileSystem"]  # fmt: skip
        while made["Lifecycle"] == "CREATING":
            (made,) = fsx.describe_file_systems(FileSystemIds=[made["FileSystemId"]])["FileSystems"]
    assert made["Lifecycle"] == "AVAILABLE", made
    return dict(made)


@needs_aws
@needs_helper
def test_what_the_readme_shows_works_word_by_word(host: Endpoint) -> None:
    section = README.partition("### One endpoint for the host")[2].partition("\n##")[0]
    example, _ = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)  # the other one: test_aws_cli
    point = host.scratch / "mnt"
    point.mkdir()
    host.mounts.append(point)
    file_system_id, shown = "", []
    for line in example.replace("\\\n", " ").splitlines():
        words = shlex.split(line.replace("fs-0123456789abcdef0", file_system_id or "?").replace("/mnt/analysis", str(point)))
        if words[0] == "export":
            assert {word.partition("=")[0] for word in words[1:]} == {"AWS_SHARED_CREDENTIALS_FILE", "AWS_ENDPOINT_URL_FSX"}
        elif words[0] == "aws":
            assert words[1] == "fsx"
            answer = json.loads(host.aws(*words[2:]).stdout)
            shown.append(words[2])
            if words[2] == "create-file-system":
                file_system_id = answer["FileSystem"]["FileSystemId"]
            elif words[2] == "describe-file-systems":
                assert [each["FileSystemId"] for each in answer["FileSystems"]] == [file_system_id]
        else:
            host.run(*(words[1:] if words[0] == "sudo" else [S3LUSTREFS, *words[1:]]))
            assert point.is_mount() is (words[1] == "mount")
    assert shown == ["create-file-system", "describe-file-systems", "delete-file-system"]
    with host.boto() as fsx:
        while fsx.describe_file_systems()["FileSystems"]:
            continue
    assert [path.name for path in host.state_dir.iterdir()] == ["api"] and list(host.config_dir.iterdir()) == []


@needs_helper
def test_it_is_mounted_by_every_name_it_has(host: Endpoint) -> None:
    made = created(host, "many-names")
    by_id, dns = made["FileSystemId"], made["DNSName"]
    assert dns.startswith(f"{by_id}.fsx.{REGION}.")
    for source in ("many-names", by_id, f"{dns}:/fsx", f"{dns}@tcp:/fsx", f"{by_id}.fsx.us-west-2.elsewhere@tcp:/fsx"):
        point = host.mount(source, by="fuse.s3lustrefs")
        (line,) = [each for each in Path("/proc/self/mountinfo").read_text().splitlines() if each.split()[4] == str(point)]
        assert f" - fuse.s3lustrefs {source} " in line
        (point / "made").write_text(source)
        with host.boto() as fsx:
            assert [each["FileSystemId"] for each in fsx.describe_file_systems()["FileSystems"]] == [by_id]
        host.unmount(point)
    for source, words in (
        ("fs-00000000000000009", "no file in"), ("fs-00000000000000009.x@tcp:/fsx", "no file in"),
        (f"{dns}:/other", "the mount name of"),
    ):  # fmt: skip
        refused = host.run(S3LUSTREFS, "mount", source, host.mounts[0], check=False)
        assert refused.returncode == 1 and words in refused.stderr
    # By id, while it is mounted already: the usual reason.
    host.mount("many-names")
    refused = host.run(S3LUSTREFS, "mount", by_id, host.mounts[0], check=False)
    assert refused.returncode == 1 and "in use by another daemon" in refused.stderr


def test_requests_reach_the_daemon_of_a_mount_and_the_table_of_others(host: Endpoint) -> None:
    ids = [created(host, name)["FileSystemId"] for name in ("one", "two")]
    point = host.mount("one")
    with host.boto() as fsx:
        for each in ids:
            fsx.update_file_system(FileSystemId=each, LustreConfiguration={"DataCompressionType": "LZ4"})
        pages = fsx.get_paginator("describe_file_systems").paginate(PaginationConfig={"PageSize": 1})
        found = [each for page in pages for each in page["FileSystems"]]
    assert [each["FileSystemId"] for each in found] == sorted(ids)
    assert [each["LustreConfiguration"]["DataCompressionType"] for each in found] == ["LZ4", "LZ4"]
    shown = json.loads(host.run(S3LUSTREFS, "fs", "describe", "--mount", point, "--json").stdout)
    (mine,) = [each for each in shown["FileSystems"] if each["FileSystemId"] == ids[0]]
    assert mine["LustreConfiguration"]["DataCompressionType"] == "LZ4"


@needs_aws
def test_other_hosts_are_served_with_tls_alone(host: Endpoint, tmp_path: Path) -> None:
    assert host.stop() == 0
    host.certificate = self_signed(tmp_path / "api.pem")
    host.start()
    file_system_id = created(host)["FileSystemId"]
    assert json.loads(host.aws("describe-file-systems").stdout)["FileSystems"][0]["FileSystemId"] == file_system_id
    # Whoever speaks no TLS, or does not know the certificate, gets no answer.
    plain = urllib.request.Request(f"http://127.0.0.1:{host.port}/", data=b"{}", method="POST")
    with pytest.raises((OSError, http.client.HTTPException)):
        urllib.request.urlopen(plain, timeout=20)
    trusted, host.certificate = host.certificate, None
    with pytest.raises(AssertionError, match="CERTIFICATE_VERIFY_FAILED|SSL validation failed"):
        host.aws("describe-file-systems", "--endpoint-url", f"https://127.0.0.1:{host.port}")
    host.certificate = trusted


def test_killed_while_it_makes_one_it_goes_on_at_the_next_start(host: Endpoint) -> None:
    request: dict[str, Any] = {
        "FileSystemType": "LUSTRE", "SubnetIds": ["subnet-0123456789abcdef0"], "StorageCapacity": 1200, "ClientRequestToken": "t",
    }  # fmt: skip
    assert host.stop() == 0
    host.start(S3LUSTREFS_FAILPOINT="host.create.table")
    # It may die before it has answered, as far as the client can tell.
    with host.boto() as fsx, contextlib.suppress(ConnectionClosedError, EndpointConnectionError):
        fsx.create_file_system(**request)
    assert host.process is not None and host.process.wait(20) == -signal.SIGKILL
    (work,) = json.loads((host.state_dir / "api" / "records.json").read_text())["works"]
    host.start()
    with host.boto() as fsx:
        made = fsx.create_file_system(**request)["FileSystem"]
        while made["Lifecycle"] == "CREATING":
            (made,) = fsx.describe_file_systems()["FileSystems"]
    assert (made["FileSystemId"], made["Lifecycle"]) == (work["record"]["file_system_id"], "AVAILABLE")
    assert host.mount(made["FileSystemId"]).is_mount()


def test_killed_mount_is_read_and_changed_like_an_unmounted_one(host: Endpoint) -> None:
    made = created(host, "killed")
    point = host.mount("killed")
    (point / "kept").write_text("kept")
    pid = int((host.state_dir / "killed" / "lock").read_text())
    os.kill(pid, signal.SIGKILL)
    subprocess.run(["umount", "-l", str(point)], check=True)
    with host.boto() as fsx:
        (found,) = fsx.describe_file_systems()["FileSystems"]
        assert found["FileSystemId"] == made["FileSystemId"]
        fsx.update_file_system(FileSystemId=made["FileSystemId"], LustreConfiguration={"DataCompressionType": "LZ4"})
        with pytest.raises(fsx.exceptions.BadRequest, match="/kept"):
            fsx.delete_file_system(FileSystemId=made["FileSystemId"])
    again = host.mount("killed")
    assert (again / "kept").read_text() == "kept"
    host.unmount(again)
    host.run(S3LUSTREFS, "fsck", host.state_dir / "killed")


def test_second_one_on_the_same_directory_is_refused(host: Endpoint) -> None:
    refused = host.run(S3LUSTREFS, "api", "--listen", "127.0.0.1:1", "--state-dir", host.state_dir, check=False)
    assert refused.returncode == 1 and "in use by another daemon" in refused.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--listen", "0.0.0.0:9"], "is not a loopback address"),
        (["--listen", "127.0.0.1"], "is not HOST:PORT"),
        (["-o", "no_such_option=1"], "unknown mount option"),
        (["-o", "ro"], "not for a configuration file"),
    ],
)
def test_wrong_start_is_one_line(tmp_path: Path, options: list[str], words: str) -> None:
    done = subprocess.run(
        [S3LUSTREFS, "api", "--state-dir", tmp_path, *options], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1 and words in done.stderr and len(done.stderr.splitlines()) == 1


def test_own_commands_do_the_same_without_a_key(host: Endpoint) -> None:
    def fs(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return host.run(S3LUSTREFS, "fs", words[0], "--state-dir", host.state_dir, *words[1:], check=check)

    assert (host.state_dir / "api" / "control.sock").stat().st_mode & 0o777 == 0o600
    lustre = "DeploymentType=PERSISTENT_2,PerUnitStorageThroughput=125,MetadataConfiguration={Mode=USER_PROVISIONED,Iops=6000}"
    made = json.loads(
        fs(
            "create", "--storage-capacity", "1200", "--lustre-configuration", lustre, "--tags", "Key=Name,Value=own",
            "--client-request-token", "t", "--json",
        ).stdout
    )["FileSystem"]  # fmt: skip
    assert made["LustreConfiguration"]["MetadataConfiguration"] == {"Mode": "USER_PROVISIONED", "Iops": 6000}
    while "CREATING" in (shown := fs("list").stdout):
        continue
    assert shown.splitlines()[1].split() == [made["FileSystemId"], "AVAILABLE", "1,200", "GiB", "PERSISTENT_2", "own"]
    fs("update", "--file-system-id", made["FileSystemId"], "--lustre-configuration", "DataCompressionType=LZ4")
    (found,) = json.loads(fs("list", "--json").stdout)["FileSystems"]
    assert found["LustreConfiguration"]["DataCompressionType"] == "LZ4"
    refused = fs("create", "--storage-capacity", "7", check=False)
    assert refused.returncode == 1 and "StorageCapacity of a SCRATCH_1" in refused.stderr
    assert fs("delete", "--file-system-id", made["FileSystemId"]).stdout.split() == [made["FileSystemId"], "DELETING"]
    assert host.stop() == 0
    refused = fs("list", check=False)
    assert refused.returncode == 1 and "is `s3lustrefs api` running?" in refused.stderr
    refused = host.run(S3LUSTREFS, "fs", "list", "--state-dir", host.scratch, check=False)
    assert refused.returncode == 1 and "start `s3lustrefs api`" in refused.stderr


def test_mount_that_nothing_else_leads_to_is_found(host: Endpoint, make_site: Callable[..., Site]) -> None:
    place = make_site().mount()
    assert host.stop() == 0
    host.options = ("--mounts",)
    host.start()
    file_system_id = json.loads(place.cli("fs", "describe", "--mount", place.root, "--json").stdout)["FileSystems"][0][
        "FileSystemId"
    ]
    with host.boto() as fsx:
        (found,) = fsx.describe_file_systems(FileSystemIds=[file_system_id])["FileSystems"]
        assert found["FileSystemId"] == file_system_id
        place.unmount()
        with pytest.raises(fsx.exceptions.FileSystemNotFound):
            fsx.describe_file_systems(FileSystemIds=[file_system_id])
