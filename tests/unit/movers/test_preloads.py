"""Orders to preload: files that are named twice, and orders for the same files of which one is given up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from s3lustrefs import errors
from s3lustrefs.data.residency import Residency
from s3lustrefs.meta.listing import preparer, preparer_options
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.store import Store
from s3lustrefs.model.association import Association
from s3lustrefs.model.ids import ContentVersion
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers import preloads
from s3lustrefs.movers.hsm_restores import HsmRestores
from s3lustrefs.movers.links import Links
from s3lustrefs.movers.preloads import Preload, Preloads

SIZE = 5000


@dataclass
class Content:
    residency: Residency


@dataclass
class Hydrator:
    """Stands for the real one: a range takes a second."""

    engine: LmdbEngine
    is_hanging: bool = False
    fetched: list[int] = field(default_factory=list)

    async def resident_bytes(self, inode: Inode) -> int:
        return 0

    async def content(self, inode: Inode) -> Content:
        return Content(Residency(inode.content_version))

    async def ensure(self, inode: Inode, start: int, end: int, *, demand: bool) -> None:
        if self.is_hanging:
            await trio.sleep_forever()
        await trio.sleep(1)
        self.fetched.append(inode.ino)
        await self.engine.put_residency(inode.ino, ContentVersion(inode.content_version), b"", complete=True)


class Scene:
    def __init__(self, engine: LmdbEngine, association: Association) -> None:
        self.engine = engine
        self.association = association
        self.hydrator = Hydrator(engine)
        hydrator: Any = self.hydrator
        shared: Any = SimpleNamespace(engine=engine)
        self.restores = HsmRestores(engine, hydrator)
        self.preloads = Preloads(engine, hydrator, self.restores, Links(shared), self._known)

    async def _known(self, inode: Inode) -> Inode:
        return inode

    async def start(self, *paths: bytes) -> tuple[int, Preload]:
        number = await self.preloads.start(paths)
        return number, self.preloads.look(number)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    store = Store(tmp_path / "meta", boot_id="boot")
    engine = LmdbEngine(store)
    association = await engine.link_association(Association("/a", "bucket", "p/", association_id="dra-1"))
    prepare = preparer(**preparer_options(association))  # type: ignore[arg-type]
    names = (b"f", b"g", b"h")
    await engine.apply_listing(association, [(b"", [prepare(n, n, SIZE, b"e0", 5, b"STANDARD") for n in names])])
    scene = Scene(engine, association)
    async with trio.open_nursery() as nursery:
        await nursery.start(scene.restores.run)
        await nursery.start(scene.preloads.run)
        yield scene
        nursery.cancel_scope.cancel()
    await store.close()


async def done(job: Preload) -> None:
    with trio.fail_after(60):
        while not job.is_done:  # noqa: ASYNC110  # clients poll, too
            await trio.sleep(0.1)


async def test_a_file_that_is_named_twice_is_brought_once(autojump_clock: object, scene: Scene) -> None:
    _, job = await scene.start(b"/a", b"/a/f")
    await done(job)
    assert (job.files, job.brought, job.local, job.failed) == (3, 3, 0, 0)
    assert job.brought_bytes == job.total_bytes == 3 * SIZE and sorted(scene.hydrator.fetched) == sorted(
        set(scene.hydrator.fetched)
    )


async def test_a_file_with_two_names_is_brought_once(autojump_clock: object, scene: Scene) -> None:
    file = await scene.engine.resolve(b"/a/f")
    await scene.engine.link(file.ino, scene.association.root_ino, b"other")  # type: ignore[arg-type]
    _, job = await scene.start(b"/a")
    await done(job)
    assert (job.brought, job.failed, job.brought_bytes) == (3, 0, 3 * SIZE) and len(scene.hydrator.fetched) == 3


async def test_an_order_that_is_given_up_takes_no_other_with_it(autojump_clock: object, scene: Scene) -> None:
    number, first = await scene.start(b"/a")
    _, second = await scene.start(b"/a")
    await trio.sleep(0.5)
    scene.preloads.cancel(number)
    await done(second)
    assert first.is_done and not first.brought
    assert (second.brought, second.failed) == (3, 0)


async def test_the_last_order_that_is_given_up_takes_its_restores_with_it(autojump_clock: object, scene: Scene) -> None:
    scene.hydrator.is_hanging = True
    orders = [await scene.start(b"/a") for _ in range(2)]
    await trio.sleep(0.5)
    for number, _ in orders:
        assert scene.restores.waiting == 3
        scene.preloads.cancel(number)
        await trio.sleep(0.5)
    assert not scene.restores.waiting


async def test_only_orders_that_have_ended_are_forgotten(
    autojump_clock: object, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preloads, "_MOST_JOBS", 2)
    scene.hydrator.is_hanging = True
    first, job = await scene.start(b"/a")
    second, _ = await scene.start(b"/a/f")
    await trio.sleep(0.5)
    with pytest.raises(errors.QueueFull):
        await scene.start(b"/a/g")
    scene.preloads.cancel(second)
    await trio.sleep(0.5)
    await scene.start(b"/a/g")
    assert scene.preloads.look(first) is job and not job.is_done
    with pytest.raises(errors.NotFound):
        scene.preloads.look(second)
