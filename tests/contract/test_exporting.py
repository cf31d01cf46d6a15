"""The exporter and the table at moments that a mount cannot be brought to on purpose."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.data.snapshot import Snapshots
from s3lustrefs.fs.handles import Handles
from s3lustrefs.fs.open_exports import OpenExports
from s3lustrefs.meta.attributes import AttributeChange
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.schema import JournalRecord
from s3lustrefs.meta.store import Store
from s3lustrefs.model.association import Association
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers import export_deletes
from s3lustrefs.movers.disputes import Disputes
from s3lustrefs.movers.export_deletes import DeleteExport
from s3lustrefs.movers.export_files import FileExport
from s3lustrefs.movers.export_order import NotYet
from s3lustrefs.movers.exporter import Exporter
from s3lustrefs.movers.headers import HeaderFetcher
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.movers.refresher import Refresher
from s3lustrefs.movers.removals import Removals
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.room import Room
from s3lustrefs.movers.sent_objects import SentObjects
from s3lustrefs.repository.s3 import S3Store
from tests.contract.test_object_store import make_store
from tests.faultproxy import FaultProxy
from tests.servers import S3Server

WAIT_SECONDS = 60.0
TEXT = b"content"


class Scene:
    """One association, its exporter not running yet, and a proxy before its bucket."""

    def __init__(self, engine: LmdbEngine, association: Association, chunks: ChunkStore, store: S3Store, proxy: FaultProxy) -> None:
        self.engine = engine
        self.root = Ino(association.root_ino)
        self.assoc = association.assoc_id
        self.chunks = chunks
        self.store = store
        self.proxy = proxy
        repositories = Repositories()
        repositories.connect(self.assoc, store)
        refresher = Refresher(engine, chunks, repositories, lambda _: None)
        room = Room(chunks)
        hydrator = Hydrator(engine, chunks, repositories, refresher.refresh, lambda _: None, room)
        removals = Removals(chunks, hydrator, lambda _: None, lambda _: None)
        disputes = Disputes(engine, removals, repositories, refresher, lambda _: None)
        headers = HeaderFetcher(engine, repositories, refresher.refresh)
        self.files = FileExport(engine, chunks, hydrator, repositories, headers.known, disputes)
        self.deletes = DeleteExport(engine, hydrator, repositories, disputes)
        self.exporter = Exporter(engine, self.files, self.deletes, lambda: 0, settle_seconds=0)
        self.handles = Handles()
        self.open_exports = OpenExports(engine, chunks, Snapshots(chunks), hydrator, self.exporter, self.handles, room)

    async def write(self, name: bytes, *, still_open: bool = False) -> Inode:
        file = await self.engine.create(self.root, name, stat.S_IFREG | 0o644, os.getuid(), 0, open_for_write=True)
        await self.chunks.write(file.ino, file.content_version, file.chunk_bytes, 0, TEXT)
        file = await self.engine.set_size(file.ino, len(TEXT), still_open=True)
        if not still_open:
            await self.engine.make_due(file.ino)
            self.exporter.wake()
        return file

    async def drained(self) -> None:
        """Return once nothing is left to export."""
        with trio.fail_after(WAIT_SECONDS):
            while await self.engine.due(b"", 1):  # noqa: ASYNC110  # the table has no event for it
                await trio.sleep(0.01)


async def wait_until(what: Callable[[], bool]) -> None:
    with trio.fail_after(WAIT_SECONDS):
        while not what():  # noqa: ASYNC110  # whatever it is, it may have no event
            await trio.sleep(0.01)


@pytest.fixture
async def scene(moto_server: S3Server, tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Scene]:
    client, bucket = moto_server.client(), f"t-{uuid.uuid4().hex[:16]}"
    client.create_bucket(Bucket=bucket)
    client.close()
    proxy = FaultProxy(moto_server.endpoint_url)
    await nursery.start(proxy.serve)
    table = Store(tmp_path / "meta", boot_id="boot")
    engine = LmdbEngine(table)
    association = await engine.link_association(
        Association("/a", bucket, "p/", association_id="dra-1", export_open_after_seconds=0.1)
    )
    chunks = ChunkStore([tmp_path / "data"])
    chunks.open_()
    async with trio.open_nursery() as parts:
        await parts.start(table.run)
        yield Scene(engine, association, chunks, make_store(moto_server, bucket, url=proxy.endpoint_url), proxy)
        parts.cancel_scope.cancel()
    chunks.close()
    await table.close()


@contextmanager
def threads_kept_busy() -> Iterator[None]:
    """Whatever needs one of trio's threads waits."""
    threads = trio.to_thread.current_default_thread_limiter()
    users = [object() for _ in range(int(threads.available_tokens))]
    for user in users:
        threads.acquire_on_behalf_of_nowait(user)
    try:
        yield
    finally:
        for user in users:
            threads.release_on_behalf_of(user)


