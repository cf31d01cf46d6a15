"""The suite for every metadata engine, third part: names of one file are objects of their own, and others change one of them.

The table is checked after each test.
"""

from __future__ import annotations

import stat

import pytest

from s3lustrefs.meta.attributes import AttributeChange
from s3lustrefs.meta.listing import Applied, preparer, preparer_options
from s3lustrefs.meta.schema import Change, ObjectRecord
from s3lustrefs.model.association import EVENTS
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import ROOT_INO, Ino
from s3lustrefs.model.inode import Inode, InodeFlag
from tests.contract.test_engine import Scene, scene

__all__ = ["scene"]

NAMES = (b"a", b"b")
A, B = b"p/a", b"p/b"


async def linked(scene: Scene, *, whole: bool, also: tuple[bytes, ...] = ()) -> Inode:
    """`a` and `b` (and `also`) are one file, whose names were all exported; the last one's object is its source."""
    file = await scene.cold(b"a")
    await scene.engine.set_attributes(file.ino, AttributeChange(mode=0o600, uid=7, gid=8))
    await scene.engine.set_xattr(file.ino, b"user.x", b"y")
    for name in (b"b", *also):
        await scene.engine.link(file.ino, scene.root, name)
    await scene.export(file)
    await scene.engine.put_residency(file.ino, file.content_version, b"", complete=True)
    if not whole:
        await scene.engine.release_content(file.ino)
    file = await scene.engine.get(file.ino)
    assert file.source_key == b"p/" + (also[-1] if also else b"b") and file.is_complete is whole and not file.is_dirty
    return file


async def sweep(scene: Scene, *found: bytes, etag: bytes = b"theirs", size: int = 20) -> Applied:
    prepare = preparer(**preparer_options(scene.association))  # type: ignore[arg-type]
    groups = [(b"", [prepare(name, name, size, etag, 5, b"STANDARD") for name in found])]
    with scene.engine.sweep(frozenset(EVENTS)) as looking:
        return await scene.engine.apply_listing(scene.association, groups, sweep=looking)


async def told_by_a_read(scene: Scene, file: Inode, key: bytes) -> Inode | None:
    """As the refresher does once a request about the object failed."""
    return await scene.engine.replace_content(file.ino, scene.object(key, "theirs", 20))


async def objects(scene: Scene) -> dict[bytes, tuple[str, Ino]]:
    found = [await scene.engine.find_object(scene.assoc, key) for key in (A, B)]
    return {each.key: (each.etag, each.ino) for each in found if each is not None}


async def source(scene: Scene, ino: Ino) -> ObjectRecord:
    found = await scene.engine.source_of(await scene.engine.get(ino))
    assert found is not None
    return found


@pytest.mark.parametrize("changed", NAMES)
@pytest.mark.parametrize("whole", [True, False])
async def test_a_name_whose_object_others_changed_is_a_file_of_its_own(scene: Scene, changed: bytes, *, whole: bool) -> None:
    file = await linked(scene, whole=whole)
    before = await objects(scene)
    count = scene.engine.inode_count
    applied = await sweep(scene, changed)
    (kept,) = set(NAMES) - {changed}
    theirs, ours = await scene.engine.lookup(scene.root, changed), await scene.engine.lookup(scene.root, kept)
    assert ours.ino == file.ino != theirs.ino and (ours.nlink, theirs.nlink) == (1, 1)
    assert (ours.size, ours.content_version, ours.is_complete) == (file.size, file.content_version, whole)
    assert not ours.is_dirty and not ours.hsm & Hsm.LOST and await scene.change(ours) == Change.NONE
    assert (theirs.size, theirs.is_complete, theirs.is_dirty) == (20, False, False)
    assert (theirs.mode, theirs.uid, theirs.gid) == (stat.S_IFREG | 0o600, 7, 8)  # until its headers are known
    assert theirs.flags & InodeFlag.HEADERS_UNKNOWN and await scene.engine.get_xattr(theirs.ino, b"user.x") == b"y"
    assert await objects(scene) == {**before, b"p/" + changed: ("theirs", theirs.ino)}
    assert (await source(scene, ours.ino)).key == b"p/" + kept and (await source(scene, theirs.ino)).key == b"p/" + changed
    assert applied.changed == [theirs.ino] and file.ino in applied.grown and not applied.outdated
    assert (scene.root, changed) in applied.replaced
    assert scene.engine.inode_count == count + 1
    again = await sweep(scene, changed)
    assert (again.new, again.changed) == (0, [])


async def test_a_read_that_finds_its_object_changed_takes_the_name_out_of_the_file(scene: Scene) -> None:
    file = await linked(scene, whole=False)
    count = scene.engine.inode_count
    theirs = await told_by_a_read(scene, file, B)
    assert theirs is not None and (theirs.parent, theirs.name, theirs.size) == (scene.root, b"b", 20)
    ours = await scene.engine.lookup(scene.root, b"a")
    assert (ours.ino, ours.content_version) == (file.ino, file.content_version) and (await source(scene, ours.ino)).key == A
    assert scene.engine.inode_count == count + 1


async def test_of_three_names_two_stay_one_file(scene: Scene) -> None:
    file = await linked(scene, whole=False, also=(b"c",))
    await sweep(scene, b"c")
    await sweep(scene, b"a", etag=b"others")
    kept = await scene.engine.lookup(scene.root, b"b")
    assert (kept.ino, kept.nlink, (await source(scene, kept.ino)).key) == (file.ino, 1, B)
    assert len({(await scene.engine.lookup(scene.root, name)).ino for name in (b"a", b"b", b"c")}) == 3


