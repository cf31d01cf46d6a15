"""The suite for every metadata engine: directories of a file cache that nobody has looked into. Each test checks the table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from s3lustrefs.meta import records
from s3lustrefs.meta.attributes import AttributeChange
from s3lustrefs.meta.check import check_engine
from s3lustrefs.meta.listing import Applied, PreparedEntry, Sweep, preparer, preparer_options
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.repair import import_again
from s3lustrefs.meta.store import Store
from s3lustrefs.model.association import EVENTS, Association
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode, InodeFlag
from tests.contract.test_engine import DIR, Scene

ALL = frozenset(EVENTS)


class Lazy(Scene):
    """`/a` is a directory of a file cache."""

    async def list_(self, directory: bytes, *names: bytes, below: Sequence[bytes] = (), etag: bytes = b"e0") -> Applied:
        """A whole listing of one directory: objects in it, and its subdirectories."""
        groups = [(directory, [self.entry(directory, name, etag) for name in names])]
        base = directory + b"/" if directory else b""
        applied = await self.engine.apply_listing(self.association, groups, directories=[base + name for name in below])
        await self.engine.note_listed(self.association, directory)
        return applied

    def entry(self, directory: bytes, name: bytes, etag: bytes) -> PreparedEntry:
        prepare = preparer(**preparer_options(self.association))  # type: ignore[arg-type]
        return prepare(directory + b"/" + name if directory else name, name, 10, etag, 5, b"STANDARD")

    async def sweep(
        self, *keys: bytes, markers: Sequence[bytes] = (), etag: bytes = b"e0", events: frozenset[str] = ALL
    ) -> Applied:
        """What a sweep finds."""
        groups = []
        for key in keys:
            directory, _, name = key.rpartition(b"/")
            groups.append((directory, [self.entry(directory, name, etag)]))
        found = [(marker, 0, b"d0", 5, b"STANDARD") for marker in markers]
        return await self.engine.apply_listing(self.association, groups, found, sweep=Sweep(events, set()))

    async def at(self, path: bytes) -> Inode:
        return await self.engine.resolve(b"/a/" + path if path else b"/a")

    async def is_unlisted(self, path: bytes) -> bool:
        return bool((await self.at(path)).flags & InodeFlag.UNLISTED)


@pytest.fixture
async def lazy(tmp_path: Path) -> AsyncIterator[Lazy]:
    store = Store(tmp_path / "meta", boot_id="boot")
    in_use: set[Ino] = set()
    engine = LmdbEngine(store, in_use=in_use.__contains__)
    association = await engine.link_association(Association("/a", "bucket", "p/", association_id="dra-1", is_lazy=True))
    yield Lazy(engine, association, in_use)
    assert check_engine(store) == []
    await store.close()


async def test_each_directory_is_unlisted_until_it_was_listed(lazy: Lazy) -> None:
    assert await lazy.is_unlisted(b"")
    applied = await lazy.list_(b"", b"x", below=[b"d", b"e"])
    assert applied.new == 1 and await lazy.names() == [b"d", b"e", b"x"]
    assert not await lazy.is_unlisted(b"") and await lazy.is_unlisted(b"d")
    assert (await lazy.at(b"d")).flags & InodeFlag.HEADERS_UNKNOWN
    assert await lazy.engine.note_listed(lazy.association, b"d") == (await lazy.at(b"d")).ino
    assert await lazy.engine.note_listed(lazy.association, b"d") is None
    assert await lazy.engine.note_listed(lazy.association, b"gone") is None
    made = await lazy.make(b"ours", mode=DIR)
    assert not made.flags & InodeFlag.UNLISTED
    outside = await lazy.engine.link_association(Association("/b/c", "bucket", "q/", association_id="dra-2", is_lazy=True))
    flags = [(await lazy.engine.resolve(path)).flags & InodeFlag.UNLISTED for path in (b"/b", b"/b/c")]
    assert flags == [InodeFlag.NONE, InodeFlag.UNLISTED] and outside.is_lazy


async def test_sweep_brings_names_only_where_somebody_has_looked(lazy: Lazy) -> None:
    assert not (await lazy.sweep(b"x", b"d/x")).appeared and await lazy.names() == []
    await lazy.list_(b"", b"x", below=[b"d"])
    applied = await lazy.sweep(b"x", b"y", b"d/x", b"d/e/x", b"new/er/x", markers=[b"d/e", b"m", b"m/n"])
    assert {name for _, name in applied.appeared} == {b"y", b"new", b"m"}
    assert await lazy.names() == [b"d", b"m", b"new", b"x", b"y"]
    for name in (b"d", b"new", b"m"):
        assert await lazy.is_unlisted(name) and await lazy.names((await lazy.at(name)).ino) == []
    assert await lazy.engine.skipped(lazy.association) == []


async def test_sweep_that_takes_nothing_new_makes_no_directory(lazy: Lazy) -> None:
    await lazy.list_(b"", b"x", below=[b"d"])
    await lazy.sweep(b"y", b"d/x", b"new/x", markers=[b"m"], events=frozenset({"CHANGED", "DELETED"}))
    assert await lazy.names() == [b"d", b"x"]


async def test_sweep_follows_changes_where_somebody_has_looked(lazy: Lazy) -> None:
    await lazy.list_(b"", below=[b"d", b"e"])
    await lazy.list_(b"d", b"x")
    await lazy.engine.apply_listing(lazy.association, [(b"e", [lazy.entry(b"e", b"x", b"e0")])])  # and then the daemon died
    applied = await lazy.sweep(b"d/x", b"e/x", etag=b"e1")
    assert applied.changed == [(await lazy.at(b"d/x")).ino]
    await lazy.list_(b"e", b"x", etag=b"e1")
    assert (await lazy.engine.source_of(await lazy.at(b"e/x"))).etag == "e1"  # type: ignore[union-attr]


async def test_directory_that_was_moved_away_is_not_made_again_by_its_own_objects(lazy: Lazy) -> None:
    await lazy.list_(b"", below=[b"d"])
    await lazy.list_(b"d", b"x")
    await lazy.engine.rename(lazy.root, b"d", lazy.root, b"moved")
    assert not (await lazy.sweep(b"d/x")).appeared and await lazy.names() == [b"moved"]
    await lazy.sweep(b"d/x", b"d/new")
    assert await lazy.names() == [b"d", b"moved"] and await lazy.is_unlisted(b"d")
    await lazy.list_(b"d", b"x", b"new")
    assert await lazy.names((await lazy.at(b"d")).ino) == [b"new"]


async def test_file_in_the_way_of_a_directory_is_dealt_with_as_ever(lazy: Lazy) -> None:
    await lazy.list_(b"", b"d")
    await lazy.sweep(b"d/x")
    assert (await lazy.at(b"d")).is_dir
    assert await lazy.is_unlisted(b"d")


async def test_directory_whose_object_is_gone_stays_while_nobody_has_looked_into_it(lazy: Lazy) -> None:
    await lazy.list_(b"", below=[b"d"])
    await lazy.sweep(markers=[b"d"])
    known = await lazy.engine.find_object(lazy.assoc, b"p/d/")
    assert known is not None
    assert await lazy.engine.remove_vanished(lazy.association, b"p/d/", Sweep(ALL, set())) is None
    assert await lazy.names() == [b"d"] and await lazy.engine.find_object(lazy.assoc, b"p/d/") is None
    await lazy.sweep(markers=[b"d"])
    await lazy.list_(b"d")
    removed = await lazy.engine.remove_vanished(lazy.association, b"p/d/", Sweep(ALL, set()))
    assert removed is not None and await lazy.names() == []


async def test_what_the_owner_of_a_directory_was_changed_to_here_stays(lazy: Lazy) -> None:
    await lazy.list_(b"", below=[b"d"])
    directory = await lazy.at(b"d")
    await lazy.engine.apply_headers(directory.ino, "", AttributeChange(), None)
    await lazy.engine.set_attributes(directory.ino, AttributeChange(mode=0o40700))
    record = await lazy.engine.find_journal(directory.ino)
    assert record is not None
    await lazy.engine.exclude(record)
    await lazy.engine.apply_listing(lazy.association, [], [(b"d", 0, b"d0", 5, b"STANDARD")])
    assert not (await lazy.at(b"d")).flags & InodeFlag.HEADERS_UNKNOWN and (await lazy.at(b"d")).mode & 0o777 == 0o700


async def test_after_a_repair_everything_is_to_be_listed_again(lazy: Lazy) -> None:
    await lazy.list_(b"", b"x", below=[b"d"])
    await lazy.list_(b"d", b"y", below=[b"e"])
    await lazy.make(b"ours", mode=DIR)
    eager = await lazy.engine.link_association(Association("/b", "bucket", "q/", association_id="dra-2"))
    import_again(lazy.engine._store)  # type: ignore[attr-defined]
    assert all([await lazy.is_unlisted(path) for path in (b"", b"d", b"d/e", b"ours")])
    assert not (await lazy.engine.get(Ino(eager.root_ino))).flags & InodeFlag.UNLISTED
    assert await lazy.names() == [b"d", b"ours", b"x"]
    await lazy.list_(b"", b"x", below=[b"d"])
    assert await lazy.names() == [b"d", b"ours", b"x"] and await lazy.is_unlisted(b"d")


async def test_only_directories_are_unlisted(lazy: Lazy, tmp_path: Path) -> None:
    await lazy.list_(b"", b"x")
    store: Store = lazy.engine._store  # type: ignore[attr-defined]
    inode = await lazy.at(b"x")
    for flags in (inode.flags | InodeFlag.UNLISTED, inode.flags):
        with store.begin() as txn:
            records.put_inode(txn, replace(inode, flags=flags))
        assert any("UNLISTED" in finding for finding in check_engine(store)) == bool(flags & InodeFlag.UNLISTED)
