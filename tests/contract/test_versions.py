"""Versions brings back objects that are copied in parts; the limit, 5 GiB in earnest, is lowered."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.store import Store
from s3lustrefs.model.association import Association
from s3lustrefs.movers import multipart, versions
from s3lustrefs.movers.headers import HeaderFetcher
from s3lustrefs.movers.key_locks import KeyLocks
from s3lustrefs.movers.multipart import Multipart
from s3lustrefs.movers.refresher import Refresher
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.versions import Versions
from s3lustrefs.repository.object_store import ObjectVersion, PutHeaders
from s3lustrefs.repository.s3 import S3Store
from tests.contract.test_object_store import keep_versions, make_store
from tests.servers import S3Server

MIB = 1 << 20
OLD, NEW = os.urandom(11 * MIB), b"new"
HEADERS = PutHeaders({"file-permissions": "0100640", "colour": "red"}, {"content-type": "text/x"}, tags=[("team", "a b")])


class Scene:
    def __init__(self, engine: LmdbEngine, store: S3Store, found: Versions) -> None:
        self.engine = engine
        self.store = store
        self.versions = found

    async def brought_back(self) -> ObjectVersion:
        """The current object, after the oldest version was brought back and looked at."""
        oldest = (await self.versions.history(b"/a/k"))[-1]
        await self.versions.bring_back(b"/a/k", oldest.kept.version.version_id)
        head = await self.store.head(b"p/k")
        assert (dict(head.metadata), head.content_headers["Content-Type"]) == (dict(HEADERS.metadata), "text/x")
        assert list(await self.store.get_tags(b"p/k")) == list(HEADERS.tags)
        assert await self.store.get_bytes(b"p/k", head.version, 0, head.version.size) == OLD
        return head.version


@pytest.fixture
async def scene(moto_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(versions, "COPY_BYTES", 5 * MIB)
    monkeypatch.setattr(multipart, "_COPY_PART_BYTES", 5 * MIB)
    client, bucket = moto_server.client(), f"t-{uuid.uuid4().hex[:16]}"
    client.create_bucket(Bucket=bucket)
    keep_versions(client, bucket)
    client.close()
    store = make_store(moto_server, bucket)
    await store.put(b"p/k", OLD, HEADERS, None)
    await store.put(b"p/k", NEW, PutHeaders(), None)
    table = Store(tmp_path / "meta", boot_id="boot")
    engine = LmdbEngine(table)
    association = await engine.link_association(Association("/a", bucket, "p/", association_id="dra-1"))
    chunks = ChunkStore([tmp_path / "data"], cache_bytes=None)
    chunks.open_()
    repositories = Repositories()
    repositories.connect(association.assoc_id, store)
    refresher = Refresher(engine, chunks, repositories, lambda _: None)
    headers = HeaderFetcher(engine, repositories, refresher.refresh)
    found = Versions(engine, repositories, Multipart(chunks), refresher, headers, lambda _: None, KeyLocks().hold, engine.resolve)
    yield Scene(engine, store, found)
    chunks.close()
    await table.close()


async def test_a_deleted_file_comes_back(scene: Scene) -> None:
    await scene.store.delete(b"p/k", None)
    version = await scene.brought_back()
    assert version.etag.endswith("-3")
    inode = await scene.engine.resolve(b"/a/k")
    source = await scene.engine.source_of(inode)
    assert source is not None
    assert (inode.size, source.etag) == (len(OLD), version.etag)


async def test_a_copy_in_parts_does_not_write_over_what_was_not_seen(scene: Scene) -> None:
    with pytest.raises(errors.NotPermitted, match="was changed in the bucket"):
        await scene.brought_back()
    assert await scene.store.unfinished_uploads(b"p/k") == []
    assert (await scene.store.head(b"p/k")).version.size == len(NEW)
