"""The suite for every metadata engine: what verbs do, raise, and leave in the journal. The table is checked after each test."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from s3lustrefs import errors
from s3lustrefs.meta.attributes import AttributeChange
from s3lustrefs.meta.check import check_engine
from s3lustrefs.meta.conflicts import Dispute
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.listing import DIRECTORY_WINS, Applied, PreparedEntry, preparer, preparer_options
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.location import LOST_FOUND
from s3lustrefs.meta.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE
from s3lustrefs.meta.schema import Change, JournalState, ObjectRecord, SentObject, object_key
from s3lustrefs.meta.store import Store
from s3lustrefs.model.association import EVENTS, Association
from s3lustrefs.model.file_system import Asked, FileSystemRecord
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import ROOT_INO, AssocId, Ino
from s3lustrefs.model.inode import Inode, InodeFlag

FILE, DIR, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777
GONE = Ino(99_999)


class Scene:
    """An engine with `/a` linked to `s3://bucket/p/`, and short ways to say things."""

    def __init__(self, engine: MetadataEngine, association: Association, in_use: set[Ino]) -> None:
        self.engine = engine
        self.association = association
        self.assoc = association.assoc_id
        self.root = Ino(association.root_ino)
        self.in_use = in_use
        self.etags = 0

    async def make(self, name: bytes, parent: Ino | None = None, mode: int = FILE, **more: object) -> Inode:
        return await self.engine.create(parent or self.root, name, mode, 0, 0, **more)  # type: ignore[arg-type]

    async def import_(self, *keys: bytes, etag: bytes = b"e0", size: int = 10, markers: Sequence[bytes] = ()) -> Applied:
        """A listing of these relative keys."""
        prepare = preparer(**preparer_options(self.association))  # type: ignore[arg-type]
        groups = []
        for key in keys:
            directory, _, name = key.rpartition(b"/")
            groups.append((directory, [prepare(key, name, size, etag, 5, b"STANDARD")]))
        found = [(marker, 0, b"d0", 5, b"STANDARD") for marker in markers]
        return await self.engine.apply_listing(self.association, groups, found)

    async def cold(self, key: bytes = b"cold", size: int = 10) -> Inode:
        """An imported file with known headers."""
        await self.import_(key, size=size)
        inode = await self.engine.resolve(b"/a/" + key)
        return await self.engine.apply_headers(inode.ino, "e0", AttributeChange(), None) or inode

    async def export(self, inode: Inode, *, finish: bool = True) -> None:
        """What the exporter does when every request succeeds."""
        view = await self.engine.export_view(inode.ino)
        assert view is not None
        for target in view.targets:
            self.etags += 1
            assert await self.settle(view.inode, self.object(target.key, f"x{self.etags}", view.inode.size))
        record = await self.engine.find_journal(inode.ino)
        if finish and record is not None:
            assert await self.engine.finish(record)

    async def settle(self, inode: Inode, exported: ObjectRecord) -> bool:
        """The bytes of this inode, as it was then, went up."""
        return await self.engine.settle_object(inode.ino, exported, content=True, version=inode.content_version)

    def object(self, key: bytes, etag: str, size: int = 10) -> ObjectRecord:
        return ObjectRecord(self.assoc, key, Ino(0), etag, size)

    async def change(self, inode: Inode) -> Change:
        record = await self.engine.find_journal(inode.ino)
        return record.change if record else Change.NONE

    async def state(self, inode: Inode) -> JournalState | None:
        record = await self.engine.find_journal(inode.ino)
        return record.state if record else None

    async def is_lost(self, key: bytes) -> bool:
        return await self.engine.find_lost_key(self.assoc, b"p/" + key) is not None

    async def names(self, ino: Ino | None = None) -> list[bytes]:
        return [name for name, _ in await self.engine.readdir(ino or self.root, b"", 100)]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    store = Store(tmp_path / "meta", boot_id="boot")
    in_use: set[Ino] = set()
    engine = LmdbEngine(store, in_use=in_use.__contains__)
    association = await engine.link_association(Association("/a", "bucket", "p/", association_id="dra-1"))
    yield Scene(engine, association, in_use)
    assert check_engine(store) == []
    await store.checkpoint()
    assert check_engine(store) == []
    await store.close()


# --- look-up ---------------------------------------------------------------------------------------------------------------


async def test_names_are_found_in_order_and_by_path(scene: Scene) -> None:
    for name in (b"b", b"a", b"c"):
        await scene.make(name)
    assert await scene.names() == [b"a", b"b", b"c"]
    assert [n for n, _ in await scene.engine.readdir(scene.root, b"a", 1)] == [b"b"]
    inode = await scene.engine.resolve(b"/a/b")
    assert inode == await scene.engine.lookup(scene.root, b"b")
    assert await scene.engine.path_of(inode.ino) == b"/a/b"
    location = await scene.engine.locate(inode)
    assert location is not None and location.key == b"p/b"
    outside = await scene.make(b"o", ROOT_INO)
    assert await scene.engine.locate(outside) is None


async def test_what_is_not_there_is_said_by_kind(scene: Scene) -> None:
    engine = scene.engine
    with pytest.raises(errors.NotFound):
        await engine.lookup(scene.root, b"absent")
    with pytest.raises(errors.NameTooLong):
        await engine.lookup(scene.root, b"n" * 256)
    await scene.make(b"file")
    for path in (b"/a/absent/x", b"/a/file/", b"/a/file/x"):
        with pytest.raises(errors.NotFound):
            await engine.resolve(path)
    for verb in (engine.get(GONE), engine.path_of(GONE), engine.begin_write(GONE), engine.release_content(GONE)):
        with pytest.raises(errors.StaleInode):
            await verb
    await engine.touch_atime(GONE)
    await engine.object_vanished(GONE)
    assert await engine.purge_orphan(GONE) is None and await engine.export_view(GONE) is None
    assert await engine.put_residency(GONE, 1, b"", complete=True) is None  # type: ignore[arg-type]


# --- create ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"", b".", b"..", b"x/y"])
async def test_names_that_cannot_be_are_refused(scene: Scene, name: bytes) -> None:
    file = await scene.make(b"f")
    with pytest.raises(errors.InvalidName):
        await scene.make(name)
    with pytest.raises(errors.InvalidName):
        await scene.engine.link(file.ino, scene.root, name)
    with pytest.raises(errors.InvalidName):
        await scene.engine.rename(scene.root, b"f", scene.root, name)


async def test_create_refuses_what_posix_refuses(scene: Scene) -> None:
    file = await scene.make(b"f")
    with pytest.raises(errors.AlreadyExists):
        await scene.make(b"f")
    with pytest.raises(errors.NotADirectory):
        await scene.make(b"x", file.ino)
    with pytest.raises(errors.NameTooLong):
        await scene.make(b"n" * 256)
    with pytest.raises(errors.StaleInode):
        await scene.make(b"x", GONE)
    assert scene.engine.inode_count == 3


async def test_created_inodes_are_journalled_by_what_they_are(scene: Scene) -> None:
    writing = await scene.make(b"f", open_for_write=True)
    assert await scene.state(writing) is JournalState.OPEN
    assert await scene.engine.make_due(writing.ino)
    assert await scene.state(writing) is JournalState.DUE
    directory, link = await scene.make(b"d", mode=DIR), await scene.make(b"l", mode=LINK, target=b"t")
    assert await scene.state(directory) is await scene.state(link) is JournalState.DUE
    fifo, outside = await scene.make(b"p", mode=stat.S_IFIFO), await scene.make(b"o", ROOT_INO)
    assert await scene.state(fifo) is await scene.state(outside) is None
    assert not await scene.engine.make_due(outside.ino)


async def test_setgid_directory_passes_its_group_on(scene: Scene) -> None:
    shared = await scene.make(b"s", mode=DIR | stat.S_ISGID)
    await scene.engine.set_attributes(shared.ino, AttributeChange(gid=7))
    file, below = await scene.make(b"f", shared.ino), await scene.make(b"d", shared.ino, mode=DIR)
    assert (file.gid, below.gid) == (7, 7)
    assert below.mode & stat.S_ISGID and not file.mode & stat.S_ISGID


# --- links, unlink, rmdir ----------------------------------------------------------------------------------------------------


async def test_hard_links_are_counted_and_outlive_the_first_name(scene: Scene) -> None:
    file = await scene.make(b"f")
    directory = await scene.make(b"d", mode=DIR)
    assert (await scene.engine.link(file.ino, directory.ino, b"g")).nlink == 2
    assert (await scene.engine.unlink(scene.root, b"f")).nlink == 1
    assert await scene.engine.path_of(file.ino) == b"/a/d/g"
    assert (await scene.engine.unlink(directory.ino, b"g")).nlink == 0
    with pytest.raises(errors.StaleInode):
        await scene.engine.get(file.ino)


async def test_link_refuses_what_posix_refuses(scene: Scene) -> None:
    file, directory = await scene.make(b"f"), await scene.make(b"d", mode=DIR)
    with pytest.raises(errors.NotPermitted):
        await scene.engine.link(directory.ino, scene.root, b"x")
    with pytest.raises(errors.AlreadyExists):
        await scene.engine.link(file.ino, scene.root, b"d")
    with pytest.raises(errors.NotADirectory):
        await scene.engine.link(file.ino, file.ino, b"x")
    scene.in_use |= {file.ino, directory.ino}
    await scene.engine.rmdir(scene.root, b"d")
    for verb in (scene.engine.link(file.ino, directory.ino, b"x"), scene.make(b"x", directory.ino)):
        with pytest.raises(errors.NotFound):
            await verb
    await scene.engine.unlink(scene.root, b"f")
    with pytest.raises(errors.NotFound):
        await scene.engine.link(file.ino, scene.root, b"x")


async def test_directories_are_removed_only_empty_and_unlinked_never(scene: Scene) -> None:
    directory = await scene.make(b"d", mode=DIR)
    await scene.make(b"f", directory.ino)
    with pytest.raises(errors.NotEmpty):
        await scene.engine.rmdir(scene.root, b"d")
    with pytest.raises(errors.IsADirectory):
        await scene.engine.unlink(scene.root, b"d")
    with pytest.raises(errors.NotADirectory):
        await scene.engine.rmdir(directory.ino, b"f")
    await scene.engine.unlink(directory.ino, b"f")
    assert (await scene.engine.get(scene.root)).nlink == 3
    await scene.engine.rmdir(scene.root, b"d")
    assert (await scene.engine.get(scene.root)).nlink == 2
    with pytest.raises(errors.NotPermitted):
        await scene.engine.rmdir(ROOT_INO, b"a")


async def test_unlinked_inode_in_use_is_an_orphan_until_purged(scene: Scene) -> None:
    file = await scene.make(b"f")
    await scene.engine.set_xattr(file.ino, b"user.x", b"1")
    scene.in_use.add(file.ino)
    assert (await scene.engine.unlink(scene.root, b"f")).nlink == 0
    assert [o.ino for o in await scene.engine.orphans()] == [file.ino]
    assert (await scene.engine.end_write(file.ino, 5)).size == 5
    await scene.engine.begin_write(file.ino)
    assert await scene.state(file) is None
    with pytest.raises(errors.NotFound):
        await scene.engine.path_of(file.ino)
    assert await scene.engine.purge_orphan(file.ino) is not None
    assert await scene.engine.orphans() == []
    assert scene.engine.inode_count == 2


# --- rename ------------------------------------------------------------------------------------------------------------------

OUTCOMES = {
    ("file", None, 0): None, ("dir", None, 0): None, ("file", "file", 0): None, ("dir", "empty", 0): None,
    ("file", "empty", 0): errors.IsADirectory, ("dir", "file", 0): errors.NotADirectory, ("dir", "full", 0): errors.NotEmpty,
    ("file", "full", 0): errors.IsADirectory, ("file", "file", RENAME_NOREPLACE): errors.AlreadyExists,
    ("dir", "empty", RENAME_NOREPLACE): errors.AlreadyExists, ("file", None, RENAME_NOREPLACE): None,
    ("file", None, RENAME_EXCHANGE): errors.NotFound, ("file", "full", RENAME_EXCHANGE): None,
    ("dir", "file", RENAME_EXCHANGE): None, ("file", "file", RENAME_EXCHANGE): None, ("file", "file", 4): errors.InvalidArgument,
}  # fmt: skip


@pytest.mark.parametrize("same_parent", [True, False])
@pytest.mark.parametrize(("source", "victim", "flags"), OUTCOMES)
async def test_rename_matrix(scene: Scene, source: str, victim: str | None, flags: int, same_parent: bool) -> None:
    here = (await scene.make(b"here", mode=DIR)).ino
    there = here if same_parent else (await scene.make(b"there", mode=DIR)).ino
    moved = await scene.make(b"x", here, mode=FILE if source == "file" else DIR)
    other = await scene.make(b"y", there, mode=FILE if victim == "file" else DIR) if victim else None
    if other is not None and victim == "full":
        await scene.make(b"inside", other.ino)
    expected = OUTCOMES[source, victim, flags]
    if expected is not None:
        with pytest.raises(expected):
            await scene.engine.rename(here, b"x", there, b"y", flags)
        assert (await scene.engine.lookup(here, b"x")).ino == moved.ino
        return
    gone = await scene.engine.rename(here, b"x", there, b"y", flags)
    assert (await scene.engine.lookup(there, b"y")).ino == moved.ino
    if flags & RENAME_EXCHANGE:
        assert other is not None and gone is None
        assert (await scene.engine.lookup(here, b"x")).ino == other.ino
    else:
        assert (gone.ino if gone else None) == (other.ino if other else None)
        with pytest.raises(errors.NotFound):
            await scene.engine.lookup(here, b"x")


async def test_directory_never_moves_below_itself(scene: Scene) -> None:
    top = await scene.make(b"t", mode=DIR)
    below = await scene.make(b"b", top.ino, mode=DIR)
    for flags in (0, RENAME_EXCHANGE):
        with pytest.raises(errors.InvalidArgument):
            await scene.engine.rename(scene.root, b"t", below.ino, b"x", flags)
    with pytest.raises(errors.InvalidArgument):
        await scene.engine.rename(top.ino, b"b", scene.root, b"t", RENAME_EXCHANGE)


async def test_linked_directory_stays_where_it_is(scene: Scene) -> None:
    await scene.make(b"d", ROOT_INO, mode=DIR)
    with pytest.raises(errors.NotPermitted):
        await scene.engine.rename(ROOT_INO, b"a", ROOT_INO, b"b")
    with pytest.raises(errors.NotPermitted):
        await scene.engine.rename(ROOT_INO, b"d", ROOT_INO, b"a", RENAME_EXCHANGE)
    with pytest.raises(errors.NotPermitted):
        await scene.engine.rename(ROOT_INO, b"d", ROOT_INO, b"a")


async def test_two_names_of_one_file_stay_when_one_is_renamed_to_the_other(scene: Scene) -> None:
    file = await scene.make(b"f")
    await scene.engine.link(file.ino, scene.root, b"g")
    assert await scene.engine.rename(scene.root, b"f", scene.root, b"g") is None
    assert await scene.names() == [b"f", b"g"]
    with pytest.raises(errors.AlreadyExists):
        await scene.engine.rename(scene.root, b"f", scene.root, b"g", RENAME_NOREPLACE)


async def test_moved_directory_is_expanded_into_what_is_below(scene: Scene) -> None:
    outside = await scene.make(b"o", ROOT_INO, mode=DIR)
    file, below = await scene.make(b"f", outside.ino), await scene.make(b"s", outside.ino, mode=DIR)
    assert await scene.change(file) is Change.NONE
    await scene.engine.rename(ROOT_INO, b"o", scene.root, b"o")
    record = await scene.engine.find_journal(outside.ino)
    assert record is not None and record.change == Change.NAME | Change.SUBTREE
    assert await scene.engine.expand_directory(record, b"", 1) == b"f"
    assert await scene.engine.expand_directory(record, b"f", 10) is None
    await scene.engine.end_expansion(record)
    assert await scene.change(file) == Change.NAME | Change.CONTENT
    assert await scene.change(below) == Change.NAME | Change.SUBTREE
    child = await scene.engine.find_journal(file.ino)
    assert child is not None and child.since_ns == record.since_ns, "it has waited as long as the rename"
    assert await scene.change(outside) == Change.NAME


async def test_lost_directory_is_expanded_into_the_objects_below(scene: Scene) -> None:
    await scene.import_(b"d/x", b"d/s/y", b"dz", markers=[b"d"])
    directory = await scene.engine.resolve(b"/a/d")
    await scene.engine.rename(scene.root, b"d", ROOT_INO, b"d")
    record = await scene.engine.find_lost_key(scene.assoc, b"p/d/")
    assert record is not None and record.change & Change.SUBTREE
    await scene.settle(directory, scene.object(b"p/d/", "late", 0))
    again = await scene.engine.find_lost_key(scene.assoc, b"p/d/")
    assert again is not None and again.change & Change.SUBTREE, "losing the marker once more must not forget what is below"
    after = await scene.engine.expand_prefix(scene.association, again, b"", 2)
    assert after is not None
    assert await scene.engine.expand_prefix(scene.association, again, after, 10) is None
    await scene.engine.end_expansion(again)
    assert await scene.is_lost(b"d/x") and await scene.is_lost(b"d/s/y") and not await scene.is_lost(b"dz")
    marker = await scene.engine.find_lost_key(scene.assoc, b"p/d/")
    assert marker is not None and not marker.change & Change.SUBTREE


# --- attributes --------------------------------------------------------------------------------------------------------------


async def test_mode_and_owner_are_exported_times_ride_along(scene: Scene) -> None:
    file = await scene.cold()
    await scene.engine.set_attributes(file.ino, AttributeChange(atime_ns=1, mtime_ns=2))
    assert await scene.change(file) is Change.NONE
    changed = await scene.engine.set_attributes(file.ino, AttributeChange(mode=stat.S_IFDIR | 0o600, uid=3, gid=4))
    assert (changed.mode, changed.uid, changed.gid, changed.mtime_ns) == (stat.S_IFREG | 0o600, 3, 4, 2)
    assert await scene.change(file) is Change.METADATA
    await scene.engine.touch_atime(file.ino)
    assert (await scene.engine.get(file.ino)).atime_ns > 2


async def test_xattrs(scene: Scene) -> None:
    file = await scene.make(b"f")
    await scene.engine.set_xattr(file.ino, b"user.b", b"2")
    await scene.engine.set_xattr(file.ino, b"user.a", b"")
    assert await scene.engine.list_xattrs(file.ino) == [b"user.a", b"user.b"]
    assert await scene.engine.get_xattr(file.ino, b"user.b") == b"2"
    await scene.engine.remove_xattr(file.ino, b"user.b")
    for verb in (scene.engine.get_xattr(file.ino, b"user.b"), scene.engine.remove_xattr(file.ino, b"user.b")):
        with pytest.raises(errors.NoAttribute):
            await verb
    with pytest.raises(errors.InvalidArgument):
        await scene.engine.set_xattr(file.ino, b"user.x", b"x" * 65_537)
    assert await scene.engine.list_xattrs(GONE) == []


# --- content -----------------------------------------------------------------------------------------------------------------


async def test_write_makes_dirty_waits_for_the_close_and_settles(scene: Scene) -> None:
    file = await scene.cold()
    await scene.engine.begin_write(file.ino)
    grown = await scene.engine.end_write(file.ino, 20, b"extents")
    assert grown.hsm & Hsm.DIRTY and grown.size == 20
    assert await scene.engine.get_residency(grown) == b"extents"
    assert await scene.state(file) is JournalState.OPEN
    await scene.engine.set_attributes(file.ino, AttributeChange(mode=0o600))
    assert await scene.state(file) is JournalState.OPEN
    assert await scene.engine.make_due(file.ino)
    await scene.export(file)
    settled = await scene.engine.get(file.ino)
    assert settled.hsm == Hsm.EXISTS | Hsm.ARCHIVED and await scene.change(file) is Change.NONE


async def test_change_during_an_export_keeps_the_record(scene: Scene) -> None:
    file = await scene.make(b"f")
    claimed = await scene.engine.find_journal(file.ino)
    assert claimed is not None
    await scene.engine.begin_write(file.ino)
    await scene.engine.exclude(claimed)
    assert not await scene.engine.finish(claimed)
    assert await scene.state(file) is JournalState.OPEN
    assert not (await scene.engine.get(file.ino)).flags & InodeFlag.EXCLUDED


async def test_truncate_by_path_is_due_at_once(scene: Scene) -> None:
    file = await scene.cold()
    await scene.engine.begin_write(file.ino)
    cut = await scene.engine.set_size(file.ino, 0, still_open=False)
    assert cut.is_complete and not cut.size
    assert await scene.state(file) is JournalState.DUE
    await scene.engine.begin_write(file.ino)
    await scene.engine.set_size(file.ino, 5, still_open=True)
    assert await scene.state(file) is JournalState.OPEN
    assert await scene.engine.make_all_due() == 1


async def test_residency_belongs_to_one_content_version(scene: Scene) -> None:
    file = await scene.cold()
    version = file.content_version
    assert await scene.engine.put_residency(file.ino, version, b"some", complete=False) is not None
    assert await scene.engine.get_residency(file) == b"some"
    changed = await scene.engine.replace_content(file.ino, scene.object(b"p/cold", "e1", 30))
    assert changed is not None and changed.size == 30 and await scene.engine.get_residency(changed) == b""
    assert await scene.engine.put_residency(file.ino, version, b"old", complete=False) is None
    done = await scene.engine.put_residency(file.ino, changed.content_version, b"", complete=True)
    assert done is not None and done.is_complete
    released = await scene.engine.release_content(file.ino)
    assert not released.is_complete and released.content_version > changed.content_version


async def test_only_archived_clean_content_is_released(scene: Scene) -> None:
    local, written = await scene.make(b"f"), await scene.cold()
    await scene.engine.begin_write(written.ino)
    for inode in (local, written):
        with pytest.raises(errors.NotPermitted):
            await scene.engine.release_content(inode.ino)


# --- journal and export ------------------------------------------------------------------------------------------------------


async def test_create_and_delete_before_any_export_leave_no_trace(scene: Scene) -> None:
    await scene.make(b"f")
    await scene.engine.unlink(scene.root, b"f")
    assert await scene.engine.due(b"", 10) == []


async def test_request_without_answer_is_looked_after_when_its_name_goes(scene: Scene) -> None:
    file = await scene.make(b"f")
    sent = SentObject(10, {"file-mtime": "1ns"})
    assert await scene.engine.note_write(file.ino, scene.assoc, b"p/f", sent)
    await scene.engine.rename(scene.root, b"f", scene.root, b"g")
    assert await scene.is_lost(b"f")
    assert not await scene.engine.note_write(file.ino, scene.assoc, b"p/f", sent)
    assert await scene.engine.noted_writes(scene.assoc, b"p/f") == [sent]
    await scene.engine.forget_object(scene.assoc, b"p/f", with_writes=True)
    assert await scene.engine.noted_writes(scene.assoc, b"p/f") == []


async def test_request_without_answer_stays_noted_when_the_object_it_replaced_is_missed(scene: Scene) -> None:
    """The object of `f` is not what it was because our own request wrote over it: taken for somebody else's, it were a conflict."""
    file = await scene.cold(b"f")
    sent = SentObject(10, {"file-mtime": "1ns"})
    assert await scene.engine.note_write(file.ino, scene.assoc, b"p/f", sent)
    await scene.engine.forget_object(scene.assoc, b"p/f")
    assert await scene.engine.find_object(scene.assoc, b"p/f") is None
    assert await scene.engine.noted_writes(scene.assoc, b"p/f") == [sent]


