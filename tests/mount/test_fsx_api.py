"""The FSx API of a mounted file system, with boto3 as a user has it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest

from s3lustrefs.control.api_credentials import load_or_make
from tests.mount.site import Site
from tests.servers import free_ports

REGION = "us-east-1"


@contextmanager
def client(place: Site, port: int, region: str) -> Iterator[Any]:
    pair = load_or_make(place.state_dir / "api-credentials", region)
    made = boto3.client(
        "fsx", endpoint_url=f"http://127.0.0.1:{port}", region_name=region,
        aws_access_key_id=pair.access_key, aws_secret_access_key=pair.secret_key,
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
