"""The FSx API of a file system with two associations, on TCP with real signatures, and boto3 as its client."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
import trio
from botocore.config import Config
from botocore.exceptions import ClientError

from s3lustrefs import errors
from s3lustrefs.control import fsx_model
from s3lustrefs.control.api_credentials import KeyPair
from s3lustrefs.control.fsx_api import FsxApi
from s3lustrefs.control.fsx_associations import Linking
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.store import Store
from s3lustrefs.model.association import Association, AssociationSettings
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.task_report import ReportDelivery
from s3lustrefs.movers.tasks import Tasks
from s3lustrefs.repository.object_store import Capabilities

REGION = "eu-central-1"
PAIR = KeyPair("S3LUSTREAAAAAAAAAAAA", "the secret key of these tests")
ONE, TWO = f"dra-{1:017x}", f"dra-{2:017x}"
MODEL = fsx_model.load()


def client_of(url: str, pair: KeyPair = PAIR, region: str = REGION, **more: Any) -> Any:
    """A real boto3 client, without its own retries and checks of parameters: the server is what is tested."""
    return boto3.client(
        "fsx", endpoint_url=url, region_name=region, aws_access_key_id=pair.access_key, aws_secret_access_key=pair.secret_key,
        config=Config(retries={"max_attempts": 1}, parameter_validation=False, read_timeout=20, connect_timeout=5), **more,
    )  # fmt: skip


@dataclass
class Api:
    """One daemon's part of it; `probe`: what a look at a bucket finds, or waits for. Tasks wait: nobody does them."""

    directory: Path
    probe: Capabilities | errors.RepositoryError | trio.Event = field(default_factory=Capabilities)
    unexported: int = 0
    wakes: int = 0
    """How often those were woken who do what is asked for."""

    def start(self) -> FsxApi:
        self.store = Store(self.directory / "meta", boot_id="boot")
        self.engine = LmdbEngine(self.store)
        self.repositories = Repositories()
        self.tasks = Tasks(self.engine, {}, ReportDelivery(self.engine, self.repositories, self.directory))
        self.linking = Linking(AssociationSettings("", "", ""), self._probe, self._probe, self._unexported, self._wake)
        self.fsx = FsxApi(self.engine, self.repositories, self.tasks, capacity_bytes=lambda: 5 << 30, linking=self.linking)
        return self.fsx

    async def link(self) -> None:
        """Two associations, the first with a slash too many and the second with one that belongs there."""
        for association_id, path, repository in ((ONE, "/one/", "s3://bucket/one"), (TWO, "/two", "s3://bucket/two/")):
            made = Association(
                path.rstrip("/"), "bucket", f"{path.strip('/')}/", path, repository,
                association_id=association_id, created_ns=10**18,
            )  # fmt: skip
            await self.engine.link_association(made)

    async def restart(self) -> None:
        """As another daemon on the same state directory; its door is the same."""
        await self.store.close()
        self.start()

    async def work(self, association_id: str) -> None:
        """What is asked for is done elsewhere: this is its end."""
        await self.engine.move_association(self.association(association_id).assoc_id, "AVAILABLE")

    def _wake(self) -> None:
        self.wakes += 1

    async def _unexported(self, association: Association) -> tuple[int, bool]:
        await trio.lowlevel.checkpoint()
        return self.unexported, False

    async def _probe(self, association: AssociationSettings) -> Capabilities:
        await trio.lowlevel.checkpoint()
        if isinstance(self.probe, errors.RepositoryError):
            raise self.probe
        if isinstance(self.probe, trio.Event):
            await self.probe.wait()
            return Capabilities()
        return self.probe

    async def service(self, name: str, request: dict[str, Any]) -> dict[str, Any]:
        return await self.fsx.call(name, request)

    @property
    def arn(self) -> str:
        record = self.engine.file_system()
        assert record is not None
        return f"arn:aws:fsx:{REGION}:000000000000:file-system/{record.file_system_id}"

    def association(self, association_id: str) -> Association:
        return next(a for a in self.engine.all_associations() if a.association_id == association_id)

    def connect(self, url: str) -> None:
        self.url = url
        self.boto = client_of(url)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Through boto3; the answer must be what the model of FSx describes. Raises: ClientError."""
        deed: Callable[[], dict[str, Any]] = functools.partial(getattr(self.boto, method), **parameters)
        answer = await trio.to_thread.run_sync(deed)
        metadata = answer.pop("ResponseMetadata")
        assert metadata["HTTPStatusCode"] == 200 and metadata["RequestId"]
        return answer

    async def refusal(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The error's members, with `Code` and HTTP `Status`."""
        with pytest.raises(ClientError) as caught:
            await self.call(method, **parameters)
        response = caught.value.response
        parsed = {key: value for key, value in response.items() if key not in ("Error", "ResponseMetadata", "Message")}
        assert len(response["Error"]["Message"]) <= 256
        return {**response["Error"], **parsed, "Status": response["ResponseMetadata"]["HTTPStatusCode"]}
