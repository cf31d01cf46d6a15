"""Commands that need no daemon, against a real S3 server and a real state directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import S3Server, moto


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with moto() as server:
        server.client().create_bucket(Bucket="bucket")
        server.client().put_object(Bucket="bucket", Key="p/x", Body=b"x")
        yield server


def run(server: S3Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "s3lustrefs", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **server.environment()}, check=False)


def test_usable_bucket_passes_and_is_left_as_it_was(server: S3Server) -> None:
    result = run(server, "check", "s3://bucket/p", "-o", f"endpoint_url={server.endpoint_url}")
    assert result.returncode == 0, result.stderr
    assert "s3://bucket/p/" in result.stdout and "FAIL" not in result.stdout
    assert [each["Key"] for each in server.client().list_objects_v2(Bucket="bucket")["Contents"]] == ["p/x"]


@pytest.mark.parametrize(
    ("option", "result", "words"),
    [
        ("", "ok", "sweeps alone: not Amazon S3: event_queue_url=create makes a queue"),
        (",event_queue_url=create", "ok", "a mount can make its queue"),
        (",event_queue_url=create,auto_import=none", "ok", "sweeps alone: auto_import=none"),
        (",event_queue_url={server}/1/none", "warn", "queue none does not exist"),
    ],
)
def test_check_says_where_events_come_from(server: S3Server, option: str, result: str, words: str) -> None:
    given = f"endpoint_url={server.endpoint_url}{option.replace('{server}', server.endpoint_url)}"
    found = json.loads(run(server, "check", "s3://bucket/p", "-o", given, "--json").stdout)["findings"]
    (events,) = [each for each in found if each["name"] == "events"]
    assert events["result"] == result and words in events["text"]


def test_missing_bucket_fails_and_says_so(server: S3Server) -> None:
    result = run(server, "check", "s3://nosuchbucket", "-o", f"endpoint_url={server.endpoint_url}", "--json")
    assert result.returncode == 1
    failed = [each for each in json.loads(result.stdout)["findings"] if each["result"] == "fail"]
    assert len(failed) == 1 and "nosuchbucket" in failed[0]["text"]


def test_fsck_of_what_is_no_state_directory_exits_8(server: S3Server, tmp_path: Path) -> None:
    result = run(server, "fsck", str(tmp_path / "absent"))
    assert result.returncode == 8
    assert "absent" in result.stderr and "Traceback" not in result.stderr
