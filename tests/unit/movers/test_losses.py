"""Bytes that never reached the disk: what the bucket has is not given up for them."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore, LostContent
from s3lustrefs.meta.check import check_engine
from s3lustrefs.meta.damage import Damage
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.schema import ObjectRecord
from s3lustrefs.meta.store import Store
from s3lustrefs.model.association import Association
from s3lustrefs.model.hsm import Hsm, Request
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.hsm_requests import HsmRequests
from s3lustrefs.movers.losses import Losses

TEXT = b"content"


class Elsewhere:
    """Stands for the hydrator and the exporter, which have nothing to do here."""

    def forget(self, ino: Ino) -> None: ...

    def wake(self) -> None: ...

    async def interrupt(self, ino: Ino) -> None: ...


class FailingChunks(ChunkStore):
    """A target that says at the next sync that it has lost what is in `failing`."""

    failing: list[LostContent] = []  # noqa: RUF012  # replaced, never changed

    async def sync_dirty(self) -> list[LostContent]:
        await super().sync_dirty()
        lost, self.failing = self.failing, []
        return lost


class Scene:
    def __init__(self, directory: Path) -> None:
        self.chunks = FailingChunks([directory / "data"])
        self.store = Store(directory / "meta", boot_id="boot", sync_content=self._sync_content)
        self.engine = LmdbEngine(self.store)
        elsewhere: Any = Elsewhere()
        none: Any = None
        self.losses = Losses(
            self.engine, self.chunks, Damage(self.store), elsewhere, lambda _: None, lambda _: None
        )  # fmt: skip
        self.requests = HsmRequests(self.engine, elsewhere, elsewhere, none, none, read_only=False)

    async def _sync_content(self) -> None:
        await self.losses.sync_content()

    async def archived(self, name: bytes) -> Inode:
        """A file whose bytes are here and in the bucket, and not known to be on disk."""
        (association,) = self.engine.associations()
        file = await self.engine.create(Ino(association.root_ino), name, stat.S_IFREG | 0o644, 0, 0)
        await self.chunks.write(file.ino, file.content_version, file.chunk_bytes, 0, TEXT)
        file = await self.engine.set_size(file.ino, len(TEXT), still_open=False)
        known = ObjectRecord(association.assoc_id, b"p/" + name, Ino(0), "x", len(TEXT))
        await self.engine.settle_object(file.ino, known, content=True, version=file.content_version)
        record = await self.engine.find_journal(file.ino)
        assert record is not None and await self.engine.finish(record)
        return await self.engine.get(file.ino)

    def lose(self, file: Inode) -> None:
        self.chunks.failing = [LostContent(file.ino, file.content_version, "I/O error")]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(tmp_path)
    scene.chunks.open_()
    await scene.engine.link_association(Association("/a", "bucket", "p/", association_id="dra-1"))
    yield scene
    assert check_engine(scene.store) == []
    await scene.store.close()
    scene.chunks.close()


@pytest.mark.parametrize("pinned", [False, True])
async def test_a_lost_copy_is_dropped_where_the_bucket_has_another(
    scene: Scene, caplog: pytest.LogCaptureFixture, *, pinned: bool
) -> None:
    file = await scene.archived(b"f")
    if pinned:
        await scene.engine.set_hsm_flags(file.ino, Hsm.NORELEASE, Hsm.NONE)
    scene.lose(file)
    await scene.engine.sync()
    left = await scene.engine.get(file.ino)
    assert left.hsm_state() & Hsm.RELEASED and bool(left.hsm & Hsm.NORELEASE) is pinned
    assert scene.chunks.loss_of(left.ino, left.content_version) is None
    caplog.clear()


@pytest.mark.parametrize("flags", [False, True])
async def test_an_archived_copy_is_not_given_up_for_bytes_that_never_reached_the_disk(
    scene: Scene, caplog: pytest.LogCaptureFixture, *, flags: bool
) -> None:
    file = await scene.archived(b"f")
    scene.lose(file)
    with pytest.raises((errors.NotPermitted, errors.InvalidArgument), match="released"):
        if flags:
            await scene.requests.set_flags(file.ino, Hsm.NONE, Hsm.EXISTS | Hsm.ARCHIVED)
        else:
            await scene.requests.ask(file.ino, Request.REMOVE)
    left = await scene.engine.get(file.ino)
    assert left.hsm_state() == Hsm.EXISTS | Hsm.ARCHIVED | Hsm.RELEASED and await scene.engine.source_of(left) is not None
    caplog.clear()


async def test_the_object_of_a_file_that_is_damaged_here_stays(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    file = await scene.archived(b"f")
    await scene.engine.set_hsm_flags(file.ino, Hsm.LOST, Hsm.NONE)
    scene.lose(file)
    with pytest.raises(errors.NotPermitted, match="disk"):
        await scene.requests.ask(file.ino, Request.REMOVE)
    caplog.clear()


async def test_what_is_on_disk_is_removed_from_the_bucket(scene: Scene) -> None:
    file = await scene.archived(b"f")
    await scene.requests.ask(file.ino, Request.REMOVE)
    assert not (await scene.engine.get(file.ino)).hsm
