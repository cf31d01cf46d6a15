"""Who needs what an import has not brought yet waits for that import only, and not for ever."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from s3lustrefs import errors
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.store import Store
from s3lustrefs.model.association import Association, Endpoint
from s3lustrefs.model.ids import ROOT_INO, AssocId, Ino
from s3lustrefs.movers.archive import Archive
from s3lustrefs.movers.files_below import files_below
from s3lustrefs.movers.hsm_restores import HsmRestores
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.movers.importer import Importer
from s3lustrefs.movers.links import Links
from s3lustrefs.movers.preloads import Preloads
from s3lustrefs.movers.restore_jobs import RestoreJobs
from s3lustrefs.movers.sweeper import Sweeper, SweepResult
from s3lustrefs.movers.task_roots import Roots
from s3lustrefs.repository.list_request import ListingTarget

DENIED = errors.RepositoryDenied("no keys")


@dataclass
class Importing:
    """An import that never ends, or fails when somebody waits for it. `brings` is called with each name that is asked for."""

    fails: bool = False
    brings: Callable[[bytes], Awaitable[None]] | None = None

    async def wait_imported(self) -> None:
        if self.fails:
            raise DENIED
        await trio.sleep_forever()

    async def ensure_name(self, relative: bytes) -> None:
        if self.fails:
            raise DENIED
        if self.brings is None:
            await trio.sleep_forever()
        else:
            await self.brings(relative)


@dataclass
class _Link:
    assoc: AssocId
    importer: Importing


@dataclass
class Trees:
    """Two associations: `/near/tree`, which is imported as the test says, and `/far`, whose import hangs."""

    engine: LmdbEngine
    near: Association
    far: Association
    importing: Importing = field(default_factory=Importing)

    def links(self) -> Links:
        return cast(Links, _Links([_Link(self.far.assoc_id, Importing()), _Link(self.near.assoc_id, self.importing)]))

    async def exists(self, path: str) -> Sequence[str]:
        return await Roots(self.engine, self.links()).of_paths([path])


class _Links(list[_Link]):
    def __iter__(self) -> Iterator[_Link]:
        return iter(tuple(super().__iter__()))


@pytest.fixture
async def trees(tmp_path: Path) -> AsyncIterator[Trees]:
    store = Store(tmp_path / "meta", boot_id="boot")
    engine = LmdbEngine(store)
    near = await engine.link_association(Association("/near/tree", "bucket", "p/", association_id="dra-1"))
    far = await engine.link_association(Association("/far", "bucket", "q/", association_id="dra-2"))
    for root in (near, far):
        await engine.create(Ino(root.root_ino), b"known", stat.S_IFREG | 0o644, 0, 0)
    with trio.fail_after(60):
        yield Trees(engine, near, far)
    await store.close()


@pytest.mark.parametrize("path", ["near/tree/known", "near/tree", "near", "/", "far/known"])
async def test_path_that_is_there_waits_for_nobody(trees: Trees, path: str) -> None:
    assert await trees.exists(path)


async def test_path_is_asked_for_by_name_in_the_bucket_it_lies_in(trees: Trees) -> None:
    asked: list[bytes] = []

    async def nothing(relative: bytes) -> None:
        asked.append(relative)

    trees.importing.brings = nothing
    for missing in ("near/tree/d/typo", "near/typo", "typo"):
        with pytest.raises(errors.TaskFailed, match=f"path {missing} does not exist"):
            await trees.exists(missing)
    assert asked == [b"d/typo"]


async def test_path_is_there_once_the_bucket_has_said_so(trees: Trees) -> None:
    async def bring(relative: bytes) -> None:
        await trees.engine.create(Ino(trees.near.root_ino), relative, stat.S_IFREG | 0o644, 0, 0)

    trees.importing.brings = bring
    assert await trees.exists("near/tree/new") == ["/near/tree/new"]


async def test_task_about_a_path_in_a_bucket_that_does_not_answer_fails_with_its_error(trees: Trees) -> None:
    trees.importing.fails = True
    with pytest.raises(errors.TaskFailed, match="cannot tell whether path near/tree/new exists: no keys"):
        await trees.exists("near/tree/new")


async def walked(trees: Trees, *paths: bytes) -> list[bytes]:
    named = [(path, await trees.engine.resolve(path)) for path in paths]
    return [path async for files in files_below(trees.engine, trees.links(), named) for path, _ in files]


async def test_files_below_a_directory_wait_for_the_imports_it_has_to_do_with(trees: Trees) -> None:
    for path in (b"/near", b"/near/tree"):
        with trio.move_on_after(0.3) as waited:
            await walked(trees, path)
        assert waited.cancelled_caught
    await trees.engine.create(ROOT_INO, b"elsewhere", stat.S_IFDIR | 0o755, 0, 0)
    assert await walked(trees, b"/elsewhere") == [] and await walked(trees, b"/far/known") == [b"/far/known"]


async def test_files_below_directories_that_lie_in_each_other_are_met_once(trees: Trees) -> None:
    top = await trees.engine.create(ROOT_INO, b"a", stat.S_IFDIR | 0o755, 0, 0)
    inner = await trees.engine.create(top.ino, b"b", stat.S_IFDIR | 0o755, 0, 0)
    await trees.engine.create(inner.ino, b"file", stat.S_IFREG | 0o644, 0, 0)
    await trees.engine.create(ROOT_INO, b"a-b", stat.S_IFDIR | 0o755, 0, 0)
    assert await walked(trees, b"/a/b", b"/a-b", b"/a") == [b"/a/b/file"]


async def test_import_that_fails_is_told_to_who_walks(trees: Trees) -> None:
    trees.importing.fails = True
    with pytest.raises(errors.RepositoryDenied, match="no keys"):
        await walked(trees, b"/near")


async def test_restore_of_a_tree_that_cannot_be_imported_ends_with_the_reason(trees: Trees) -> None:
    trees.importing.fails = True
    jobs = RestoreJobs(trees.engine, cast(Archive, None), trees.links())
    async with trio.open_nursery() as nursery:
        await nursery.start(jobs.run)
        number = await jobs.start([b"/near"], 1, "Standard")
        await trio.sleep(0.2)
        job = jobs.look(number)
        assert job.is_asked and job.failures == [(b"/", "no keys")]
        nursery.cancel_scope.cancel()


async def test_preload_of_a_tree_that_cannot_be_imported_ends_with_the_reason(trees: Trees) -> None:
    trees.importing.fails = True
    preloads = Preloads(trees.engine, cast(Hydrator, None), cast(HsmRestores, None), trees.links(), cast(Any, None))
    async with trio.open_nursery() as nursery:
        await nursery.start(preloads.run)
        number = await preloads.start([b"/near"])
        await trio.sleep(0.2)
        job = preloads.look(number)
        assert job.is_done and job.failures == [(b"/", "no keys")]
        nursery.cancel_scope.cancel()


async def test_sweep_of_what_cannot_be_imported_ends_with_the_reason(trees: Trees) -> None:
    trees.importing.fails = True
    importer = cast(Importer, trees.importing)
    target = ListingTarget("bucket", b"p/", "us-east-1", Endpoint())
    sweeper = Sweeper(trees.engine, trees.near, target, cast(Any, None), importer, cast(Any, None), cast(Any, None))
    with pytest.raises(errors.RepositoryDenied, match="no keys"):
        await sweeper.sweep(b"")
    with pytest.raises(errors.RepositoryDenied, match="no keys"):
        await sweeper.look_for(b"p/x", frozenset({"NEW"}), SweepResult())