async def test_notes_of_requests_end_with_the_record_of_the_lost_key(scene: Scene) -> None:
    """As where the policy leaves removed objects alone."""
    file = await scene.make(b"f")
    sent = SentObject(10, {})
    assert await scene.engine.note_write(file.ino, scene.assoc, b"p/f", sent)
    await scene.engine.unlink(scene.root, b"f")
    record = await scene.engine.find_lost_key(scene.assoc, b"p/f")
    assert record is not None
    await scene.make(b"f")
    assert await scene.engine.finish(record)
    assert await scene.engine.noted_writes(scene.assoc, b"p/f") == [sent]  # somebody has the name, and will ask
    await scene.engine.rename(scene.root, b"f", ROOT_INO, b"f")
    record = await scene.engine.find_lost_key(scene.assoc, b"p/f")
    assert record is not None
    assert await scene.engine.finish(record)
    assert await scene.engine.noted_writes(scene.assoc, b"p/f") == []


@pytest.mark.parametrize("policy", ["keep-both", "bucket-wins", "file-wins"])
async def test_notes_of_requests_end_with_a_conflict(scene: Scene, policy: str) -> None:
    association, file = await changed(scene, policy)
    assert await scene.engine.note_write(file.ino, scene.assoc, b"p/cold", SentObject(10, {}))
    assert await scene.engine.resolve_conflict(association, dispute(scene, file))
    assert await scene.engine.noted_writes(scene.assoc, b"p/cold") == []


