"""What the kernel is told, and whose bytes go, once names are gone from the table."""

from __future__ import annotations

import stat
from pathlib import Path

from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.store import Store
from s3lustrefs.model.events import DentryInvalidation, InodeInvalidation, Invalidation
from s3lustrefs.model.ids import ROOT_INO, Ino
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.movers.removals import Removals
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.room import Room


async def test_only_files_without_a_name_that_nobody_has_open_lose_their_bytes(tmp_path: Path) -> None:
    async def unchanged(_: Ino) -> bool:
        return True

    in_use: set[Ino] = set()
    told: list[Invalidation] = []
    nameless: list[Ino] = []
    store = Store(tmp_path / "meta", boot_id="boot")
    engine = LmdbEngine(store, in_use=in_use.__contains__)
    chunks = ChunkStore([tmp_path / "data"])
    chunks.open_()
    hydrator = Hydrator(engine, chunks, Repositories(), unchanged, lambda _: None, Room(chunks))
    removals = Removals(chunks, hydrator, nameless.append, told.append)
    inos: dict[bytes, Ino] = {}
    for name in (b"last", b"open", b"twice"):
        inode = await engine.create(ROOT_INO, name, stat.S_IFREG | 0o644, 0, 0)
        await chunks.write(inode.ino, inode.content_version, inode.chunk_bytes, 0, b"bytes")
        await engine.set_size(inode.ino, 5, still_open=False)
        inos[name] = inode.ino
    await engine.create(ROOT_INO, b"directory", stat.S_IFDIR | 0o755, 0, 0)
    await engine.link(inos[b"twice"], ROOT_INO, b"other name")
    in_use.add(inos[b"open"])

    names = [b"last", b"open", b"twice", b"directory"]
    removals.follow(ROOT_INO, await engine.remove_entries(ROOT_INO, names))
    assert {each for each in told if isinstance(each, DentryInvalidation)} == {DentryInvalidation(ROOT_INO, name) for name in names}
    assert [each for each in told if isinstance(each, InodeInvalidation)] == [
        InodeInvalidation(inos[b"twice"], content=False),
        InodeInvalidation(ROOT_INO, content=False),
    ]
    assert nameless == [inos[b"open"]]
    await chunks.sync_dirty()
    chunks.table_is_durable(True)
    await chunks.remove_condemned()
    assert {file.key.ino for file in chunks.chunk_files()} == {inos[b"open"], inos[b"twice"]}

    told.clear()
    removals.follow(ROOT_INO, await engine.remove_entries(ROOT_INO, [b"gone already"]))
    assert told == []
    chunks.close()
    await store.close()
