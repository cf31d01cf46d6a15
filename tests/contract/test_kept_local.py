"""The suite for every metadata engine, third part: changes that the export policy keeps here, while others change the bucket.

The table is checked after each test.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable

import pytest

from s3lustrefs import errors
from s3lustrefs.meta.attributes import AttributeChange
from s3lustrefs.meta.listing import Applied, preparer, preparer_options
from s3lustrefs.meta.namespace import RENAME_EXCHANGE
from s3lustrefs.meta.schema import Change
from s3lustrefs.model.association import EVENTS
from s3lustrefs.model.conflict import Conflict, ConflictKind
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.inode import Inode, InodeFlag
from tests.contract.test_engine import DIR, LINK, Scene, scene

__all__ = ["scene"]


async def keep(scene: Scene, *inodes: Inode) -> None:
    """What the exporter does with everything that is due while the policy has no events."""
    for inode in inodes:
        record = await scene.engine.find_journal(inode.ino)
        assert record is not None
        await scene.engine.exclude(record)
    for _, record in await scene.engine.due(b"", 100):
        if not record.ino:
            assert await scene.engine.finish(record)
    assert await scene.engine.due(b"", 100) == []


async def whole(scene: Scene, key: bytes) -> Inode:
    """An imported file that was read."""
    file = await scene.cold(key)
    return await scene.engine.put_residency(file.ino, file.content_version, b"", complete=True) or file


async def renamed(scene: Scene, *, is_whole: bool) -> Inode:
    """`a`, which is `b` here, and that is kept."""
    file = await (whole if is_whole else Scene.cold)(scene, b"a")
    await scene.engine.rename(scene.root, b"a", scene.root, b"b")
    await keep(scene, file)
    return await scene.engine.get(file.ino)


async def sweep(scene: Scene, *keys: bytes, etag: bytes = b"theirs", events: Iterable[str] = EVENTS) -> Applied:
    """A listing that has these relative keys."""
    prepare = preparer(**preparer_options(scene.association))  # type: ignore[arg-type]
    with scene.engine.sweep(frozenset(events)) as listing:
        groups = [(b"", [prepare(key, key, 7, etag, 9, b"STANDARD") for key in keys])]
        return await scene.engine.apply_listing(scene.association, groups, sweep=listing)


async def suspected(scene: Scene) -> list[bytes]:
    """What a listing that finds nothing would ask for."""
    with scene.engine.sweep(frozenset(EVENTS)) as listing:
        found, after = await scene.engine.vanished_suspects(scene.association, b"p/", (b"", None), frozenset(), listing)
        assert after is None
        return found


async def vanish(scene: Scene, key: bytes) -> object:
    with scene.engine.sweep(frozenset(EVENTS)) as listing:
        return await scene.engine.remove_vanished(scene.association, b"p/" + key, listing)


async def told(scene: Scene) -> list[Conflict]:
    return (await scene.engine.conflicts(10))[1]


# --- renamed ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize("events", [EVENTS, ("NEW", "DELETED"), ("CHANGED",)])
async def test_a_file_renamed_here_is_not_replaced_by_an_object_of_that_name(
    scene: Scene, is_whole: bool, events: tuple[str, ...]
) -> None:
    file = await renamed(scene, is_whole=is_whole)
    for etag in (b"one", b"one", b"two"):
        applied = await sweep(scene, b"b", etag=etag, events=events)
        assert not applied.changed and not applied.outdated
        assert await scene.engine.get(file.ino) == file
    assert [(each.kind, each.etag, each.path) for each in await told(scene)] == [
        (ConflictKind.NOT_EXPORTED, "two", "/a/b"),
        (ConflictKind.NOT_EXPORTED, "one", "/a/b"),
    ]
    assert await scene.engine.conflict_of(file.ino) == (await told(scene))[0]


async def test_a_cold_file_renamed_here_follows_its_object_with_the_attributes_it_has(scene: Scene) -> None:
    file = await renamed(scene, is_whole=False)
    applied = await sweep(scene, b"a")
    after = await scene.engine.get(file.ino)
    assert applied.changed == [file.ino] and after.size == 7 and not after.is_complete
    assert not after.flags & InodeFlag.HEADERS_UNKNOWN and after.flags & InodeFlag.EXCLUDED
    assert await scene.names() == [b"b"]


@pytest.mark.parametrize("events", [EVENTS, ("DELETED",)])
async def test_a_whole_file_renamed_here_needs_no_object_once_that_is_another(scene: Scene, events: tuple[str, ...]) -> None:
    file = await renamed(scene, is_whole=True)
    await sweep(scene, b"a", events=events)
    assert await scene.names() == ([b"a", b"b"] if "NEW" in events else [b"b"])
    after = await scene.engine.get(file.ino)
    assert after.size == 10 and after.is_complete and not after.source_assoc
    with pytest.raises(errors.NotPermitted):
        await scene.engine.release_content(file.ino)
    await keep(scene, file)


async def test_a_whole_file_renamed_here_is_not_replaced_by_a_look_at_its_old_object(scene: Scene) -> None:
    file = await renamed(scene, is_whole=True)
    assert await scene.engine.replace_content(file.ino, scene.object(b"p/a", "theirs", 7)) is None
    after = await scene.engine.get(file.ino)
    assert after.size == 10 and after.is_complete and not after.source_assoc
    await keep(scene, file)


async def test_files_that_swapped_names_stay_when_one_of_their_objects_changes(scene: Scene) -> None:
    a, b = await whole(scene, b"a"), await whole(scene, b"b")
    await scene.engine.rename(scene.root, b"a", scene.root, b"b", RENAME_EXCHANGE)
    await keep(scene, a, b)
    a, b = await scene.engine.get(a.ino), await scene.engine.get(b.ino)
    await sweep(scene, b"b")
    assert await scene.engine.get(a.ino) == a
    assert not (await scene.engine.get(b.ino)).source_assoc  # whose object that was
    assert [each.path for each in await told(scene)] == ["/a/b"]
    await keep(scene, b)


async def test_the_only_bytes_of_a_renamed_file_are_not_released(scene: Scene) -> None:
    file = await renamed(scene, is_whole=True)
    assert await suspected(scene) == [b"p/a"]
    found = await vanish(scene, b"a")
    assert isinstance(found, Conflict) and found.kind is ConflictKind.ONLY_HERE and found.path == "/a/b"
    after = await scene.engine.get(file.ino)
    assert after.is_complete and not after.source_assoc and not after.hsm
    assert await scene.change(file) == Change.CONTENT
    await keep(scene, file)
    with pytest.raises(errors.NotPermitted):
        await scene.engine.release_content(file.ino)
    assert await scene.engine.find_object(scene.assoc, b"p/a") is None and await suspected(scene) == []
    assert await told(scene) == [found] and await scene.engine.conflict_of(file.ino) == found


async def test_a_renamed_file_whose_bytes_are_nowhere_says_so(scene: Scene) -> None:
    file = await renamed(scene, is_whole=False)
    found = await vanish(scene, b"a")
    assert isinstance(found, Conflict) and found.kind is ConflictKind.ONLY_HERE
    after = await scene.engine.get(file.ino)
    assert after.hsm & Hsm.LOST and after.nlink and await scene.names() == [b"b"]
    assert await suspected(scene) == []  # nothing more to learn
    assert await vanish(scene, b"a") is None and await told(scene) == [found]
    # Whoever restores the object makes the file whole.
    await sweep(scene, b"a", etag=b"again")
    after = await scene.engine.get(file.ino)
    assert not after.hsm & Hsm.LOST and after.size == 7


@pytest.mark.parametrize("due", ["file", "lost key", "file of that name"])
async def test_what_an_export_is_going_to_find_out_is_left_to_it(scene: Scene, due: str) -> None:
    file = await whole(scene, b"a")
    await scene.engine.rename(scene.root, b"a", scene.root, b"b")
    if due == "file of that name":
        await keep(scene, file)
        await scene.make(b"a")
    record = await scene.engine.find_journal(file.ino)
    if due == "lost key" and record is not None:
        await scene.engine.exclude(record)
    before = await scene.engine.get(file.ino)
    assert await vanish(scene, b"a") is None
    assert await scene.engine.get(file.ino) == before and await told(scene) == []
    assert await scene.engine.find_object(scene.assoc, b"p/a") is not None


async def test_a_removed_file_that_is_open_has_lost_what_is_not_here(scene: Scene) -> None:
    file = await scene.cold(b"a")
    scene.in_use.add(file.ino)
    await scene.engine.unlink(scene.root, b"a")
    await keep(scene)
    assert await vanish(scene, b"a") is None and await told(scene) == []
    assert (await scene.engine.get(file.ino)).hsm & Hsm.LOST


async def test_a_directory_renamed_here_does_not_remember_an_object_that_is_gone(scene: Scene) -> None:
    await scene.import_(markers=[b"d"])
    directory = await scene.engine.resolve(b"/a/d")
    await scene.engine.rename(scene.root, b"d", scene.root, b"e")
    await keep(scene, directory)
    assert await vanish(scene, b"d/") is None
    assert await scene.names() == [b"e"] and await suspected(scene) == []


# --- changed attributes ------------------------------------------------------------------------------------------------------


async def chmodded(scene: Scene, *, is_whole: bool = True) -> Inode:
    file = await (whole if is_whole else Scene.cold)(scene, b"f")
    await scene.engine.set_attributes(file.ino, AttributeChange(mode=0o640, uid=5))
    await keep(scene, file)
    return await scene.engine.get(file.ino)


@pytest.mark.parametrize("is_whole", [True, False])
async def test_attributes_given_here_stay_when_the_content_changes_there(scene: Scene, is_whole: bool) -> None:
    file = await chmodded(scene, is_whole=is_whole)
    for _ in range(2):
        await sweep(scene, b"f")
        after = await scene.engine.get(file.ino)
        assert after.size == 7 and not after.is_complete and not after.flags & (InodeFlag.HEADERS_UNKNOWN | InodeFlag.KIND_UNKNOWN)
        assert (stat.S_IMODE(after.mode), after.uid) == (0o640, 5) and after.flags & InodeFlag.EXCLUDED
    assert [(each.kind, each.etag) for each in await told(scene)] == [(ConflictKind.ATTRIBUTES_KEPT, "theirs")]


async def test_attributes_given_here_stay_when_a_reader_finds_the_new_content(scene: Scene) -> None:
    file = await chmodded(scene)
    after = await scene.engine.replace_content(file.ino, scene.object(b"p/f", "theirs", 7))
    assert after is not None and after.size == 7 and not after.flags & InodeFlag.HEADERS_UNKNOWN


@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_file_with_attributes_given_here_survives_the_deletion_of_its_object(scene: Scene, is_whole: bool) -> None:
    file = await chmodded(scene, is_whole=is_whole)
    found = await vanish(scene, b"f")
    assert isinstance(found, Conflict) and found.kind is ConflictKind.ONLY_HERE
    after = await scene.engine.get(file.ino)
    assert bool(after.hsm & Hsm.LOST) is not is_whole and bool(after.source_assoc) is not is_whole
    assert await scene.names() == [b"f"] and await suspected(scene) == []
    assert await vanish(scene, b"f") is None and await told(scene) == [found]
    if is_whole:
        await keep(scene, file)


async def test_one_of_two_names_goes_with_its_object_and_the_file_stays(scene: Scene) -> None:
    file = await whole(scene, b"f")
    await scene.engine.link(file.ino, scene.root, b"g")
    await keep(scene, file)
    assert not isinstance(await vanish(scene, b"f"), Conflict)
    after = await scene.engine.get(file.ino)
    assert await scene.names() == [b"g"] and after.nlink == 1 and not after.source_assoc
    await keep(scene, file)


async def test_a_directory_with_attributes_given_here_keeps_them_and_its_name(scene: Scene) -> None:
    await scene.import_(markers=[b"d"])
    directory = await scene.engine.resolve(b"/a/d")
    directory = await scene.engine.apply_headers(directory.ino, "", AttributeChange(), None) or directory
    await scene.engine.set_attributes(directory.ino, AttributeChange(mode=0o700))
    await keep(scene, directory)
    directory = await scene.engine.get(directory.ino)
    with scene.engine.sweep(frozenset(EVENTS)) as listing:
        marker = (b"d", 3, b"theirs", 9, b"STANDARD")
        await scene.engine.apply_listing(scene.association, [], [marker], sweep=listing)
    assert await scene.engine.get(directory.ino) == directory
    assert await vanish(scene, b"d/") is None and await scene.names() == [b"d"]


async def test_a_symlink_made_here_stays_and_the_object_of_its_name_is_told_of_once(scene: Scene) -> None:
    link = await scene.make(b"l", mode=LINK, target=b"t")
    await keep(scene, link)
    for _ in range(2):
        await sweep(scene, b"l")
    assert (await scene.engine.get(link.ino)).target == b"t"
    assert [(each.kind, each.etag) for each in await told(scene)] == [(ConflictKind.NOT_EXPORTED, "theirs")]


# --- exported after all -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [DIR, LINK])
async def test_what_was_kept_and_then_exported_follows_the_bucket_again(scene: Scene, mode: int) -> None:
    file = await chmodded(scene)
    other = await scene.make(b"other", mode=mode)
    await keep(scene, other)
    for inode, name in ((file, b"f"), (other, b"other")):
        await scene.engine.rename(scene.root, name, scene.root, name + b"2")
        await scene.export(inode)
        assert not (await scene.engine.get(inode.ino)).flags & InodeFlag.EXCLUDED
    await sweep(scene, b"f2")
    assert (await scene.engine.get(file.ino)).flags & InodeFlag.HEADERS_UNKNOWN and await told(scene) == []