async def test_request_without_answer_below_a_lost_directory_is_found(scene: Scene) -> None:
    directory = await scene.make(b"d", mode=DIR)
    long = b"n" * 250
    below = await scene.make(long, directory.ino, mode=DIR)
    file = await scene.make(long, below.ino)
    key = b"p/d/" + long + b"/" + long
    assert await scene.engine.note_write(file.ino, scene.assoc, key, SentObject(1, {}))
    await scene.engine.rename(scene.root, b"d", ROOT_INO, b"d")
    record = await scene.engine.find_lost_key(scene.assoc, b"p/d/")
    assert record is not None
    assert await scene.engine.expand_prefix(scene.association, record, b"", 100) is None
    assert await scene.engine.find_lost_key(scene.assoc, key) is not None


async def test_upload_of_a_name_that_was_lost_meanwhile_is_noted_as_lost(scene: Scene) -> None:
    file = await scene.make(b"f")
    await scene.engine.rename(scene.root, b"f", ROOT_INO, b"f")
    await scene.settle(file, scene.object(b"p/f", "x"))
    assert await scene.is_lost(b"f")


async def test_settled_object_takes_the_key_from_its_last_owner(scene: Scene) -> None:
    old = await scene.cold()
    await scene.engine.put_residency(old.ino, old.content_version, b"", complete=True)
    await scene.engine.rename(scene.root, b"cold", scene.root, b"moved")
    new = await scene.make(b"cold")
    await scene.export(new)
    detached = await scene.engine.get(old.ino)
    assert not detached.source_assoc and not detached.hsm and detached.is_dirty
    assert await scene.change(old) & Change.NAME


