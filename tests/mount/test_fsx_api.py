"""The FSx API of a mounted file system, with boto3 as a user has it."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import HTTPClientError

from s3lustrefs.control.api_credentials import load_or_make
from tests.certificates import self_signed
from tests.mount.site import WAIT_SECONDS, Site
from tests.servers import free_ports

REGION = "us-east-1"


@contextmanager
def client(place: Site, port: int, region: str, certificate: Path | None = None) -> Iterator[Any]:
    pair = load_or_make(place.state_dir / "api-credentials", region)
    made = boto3.client(
        "fsx", endpoint_url=f"{'https' if certificate else 'http'}://127.0.0.1:{port}", region_name=region,
        aws_access_key_id=pair.access_key, aws_secret_access_key=pair.secret_key, verify=str(certificate) if certificate else None,
    )  # fmt: skip
    yield made
    made.close()


def test_policy_is_changed_while_mounted_and_kept_by_the_next_mount(make_site: Callable[..., Site]) -> None:
    (port,) = free_ports(1)
    place = make_site(region=REGION, api_listen=f"127.0.0.1:{port}", auto_export="none").mount()
    assert stat.S_IMODE(os.stat(place.state_dir / "api-credentials").st_mode) == 0o600
    (place.root / "before").write_text("kept local")
    place.drain()
    with client(place, port, REGION) as fsx:
        (association,) = fsx.describe_data_repository_associations()["Associations"]
        assert association["DataRepositoryPath"] == place.source and association["S3"]["AutoExportPolicy"]["Events"] == []
        update = {
            "AssociationId": association["AssociationId"], "S3": {"AutoExportPolicy": {"Events": ["NEW"]}},
            "ImportedFileChunkSize": 2, "ClientRequestToken": "once",
        }  # fmt: skip
        fsx.update_data_repository_association(**update)
        (status,) = place.status()["associations"]
        assert status["capabilities"]["is_write_probed"] and status["capabilities"]["delete_if_match"]
        (place.root / "after").write_text("exported")
        place.drain()
        assert place.objects("p/") == {"p/after": b"exported"}
        (file_system,) = fsx.describe_file_systems()["FileSystems"]
        fsx.tag_resource(ResourceARN=file_system["ResourceARN"], Tags=[{"Key": "team", "Value": "genomics"}])

    place.kill_daemon()
    place.mount()
    with client(place, port, REGION) as fsx:
        (again,) = fsx.describe_data_repository_associations()["Associations"]
        assert (again["S3"]["AutoExportPolicy"]["Events"], again["ImportedFileChunkSize"]) == (["NEW"], 2)
        assert again["AssociationId"] == association["AssociationId"]
        tags = fsx.list_tags_for_resource(ResourceARN=file_system["ResourceARN"])["Tags"]
        assert tags == [{"Key": "team", "Value": "genomics"}]
        assert fsx.update_data_repository_association(**update)["Association"] == again
        with pytest.raises(fsx.exceptions.IncompatibleParameterError) as caught:
            fsx.update_data_repository_association(**{**update, "ImportedFileChunkSize": 3})
        assert caught.value.response["Parameter"] == "ImportedFileChunkSize"
    place.unmount()

    # What the configuration says anew beats what the API set before.
    place.options["auto_export"] = "new+changed"
    place.mount()
    (stored,) = place.status()["associations"]
    assert stored["auto_export"] == ["CHANGED", "NEW"]
    place.unmount()
    place.cli("fsck", place.state_dir)


def test_address_that_is_taken_refuses_the_mount(make_site: Callable[..., Site], moto_server: Any) -> None:
    taken = moto_server.endpoint_url.rpartition(":")[2]
    place = make_site(api_listen=f"127.0.0.1:{taken}")
    place.expected_log.append("Address already in use")
    done = place.try_mount()
    assert done.returncode == 1 and "Address already in use; choose another port" in done.stderr
    assert not place.is_mounted()


@pytest.mark.parametrize("address", ["0.0.0.0:8987", "[::]:8987", "192.0.2.1:8987"])
def test_address_that_others_can_reach_is_refused(make_site: Callable[..., Site], address: str) -> None:
    done = make_site(api_listen=address).try_mount()
    assert done.returncode == 1 and "is not a loopback address" in done.stderr


@pytest.mark.parametrize("is_apart", [False, True])
def test_address_that_others_can_reach_serves_tls(make_site: Callable[..., Site], tmp_path: Path, is_apart: bool) -> None:
    """The key in the certificate's file, or in one of its own."""
    (port,) = free_ports(1)
    certificate = self_signed(tmp_path / "api.pem")
    options = {"api_listen": f"0.0.0.0:{port}", "api_certificate": str(certificate)}
    if is_apart:
        body, begin, key = certificate.read_text().partition("-----BEGIN PRIVATE KEY-----")
        certificate.write_text(body)
        (tmp_path / "key.pem").write_text(begin + key)
        options["api_key"] = str(tmp_path / "key.pem")
    place = make_site(region=REGION, **options).mount()
    with client(place, port, REGION, certificate) as fsx:
        assert len(fsx.describe_data_repository_associations()["Associations"]) == 1
    with client(place, port, REGION) as fsx, pytest.raises(HTTPClientError):
        fsx.describe_file_systems()
    place.unmount()
    certificate.write_text("no certificate")
    place.expected_log.append("api_certificate=.*cannot be used")
    done = place.try_mount()
    assert done.returncode == 1 and f"api_certificate={certificate}" in done.stderr and "cannot be used" in done.stderr


def test_import_is_switched_on_by_the_command_and_reaches_what_came_meanwhile(make_site: Callable[..., Site]) -> None:
    place = make_site(auto_import="none", import_interval="0.5").mount()
    (place.root / "ours").write_text("here")
    place.drain()
    place.s3.put_object(Bucket=place.bucket, Key="p/theirs", Body=b"there")
    (before,) = json.loads(place.cli("dra", "list", "--mount", place.root, "--json").stdout)["Associations"]
    assert before["S3"]["AutoImportPolicy"]["Events"] == [] and not (place.root / "theirs").exists()
    shown = place.cli(
        "dra",
        "update",
        "--mount",
        place.root,
        "--association-id",
        before["AssociationId"],
        "--s3",
        "AutoImportPolicy={Events=[NEW]}",
    ).stdout
    assert " new " in shown
    deadline = time.monotonic() + WAIT_SECONDS
    while not (place.root / "theirs").exists():
        assert time.monotonic() < deadline, place.status()
        time.sleep(0.1)
    assert (place.root / "theirs").read_bytes() == b"there"
    wrong = place.cli(
        "dra", "update", "--mount", place.root, "--association-id", "dra-000000000", "--imported-file-chunk-size", "5", check=False
    )
    assert wrong.returncode == 1 and "there is no data repository association dra-000000000" in wrong.stderr
