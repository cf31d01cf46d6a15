"""File caches: what they drop to make room shows as tasks."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3lustrefs.movers import repair
from tests.mount.conftest import fresh_bucket
from tests.mount.file_cache import FileCache, file_cache
from tests.mount.site import WAIT_SECONDS
from tests.servers import S3Server

MIB = 1 << 20
FILES = {f"f{number:02}": bytes([number]) * 2 * MIB for number in range(20)}


@pytest.fixture
def cache(moto_server: S3Server) -> Iterator[FileCache]:
    bucket = fresh_bucket(moto_server)
    s3 = moto_server.client()
    for name, body in FILES.items():
        s3.put_object(Bucket=bucket, Key=f"in/{name}", Body=body)
    s3.close()
    with file_cache(moto_server, bucket) as made:
        yield made


def mount(cache: FileCache, failpoint: str = "") -> Path:
    """With room for seven of the files; all their names are there."""
    data = cache.mount(failpoint, "cache_size=16MiB")
    deadline = time.monotonic() + WAIT_SECONDS
    while len(os.listdir(data)) < len(FILES):
        assert time.monotonic() < deadline
    return data


def test_what_makes_room_shows_as_one_task(cache: FileCache) -> None:
    data = mount(cache)
    began = time.time()
    for name, body in FILES.items():
        assert (data / name).read_bytes() == body
    (task,) = cache.wait_ended()
    status = task["Status"]
    released = [name for name in FILES if b"released" in os.getxattr(data / name, "user.s3lustrefs.hsm")]
    assert task["Type"] == "AUTO_RELEASE_DATA" and task["Lifecycle"] == "SUCCEEDED" and task["FileCacheId"] == cache.cache_id
    assert status["TotalCount"] == status["SucceededCount"] == len(released) >= 12 and status["FailedCount"] == 0
    assert (task["CapacityToRelease"], status["ReleasedCapacity"]) == (1, 1)
    assert began <= task["CreationTime"].timestamp() <= task["EndTime"].timestamp()
    shown = json.loads(cache.run("task", "list", "--mount", data.parent, "--json").stdout)
    assert [each["TaskId"] for each in shown["DataRepositoryTasks"]] == [task["TaskId"]]
    refused = cache.run("task", "import", "--mount", data.parent, check=False)
    assert refused.returncode == 3 and "this is a file cache" in refused.stderr
    cache.unmount()
    assert [each["TaskId"] for each in cache.tasks()] == [task["TaskId"]]


def test_cache_that_is_not_full_has_no_task(cache: FileCache) -> None:
    data = mount(cache)
    for name in list(FILES)[:5]:
        (data / name).read_bytes()
    time.sleep(3)  # the releaser has looked
    assert cache.tasks() == []
    cache.unmount()


@pytest.mark.parametrize("failpoint", ["eviction.begun", "release.recorded:2", "release.recorded:9", "eviction.ended"])
@pytest.mark.one_in(4)
def test_eviction_cut_by_a_death_ends_with_the_next_mount(cache: FileCache, failpoint: str) -> None:
    data = mount(cache, failpoint)
    with cache.dying():
        for name in FILES:
            (data / name).read_bytes()
        while True:
            os.stat(data / "f00")
            os.getxattr(data / "f00", "user.s3lustrefs.hsm")
            time.sleep(0.1)
    assert repair.find(cache.state_dir) == []
    (cut,) = cache.tasks()
    assert cut["Lifecycle"] == ("SUCCEEDED" if failpoint == "eviction.ended" else "EXECUTING")

    data = mount(cache)
    for name, body in FILES.items():
        assert (data / name).read_bytes() == body
    after = {task["TaskId"]: task for task in cache.wait_ended()}
    first = after.pop(cut["TaskId"])
    status = first["Status"]
    assert status["TotalCount"] == status["SucceededCount"] + status["FailedCount"]
    if failpoint == "eviction.begun":
        assert first["Lifecycle"] == "FAILED" and "ended before enough" in first["FailureDetails"]["Message"]
    assert [task["Lifecycle"] for task in after.values()] == ["SUCCEEDED"], "what the new mount dropped is a task of its own"
    cache.unmount()


def test_eviction_cut_by_a_death_does_not_hinder_the_deletion(cache: FileCache) -> None:
    data = mount(cache, "eviction.begun")
    with cache.dying():
        for name in FILES:
            (data / name).read_bytes()
    assert [task["Lifecycle"] for task in cache.tasks()] == ["EXECUTING"]
    assert cache.fsx.delete_file_cache(FileCacheId=cache.cache_id)["Lifecycle"] == "DELETING"
    deadline = time.monotonic() + WAIT_SECONDS
    while cache.fsx.describe_file_caches()["FileCaches"]:
        assert time.monotonic() < deadline
