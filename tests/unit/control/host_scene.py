"""The endpoint of a host in a directory of its own: real tables, real control sockets, real signatures, boto3 as its client."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from botocore.exceptions import ClientError

from s3lustrefs.control import fsx_model
from s3lustrefs.control.api_server import ApiServer, listen
from s3lustrefs.control.fsx_api import FsxApi
from s3lustrefs.control.fsx_associations import Linking
from s3lustrefs.control.fsx_model import TARGET_PREFIX
from s3lustrefs.control.host_api import HostApi
from s3lustrefs.control.host_lives import Lives
from s3lustrefs.control.host_owners import Owners
from s3lustrefs.control.host_places import Places
from s3lustrefs.control.host_records import HostRecords
from s3lustrefs.control.server import ControlServer
from s3lustrefs.control.signature import Verifier
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.redo_log import current_boot_id
from s3lustrefs.meta.state_dir import StateDir
from s3lustrefs.meta.store import Store
from s3lustrefs.model.association import Association, AssociationSettings
from s3lustrefs.movers.association_requests import unexported
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.task_report import ReportDelivery
from s3lustrefs.movers.tasks import Tasks
from s3lustrefs.repository.object_store import Capabilities
from tests.unit.control.fsx_scene import PAIR, REGION, client_of

MODEL = fsx_model.load()
CREATE: dict[str, Any] = {
    "FileSystemType": "LUSTRE", "SubnetIds": ["subnet-0123456789abcdef0"], "StorageCapacity": 1200,
    "FileSystemTypeVersion": "2.15", "LustreConfiguration": {"DeploymentType": "SCRATCH_2"},
}  # fmt: skip


@dataclass
class Host:
    """`start` may be called again: as another process on the same directories."""

    directory: Path
    patience_seconds: float = 20.0
    defaults: dict[str, Any] = field(default_factory=dict)
    boto: Any = None

    def start(self) -> None:
        self.places = Places(self.directory / "state", self.directory / "conf")
        (self.directory / "state" / "api").mkdir(parents=True, exist_ok=True)
        self.owners = Owners(self.places, None, patience_seconds=self.patience_seconds)
        self.records = HostRecords(self.directory / "state" / "api" / "records.json")
        self.lives = Lives(self.owners, self.places, self.records, region=REGION, defaults=self.defaults)
        self.api = HostApi(self.owners, self.lives)

    async def service(self, name: str, request: dict[str, Any]) -> dict[str, Any]:
        return await self.api.call(name, request)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Through boto3. Raises: ClientError."""
        deed: Callable[[], dict[str, Any]] = functools.partial(getattr(self.boto, method), **parameters)
        answer = await trio.to_thread.run_sync(deed)
        answer.pop("ResponseMetadata")
        return answer

    async def refusal(self, method: str, **parameters: Any) -> dict[str, Any]:
        with pytest.raises(ClientError) as caught:
            await self.call(method, **parameters)
        response = caught.value.response
        parsed = {key: value for key, value in response.items() if key not in ("Error", "ResponseMetadata", "Message")}
        return {**response["Error"], **parsed, "Status": response["ResponseMetadata"]["HTTPStatusCode"]}

    async def created(self, **more: Any) -> dict[str, Any]:
        """A file system that is there."""
        made: dict[str, Any] = (await self.call("create_file_system", **{**CREATE, **more}))["FileSystem"]
        return await self.available(made["FileSystemId"])

    async def available(self, file_system_id: str) -> dict[str, Any]:
        with trio.fail_after(20):
            while True:
                (found,) = (await self.call("describe_file_systems", FileSystemIds=[file_system_id]))["FileSystems"]
                if found["Lifecycle"] == "AVAILABLE":
                    return dict(found)
                await trio.sleep(0.02)

    async def gone(self, file_system_id: str) -> None:
        with trio.fail_after(20):
            while True:
                found = (await self.call("describe_file_systems"))["FileSystems"]
                if all(each["FileSystemId"] != file_system_id for each in found):
                    return
                await trio.sleep(0.02)

    def state_dir(self, name: str) -> Path:
        return self.directory / "state" / name

    @asynccontextmanager
    async def mounted(self, name: str) -> AsyncIterator[LmdbEngine]:
        """A daemon's part of it on the state directory `name`, made if need be."""
        with StateDir(self.state_dir(name)) as held:
            store = Store(held.path / "meta", boot_id=current_boot_id())
            engine = LmdbEngine(store)
            repositories = Repositories()
            tasks = Tasks(engine, {}, ReportDelivery(engine, repositories, held.path))
            linking = Linking(AssociationSettings("", "", ""), _probe, _probe, partial(unexported, engine), lambda: None)
            fsx = FsxApi(engine, repositories, tasks, capacity_bytes=lambda: 5 << 30, linking=linking)
            await fsx.file_systems.establish(REGION)
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(ControlServer(held.path / "control.sock", {}, {TARGET_PREFIX: fsx.call}).run)
                    yield engine
                    nursery.cancel_scope.cancel()
            finally:
                await store.close()


async def link(engine: LmdbEngine, count: int, *, first: int = 0) -> None:
    for number in range(first, first + count):
        path = f"/{number}"
        made = Association(
            path, "bucket", f"{number}/", path, f"s3://bucket/{number}/", association_id=f"dra-{number:017x}", created_ns=10**18
        )
        await engine.link_association(made)


async def _probe(association: AssociationSettings) -> Capabilities:
    await trio.lowlevel.checkpoint()
    return Capabilities()


@asynccontextmanager
async def serving(host: Host) -> AsyncIterator[Host]:
    host.start()
    async with trio.open_nursery() as nursery:
        await nursery.start(host.lives.run)
        server = ApiServer(listen("127.0.0.1:0"), host.service, Verifier(PAIR, REGION))
        await nursery.start(server.run)
        host.boto = client_of(server.url)
        yield host
        host.boto.close()
        nursery.cancel_scope.cancel()