async def test_object_that_is_about_to_go_is_nobodys_before(scene: Scene) -> None:
    """Whoever still had it as its archived copy could be released, while the only other copy is being written over."""
    old, key = await scene.cold(), b"p/cold"
    await scene.engine.rename(scene.root, b"cold", ROOT_INO, b"moved")
    new = await scene.make(b"cold")
    assert not await scene.engine.free_object(scene.assoc, key, new.ino)
    known = await scene.engine.find_object(scene.assoc, key)
    assert known is not None and known.ino == old.ino
    assert await scene.engine.free_object(scene.assoc, key, old.ino)
    await scene.engine.put_residency(old.ino, old.content_version, b"", complete=True)
    assert await scene.engine.free_object(scene.assoc, key, new.ino)
    with pytest.raises(errors.NotPermitted):
        await scene.engine.release_content(old.ino)
    known = await scene.engine.find_object(scene.assoc, key)
    assert known is not None and (known.ino, known.etag) == (0, "e0")  # what the next request is conditional on
    await scene.export(new)
    assert not (await scene.engine.get(old.ino)).hsm & Hsm.LOST
    assert await scene.engine.free_object(scene.assoc, b"p/none", new.ino)


@pytest.mark.parametrize("place", ["inside", "outside"])
async def test_file_whose_object_is_freed_is_exported_where_it_has_a_name(scene: Scene, place: str) -> None:
    old = await scene.cold()
    await scene.engine.put_residency(old.ino, old.content_version, b"", complete=True)
    await scene.engine.rename(scene.root, b"cold", scene.root if place == "inside" else ROOT_INO, b"moved")
    assert await scene.engine.free_object(scene.assoc, b"p/cold", Ino(0))
    freed = await scene.engine.get(old.ino)
    assert freed.is_dirty and freed.is_complete and await scene.change(old) & Change.CONTENT
    view = await scene.engine.export_view(old.ino)
    assert view is not None and view.source is None and len(view.targets) == (place == "inside")


async def test_copy_of_content_that_the_bucket_replaced_meanwhile_is_made_again(scene: Scene) -> None:
    asked = await scene.cold()
    await scene.engine.rename(scene.root, b"cold", scene.root, b"moved")
    assert await scene.engine.replace_content(asked.ino, scene.object(b"p/cold", "e1", 20))
    assert not await scene.settle(asked, scene.object(b"p/moved", "copy of e0"))
    file = await scene.engine.get(asked.ino)
    source = await scene.engine.source_of(file)
    assert source is not None and (source.key, source.etag, file.size) == (b"p/cold", "e1", 20)
    left = await scene.engine.find_object(scene.assoc, b"p/moved")
    assert left is not None and (left.ino, left.etag) == (0, "copy of e0")  # the next copy replaces it
    assert await scene.settle(file, scene.object(b"p/moved", "copy of e1", 20))
    source = await scene.engine.source_of(await scene.engine.get(asked.ino))
    assert source is not None and source.etag == "copy of e1"


async def test_file_whose_source_object_goes_with_another_name_is_exported_again(scene: Scene) -> None:
    file = await scene.make(b"f")
    await scene.engine.link(file.ino, scene.root, b"g")
    await scene.export(file)
    source = (await scene.engine.get(file.ino)).source_key.removeprefix(b"p/")
    await scene.engine.unlink(scene.root, source)
    await scene.engine.forget_object(scene.assoc, b"p/" + source)
    left = await scene.engine.get(file.ino)
    assert not left.source_assoc
    assert await scene.change(file) & Change.CONTENT


async def test_holder_dependant_and_source_follow_the_object(scene: Scene) -> None:
    file = await scene.cold()
    known = await scene.engine.find_object(scene.assoc, b"p/cold")
    assert known is not None and await scene.engine.source_of(file) == known
    assert await scene.engine.holder(scene.assoc, b"p/cold") == file.ino
    assert await scene.engine.holder(scene.assoc, b"p/cold/") is None
    await scene.make(b"fifo", mode=stat.S_IFIFO | 0o600)
    assert await scene.engine.holder(scene.assoc, b"p/fifo") is None  # never an object: what is there must go
    await scene.engine.rename(scene.root, b"cold", scene.root, b"moved")
    assert await scene.engine.holder(scene.assoc, b"p/cold") is None
    found = await scene.engine.dependant(known, Ino(0))
    assert found is not None and found.ino == file.ino
    assert await scene.engine.dependant(known, file.ino) is None and await scene.engine.dependant(None, Ino(0)) is None


async def test_failures_are_kept_with_their_reason(scene: Scene) -> None:
    file = await scene.make(b"f")
    claimed = await scene.engine.find_journal(file.ino)
    assert claimed is not None
    await scene.engine.postpone(claimed, 60, code="S3AccessDenied", text="no", terminal=True)
    failed = await scene.engine.find_journal(file.ino)
    assert failed is not None
    assert (failed.attempts, failed.error_code, failed.error_text, failed.terminal) == (1, "S3AccessDenied", "no", True)
    assert failed.not_before_ns > 0
    await scene.engine.set_attributes(file.ino, AttributeChange(mode=0o600))
    again = await scene.engine.find_journal(file.ino)
    assert again is not None and not again.terminal and not again.not_before_ns


async def test_excluded_change_stays_local_and_says_so(scene: Scene) -> None:
    file = await scene.make(b"f")
    claimed = await scene.engine.find_journal(file.ino)
    assert claimed is not None
    await scene.engine.exclude(claimed)
    assert (await scene.engine.get(file.ino)).flags & InodeFlag.EXCLUDED
    await scene.engine.begin_write(file.ino)
    assert not (await scene.engine.get(file.ino)).flags & InodeFlag.EXCLUDED


# --- import ------------------------------------------------------------------------------------------------------------------


async def test_listing_applied_twice_changes_nothing(scene: Scene) -> None:
    assert (await scene.import_(b"x", b"d/y", b"d/e/z", markers=[b"d", b"m"])).new == 3
    rows = [i for _, i in await scene.engine.readdir(scene.root, b"", 10)]
    again = await scene.import_(b"x", b"d/y", b"d/e/z", markers=[b"d", b"m"])
    assert (again.new, again.changed, again.replaced) == (0, [], [])
    assert [i for _, i in await scene.engine.readdir(scene.root, b"", 10)] == rows
    assert scene.engine.inode_count == 2 + 6


async def test_changed_object_replaces_clean_content_only(scene: Scene) -> None:
    clean, dirty = await scene.cold(b"clean"), await scene.cold(b"dirty")
    await scene.engine.begin_write(dirty.ino)
    applied = await scene.import_(b"clean", b"dirty", etag=b"e9", size=77)
    assert applied.changed == [clean.ino]
    assert (await scene.engine.get(clean.ino)).size == 77 and (await scene.engine.get(dirty.ino)).size == 10


async def test_deleted_here_is_not_brought_back_until_it_changes(scene: Scene) -> None:
    await scene.cold(b"x")
    await scene.engine.unlink(scene.root, b"x")
    await scene.import_(b"x")
    assert await scene.names() == []
    await scene.import_(b"x", etag=b"e1")
    assert await scene.names() == [b"x"]


@pytest.mark.parametrize("kind", ["file", "directory"])
async def test_what_a_request_without_answer_may_have_written_is_nobodys_new_file(scene: Scene, kind: str) -> None:
    """Unlinked after its request was cut off, and listed before the exporter has seen to it: brought in, it would be back."""
    made = await scene.make(b"f", mode=DIR if kind == "directory" else stat.S_IFREG | 0o644)
    key = b"p/f/" if kind == "directory" else b"p/f"
    assert await scene.engine.note_write(made.ino, scene.assoc, key, SentObject(10, {}))
    await (scene.engine.rmdir if kind == "directory" else scene.engine.unlink)(scene.root, b"f")

    async def listed() -> list[bytes]:
        await (scene.import_(b"other", markers=[b"f"]) if kind == "directory" else scene.import_(b"other", b"f"))
        return await scene.names()

    assert await listed() == [b"other"]
    await scene.engine.forget_object(scene.assoc, key, with_writes=True)
    assert await listed() == [b"f", b"other"]


async def test_what_was_removed_during_the_first_listing_is_not_brought_back_by_a_page_from_before(scene: Scene) -> None:
    prepare = preparer(**preparer_options(scene.association))  # type: ignore[arg-type]
    page = [(b"", [prepare(name, name, 10, b"e0", 5, b"STANDARD") for name in (b"x", b"y")])]
    with scene.engine.sweep(frozenset()) as local:
        await scene.cold(b"x")  # somebody asked for it before its page came
        await scene.engine.unlink(scene.root, b"x")
        await scene.engine.forget_object(scene.assoc, b"p/x", with_writes=True)  # its delete is exported
        await scene.engine.apply_listing(scene.association, page, touched=local.touched)
    assert await scene.names() == [b"y"]


async def test_object_that_changed_after_its_file_was_renamed_is_a_new_file_if_the_old_one_is_whole(scene: Scene) -> None:
    """A file of which not all is here cannot be what it was: it is the new version, as if that had come before the rename."""
    cold, whole = await scene.cold(b"cold"), await scene.cold(b"whole")
    await scene.engine.put_residency(whole.ino, whole.content_version, b"", complete=True)
    await scene.engine.rename(scene.root, b"cold", scene.root, b"cold2")
    await scene.engine.rename(scene.root, b"whole", scene.root, b"whole2")
    await scene.import_(b"cold", b"whole", etag=b"e1", size=20)
    assert await scene.names() == [b"cold2", b"whole", b"whole2"]
    followed = await scene.engine.get(cold.ino)
    source = await scene.engine.source_of(followed)
    assert source is not None and (source.etag, followed.size) == ("e1", 20) and not followed.hsm & Hsm.LOST
    assert (await scene.engine.get(whole.ino)).is_dirty
    count, (conflict,) = await scene.engine.conflicts(1)
    assert (count, conflict.kind, conflict.path) == (1, "deleted-here", "/a/whole")


