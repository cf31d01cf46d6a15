"""A file cache as a user has it: made by the endpoint of a host, linked with a bucket, mounted by its name."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3lustrefs.failpoints import VARIABLE
from tests.mount.endpoint import Endpoint, endpoint
from tests.mount.site import S3LUSTREFS, WAIT_SECONDS
from tests.servers import S3Server

REQUEST: dict[str, Any] = {
    "FileCacheType": "LUSTRE", "FileCacheTypeVersion": "2.12", "StorageCapacity": 1200,
    "SubnetIds": ["subnet-0123456789abcdef0"],
    "LustreConfiguration": {
        "PerUnitStorageThroughput": 1000, "DeploymentType": "CACHE_1", "MetadataConfiguration": {"StorageCapacity": 2400},
    },
}  # fmt: skip


@dataclass
class FileCache:
    """`/data` of it is linked with `in/` of the bucket."""

    host: Endpoint
    bucket: str
    cache_id: str
    fsx: Any

    @property
    def state_dir(self) -> Path:
        return self.host.state_dir / "cache"

    def mount(self, failpoint: str = "", options: str = "cache_size=1GiB") -> Path:
        """Its linked directory."""
        point = self.host.scratch / f"mnt{len(self.host.mounts)}"
        point.mkdir()
        self.host.mounts.append(point)
        self.host.run(S3LUSTREFS, "mount", "cache", point, "-o", options, **{VARIABLE: failpoint})
        return point / "data"

    def unmount(self) -> None:
        self.run("unmount", "--no-drain", self.host.mounts[-1])

    def run(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.host.run(S3LUSTREFS, *arguments, check=check)

    @contextlib.contextmanager
    def dying(self) -> Iterator[None]:
        """The daemon has died when the block is left, and nothing is left of its mount."""
        descriptor = os.pidfd_open(int((self.state_dir / "lock").read_text().strip().lstrip("-")))
        try:
            with contextlib.suppress(OSError):
                yield
            assert select.select([descriptor], [], [], WAIT_SECONDS)[0], f"it lives\n{self.log()}"
        finally:
            os.close(descriptor)
        subprocess.run(["umount", "-l", self.host.mounts[-1]], capture_output=True, check=False)

    def tasks(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.fsx.describe_data_repository_tasks()["DataRepositoryTasks"]
        return sorted(found, key=lambda task: task["CreationTime"])

    def wait_ended(self) -> list[dict[str, Any]]:
        """Its tasks, once none executes."""
        deadline = time.monotonic() + WAIT_SECONDS
        while any(task["Lifecycle"] == "EXECUTING" for task in self.tasks()):
            assert time.monotonic() < deadline, self.tasks()
            time.sleep(0.2)
        return self.tasks()

    def log(self) -> str:
        return (self.state_dir / "daemon.log").read_text()


@contextlib.contextmanager
def file_cache(server: S3Server, bucket: str, endpoint_url: str = "") -> Iterator[FileCache]:
    """Made, not mounted; afterwards nothing is left of it."""
    options = f"endpoint_url={endpoint_url or server.endpoint_url},addressing_style=path"
    with endpoint(server, "-o", options) as host, host.boto() as fsx:
        links = [{"FileCachePath": "/data", "DataRepositoryPath": f"s3://{bucket}/in"}]
        request = {**REQUEST, "DataRepositoryAssociations": links, "Tags": [{"Key": "Name", "Value": "cache"}]}
        made = FileCache(host, bucket, fsx.create_file_cache(**request)["FileCache"]["FileCacheId"], fsx)
        deadline = time.monotonic() + WAIT_SECONDS
        while fsx.describe_file_caches()["FileCaches"][0]["Lifecycle"] == "CREATING":
            assert time.monotonic() < deadline
        yield made