async def test_a_file_whose_only_object_changed_is_the_new_version_under_all_its_names(scene: Scene) -> None:
    """The other name is outside of every association, and nothing else has the old content."""
    file = await scene.cold(b"a")
    await scene.engine.link(file.ino, ROOT_INO, b"local")
    await scene.export(file)
    applied = await sweep(scene, b"a")
    now = await scene.engine.get(file.ino)
    assert (now.size, now.nlink) == (20, 2) and applied.changed == [file.ino] and applied.outdated


async def test_a_local_name_keeps_content_that_is_wholly_here(scene: Scene) -> None:
    file = await scene.cold(b"a")
    await scene.engine.link(file.ino, ROOT_INO, b"local")
    await scene.export(file)
    await scene.engine.put_residency(file.ino, file.content_version, b"", complete=True)
    await sweep(scene, b"a")
    local = await scene.engine.lookup(ROOT_INO, b"local")
    assert local.ino == file.ino and local.nlink == 1 and local.size == 10 and local.is_complete
    assert local.is_dirty and not local.source_assoc  # an ordinary local file
    assert (await scene.engine.resolve(b"/a/a")).size == 20


@pytest.mark.parametrize("whole", [True, False])
async def test_the_same_version_told_again_changes_nothing(scene: Scene, *, whole: bool) -> None:
    file = await linked(scene, whole=whole)
    known = await scene.engine.find_object(scene.assoc, B)
    assert known is not None
    replaced = await scene.engine.replace_content(file.ino, known)
    assert replaced is not None and replaced.ino == file.ino and replaced.nlink == 2


async def test_attributes_given_here_stay_with_the_name_that_leaves(scene: Scene) -> None:
    file = await linked(scene, whole=True)
    await scene.engine.set_attributes(file.ino, AttributeChange(mode=0o640))
    theirs = await told_by_a_read(scene, file, B)
    assert theirs is not None and theirs.ino != file.ino and stat.S_IMODE(theirs.mode) == 0o640
    assert not theirs.flags & InodeFlag.HEADERS_UNKNOWN
    assert await scene.change(theirs) == Change.METADATA and await scene.change(file) & Change.METADATA


async def test_a_changed_file_keeps_its_names_and_is_left_to_its_export(scene: Scene) -> None:
    file = await linked(scene, whole=True)
    await scene.engine.begin_write(file.ino)
    assert (await sweep(scene, b"a", b"b")).changed == []
    assert await told_by_a_read(scene, file, B) is None
    now = await scene.engine.get(file.ino)
    assert now.nlink == 2 and now.is_dirty and (now.size, now.content_version) == (file.size, file.content_version)


@pytest.mark.parametrize("is_same", [True, False])
async def test_a_half_written_file_takes_what_is_missing_from_an_object_of_the_same_content_only(
    scene: Scene, *, is_same: bool
) -> None:
    file = await linked(scene, whole=False)
    known = await scene.engine.find_object(scene.assoc, B)
    assert known is not None
    scene_etag = known.etag if is_same else "older"
    assert await scene.settle(file, scene.object(A, scene_etag))
    assert await scene.settle(file, scene.object(B, known.etag))
    await scene.engine.begin_write(file.ino)
    assert await told_by_a_read(scene, file, B) is None
    assert (await source(scene, file.ino)).key == (A if is_same else B)


# --- deletions by others --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", NAMES)
@pytest.mark.parametrize("whole", [True, False])
async def test_only_the_name_goes_whose_object_others_deleted(scene: Scene, gone: bytes, *, whole: bool) -> None:
    file = await linked(scene, whole=whole)
    with scene.engine.sweep(frozenset(EVENTS)) as looking:
        removed = await scene.engine.remove_vanished(scene.association, b"p/" + gone, looking)
    assert removed is not None and (removed.name, removed.inode.nlink) == (gone, 1)
    (kept,) = set(NAMES) - {gone}
    assert await scene.names() == [kept]
    ours = await scene.engine.lookup(scene.root, kept)
    assert (ours.ino, ours.nlink, ours.content_version) == (file.ino, 1, file.content_version)
    assert (await source(scene, ours.ino)).key == b"p/" + kept
    assert not ours.hsm & Hsm.LOST and await scene.change(ours) == Change.NONE


async def test_an_object_that_is_missed_by_a_read_leaves_the_other_one_to_read(scene: Scene) -> None:
    """Whatever `auto_import` says about deletions: the name stays until a sweep takes it."""
    file = await linked(scene, whole=False)
    await scene.engine.object_vanished(file.ino)
    now = await scene.engine.get(file.ino)
    assert not now.hsm & Hsm.LOST and now.nlink == 2 and (await source(scene, file.ino)).key == A
    await scene.engine.object_vanished(file.ino)  # that one is gone, too
    assert (await source(scene, file.ino)).key in (A, B)


async def test_an_object_that_export_policy_left_behind_is_nobodys_content(scene: Scene) -> None:
    """`a` was not to be exported when `b` was: its object is older than the file."""
    file = await linked(scene, whole=False)
    await scene.engine.begin_write(file.ino)
    await scene.engine.set_size(file.ino, 0, still_open=True)
    await scene.engine.set_size(file.ino, 10, still_open=True)
    assert await scene.settle(await scene.engine.get(file.ino), scene.object(B, "newer"))
    record = await scene.engine.find_journal(file.ino)
    assert record is not None
    await scene.engine.exclude(record)
    released = await scene.engine.release_content(file.ino)
    with scene.engine.sweep(frozenset(EVENTS)) as looking:
        assert await scene.engine.remove_vanished(scene.association, B, looking) is not None
    now = await scene.engine.get(file.ino)
    assert now.hsm & Hsm.LOST and now.content_version == released.content_version  # older bytes are never mixed in