@pytest.mark.parametrize("file_first", [True, False])
async def test_file_and_directory_of_one_name_end_as_the_directory(scene: Scene, file_first: bool) -> None:
    for key in (b"n", b"n/x") if file_first else (b"n/x", b"n"):
        await scene.import_(key)
    assert (await scene.engine.resolve(b"/a/n")).is_dir
    assert (await scene.engine.resolve(b"/a/n/x")).is_file
    assert await scene.engine.skipped(scene.association) == [(b"n", DIRECTORY_WINS)]


async def test_changed_or_linked_file_does_not_give_way_to_a_directory(scene: Scene) -> None:
    await scene.make(b"n")
    linked = await scene.cold(b"l")
    await scene.engine.link(linked.ino, ROOT_INO, b"other")
    await scene.export(linked)
    await scene.import_(b"n/x", b"l/x")
    assert (await scene.engine.resolve(b"/a/n")).is_file and (await scene.engine.resolve(b"/a/l")).is_file
    assert [key for key, _ in await scene.engine.skipped(scene.association)] == [b"l/x", b"n/x"]


@pytest.mark.parametrize("events", ["CHANGED", "DELETED", "CHANGED DELETED", ""])
async def test_a_directory_object_beside_a_file_is_not_the_files(scene: Scene, events: str) -> None:
    """Where new objects are not imported, nothing makes way: the file must not go with the marker either."""
    file = await scene.cold(b"n")
    marker = (b"n", 0, b"d0", 77, b"STANDARD")
    with scene.engine.sweep(frozenset(events.split())) as sweep:
        await scene.engine.apply_listing(scene.association, [], [marker], sweep=sweep)
        assert await scene.engine.get(file.ino) == file
        assert await scene.engine.find_object(scene.assoc, b"p/n/") is None
        assert await scene.engine.remove_vanished(scene.association, b"p/n/", sweep) is None
    assert await scene.names() == [b"n"]


@pytest.mark.parametrize("events", ["CHANGED", "CHANGED DELETED"])
async def test_nothing_is_put_below_a_file(scene: Scene, events: str) -> None:
    await scene.import_(b"d/x", b"d/e/y")
    top = await scene.engine.resolve(b"/a/d")
    below = await scene.engine.resolve(b"/a/d/e")
    await scene.engine.unlink(below.ino, b"y")
    await scene.engine.unlink(top.ino, b"x")
    await scene.engine.rmdir(top.ino, b"e")
    await scene.engine.rmdir(scene.root, b"d")
    file = await scene.make(b"d")
    prepare = preparer(**preparer_options(scene.association))  # type: ignore[arg-type]
    entry = partial(prepare, size=10, etag=b"e1", mtime_ns=5, storage_class=b"STANDARD")
    found = [(b"d", [entry(b"d/x", b"x")]), (b"d/e", [entry(b"d/e/y", b"y")])]
    with scene.engine.sweep(frozenset(events.split())) as sweep:
        applied = await scene.engine.apply_listing(scene.association, found, sweep=sweep)
    assert applied.new == 0 and not await scene.engine.readdir(file.ino, b"", 10)


async def test_key_longer_than_a_table_key_keeps_its_whole_name(scene: Scene) -> None:
    long = b"/".join([b"n" * 250] * 3)
    await scene.import_(long, long + b"2")
    inode = await scene.engine.resolve(b"/a/" + long)
    found = await scene.engine.find_object(scene.assoc, b"p/" + long)
    assert found is not None and found.key == b"p/" + long == inode.source_key and found.ino == inode.ino
    await scene.engine.unlink(inode.parent, inode.name)
    lost = await scene.engine.find_lost_key(scene.assoc, b"p/" + long)
    assert lost is not None and lost.key == b"p/" + long
    assert not await scene.is_lost(long + b"2")


async def test_skipped_keys_are_listed_with_their_reason(scene: Scene) -> None:
    await scene.engine.apply_listing(scene.association, [], skipped=[(b"a//b", "empty part"), (b"k" * 900, "long")])
    assert await scene.engine.skipped(scene.association) == [(b"a//b", "empty part"), (b"k" * 900, "long")]


async def test_skipped_keys_come_in_pages(scene: Scene) -> None:
    keys = sorted([b"", *(b"d//%d" % number for number in range(5)), *(b"e" * 600 + b"//%d" % number for number in range(5))])
    await scene.engine.apply_listing(scene.association, [], skipped=[(key, "no") for key in keys])
    for below, count in ((b"", 11), (b"d", 5), (b"d//3", 1), (b"e" * 600, 5), (b"f", 0)):
        found: list[bytes] = []
        while page := await scene.engine.skipped_page(scene.association, below, found[-1] if found else b"", 2):
            found += [key for key, _ in page]
        assert sorted(found) == [key for key in keys if key.startswith(below)] and len(found) == count
    many = [(b"m//%05d" % number, "no") for number in range(1234)]
    await scene.engine.apply_listing(scene.association, [], skipped=many)
    assert len(await scene.engine.skipped(scene.association)) == 1234 + 11


async def test_headers_are_asked_for_once_and_may_tell_of_a_symlink(scene: Scene) -> None:
    await scene.import_(b"x", b"y")
    unknown, *_ = await scene.engine.unknown_headers(Ino(0), 100)
    assert [i.name for i in unknown] == [b"x", b"y"]
    x, y = unknown
    assert await scene.engine.apply_headers(x.ino, "other", AttributeChange(), None) is None
    known = await scene.engine.apply_headers(x.ino, "e0", AttributeChange(mode=0o600, uid=5), None)
    assert known is not None and (known.mode, known.uid) == (stat.S_IFREG | 0o600, 5)
    link = await scene.engine.apply_headers(y.ino, "e0", AttributeChange(mode=0o777), b"target")
    assert link is not None and link.is_symlink and link.target == b"target" and link.is_complete
    assert (await scene.engine.unknown_headers(Ino(0), 100))[0] == []


@pytest.mark.parametrize("lost", ["forgotten", "another's"])
async def test_file_without_an_object_to_ask_keeps_the_attributes_it_has(scene: Scene, lost: str) -> None:
    await scene.import_(b"x")
    file = await scene.engine.resolve(b"/a/x")
    if lost == "forgotten":
        await scene.engine.forget_object(scene.assoc, b"p/x")
    else:
        await scene.engine.rename(scene.root, b"x", scene.root, b"y")
        other = await scene.make(b"x")
        await scene.settle(other, scene.object(b"p/x", "x1"))
    assert await scene.engine.source_of(await scene.engine.get(file.ino)) is None
    assert await scene.engine.apply_headers(file.ino, "e0", AttributeChange(mode=0o600), None) is None
    known = await scene.engine.apply_headers(file.ino, "", AttributeChange(), None)
    assert known is not None and not known.flags & InodeFlag.HEADERS_UNKNOWN


async def test_vanished_object_leaves_what_is_here_and_marks_what_is_not(scene: Scene) -> None:
    cold, whole = await scene.cold(b"cold"), await scene.cold(b"whole")
    await scene.engine.put_residency(whole.ino, whole.content_version, b"", complete=True)
    for inode in (cold, whole):
        await scene.engine.object_vanished(inode.ino)
    assert (await scene.engine.get(cold.ino)).hsm & Hsm.LOST
    left = await scene.engine.get(whole.ino)
    assert left.is_complete and left.hsm & Hsm.LOST and await scene.change(whole) is Change.NONE
    assert await scene.engine.find_object(scene.assoc, b"p/whole") is not None  # for the next sweep
    await scene.engine.begin_write(whole.ino)
    await scene.export(whole)
    assert (await scene.engine.get(whole.ino)).hsm == Hsm.EXISTS | Hsm.ARCHIVED


async def test_attributes_of_a_file_whose_object_is_anothers_now_are_what_they_are(scene: Scene) -> None:
    """There is nobody to ask: unknown for ever, whoever asks for them would wait for ever."""
    await scene.import_(b"f")
    file = await scene.engine.resolve(b"/a/f")
    await scene.engine.put_residency(file.ino, file.content_version, b"", complete=True)
    await scene.engine.forget_object(scene.assoc, b"p/f")
    known = await scene.engine.apply_headers(file.ino, "", AttributeChange(), None)
    assert known is not None and not known.flags & InodeFlag.HEADERS_UNKNOWN


def dispute(scene: Scene, file: Inode, etag: str = "theirs", size: int = 3, key: bytes = b"p/cold") -> Dispute:
    """Somebody put another version, of mode 0755 and owner 7."""
    return Dispute(file.ino, scene.object(key, etag, size), b"now", b"here", (0, 0), stat.S_IFREG | 0o755, 7, 8, 9)


async def changed(scene: Scene, policy: str, key: bytes = b"cold") -> tuple[Association, Inode]:
    """A file that was imported, fetched and written."""
    file = await scene.cold(key)
    await scene.engine.begin_write(file.ino)
    await scene.engine.make_due(file.ino)
    await scene.engine.put_residency(file.ino, file.content_version, b"", complete=True)
    return replace(scene.association, on_conflict=policy), await scene.engine.get(file.ino)  # type: ignore[arg-type]


