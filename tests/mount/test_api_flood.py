"""A flood of requests made from FSx's own shapes, right and wrong ones, over TCP with signatures: to a mount, and to the host.

Each is answered in time, as described or refused as documented; nothing that is kept is shown otherwise than as described; and no
request leaves a defect in a log. Clients that are slow or enormous meanwhile harm nobody.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from s3lustrefs.control.api_credentials import KeyPair, load_or_make
from s3lustrefs.control.fsx_model import TARGET_PREFIX
from s3lustrefs.control.seen_signatures import REPEAT_SECONDS
from tests.mount.conftest import fresh_bucket
from tests.mount.endpoint import REGION, Endpoint, endpoint
from tests.mount.site import S3LUSTREFS
from tests.servers import S3Server, free_ports
from tests.unit.control import fsx_requests
from tests.unit.control.fsx_scene import MODEL
from tests.unit.control.host_scene import CREATE

ANSWER_SECONDS = 15.0
FLOOD_SECONDS = 12.0
"""For each of the two, whatever the machine does meanwhile: a flood that is over its time ends."""
OURS = ("DataRepository", "FileSystem", "FileCache", "Resource")
"""In the names of operations that mean something here."""
ALWAYS = {"UnsupportedOperation", "SerializationException"}
_SERIOUS = re.compile(r"^(?:\S+ (?:ERROR|CRITICAL) .*|Traceback .*)$", re.MULTILINE)


@dataclass
class Door:
    """One address that requests go to; `names` are of what is there."""

    port: int
    pair: KeyPair
    names: dict[str, str]

    def signed(self, operation: str, body: bytes) -> dict[str, str]:
        headers = {"X-Amz-Target": f"{TARGET_PREFIX}.{operation}", "Content-Type": "application/x-amz-json-1.1"}
        request = AWSRequest("POST", f"http://127.0.0.1:{self.port}/", headers=headers, data=body)
        SigV4Auth(Credentials(self.pair.access_key, self.pair.secret_key), "fsx", REGION).add_auth(request)
        return dict(request.headers.items())

    def send(self, operation: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        """A signed request, on a connection of its own."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)) as connection:
            connection.request("POST", "/", body, headers or self.signed(operation, body))
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def ask(self, operation: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return self.send(operation, json.dumps(fsx_requests.placed(request, self.names)).encode())


@pytest.fixture(scope="module")
def host(moto_server: S3Server) -> Iterator[Endpoint]:
    options = f"endpoint_url={moto_server.endpoint_url},addressing_style=path"
    with endpoint(moto_server, "-o", options) as running:
        yield running
        assert not _SERIOUS.findall(running.log())
        for each in running.state_dir.glob("*/daemon.log"):
            assert not _SERIOUS.findall(each.read_text()), each.read_text()


@pytest.fixture(scope="module")
def doors(host: Endpoint) -> dict[str, Door]:
    """Two file systems, one of them mounted with a listener of its own; and a file cache that is not mounted."""
    bucket = fresh_bucket(host.server)
    (port,) = free_ports(1)
    with host.boto() as fsx:
        made = [
            fsx.create_file_system(**CREATE, Tags=[{"Key": "Name", "Value": name}])["FileSystem"] for name in ("mounted", "other")
        ]
        cache = fsx.create_file_cache(
            FileCacheType="LUSTRE", FileCacheTypeVersion="2.12", StorageCapacity=1200, SubnetIds=CREATE["SubnetIds"],
            LustreConfiguration={
                "PerUnitStorageThroughput": 1000, "DeploymentType": "CACHE_1", "MetadataConfiguration": {"StorageCapacity": 2400},
            },
            DataRepositoryAssociations=[{"FileCachePath": "/c", "DataRepositoryPath": f"s3://{bucket}"}],
        )["FileCache"]  # fmt: skip
        while any(each["Lifecycle"] == "CREATING" for each in fsx.describe_file_systems()["FileSystems"]):
            continue
    config = host.config_dir / "mounted.toml"
    config.write_text(
        f'{config.read_text()}api_listen = "127.0.0.1:{port}"\n\n'
        f'[[dra]]\nfile_system_path = "/a"\ndata_repository_path = "s3://{bucket}/p"\n'
    )
    host.mount("mounted")
    with host.boto() as fsx:
        (dra, *_) = fsx.describe_data_repository_associations(
            Filters=[{"Name": "file-system-id", "Values": [made[0]["FileSystemId"]]}]
        )["Associations"]
    names = {
        "OURS": made[0]["FileSystemId"], "OTHER": made[1]["FileSystemId"], "CACHE": cache["FileCacheId"], "BUCKET": bucket,
        "ARN": made[0]["ResourceARN"], "DRA": dra["AssociationId"],
    }  # fmt: skip
    return {
        "mount": Door(port, load_or_make(host.state_dir / "mounted" / "api-credentials", REGION), names),
        "host": Door(host.port, load_or_make(host.state_dir / "api" / "api-credentials", REGION), names),
    }


RIGHT: dict[str, list[dict[str, Any]]] = {
    "CreateFileSystem": [
        CREATE,
        {
            **CREATE, "FileSystemTypeVersion": "2.12",
            "LustreConfiguration": {"DeploymentType": "PERSISTENT_2", "PerUnitStorageThroughput": 125},
        },
        {**CREATE, "LustreConfiguration": {"ImportPath": "s3://BUCKET/p", "ExportPath": "s3://BUCKET"}},
    ],
    "UpdateFileSystem": [
        {"FileSystemId": each, "LustreConfiguration": {"DataCompressionType": "LZ4"}} for each in ("OURS", "OTHER")
    ],
    "DescribeDataRepositoryAssociations": [{"Filters": [{"Name": "file-system-id", "Values": ["OURS", "OTHER"]}]}],
    "CreateDataRepositoryAssociation": [
        {"FileSystemId": each, "FileSystemPath": f"/{each}", "DataRepositoryPath": f"s3://BUCKET/{each}"}
        for each in ("OURS", "OTHER")
    ],
    "CreateDataRepositoryTask": [
        {"FileSystemId": "OURS", "Type": kind, "Report": {"Enabled": False}}
        for kind in ("IMPORT_METADATA_FROM_REPOSITORY", "RELEASE_DATA_FROM_FILESYSTEM")
    ],
    "UpdateDataRepositoryAssociation": [{"AssociationId": "DRA", "ImportedFileChunkSize": 5}],
    "TagResource": [{"ResourceARN": "ARN", "Tags": [{"Key": "k", "Value": "v"}]}],
}  # fmt: skip
"""Requests that can be done, to be changed in one member."""


def requests_of(operation: str) -> st.SearchStrategy[dict[str, Any]]:
    made = fsx_requests.of(operation)
    if operation not in RIGHT:
        return made
    one_changed = st.tuples(st.sampled_from(RIGHT[operation]), made, st.randoms(use_true_random=False)).map(
        lambda parts: {**parts[0], **dict(parts[2].sample(sorted(parts[1].items(), key=str), min(1, len(parts[1]))))}
    )
    return st.one_of(made, one_changed, st.sampled_from(RIGHT[operation]))


OPERATIONS = sorted(name for name in MODEL if any(part in name for part in OURS))
OTHERS = sorted(set(MODEL) - set(OPERATIONS))
REQUESTS = st.one_of(*[st.sampled_from(OPERATIONS)] * 9, st.sampled_from(OTHERS)).flatmap(
    lambda name: st.tuples(st.just(name), requests_of(name))
)


@pytest.mark.parametrize("which", ["mount", "host"])
def test_flood_of_requests_finds_no_defect(doors: dict[str, Door], which: str) -> None:
    door, done = doors[which], dict.fromkeys((200, 400), 0)
    deadline = time.monotonic() + FLOOD_SECONDS

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None)
    @given(st.lists(REQUESTS, min_size=1, max_size=8))
    def flood(requests: list[tuple[str, dict[str, Any]]]) -> None:
        for operation, request in requests:
            if time.monotonic() < deadline:
                done[check(door, operation, request)] += 1

    flood()
    assert done[200] > 5 and done[400] > 5, done
    for operation in (
        "DescribeFileSystems",
        "DescribeFileCaches",
        "DescribeDataRepositoryAssociations",
        "DescribeDataRepositoryTasks",
    ):
        request: dict[str, Any] = {"MaxResults": 2}
        while True:  # whatever was kept is shown as it must be
            status, answer = door.ask(operation, request)
            assert status == 200 and MODEL[operation].output_defect(answer) is None, (operation, answer)
            if "NextToken" not in answer:
                break
            request["NextToken"] = answer["NextToken"]


