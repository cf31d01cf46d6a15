"""Everything that makes, keeps and deletes associations, with a table of its own; buckets are a dictionary of what is wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio
import trio.testing

from s3lustrefs import errors
from s3lustrefs.control.fsx_api import FsxApi
from s3lustrefs.control.fsx_associations import Linking
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.store import Store
from s3lustrefs.model.association import Association, AssociationSettings, Endpoint
from s3lustrefs.model.ids import Ino
from s3lustrefs.movers.association_requests import AssociationRequests, unexported
from s3lustrefs.movers.association_watch import AssociationWatch
from s3lustrefs.movers.headers import HeaderFetcher
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.movers.links import Links, Shared
from s3lustrefs.movers.removals import Removals
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.room import Room
from s3lustrefs.movers.task_report import ReportDelivery
from s3lustrefs.movers.tasks import Tasks
from s3lustrefs.movers.unlinker import Unlinker
from s3lustrefs.repository.object_store import Capabilities

T = TypeVar("T")

ENDPOINT = Endpoint(endpoint_url="http://127.0.0.1:9", region="us-east-1")


class Died(BaseException):
    """The daemon is gone, between two verbs of the engine."""


def is_death(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return all(is_death(each) for each in exc.exceptions)
    return isinstance(exc, Died)


def run(deed: Callable[[], Awaitable[T]]) -> T:
    """Under a clock that waits for nobody."""

    async def call() -> T:
        return await deed()

    return trio.run(call, clock=trio.testing.MockClock(autojump_threshold=0))


class Mortal:
    """An engine that lets its user die before the verb of a number; `calls_left` None: immortal."""

    def __init__(self, engine: LmdbEngine) -> None:
        self._engine = engine
        self.calls_left: int | None = None

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._engine, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **more: Any) -> Any:
            if self.calls_left is not None:
                self.calls_left -= 1
                if self.calls_left < 0:
                    raise Died
            return found(*arguments, **more)

        return call


class Scene:
    """One daemon after the other on one table. `faults`: what is wrong with a bucket, by its name."""

    def __init__(self, directory: Path, chunks: ChunkStore) -> None:
        self.store = Store(directory / "meta", boot_id="boot")
        self.directory = directory
        self.chunks = chunks
        self.faults: dict[str, errors.RepositoryError] = {}
        self.recovered = 0
        self.start()

    def start(self) -> None:
        """A new daemon: what was in memory only is gone. Nothing runs by itself, so that nothing reaches for a network."""
        self.engine = LmdbEngine(self.store)
        self.mortal = Mortal(self.engine)
        engine: Any = self.mortal
        self.repositories = Repositories()

        async def refresh(ino: Ino) -> bool:
            raise AssertionError("nobody reads here")

        headers = HeaderFetcher(engine, self.repositories, refresh)
        hydrator = Hydrator(engine, self.chunks, self.repositories, refresh, lambda _: None, Room(self.chunks))
        removals = Removals(self.chunks, hydrator, lambda _: None, lambda _: None)
        self.links = Links(
            Shared(engine, self.repositories, headers, removals, refresh, lambda _: None, read_only=False)
        )  # fmt: skip
        self.watch = AssociationWatch(engine, self.repositories, self.links, self._reach, self._note_recovered)
        unlinker = Unlinker(engine, removals)
        self.requests = AssociationRequests(engine, self.links, unlinker, self.watch, self._probe)
        linking = Linking(
            AssociationSettings("", "", "", endpoint=ENDPOINT, event_queue_url="off"),
            self._probe, self._probe, partial(unexported, engine), self.requests.wake,
        )  # fmt: skip
        tasks = Tasks(engine, {}, ReportDelivery(engine, self.repositories, self.directory))
        self.fsx = FsxApi(engine, self.repositories, tasks, capacity_bytes=lambda: 1 << 30, linking=linking)
        for association in self.engine.all_associations():
            if association.is_linked and association.lifecycle != "CREATING":
                self.links.connect(association)

    def _note_recovered(self) -> None:
        self.recovered += 1

    async def _probe(self, settings: AssociationSettings) -> Capabilities:
        await trio.lowlevel.checkpoint()
        if settings.bucket in self.faults:
            raise self.faults[settings.bucket]
        return Capabilities()

    async def _reach(self, association: Association, writable: bool) -> None:
        await self._probe(association)
        if writable and f"{association.bucket}:write" in self.faults:
            raise self.faults[f"{association.bucket}:write"]

    async def call(self, name: str, **request: Any) -> dict[str, Any]:
        return await self.fsx.call(name, request)

    async def create(self, path: str, url: str, **more: Any) -> str:
        record = await self.fsx.file_systems.establish("us-east-1")
        answer = await self.call(
            "CreateDataRepositoryAssociation",
            FileSystemId=record.file_system_id,
            FileSystemPath=path,
            DataRepositoryPath=url,
            **more,
        )
        return str(answer["Association"]["AssociationId"])

    async def described(self) -> dict[str, dict[str, Any]]:
        answer = await self.call("DescribeDataRepositoryAssociations")
        return {each["AssociationId"]: each for each in answer["Associations"]}

    async def work(self) -> None:
        """Until nothing is asked for any more."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.requests.run)
            while any(a.lifecycle in ("CREATING", "UPDATING", "DELETING") for a in self.engine.all_associations()):  # noqa: ASYNC110
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