async def test_conflict_keeps_both(scene: Scene) -> None:
    association, file = await changed(scene, "keep-both")
    resolved = await scene.engine.resolve_conflict(association, dispute(scene, file))
    assert resolved is not None
    assert resolved.names == [(scene.root, b"cold"), (scene.root, b"cold.conflict-now-here")]
    theirs = await scene.engine.lookup(scene.root, b"cold")
    ours = await scene.engine.lookup(scene.root, b"cold.conflict-now-here")
    assert ours.ino == file.ino and theirs.size == 3 and not theirs.is_complete
    assert await scene.change(ours) & Change.CONTENT
    assert await scene.engine.resolve_conflict(association, dispute(scene, file, "more")) is None
    assert await scene.names() == [b"cold", b"cold.conflict-now-here"]
    conflict = resolved.conflict
    assert (conflict.kind, conflict.path, conflict.loser) == ("kept-both", "/a/cold", "/a/cold.conflict-now-here")
    assert await scene.engine.conflicts(5) == (1, [conflict])
    assert await scene.engine.conflict_of(theirs.ino) == await scene.engine.conflict_of(ours.ino) == conflict


async def test_conflicts_of_one_second_get_different_names(scene: Scene) -> None:
    association, file = await changed(scene, "keep-both")
    for number in range(3):
        assert await scene.engine.resolve_conflict(association, dispute(scene, file, f"t{number}"))
        file = await rewritten(scene)
    assert await scene.names() == [
        b"cold", b"cold.conflict-now-here", b"cold.conflict-now-here-2", b"cold.conflict-now-here-3"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"n" * 255, b"n" * 237 + b".conflict-now-here"),
        ("ü" * 127, "ü" * 118 + ".conflict-now-here"),
        ("n" + "ü" * 127, "n" + "ü" * 118 + ".conflict-now-here"),
        (b"d/" * 450 + b"n" * 122, b"n" * 104 + b".conflict-now-here"),
        (b"d/" * 450 + b"n" + "ü".encode() * 60, "n" + "ü" * 51 + ".conflict-now-here"),
        (b"d/" * 500 + b"n" * 20, b"n" * 20 + b".conflict-now-here"),
    ],
    ids=["longest", "even", "odd", "key", "key of characters", "no room"],
)
async def test_conflict_gives_a_name_that_can_be_exported(scene: Scene, key: bytes | str, expected: bytes | str) -> None:
    """No longer than names and keys may be, and not cut within a character. Where there is no room for it, it stays local."""
    key, expected = (each.encode() if isinstance(each, str) else each for each in (key, expected))
    association, file = await changed(scene, "keep-both", key)
    resolved = await scene.engine.resolve_conflict(association, dispute(scene, file, key=b"p/" + key))
    assert resolved is not None
    name = resolved.names[1][1]
    assert name == expected and name.decode()
    assert len(name) <= 255 and (len(b"p/" + key.rpartition(b"/")[0] + b"/" + name) <= 1024 or len(key) == 1020)


async def rewritten(scene: Scene) -> Inode:
    cold = await scene.engine.lookup(scene.root, b"cold")
    await scene.engine.begin_write(cold.ino)
    await scene.engine.set_size(cold.ino, 0, still_open=False)
    return await scene.engine.get(cold.ino)


async def test_the_bucket_wins_and_the_file_is_local_from_then_on(scene: Scene) -> None:
    association, file = await changed(scene, "bucket-wins")
    resolved = await scene.engine.resolve_conflict(association, dispute(scene, file))
    assert resolved is not None and resolved.conflict.loser == "/.s3lustrefs-lost+found/a/cold"
    kept = await scene.engine.resolve(b"/.s3lustrefs-lost+found/a/cold")
    assert kept.ino == file.ino and kept.is_complete and stat.S_IMODE(kept.mode) == 0o700
    assert await scene.change(kept) is Change.NONE and await scene.engine.locate(kept) is None
    assert (await scene.engine.lookup(scene.root, b"cold")).size == 3
    for path in (b"/.s3lustrefs-lost+found", b"/.s3lustrefs-lost+found/a"):
        directory = await scene.engine.resolve(path)
        assert stat.S_IMODE(directory.mode) == 0o711 and await scene.change(directory) is Change.NONE


async def test_the_file_wins_once_the_buckets_version_is_here(scene: Scene) -> None:
    association, file = await changed(scene, "file-wins")
    resolved = await scene.engine.resolve_conflict(association, dispute(scene, file))
    assert resolved is not None and resolved.conflict.loser == "/.s3lustrefs-lost+found/a/cold"
    kept = await scene.engine.resolve(b"/.s3lustrefs-lost+found/a/cold")
    assert (kept.size, kept.uid, kept.gid, kept.mtime_ns, stat.S_IMODE(kept.mode)) == (3, 7, 8, 9, 0o700)
    assert (await scene.engine.lookup(scene.root, b"cold")).ino == file.ino
    view = await scene.engine.export_view(file.ino)
    assert view is not None and view.targets[0].known is not None and view.targets[0].known.etag == "theirs"
    dependant = await scene.engine.dependant(view.targets[0].known, file.ino)
    assert dependant is not None and dependant.ino == kept.ino  # its bytes come first
    assert await scene.engine.remove_loser(kept.parent, kept.name) is None
    await scene.engine.put_residency(kept.ino, kept.content_version, b"", complete=True)
    assert await scene.engine.dependant(view.targets[0].known, file.ino) is None
    await scene.export(file)
    removed = await scene.engine.remove_loser(kept.parent, kept.name)
    assert removed is not None and not removed.inode.nlink


async def test_losers_of_one_path_and_of_a_file_that_was_a_directory_stand_side_by_side(scene: Scene) -> None:
    association, file = await changed(scene, "bucket-wins", b"x")
    assert await scene.engine.resolve_conflict(association, dispute(scene, file, key=b"p/x"))
    second = await scene.engine.lookup(scene.root, b"x")
    await scene.engine.begin_write(second.ino)
    resolved = await scene.engine.resolve_conflict(association, dispute(scene, second, "t2", key=b"p/x"))
    assert resolved is not None and resolved.conflict.loser == "/.s3lustrefs-lost+found/a/x.now"
    await scene.engine.unlink(scene.root, b"x")
    association, file = await changed(scene, "bucket-wins", b"x/y")
    resolved = await scene.engine.resolve_conflict(association, dispute(scene, file, "t3", key=b"p/x/y"))
    assert resolved is not None and resolved.conflict.loser == "/.s3lustrefs-lost+found/a/x-2/y"


async def test_nothing_is_put_among_the_losers_but_they_can_be_taken_away(scene: Scene) -> None:
    with pytest.raises(errors.NotPermitted):
        await scene.make(LOST_FOUND, ROOT_INO, DIR)
    association, file = await changed(scene, "bucket-wins")
    assert await scene.engine.resolve_conflict(association, dispute(scene, file))
    top = await scene.engine.lookup(ROOT_INO, LOST_FOUND)
    inside = await scene.engine.lookup(top.ino, b"a")
    other = await scene.make(b"other")
    for parent in (top.ino, inside.ino):
        with pytest.raises(errors.NotPermitted):
            await scene.make(b"new", parent)
        with pytest.raises(errors.NotPermitted):
            await scene.engine.link(other.ino, parent, b"new")
        with pytest.raises(errors.NotPermitted):
            await scene.engine.rename(scene.root, b"other", parent, b"new")
    with pytest.raises(errors.NotPermitted):
        await scene.engine.rename(inside.ino, b"cold", scene.root, b"other", RENAME_EXCHANGE)
    with pytest.raises(errors.NotPermitted):
        await scene.engine.rename(ROOT_INO, LOST_FOUND, ROOT_INO, b"mine")
    await scene.engine.rename(inside.ino, b"cold", scene.root, b"mine")
    mine = await scene.engine.lookup(scene.root, b"mine")
    assert await scene.change(mine) & Change.CONTENT
    assert await scene.engine.remove_loser(scene.root, b"mine") is None  # no loser any more
    for parent, name in ((top.ino, b"a"), (ROOT_INO, LOST_FOUND)):
        assert await scene.engine.remove_loser(parent, name)


async def test_what_events_told_is_not_undone_by_a_listing_from_before(scene: Scene) -> None:
    prepare = preparer(**preparer_options(scene.association))  # type: ignore[arg-type]

    def found(key: bytes, etag: bytes) -> list[tuple[bytes, list[PreparedEntry]]]:
        return [(b"", [prepare(key, key, 5, etag, 5, b"STANDARD")])]

    with scene.engine.sweep(frozenset(EVENTS)) as listing:
        with scene.engine.sweep(frozenset(EVENTS), is_told=True) as told:
            await scene.engine.apply_listing(scene.association, found(b"new", b"late"), sweep=told)
        applied = await scene.engine.apply_listing(scene.association, found(b"new", b"early"), sweep=listing)
        assert not applied.changed and not applied.appeared
        assert listing.overtaken == {object_key(scene.assoc, b"p/new")}
        assert await scene.engine.remove_vanished(scene.association, b"p/new", listing) is None
    known = await scene.engine.find_object(scene.assoc, b"p/new")
    assert known is not None and known.etag == "late"


