"""The suite for every metadata engine: what others do to imported objects whose files are exported to another prefix, or kept here.

The table is checked after each test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from s3lustrefs.meta import apart
from s3lustrefs.meta.attributes import AttributeChange
from s3lustrefs.meta.check import check_engine
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.schema import Change, JournalRecord, JournalState
from s3lustrefs.meta.store import Store
from s3lustrefs.model.association import Association
from s3lustrefs.model.conflict import Conflict, ConflictKind
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import NO_ASSOC, Ino
from s3lustrefs.model.inode import InodeFlag
from s3lustrefs.movers.export_source import is_as_imported
from tests.contract.test_engine import Scene
from tests.contract.test_kept_local import keep, renamed, suspected, sweep, told, vanish, whole


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """`/a` is imported from `p/`, and exported to `x/`."""
    store = Store(tmp_path / "meta", boot_id="boot")
    in_use: set[Ino] = set()
    engine = LmdbEngine(store, in_use=in_use.__contains__)
    association = await engine.link_association(Association("/a", "bucket", "p/", association_id="dra-1", export_prefix="x/"))
    yield Scene(engine, association, in_use)
    assert check_engine(store) == []
    await store.close()


@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_renamed_file_that_is_kept_outlives_its_import(scene: Scene, is_whole: bool) -> None:
    file = await renamed(scene, is_whole=is_whole)
    assert await suspected(scene) == [b"p/a"]
    found = await vanish(scene, b"a")
    assert isinstance(found, Conflict) and found.kind is ConflictKind.ONLY_HERE
    after = await scene.engine.get(file.ino)
    assert await scene.names() == [b"b"] and bool(after.hsm & Hsm.LOST) is not is_whole
    assert await suspected(scene) == []
    if is_whole:
        await keep(scene, file)


async def test_an_import_whose_file_was_exported_and_lost_is_still_looked_for(scene: Scene) -> None:
    file = await scene.cold(b"a")
    await scene.engine.rename(scene.root, b"a", scene.root, b"b")
    await scene.export(file)
    await scene.engine.object_vanished(file.ino)
    assert (await scene.engine.get(file.ino)).hsm & Hsm.LOST
    assert await suspected(scene) == [b"p/a"]  # never what was exported
    assert await vanish(scene, b"a") is None and await told(scene) == []
    assert await scene.engine.find_object(scene.assoc, b"p/a") is None and await suspected(scene) == []
    assert await scene.names() == [b"b"]


async def test_attributes_that_are_kept_let_the_content_of_the_import_in(scene: Scene) -> None:
    file = await scene.cold(b"a")
    await scene.engine.set_attributes(file.ino, AttributeChange(mode=0o600))
    await keep(scene, file)
    await sweep(scene, b"a")
    after = await scene.engine.get(file.ino)
    assert after.size == 7 and after.mode & 0o777 == 0o600
    assert [each.kind for each in await told(scene)] == [ConflictKind.ATTRIBUTES_KEPT]


async def test_a_name_that_was_exported_apart_is_told_of_and_stays(scene: Scene) -> None:
    file = await scene.cold(b"a")
    await scene.engine.rename(scene.root, b"a", scene.root, b"b")
    await scene.export(file)
    await sweep(scene, b"b")
    await sweep(scene, b"b")
    after = await scene.engine.get(file.ino)
    assert (after.size, after.source_key) == (10, b"x/b")
    assert [each.kind for each in await told(scene)] == [ConflictKind.EXPORTED_APART]


async def test_a_change_that_was_kept_goes_with_a_rename_there_and_back(scene: Scene) -> None:
    file = await scene.cold(b"a")
    view = await scene.engine.export_view(file.ino)
    assert view is not None
    record = JournalRecord(file.ino, scene.assoc, b"", JournalState.DUE, Change.NAME, 1, 0)
    assert is_as_imported(view, view.targets[0], record)
    view.inode.flags |= InodeFlag.EXCLUDED
    assert not is_as_imported(view, view.targets[0], record)


async def test_a_new_import_concerns_that_name_alone_of_a_file_with_several(scene: Scene) -> None:
    file = await whole(scene, b"a")
    await scene.engine.link(file.ino, scene.root, b"b")
    await keep(scene, file)
    await sweep(scene, b"a")
    a, b = await scene.engine.resolve(b"/a/a"), await scene.engine.resolve(b"/a/b")
    assert (a.size, a.nlink, a.source_key) == (7, 1, b"p/a") and not a.is_complete
    assert (b.ino, b.size, b.nlink) == (file.ino, 10, 1) and b.is_complete and not b.source_assoc
    await keep(scene, b)


async def test_a_file_that_an_association_left_behind_is_its_import_again(scene: Scene, tmp_path: Path) -> None:
    file = await scene.cold(b"a")
    file.source_assoc, file.source_key, file.hsm = NO_ASSOC, b"s3://bucket/p/a", file.hsm | Hsm.LOST
    assert file.is_left_behind
    store = Store(tmp_path / "other", boot_id="boot")
    with store.begin() as txn:
        assert not apart.is_parted(txn, scene.association, file, b"p/a")
        file.hsm |= Hsm.DIRTY
        assert apart.is_parted(txn, scene.association, file, b"p/a")
    await store.close()