def check(door: Door, operation: str, request: dict[str, Any]) -> int:
    """The status of an answer that is as it must be."""
    status, answer = door.ask(operation, request)
    what = (operation, request, answer)
    if status == 200:
        assert MODEL[operation].input_defect(json.loads(json.dumps(fsx_requests.placed(request, door.names)))) is None, what
        assert answer.get("Tags") == [] or MODEL[operation].output_defect(answer) is None, what
    else:
        assert status == 400 and answer["__type"] in MODEL[operation].faults | ALWAYS, what
        assert answer["__type"] != "InternalServerError" and 0 < len(answer["Message"]) <= 1000, what
    return status


@pytest.mark.parametrize("which", ["mount", "host"])
def test_clients_that_are_slow_silent_or_enormous_hold_up_nobody(doors: dict[str, Door], which: str) -> None:
    door = doors[which]
    with contextlib.ExitStack() as stack:
        for number in range(140):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", door.port), timeout=ANSWER_SECONDS))
            one.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" if number % 2 else b"")
        enormous = stack.enter_context(socket.create_connection(("127.0.0.1", door.port), timeout=ANSWER_SECONDS))
        enormous.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(32):
                enormous.sendall(bytes(65536))
        began = time.monotonic()
        status, answer = door.ask("DescribeFileSystems", {})
        assert status == 200 and answer["FileSystems"] and time.monotonic() - began < 5
        assert select.select([enormous], [], [], ANSWER_SECONDS)[0], "it is told, or dropped"