async def test_an_object_told_of_again_is_asked_for_its_attributes(scene: Scene) -> None:
    theirs = await scene.cold(b"theirs")  # of time 5
    again = partial(scene.engine.doubt_headers, scene.assoc)
    assert await again(b"p/theirs", 14, 10) is None
    doubted = await again(b"p/theirs", 16, 10)
    assert doubted is not None and doubted.ino == theirs.ino and doubted.flags & InodeFlag.HEADERS_UNKNOWN
    assert await again(b"p/theirs", 16, 10) is None  # twice
    assert await again(b"p/none", 16, 10) is None

    ours = await scene.make(b"ours")
    await scene.export(ours)
    assert await again(b"p/ours", 100, 10) is None  # our own, whose time was not known
    assert await again(b"p/ours", 105, 10) is None
    await scene.engine.set_attributes(ours.ino, AttributeChange(mode=0o600))
    assert await again(b"p/ours", 200, 10) is None  # changed here, too
    await scene.export(ours)
    assert await again(b"p/ours", 300, 10) is None
    assert await again(b"p/ours", 400, 10) is not None


async def test_a_write_is_not_undone_by_an_answer_about_the_object_from_before(scene: Scene) -> None:
    await scene.import_(b"f")
    file = await scene.engine.resolve(b"/a/f")
    written = await scene.engine.begin_write(file.ino)
    told = AttributeChange(mode=0o777, atime_ns=1, mtime_ns=2)
    known = await scene.engine.apply_headers(file.ino, "e0", told, b"target")
    assert known is not None and known.is_file and stat.S_IMODE(known.mode) == 0o777
    assert (known.atime_ns, known.mtime_ns) == (written.atime_ns, written.mtime_ns)


async def test_what_a_listing_does_not_have_is_told_in_pages_and_costs_no_memory_once_it_is_removed(scene: Scene) -> None:
    names = [b"%04d" % number for number in range(1203)]
    long = [b"/".join([b"%03d" % number * 50] * 4) for number in range(3)]  # cut in the table
    await scene.import_(*names, *long, markers=[b"0500d"])
    expected = {b"p/" + name for name in (*names, *long, b"0500d/")} - {b"p/0000", b"p/0700", b"p/1202"}
    listed = {object_key(scene.assoc, b"p/0700")}
    with scene.engine.sweep(frozenset(EVENTS)) as sweep:
        found, pages, after = [], 0, b""
        while True:
            span = (b"p/0000", b"p/1201")
            page, reached = await scene.engine.vanished_suspects(scene.association, b"p/", span, listed, sweep, after)
            assert len(page) <= 500 and (reached is None or all(key <= reached for key in page))
            for key in page:
                assert await scene.engine.remove_vanished(scene.association, key, sweep)
            found += page
            pages += 1
            if reached is None:
                break
            after = reached
        assert set(found) == {key for key in expected if b"p/0000" < key <= b"p/1201"} and len(found) == len(set(found))
        assert pages == 3 and not sweep.touched
    assert {name for name, _ in await scene.engine.readdir(scene.root, b"", 2000)} >= {b"0000", b"0700", b"1202"}


async def test_notes_of_skipped_keys_are_dropped_in_pages(scene: Scene) -> None:
    skipped = [(b"x//%04d" % number, "why") for number in range(1100)]
    await scene.engine.apply_listing(scene.association, [], skipped=skipped)
    listed = {object_key(scene.assoc, key) for key in (b"p/x//0003", b"p/x//1001")}
    after: bytes | None = b""
    pages = 0
    while after is not None:
        after = await scene.engine.forget_skipped(scene.association, b"p/", (b"", None), listed, after)
        pages += 1
    assert pages == 3 and [key for key, _ in await scene.engine.skipped(scene.association)] == [b"x//0003", b"x//1001"]


async def test_an_object_seen_since_a_listing_began_is_not_forgotten_by_it(scene: Scene) -> None:
    with scene.engine.sweep(frozenset(EVENTS)) as sweep:
        await scene.engine.observe_object(scene.object(b"p/f", "sent"))
        assert await scene.engine.find_lost_key(scene.assoc, b"p/f") is not None
        record = await scene.engine.find_lost_key(scene.assoc, b"p/f")
        assert record is not None and await scene.engine.finish(record)
        assert await scene.engine.remove_vanished(scene.association, b"p/f", sweep) is None
    assert sweep.overtaken == {object_key(scene.assoc, b"p/f")}
    assert await scene.engine.find_object(scene.assoc, b"p/f") is not None


# --- associations --------------------------------------------------------------------------------------------------------------


async def test_associations_make_their_directories_and_are_updated(scene: Scene) -> None:
    second = await scene.engine.link_association(Association("/b/c", "other", "", association_id="dra-2"))
    assert [a.assoc_id for a in scene.engine.associations()] == [1, 2]
    assert (await scene.engine.resolve(b"/b/c")).ino == second.root_ino
    with pytest.raises(errors.NotPermitted):
        await scene.engine.rename(ROOT_INO, b"b", ROOT_INO, b"x")
    await scene.engine.update_association(replace(second, auto_export=frozenset()))
    found = scene.engine.association(second.assoc_id)
    assert found is not None and not found.auto_export
    await scene.make(b"f", ROOT_INO)
    with pytest.raises(errors.ConfigError):
        await scene.engine.link_association(Association("/f/g", "third", "", association_id="dra-3"))
    assert scene.engine.association(AssocId(3)) is None


async def test_the_version_and_class_that_a_head_named_are_remembered_while_listings_tell_the_same_object(scene: Scene) -> None:
    await scene.import_(b"f")
    inode = await scene.engine.resolve(b"/a/f")
    await scene.engine.apply_headers(inode.ino, "e0", AttributeChange(), None, "version 1", "GLACIER")
    await scene.import_(b"f")
    source = await scene.engine.source_of(inode)
    assert source is not None
    assert (source.version_id, source.storage_class) == ("version 1", "GLACIER")
    await scene.import_(b"f", etag=b"e1")
    source = await scene.engine.source_of(await scene.engine.resolve(b"/a/f"))
    assert source is not None
    assert (source.etag, source.version_id, source.storage_class) == ("e1", "", "STANDARD")


# --- what the FSx API alone knows -------------------------------------------------------------------------------------------


async def test_file_system_and_tags_are_kept(tmp_path: Path) -> None:
    record = FileSystemRecord("fs-0123456789abcdef0", 5, "eu-central-1", {"LustreConfiguration": {"DataCompressionType": "LZ4"}})
    store = Store(tmp_path / "meta", boot_id="boot")
    engine = LmdbEngine(store)
    assert engine.file_system() is None and engine.tags("fs-1") == {}
    await engine.update_file_system(record)
    await engine.set_tags("fs-1", {"b": "2", "a": "ä"})
    await engine.set_tags("fs-2", {"c": ""})
    await engine.set_tags("fs-2", {})
    await store.close()
    again = LmdbEngine(Store(tmp_path / "meta", boot_id="boot"))
    assert again.file_system() == record
    assert list(again.tags("fs-1").items()) == [("a", "ä"), ("b", "2")] and again.tags("fs-2") == {}


async def test_request_is_remembered_with_what_it_did_and_the_oldest_are_forgotten(scene: Scene) -> None:
    for number in range(1005):
        asked = Asked(f"token-{number}", "UpdateDataRepositoryAssociation", {"S3": str(number)}, at_ns=number)
        await scene.engine.update_association(replace(scene.association, imported_file_chunk_size_mib=number + 1), asked)
    assert scene.engine.find_asked("token-1004") == asked
    assert scene.engine.find_asked("token-3") is None
    (association,) = scene.engine.associations()
    assert association.imported_file_chunk_size_mib == 1005


# --- HSM requests --------------------------------------------------------------------------------------------------------


async def test_archiving_is_ordered_once_and_withdrawn(scene: Scene) -> None:
    file = await scene.make(b"f")
    record = await scene.engine.find_journal(file.ino)
    assert record is not None
    await scene.engine.exclude(record)
    assert (await scene.engine.get(file.ino)).flags & InodeFlag.EXCLUDED
    assert await scene.engine.order_archive(file.ino)
    assert await scene.change(file) & (Change.ORDERED | Change.CONTENT) == Change.HSM_ORDERED | Change.CONTENT
    assert not (await scene.engine.get(file.ino)).flags & InodeFlag.EXCLUDED
    await scene.engine.withdraw_order(file.ino)
    assert not await scene.change(file) & Change.ORDERED
    await scene.engine.order_archive(file.ino)
    await scene.export(file)
    assert not await scene.engine.order_archive(file.ino)


async def test_archiving_an_open_file_waits_for_its_close(scene: Scene) -> None:
    file = await scene.make(b"f", open_for_write=True)
    assert await scene.engine.order_archive(file.ino)
    record = await scene.engine.find_journal(file.ino)
    assert record is not None and record.state is JournalState.OPEN and record.change & Change.ORDERED


