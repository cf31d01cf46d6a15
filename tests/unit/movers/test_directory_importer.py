"""Importing directory by directory, with a real listing process, against servers that answer, refuse, or say nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from s3lustrefs import errors
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.store import Store
from s3lustrefs.model.association import Association, Endpoint
from s3lustrefs.model.events import Invalidation
from s3lustrefs.model.inode import InodeFlag
from s3lustrefs.movers.directory_importer import DirectoryImporter
from s3lustrefs.movers.headers import HeaderFetcher
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.repository.credentials import StaticCredentials
from s3lustrefs.repository.list_request import ListingTarget
from tests.fakes.list_server import Habits, ListServer, Reply, serving

KEYS = [b"p/x", b"p/d/y", b"p/d/e/z", b"p/d/e/w", *(b"p/many/f%04d" % number for number in range(30)), b"q/other"]
DENIED: Reply = (403, {}, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")


class Scene:
    """`/a` is linked with `s3://bucket/p/`."""

    def __init__(self, engine: LmdbEngine, importer: DirectoryImporter) -> None:
        self.engine = engine
        self.importer = importer
        self.told: list[Invalidation] = []

    async def names(self, path: bytes) -> list[bytes]:
        inode = await self.engine.resolve(path)
        return [name for name, _ in await self.engine.readdir(inode.ino, b"", 100)]

    async def is_unlisted(self, path: bytes) -> bool:
        return bool((await self.engine.resolve(path)).flags & InodeFlag.UNLISTED)


@asynccontextmanager
async def scene(tmp_path: Path, url: str, *, patience: float = 20.0, idle: float = 60.0) -> AsyncIterator[Scene]:
    endpoint = Endpoint(endpoint_url=url)
    store = Store(tmp_path / "meta", boot_id="boot")
    engine = LmdbEngine(store)
    association = await engine.link_association(Association("/a", "bucket", "p/", association_id="dra-1", is_lazy=True))

    async def unchanged(_: object) -> bool:
        return True

    told: list[Invalidation] = []
    importer = DirectoryImporter(
        engine, association, ListingTarget("bucket", b"p/", "us-east-1", endpoint), StaticCredentials("A" * 20, "B" * 40),
        told.append, HeaderFetcher(engine, Repositories(), unchanged), patience_seconds=patience, idle_seconds=idle,
    )  # fmt: skip
    async with trio.open_nursery() as running:
        await running.start(_until_gone, importer)
        here = Scene(engine, importer)
        here.told = told
        yield here
        running.cancel_scope.cancel()
    await store.close()


async def _until_gone(importer: DirectoryImporter, *, task_status: trio.TaskStatus[None]) -> None:
    with contextlib.suppress(errors.NotInRepository):
        await importer.run(task_status=task_status)


@pytest.fixture
def server() -> Iterator[ListServer]:
    with serving(ListServer(KEYS, Habits(page_keys=7))) as running:
        yield running


def children() -> set[str]:
    """Of any thread: processes are started in one that may be gone by now."""
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


async def test_one_directory_at_a_time_is_brought(tmp_path: Path, server: ListServer) -> None:
    async with scene(tmp_path, server.endpoint_url) as here:
        await here.importer.ensure_directory(b"")
        assert await here.names(b"/a") == [b"d", b"many", b"x"] and await here.names(b"/a/d") == []
        assert not await here.is_unlisted(b"/a") and await here.is_unlisted(b"/a/d")
        await here.importer.ensure_name(b"d/e/w")
        assert await here.names(b"/a/d/e") == [b"w", b"z"] and await here.names(b"/a/d") == [b"e"]
        assert await here.is_unlisted(b"/a/d"), "it was only on the way"
        await here.importer.ensure_directory(b"many")
        assert len(await here.names(b"/a/many")) == 30
        assert here.importer.statistics().objects == 1 + 2 + 30 and here.importer.statistics().state == "LAZY"
        assert {query["delimiter"] for query in server.queries} == {"/"}


async def test_who_asks_at_the_same_time_shares_a_listing(tmp_path: Path, server: ListServer) -> None:
    async with scene(tmp_path, server.endpoint_url) as here:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(here.importer.ensure_directory, b"d/e")
                nursery.start_soon(here.importer.ensure_directory, b"d")
        assert sorted(query["prefix"] for query in server.queries) == ["p/d/", "p/d/e/"]


async def test_who_gives_up_waiting_leaves_the_listing_to_go_on(tmp_path: Path, server: ListServer) -> None:
    async with scene(tmp_path, server.endpoint_url) as here:
        with trio.move_on_after(0.01) as scope:
            await here.importer.ensure_directory(b"many")
        assert scope.cancelled_caught
        with trio.fail_after(30):
            while await _absent(here) or await here.is_unlisted(b"/a/many"):  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert len(await here.names(b"/a/many")) == 30


async def _absent(here: Scene) -> bool:
    try:
        await here.engine.resolve(b"/a/many")
    except errors.NotFound:
        return True
    return False


async def test_refusal_is_told_and_the_next_to_ask_asks_again(tmp_path: Path, server: ListServer) -> None:
    async with scene(tmp_path, server.endpoint_url) as here:
        server.interfere = lambda number, query: DENIED if query.get("prefix") == "p/d/" else None
        for _ in range(2):
            with pytest.raises(errors.RepositoryDenied):
                await here.importer.ensure_directory(b"d")
        await here.importer.ensure_directory(b"")
        assert await here.is_unlisted(b"/a/d") and here.importer.statistics().error == ""
        server.interfere = lambda number, query: None
        await here.importer.ensure_directory(b"d")
        assert not await here.is_unlisted(b"/a/d") and await here.names(b"/a/d") == [b"e", b"y"]


async def test_listing_that_is_cut_short_leaves_the_directory_to_be_listed_again(tmp_path: Path, server: ListServer) -> None:
    async with scene(tmp_path, server.endpoint_url) as here:
        server.interfere = lambda number, query: DENIED if "continuation-token" in query else None
        with pytest.raises(errors.RepositoryDenied):
            await here.importer.ensure_directory(b"many")
        assert await here.is_unlisted(b"/a/many") and len(await here.names(b"/a/many")) == 7
        server.interfere = lambda number, query: None
        await here.importer.ensure_directory(b"many")
        assert not await here.is_unlisted(b"/a/many") and len(await here.names(b"/a/many")) == 30


async def test_what_is_removed_while_a_directory_is_listed_stays_removed(tmp_path: Path, server: ListServer) -> None:
    async with scene(tmp_path, server.endpoint_url) as here:
        await here.importer.ensure_directory(b"")
        await here.importer.ensure_directory(b"many")
        inode = await here.engine.resolve(b"/a/many")
        for name in await here.names(b"/a/many"):
            await here.engine.unlink(inode.ino, name)
        await here.importer.ensure_directory(b"many")
        assert await here.names(b"/a/many") == []


async def test_bucket_that_says_nothing_is_an_error_in_time(tmp_path: Path) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with scene(tmp_path, f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}", patience=1.0) as here:
        refused: list[errors.RepositoryUnavailable] = []

        async def ask() -> None:
            try:
                await here.importer.ensure_directory(b"d")
            except errors.RepositoryUnavailable as error:
                refused.append(error)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await trio.sleep(0.5)
                nursery.start_soon(ask)
            await ask()
        assert len(refused) == 3
        here.importer.end()
        await here.importer.ensure_directory(b"d")  # there is nothing to wait for any more
    await listeners[0].aclose()


async def test_process_that_dies_is_told_and_another_one_takes_its_place(tmp_path: Path, server: ListServer) -> None:
    async with scene(tmp_path, server.endpoint_url) as here:
        before = children()
        await here.importer.ensure_directory(b"")
        (pid,) = children() - before
        release = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def hang(number: int, query: dict[str, str]) -> Reply | None:
            if query.get("prefix") == "p/d/":
                trio.from_thread.run(release.wait, trio_token=token)
            return None

        server.interfere = hang
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_refused, here, b"d")
            while not any(query.get("prefix") == "p/d/" for query in server.queries):  # noqa: ASYNC110
                await trio.sleep(0.01)
            os.kill(int(pid), 9)
        server.interfere = lambda number, query: None
        release.set()
        await here.importer.ensure_directory(b"d")
        assert await here.names(b"/a/d") == [b"e", b"y"]


async def _refused(here: Scene, relative: bytes) -> None:
    with pytest.raises(errors.RepositoryUnavailable, match="the listing process ended"):
        await here.importer.ensure_directory(relative)


async def test_process_ends_when_nobody_asks_and_comes_again_when_somebody_does(tmp_path: Path, server: ListServer) -> None:
    async with scene(tmp_path, server.endpoint_url, idle=0.3) as here:
        before = children()
        await here.importer.ensure_directory(b"")
        assert len(children() - before) == 1
        with trio.fail_after(10):
            while children() - before:  # noqa: ASYNC110
                await trio.sleep(0.05)
        await here.importer.ensure_directory(b"d")
        assert await here.names(b"/a/d") == [b"e", b"y"]


async def test_association_that_is_gone_ends_it(tmp_path: Path, server: ListServer) -> None:
    async with scene(tmp_path, server.endpoint_url, patience=1.0) as here:
        (association,) = here.engine.associations()
        await here.engine.update_association(replace(association, lifecycle="DELETING"))
        with pytest.raises(errors.RepositoryUnavailable, match="is gone"):
            await here.importer.ensure_directory(b"d")