async def test_a_chmod_while_an_open_file_is_copied_is_exported_later(scene: Scene, nursery: trio.Nursery) -> None:
    file = await scene.write(b"log", still_open=True)
    handle = scene.handles.open_file(file.ino, file.content_version)
    handle.has_written, handle.inode.writers, handle.inode.written_since = True, 1, trio.current_time()
    with threads_kept_busy():
        await nursery.start(scene.open_exports.run)
        await wait_until(lambda: any(chunk.key.version != file.content_version for chunk in scene.chunks.chunk_files()))
        await scene.engine.set_attributes(file.ino, AttributeChange(mode=stat.S_IFREG | 0o600))
    await wait_until(lambda: not handle.inode.writers)
    assert (await scene.store.head(b"p/log")).metadata["file-permissions"] == "0100644"
    nursery.start_soon(scene.exporter.run)
    await scene.drained()
    assert (await scene.store.head(b"p/log")).metadata["file-permissions"] == "0100600"


async def test_a_write_does_not_interrupt_the_delete_that_follows_a_rename(scene: Scene, nursery: trio.Nursery) -> None:
    nursery.start_soon(scene.exporter.run)
    file = await scene.write(b"old")
    await scene.drained()
    scene.proxy.add("hold", method="DELETE", path="p/old")
    await scene.engine.rename(scene.root, b"old", scene.root, b"new")
    scene.exporter.urge()
    with trio.fail_after(WAIT_SECONDS):
        await scene.proxy.held.wait()
        await scene.exporter.interrupt(file.ino)
    assert not scene.exporter.is_uploading(file.ino)
    scene.proxy.release()
    await scene.drained()
    assert [method for method, target, _ in scene.proxy.log if method == "DELETE"] == ["DELETE"]
    assert (await scene.store.head(b"p/new")).version.size == len(TEXT)


async def test_a_name_lost_again_is_watched_for_late_writes_from_the_beginning(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose() -> JournalRecord:
        """A file whose upload was never answered is deleted."""
        file = await scene.write(b"k", still_open=True)
        await SentObjects(scene.engine).note(file, scene.assoc, b"p/k", len(TEXT), in_parts=False)
        await scene.engine.unlink(scene.root, b"k")
        record = await scene.engine.find_lost_key(scene.assoc, b"p/k")
        assert record is not None
        return record

    record = await lose()
    with pytest.raises(NotYet):
        await scene.deletes.export(record, scene.exporter.hold)
    await scene.write(b"k", still_open=True)
    await scene.deletes.export(record, scene.exporter.hold)
    assert await scene.engine.find_lost_key(scene.assoc, b"p/k") is None
    await scene.engine.unlink(scene.root, b"k")
    monkeypatch.setattr(export_deletes, "_LATE_SECONDS", 0.05)
    await trio.sleep(0.06)
    record = await lose()
    with pytest.raises(NotYet):
        await scene.deletes.export(record, scene.exporter.hold)


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_lost_file_that_is_archived_goes_up_whatever_is_under_its_key(
    scene: Scene, nursery: trio.Nursery, *, is_there: bool
) -> None:
    nursery.start_soon(scene.exporter.run)
    file = await scene.write(b"f")
    await scene.drained()
    await scene.engine.set_hsm_flags(file.ino, Hsm.LOST, Hsm.NONE)
    if not is_there:
        await scene.store.delete(b"p/f", None)
    sent = scene.files.exported_bytes
    assert await scene.engine.order_archive(file.ino)
    scene.exporter.urge()
    await scene.drained()
    assert scene.files.exported_bytes == sent + len(TEXT)
    head = await scene.store.head(b"p/f")
    assert await scene.store.get_bytes(b"p/f", head.version, 0, len(TEXT)) == TEXT
    assert (await scene.engine.get(file.ino)).hsm == Hsm.EXISTS | Hsm.ARCHIVED
