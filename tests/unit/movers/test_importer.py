"""Waiting for a part of an import, against an endpoint that accepts connections and says nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from s3lustrefs import errors
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.store import Store
from s3lustrefs.model.association import Association, Endpoint
from s3lustrefs.movers.headers import HeaderFetcher
from s3lustrefs.movers.importer import Importer
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.repository.credentials import StaticCredentials
from s3lustrefs.repository.list_request import ListingTarget


@asynccontextmanager
async def importing(tmp_path: Path, port: int) -> AsyncIterator[Importer]:
    endpoint = Endpoint(endpoint_url=f"http://127.0.0.1:{port}")
    store = Store(tmp_path / "meta", boot_id="boot")
    engine = LmdbEngine(store)
    association = await engine.link_association(Association("/a", "bucket", "p/", association_id="dra-1"))

    async def unchanged(_: object) -> bool:
        return True

    headers = HeaderFetcher(engine, Repositories(), unchanged)
    target = ListingTarget("bucket", b"p/", "us-east-1", endpoint)
    found = Importer(
        engine, association, target, StaticCredentials("A" * 20, "B" * 40), lambda _: None, headers, patience_seconds=1.0
    )
    async with trio.open_nursery() as running:
        await running.start(found.run)
        yield found
        running.cancel_scope.cancel()
    await store.close()


@pytest.fixture
async def importer(tmp_path: Path) -> AsyncIterator[Importer]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with importing(tmp_path, listeners[0].socket.getsockname()[1]) as found:
        yield found
    await listeners[0].aclose()


async def test_who_joins_a_request_does_not_take_the_end_of_anothers_patience_for_an_answer(importer: Importer) -> None:
    refused: list[errors.RepositoryUnavailable] = []

    async def ask() -> None:
        try:
            await importer.ensure_directory(b"d")
        except errors.RepositoryUnavailable as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(0.5)
        nursery.start_soon(ask)
    assert len(refused) == 2
    with pytest.raises(errors.RepositoryUnavailable):
        await importer.ensure_directory(b"d")  # nor does it count as listed now


async def test_who_waits_for_an_import_that_fails_is_told(tmp_path: Path, nursery: trio.Nursery) -> None:
    async def refuse(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(65536)
            await stream.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    listeners = await nursery.start(trio.serve_tcp, refuse, 0)
    async with importing(tmp_path, listeners[0].socket.getsockname()[1]) as importer:
        with trio.fail_after(60):
            for _ in range(2):  # each attempt has its own end
                with pytest.raises(errors.RepositoryDenied, match="the import fails"):
                    await importer.wait_imported()
