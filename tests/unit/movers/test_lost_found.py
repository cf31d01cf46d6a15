"""Which losers of conflicts are taken away, and when; the clock is a number."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.meta.check import check_engine
from s3lustrefs.meta.conflicts import Dispute
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.schema import ObjectRecord
from s3lustrefs.meta.store import Store
from s3lustrefs.model.association import Association
from s3lustrefs.model.ids import Ino
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.movers.lost_found import LostFound
from s3lustrefs.movers.removals import Removals
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.room import Room

MIB = 1 << 20
HOUR, DAY = 3600.0, 86400.0


class Attic:
    """An engine whose clock stands still, and what fills lost+found."""

    def __init__(self, engine: LmdbEngine, association: Association, chunks: ChunkStore, clock: list[float]) -> None:
        self.engine = engine
        self.association = association
        self.chunks = chunks
        self.clock = clock

    async def lose(self, name: bytes, size: int) -> None:
        file = await self.engine.create(Ino(self.association.root_ino), name, stat.S_IFREG | 0o644, 0, 0)
        await self.engine.set_size(file.ino, size, still_open=False)
        seen = ObjectRecord(self.association.assoc_id, b"p/" + name, Ino(0), "theirs", 3)
        dispute = Dispute(file.ino, seen, b"now", b"here", (0, 0), stat.S_IFREG | 0o644, 0, 0, 0)
        assert await self.engine.resolve_conflict(self.association, dispute)

    def keeper(self, keep_seconds: float, most_bytes: int | None) -> LostFound:
        async def unchanged(_: Ino) -> bool:
            return True

        hydrator = Hydrator(self.engine, self.chunks, Repositories(), unchanged, lambda _: None, Room(self.chunks))
        removals = Removals(self.chunks, hydrator, lambda _: None, lambda _: None)
        return LostFound(
            self.engine, self.chunks, removals,
            keep_seconds=keep_seconds, most_bytes=most_bytes, wall_ns=lambda: int(self.clock[0] * 1e9),
        )  # fmt: skip


@pytest.fixture
async def attic(tmp_path: Path) -> AsyncIterator[Attic]:
    clock = [1000.0]
    store = Store(tmp_path / "meta", boot_id="boot")
    engine = LmdbEngine(store, clock_ns=lambda: int(clock[0] * 1e9))
    association = await engine.link_association(
        Association("/a", "bucket", "p/", association_id="dra-1", on_conflict="bucket-wins")
    )
    chunks = ChunkStore([tmp_path / "data"])
    chunks.open_()
    yield Attic(engine, association, chunks, clock)
    assert check_engine(store) == []
    await store.close()
    chunks.close()


async def kept(found: LostFound) -> tuple[int, int]:
    await found.purge()
    statistics = await found.statistics()
    return statistics.files, statistics.bytes


async def test_losers_go_when_they_are_old_and_directories_with_the_last(attic: Attic) -> None:
    keeper = attic.keeper(30 * DAY, None)
    await attic.lose(b"old", MIB)
    attic.clock[0] += 10 * DAY
    await attic.lose(b"new", MIB)
    attic.clock[0] += 15 * DAY
    assert await kept(keeper) == (2, 2 * MIB)
    assert (await keeper.statistics()).oldest_seconds == 25 * DAY
    attic.clock[0] += 6 * DAY
    assert await kept(keeper) == (1, MIB)
    attic.clock[0] += 10 * DAY
    assert await kept(keeper) == (0, 0)
    assert [name for name, _ in await attic.engine.readdir(Ino(1), b"", 10)] == [b"a"]
    assert (await keeper.statistics()).purged == 2


async def test_too_many_bytes_cost_the_oldest_once_they_could_be_looked_at(attic: Attic) -> None:
    keeper = attic.keeper(0, 3 * MIB)
    for number in range(5):
        await attic.lose(b"%d" % number, MIB)
        attic.clock[0] += HOUR
    assert await kept(keeper) == (5, 5 * MIB)
    attic.clock[0] += DAY - 4.5 * HOUR  # only the first is a day old
    assert await kept(keeper) == (4, 4 * MIB)
    attic.clock[0] += DAY
    assert await kept(keeper) == (3, 3 * MIB)
    names = [
        name for name, _ in await attic.engine.readdir((await attic.engine.resolve(b"/.s3lustrefs-lost+found/a")).ino, b"", 10)
    ]
    assert names == [b"2", b"3", b"4"]
    attic.clock[0] += 1000 * DAY
    assert await kept(keeper) == (3, 3 * MIB)