@pytest.mark.parametrize(
    ("operation", "body", "fault"),
    [
        ("DescribeFileSystems", b"{", "SerializationException"),
        ("DescribeFileSystems", b"[]", "SerializationException"),
        ("DescribeFileSystems", b'{"MaxResults": NaN}', "SerializationException"),
        ("DescribeFileSystems", b"[" * 100_000, "SerializationException"),
        ("NoSuchOperation", b"{}", "UnknownOperationException"),
    ],
)
@pytest.mark.parametrize("which", ["mount", "host"])
def test_body_that_means_nothing_is_refused(doors: dict[str, Door], which: str, operation: str, body: bytes, fault: str) -> None:
    status, answer = doors[which].send(operation, body)
    assert (status, answer["__type"]) == (400, fault)


@pytest.mark.parametrize("which", ["mount", "host"])
def test_key_of_the_other_door_opens_nothing(doors: dict[str, Door], which: str) -> None:
    other = doors["mount" if which == "host" else "host"]
    status, answer = Door(doors[which].port, other.pair, {}).ask("DescribeFileSystems", {})
    assert (status, answer["__type"]) == (403, "UnrecognizedClientException")


def test_recorded_request_is_refused_once_its_second_is_over(doors: dict[str, Door]) -> None:
    """By a mount and by the host, each for itself; and what AWS's clients do alike within one second is served."""
    body = b'{"MaxResults": 5}'
    recorded = {name: door.signed("DescribeFileSystems", body) for name, door in doors.items()}
    for name, door in doors.items():
        for _ in range(3):
            assert door.send("DescribeFileSystems", body, recorded[name])[0] == 200
    time.sleep(REPEAT_SECONDS + 1)
    for name, door in doors.items():
        for _ in range(2):
            status, answer = door.send("DescribeFileSystems", body, recorded[name])
            assert (status, answer["__type"]) == (400, "RequestExpired") and "sign it anew" in answer["Message"]
        assert door.send("DescribeFileSystems", body)[0] == 200


def test_recording_from_before_a_restart_is_refused(moto_server: S3Server) -> None:
    """Of a mount, and of the host's endpoint; both keep their key pairs."""
    with endpoint(moto_server, "-o", f"endpoint_url={moto_server.endpoint_url},addressing_style=path") as host:
        (port,) = free_ports(1)
        with host.boto() as fsx:
            fsx.create_file_system(**CREATE, Tags=[{"Key": "Name", "Value": "one"}])
            while any(each["Lifecycle"] == "CREATING" for each in fsx.describe_file_systems()["FileSystems"]):
                continue
        config = host.config_dir / "one.toml"
        config.write_text(f'{config.read_text()}api_listen = "127.0.0.1:{port}"\n')
        point = host.mount("one")
        doors = [
            Door(at, load_or_make(host.state_dir / name / "api-credentials", REGION), {})
            for name, at in (("one", port), ("api", host.port))
        ]
        recorded = [door.signed("DescribeFileSystems", b"{}") for door in doors]
        for door, headers in zip(doors, recorded, strict=True):
            assert door.send("DescribeFileSystems", b"{}", headers)[0] == 200
        time.sleep(1)  # dates have whole seconds
        host.unmount(point)
        assert host.stop() == 0
        host.start()
        host.run(S3LUSTREFS, "mount", "one", point)
        for door, headers in zip(doors, recorded, strict=True):
            status, answer = door.send("DescribeFileSystems", b"{}", headers)
            assert (status, answer["__type"]) == (400, "RequestExpired") and "before this server started" in answer["Message"]
            assert door.send("DescribeFileSystems", b"{}")[0] == 200


def test_recorded_change_that_somebody_repeats_at_once_is_not_done_twice(doors: dict[str, Door]) -> None:
    """Within seconds it cannot be told from equal requests of one client; its token can."""
    door = doors["host"]
    body = json.dumps({**CREATE, "ClientRequestToken": "recorded"}).encode()
    headers = door.signed("CreateFileSystem", body)
    made = [door.send("CreateFileSystem", body, headers)[1]["FileSystem"]["FileSystemId"] for _ in range(3)]
    assert len(set(made)) == 1