async def test_what_cannot_be_archived(scene: Scene) -> None:
    outside = await scene.make(b"outside", ROOT_INO)
    with pytest.raises(errors.NotInRepository):
        await scene.engine.order_archive(outside.ino)
    file = await scene.make(b"f")
    await scene.engine.set_hsm_flags(file.ino, Hsm.NOARCHIVE, Hsm.NONE)
    with pytest.raises(errors.NotPermitted, match="never_archive"):
        await scene.engine.order_archive(file.ino)
    cold = await scene.cold()
    await scene.engine.object_vanished(cold.ino)
    assert await scene.engine.order_archive((await scene.make(b"g")).ino)
    with pytest.raises(errors.NotPermitted, match="lost"):
        await scene.engine.order_archive(cold.ino)
    with pytest.raises(errors.InvalidArgument):
        await scene.engine.order_archive((await scene.make(b"d", mode=DIR)).ino)
    with pytest.raises(errors.StaleInode):
        await scene.engine.order_archive(GONE)


async def test_a_file_whose_object_vanished_is_archived_anew(scene: Scene) -> None:
    file = await scene.make(b"f")
    await scene.export(file)
    await scene.engine.object_vanished(file.ino)
    assert await scene.engine.order_archive(file.ino)
    assert await scene.change(file) & Change.CONTENT
    ordered = await scene.engine.get(file.ino)
    assert ordered.hsm & (Hsm.DIRTY | Hsm.LOST) == Hsm.DIRTY | Hsm.LOST
    with pytest.raises(errors.NotPermitted):
        await scene.engine.release_content(file.ino)
    await scene.export(ordered)
    assert (await scene.engine.get(file.ino)).hsm == Hsm.EXISTS | Hsm.ARCHIVED


async def test_a_removed_copy_is_nobodys_and_its_key_due(scene: Scene) -> None:
    file = await scene.make(b"f")
    await scene.engine.link(file.ino, scene.root, b"g")
    await scene.export(file)
    assert await scene.engine.order_remove(file.ino, file.content_version)
    left = await scene.engine.get(file.ino)
    assert not left.hsm and not left.source_assoc and left.flags & InodeFlag.EXCLUDED and await scene.change(file) is Change.NONE
    for key in (b"p/f", b"p/g"):
        known = await scene.engine.find_object(scene.assoc, key)
        record = await scene.engine.find_lost_key(scene.assoc, key)
        assert known is not None and known.ino == 0
        assert record is not None and record.change & Change.ORDERED and record.state is JournalState.DUE
    assert not await scene.engine.order_remove(file.ino, file.content_version)


async def test_what_cannot_be_removed(scene: Scene) -> None:
    cold = await scene.cold()
    with pytest.raises(errors.NotPermitted, match="released"):
        await scene.engine.order_remove(cold.ino, cold.content_version)
    file = await scene.make(b"f")
    await scene.export(file)
    await scene.engine.begin_write(file.ino)
    with pytest.raises(errors.InUse):
        await scene.engine.order_remove(file.ino, file.content_version)
    again = await scene.cold(b"again")
    await scene.engine.put_residency(again.ino, again.content_version, b"", complete=True)
    released = await scene.engine.release_content(again.ino)
    await scene.engine.put_residency(again.ino, released.content_version, b"", complete=True)
    with pytest.raises(errors.InUse):
        await scene.engine.order_remove(again.ino, again.content_version)
    assert await scene.engine.order_remove(again.ino, released.content_version)
    assert not await scene.engine.order_remove((never := await scene.make(b"never")).ino, never.content_version)


async def test_a_name_made_anew_keeps_an_ordered_removal_away(scene: Scene) -> None:
    file = await scene.make(b"f")
    await scene.export(file)
    await scene.engine.order_remove(file.ino, file.content_version)
    await scene.engine.order_archive(file.ino)
    await scene.export(file)
    known = await scene.engine.find_object(scene.assoc, b"p/f")
    assert known is not None and known.ino == file.ino  # what the exporter looks at before it deletes


async def test_flags_are_set_and_cleared(scene: Scene) -> None:
    file = await scene.make(b"f")
    await scene.export(file)
    pinned = await scene.engine.set_hsm_flags(file.ino, Hsm.NORELEASE | Hsm.NOARCHIVE, Hsm.NONE)
    assert pinned.hsm == Hsm.EXISTS | Hsm.ARCHIVED | Hsm.NORELEASE | Hsm.NOARCHIVE and await scene.change(file) is Change.NONE
    with pytest.raises(errors.NotPermitted):
        await scene.engine.release_content(file.ino)
    dirty = await scene.engine.set_hsm_flags(file.ino, Hsm.DIRTY, Hsm.NORELEASE)
    assert dirty.hsm == Hsm.EXISTS | Hsm.ARCHIVED | Hsm.DIRTY | Hsm.NOARCHIVE and await scene.change(file) is Change.CONTENT
    record = await scene.engine.find_journal(file.ino)
    assert record is not None
    await scene.engine.exclude(record)
    await scene.engine.set_hsm_flags(file.ino, Hsm.NONE, Hsm.NOARCHIVE)
    assert await scene.change(file) & Change.CONTENT


@pytest.mark.parametrize(
    ("add", "drop", "raised"),
    [
        (Hsm.DIRTY, Hsm.NONE, errors.InvalidArgument),
        (Hsm.NONE, Hsm.ARCHIVED, errors.InvalidArgument),
        (Hsm.NONE, Hsm.EXISTS, errors.InvalidArgument),
        (Hsm.NONE, Hsm.EXISTS | Hsm.ARCHIVED, errors.InvalidArgument),
    ],
)
async def test_flags_that_a_released_file_cannot_have(scene: Scene, add: Hsm, drop: Hsm, raised: type[Exception]) -> None:
    cold = await scene.cold()
    with pytest.raises(raised):
        await scene.engine.set_hsm_flags(cold.ino, add, drop)
    assert (await scene.engine.get(cold.ino)).hsm == Hsm.EXISTS | Hsm.ARCHIVED


async def test_a_change_that_is_only_here_cannot_be_called_clean(scene: Scene) -> None:
    file = await scene.make(b"f")
    await scene.export(file)
    await scene.engine.begin_write(file.ino)
    with pytest.raises(errors.NotPermitted):
        await scene.engine.set_hsm_flags(file.ino, Hsm.NONE, Hsm.DIRTY)
    with pytest.raises(errors.NotPermitted):
        await scene.engine.set_hsm_flags((await scene.make(b"g")).ino, Hsm.EXISTS | Hsm.ARCHIVED, Hsm.NONE)


async def test_an_archived_flag_that_is_cleared_forgets_the_object(scene: Scene) -> None:
    file = await scene.make(b"f")
    await scene.export(file)
    left = await scene.engine.set_hsm_flags(file.ino, Hsm.NONE, Hsm.EXISTS | Hsm.ARCHIVED)
    known = await scene.engine.find_object(scene.assoc, b"p/f")
    assert not left.hsm and not left.source_assoc and known is not None and known.ino == 0
    assert await scene.engine.find_lost_key(scene.assoc, b"p/f") is None


async def test_a_file_written_off_is_asked_for_again_once_the_flag_goes(scene: Scene) -> None:
    cold = await scene.cold()
    lost = await scene.engine.set_hsm_flags(cold.ino, Hsm.LOST, Hsm.NONE)
    assert lost.hsm & Hsm.LOST and lost.flags & InodeFlag.WRITTEN_OFF
    pinned = await scene.engine.set_hsm_flags(cold.ino, Hsm.NORELEASE, Hsm.NONE)
    assert pinned.flags & InodeFlag.WRITTEN_OFF
    found = await scene.engine.set_hsm_flags(cold.ino, Hsm.NONE, Hsm.LOST)
    assert not found.hsm & Hsm.LOST and not found.flags & InodeFlag.WRITTEN_OFF


async def test_only_who_says_that_a_file_is_lost_writes_it_off(scene: Scene) -> None:
    cold = await scene.cold()
    await scene.engine.object_vanished(cold.ino)
    pinned = await scene.engine.set_hsm_flags(cold.ino, Hsm.NORELEASE, Hsm.NONE)
    assert pinned.hsm & Hsm.LOST and not pinned.flags & InodeFlag.WRITTEN_OFF


async def test_a_file_is_not_called_found_while_no_object_is_known_that_has_its_bytes(scene: Scene) -> None:
    cold = await scene.cold()
    await scene.engine.object_vanished(cold.ino)
    await scene.engine.forget_object(scene.assoc, b"p/cold")
    with pytest.raises(errors.NotPermitted, match="no object"):
        await scene.engine.set_hsm_flags(cold.ino, Hsm.NONE, Hsm.LOST)
    assert (await scene.engine.get(cold.ino)).hsm & Hsm.LOST


async def test_a_changed_file_that_is_detached_is_exported_once(scene: Scene) -> None:
    file = await scene.make(b"f")
    await scene.export(file)
    await scene.engine.begin_write(file.ino)
    await scene.engine.make_due(file.ino)
    left = await scene.engine.set_hsm_flags(file.ino, Hsm.NONE, Hsm.ARCHIVED)
    assert left.hsm == Hsm.EXISTS and not left.flags & InodeFlag.EXCLUDED and await scene.change(file) & Change.CONTENT
    await scene.export(left)
    assert not (await scene.engine.get(file.ino)).flags & InodeFlag.EXCLUDED
