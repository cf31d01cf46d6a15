"""The AWS command line, unmodified, for the operations that no other test asks it for: what FSx's guide says to type.

Associations: test_associations; tasks: test_tasks; every documented error and every filter: tests/unit/control/test_fsx_errors.py.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mount.conftest import fresh_bucket
from tests.mount.endpoint import AWS, REGION, Endpoint, sweeping_endpoint
from tests.mount.site import WAIT_SECONDS
from tests.servers import S3Server

pytestmark = pytest.mark.skipif(AWS is None, reason="needs the AWS command line: pip install awscli")

SUBNET = "subnet-0123456789abcdef0"
Aws = Callable[..., Any]
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def shown(*names: str) -> list[list[str]]:
    """The README's command lines of these names, without `aws fsx`: of links and caches made at once."""
    section = README.partition("### One endpoint for the host")[2].partition("\n### ")[0]
    _, example = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    lines = [shlex.split(line) for line in example.replace("\\\n", " ").splitlines()]
    assert all(words[:2] == ["aws", "fsx"] for words in lines) and [words[2] for words in lines] == [*LINKED, *CACHED]
    return [words[2:] for words in lines if words[2] in names]


LINKED = ("create-file-system", "update-file-system")
CACHED = ("create-file-cache", "update-file-cache", "delete-file-cache")


@pytest.fixture(scope="module")
def host(moto_server: S3Server) -> Iterator[Endpoint]:
    with sweeping_endpoint(moto_server) as running:
        yield running


@pytest.fixture
def aws(host: Endpoint) -> Aws:
    """`aws fsx WORDS`: what it answers."""

    def run(line: str | list[str], **given: str) -> Any:
        """`given`: what stands for names of the README's."""
        words = line.split() if isinstance(line, str) else line
        for kind, name in given.items():
            theirs = "lab-results" if kind == "bucket" else f"{kind}-0123456789abcdef0"
            words = [word.replace(theirs, name) for word in words]
        return json.loads(host.aws(*words).stdout or "{}")

    return run


def until(aws: Aws, line: str, members: str, wanted: str) -> dict[str, Any]:
    """The one described thing, once it is so."""
    for _ in range(int(WAIT_SECONDS)):  # a look takes about a second
        (found,) = aws(line)[members]
        if found["Lifecycle"] == wanted:
            return dict(found)
    raise AssertionError(found)


def test_linked_file_system_from_its_creation_to_its_end(host: Endpoint, aws: Aws) -> None:
    bucket = fresh_bucket(host.server)
    s3 = host.server.client()
    s3.put_object(Bucket=bucket, Key="import/first", Body=b"first")
    create, update = shown(*LINKED)
    made = aws(create, bucket=bucket)["FileSystem"]
    link = {
        "ImportPath": f"s3://{bucket}/import/", "ExportPath": f"s3://{bucket}/export", "ImportedFileChunkSize": 1024,
        "AutoImportPolicy": "NEW_CHANGED",
    }  # fmt: skip
    assert made["LustreConfiguration"]["DataRepositoryConfiguration"] == {**link, "Lifecycle": "CREATING"}
    # The defaults of FSx where nothing is said.
    assert (made["LustreConfiguration"]["DeploymentType"], made["FileSystemTypeVersion"]) == ("SCRATCH_1", "2.10")
    fs_id = made["FileSystemId"]
    found = until(aws, f"describe-file-systems --file-system-ids {fs_id}", "FileSystems", "AVAILABLE")
    assert found["LustreConfiguration"]["DataRepositoryConfiguration"] == {**link, "Lifecycle": "AVAILABLE"}
    point = host.mount(fs_id)
    _appears(point / "first")

    changed = aws(update, fs=fs_id)["FileSystem"]
    assert changed["LustreConfiguration"]["DataRepositoryConfiguration"]["AutoImportPolicy"] == "NONE"
    s3.put_object(Bucket=bucket, Key="import/second", Body=b"second")
    task = aws(
        f"create-data-repository-task --file-system-id {fs_id} --type IMPORT_METADATA_FROM_REPOSITORY --report Enabled=false"
    )["DataRepositoryTask"]
    until(aws, f"describe-data-repository-tasks --task-ids {task['TaskId']}", "DataRepositoryTasks", "SUCCEEDED")
    assert (point / "second").read_bytes() == b"second"
    host.unmount(point)
    assert aws(f"delete-file-system --file-system-id {fs_id}") == {"FileSystemId": fs_id, "Lifecycle": "DELETING"}
    s3.close()


def _appears(path: Path) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_file_cache_from_its_creation_to_its_end(host: Endpoint, aws: Aws) -> None:
    bucket = fresh_bucket(host.server)
    create, update, delete = shown(*CACHED)
    made = aws(create, bucket=bucket)["FileCache"]
    assert (made["Lifecycle"], made["Tags"]) == ("CREATING", [{"Key": "team", "Value": "genomics"}])
    assert made["CopyTagsToDataRepositoryAssociations"] is True
    cache_id = made["FileCacheId"]
    found = until(aws, f"describe-file-caches --file-cache-ids {cache_id}", "FileCaches", "AVAILABLE")
    (linked,) = aws(f"describe-data-repository-associations --filters Name=file-cache-id,Values={cache_id}")["Associations"]
    assert found["DataRepositoryAssociationIds"] == [linked["AssociationId"]] == made["DataRepositoryAssociationIds"]
    assert (linked["FileCachePath"], linked["DataRepositoryPath"]) == ("/ns1/", f"s3://{bucket}/in")
    assert linked["Tags"] == [{"Key": "team", "Value": "genomics"}]
    changed = aws(update, fc=cache_id)
    assert changed["FileCache"]["LustreConfiguration"]["WeeklyMaintenanceStartTime"] == "3:04:05"
    assert aws(delete, fc=cache_id) == {"FileCacheId": cache_id, "Lifecycle": "DELETING"}


def test_tags_and_pages_that_the_command_line_turns_itself(host: Endpoint, aws: Aws) -> None:
    create = f"create-file-system --file-system-type LUSTRE --storage-capacity 1200 --subnet-ids {SUBNET}"
    made = [aws(create)["FileSystem"] for _ in range(3)]
    found = aws("describe-file-systems --page-size 1 --query FileSystems[].FileSystemId")
    assert {each["FileSystemId"] for each in made} <= set(found) and len(found) == len(set(found))
    arn = made[0]["ResourceARN"]
    assert arn == f"arn:aws:fsx:{REGION}:000000000000:file-system/{made[0]['FileSystemId']}"
    aws(f"tag-resource --resource-arn {arn} --tags Key=a,Value=1 Key=b,Value=2 Key=c,Value=")
    assert aws(f"list-tags-for-resource --resource-arn {arn} --page-size 1 --query Tags[].Key") == ["a", "b", "c"]
    aws(f"untag-resource --resource-arn {arn} --tag-keys a c")
    assert aws(f"list-tags-for-resource --resource-arn {arn}") == {"Tags": [{"Key": "b", "Value": "2"}]}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("delete-data-repository-association --association-id dra-0123456789abcdef0 --delete-data-in-file-system false", "false"),
        ("create-file-system --file-system-type LUSTRE --subnet-ids subnet-123456", "Invalid length for parameter SubnetIds"),
    ],
)
def test_mistakes_of_the_guide_are_the_command_lines_to_refuse(host: Endpoint, line: str, words: str) -> None:
    """They never come here: if one day they do, README and server have to say something about them."""
    refused = host.aws(*line.split(), check=False)
    assert refused.returncode != 0 and words in refused.stderr and "when calling the" not in refused.stderr
