"""Readers and the background at the same bucket: who waits for whom, and whose patience ends when."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from s3lustrefs import errors
from s3lustrefs.meta.schema import ObjectRecord
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import AssocId, Ino
from s3lustrefs.model.inode import Inode, InodeFlag
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.movers.repositories import Repositories

SIZE = 8 << 20
"""One range."""
PATIENCE_SECONDS = 60.0
ASSOC = AssocId(1)


def cold(ino: int) -> Inode:
    return Inode(
        Ino(ino), 0o100644, 0, 0, 1, SIZE, 0, 0, 0,
        hsm=Hsm.EXISTS | Hsm.ARCHIVED, flags=InodeFlag.PARTIAL, chunk_bytes=1 << 30, source_assoc=ASSOC, source_key=b"k",
    )  # fmt: skip


@dataclass
class Parts:
    """Stands for table, chunks, room and bucket. An answer takes `seconds`; the first of `hanging` requests get none."""

    seconds: float = 1.0
    hanging: int = 0
    asked: int = 0
    resident: list[Ino] = field(default_factory=list)

    async def get(self, ino: Ino) -> Inode:
        return cold(ino)

    async def get_residency(self, inode: Inode) -> bytes:
        return b""

    async def source_of(self, inode: Inode) -> ObjectRecord:
        return ObjectRecord(ASSOC, b"k", inode.ino, "e", SIZE)

    async def put_residency(self, ino: Ino, version: int, extents: bytes, *, complete: bool) -> None:
        assert complete
        self.resident.append(ino)

    @contextmanager
    def pinned(self, *place: object) -> Iterator[tuple[int, int]]:
        yield 0, 0

    async def ensure(self, wanted_bytes: int) -> None: ...

    def patience(self) -> None: ...

    async def get_range(self, *what: object) -> bool:
        self.asked += 1
        await trio.sleep(1e9 if self.asked <= self.hanging else self.seconds)
        return True


@dataclass
class Scene:
    hydrator: Hydrator
    parts: Parts
    nursery: trio.Nursery
    failed: list[Exception] = field(default_factory=list)

    async def fetch(self, ino: int, *, demand: bool) -> None:
        await self.hydrator.ensure(cold(ino), 0, SIZE, demand=demand)

    async def try_(self, ino: int, demand: bool) -> None:
        try:
            await self.fetch(ino, demand=demand)
        except errors.S3LustreError as exc:
            self.failed.append(exc)

    async def read_on(self, ino: int) -> None:
        """One file after the other."""
        while True:
            await self.fetch(ino, demand=True)
            ino += 1000


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    parts: Any = Parts()
    repositories = Repositories()
    repositories.connect(ASSOC, parts)

    async def unchanged(_: Ino) -> bool:
        return True

    hydrator = Hydrator(parts, parts, repositories, unchanged, lambda _: None, parts, patience_seconds=PATIENCE_SECONDS)
    async with trio.open_nursery() as nursery:
        await nursery.start(hydrator.run)
        yield Scene(hydrator, parts, nursery)
        nursery.cancel_scope.cancel()


async def test_the_background_comes_to_an_end_however_many_readers_wait(autojump_clock: object, scene: Scene) -> None:
    for number in range(1, 201):
        scene.nursery.start_soon(scene.read_on, 1000 + number)
    await trio.sleep(10)
    with trio.fail_after(5):
        await scene.fetch(1, demand=False)


async def test_waiting_for_a_slot_costs_the_background_no_patience(autojump_clock: object, scene: Scene) -> None:
    scene.parts.seconds = 50.0
    async with trio.open_nursery() as nursery:
        for number in range(1, 201):
            nursery.start_soon(scene.try_, number, False)
    assert not scene.failed and len(scene.parts.resident) == 200 and trio.current_time() > 2 * PATIENCE_SECONDS


async def test_a_background_fetch_that_waits_goes_first_once_a_reader_wants_it(autojump_clock: object, scene: Scene) -> None:
    scene.parts.seconds = 50.0
    for number in range(1, 201):
        scene.nursery.start_soon(scene.try_, number, False)
    await trio.sleep(1)
    with trio.fail_after(51):
        await scene.fetch(200, demand=True)
    assert not scene.failed and scene.parts.resident.count(Ino(200)) == 1


async def test_a_reader_has_patience_of_its_own_with_a_fetch_under_way(autojump_clock: object, scene: Scene) -> None:
    scene.parts.seconds = PATIENCE_SECONDS + 10
    scene.nursery.start_soon(scene.try_, 1, False)
    await trio.sleep(PATIENCE_SECONDS / 2)
    await scene.fetch(1, demand=True)
    assert not scene.failed and scene.parts.asked == 1


@pytest.mark.parametrize("first_is_demand", [True, False])
async def test_readers_and_the_background_do_not_give_up_for_each_other(
    autojump_clock: object, scene: Scene, *, first_is_demand: bool
) -> None:
    scene.parts.hanging = 1
    with pytest.raises(errors.RepositoryUnavailable):
        await scene.fetch(1, demand=first_is_demand)
    if first_is_demand:
        with pytest.raises(errors.RepositoryUnavailable):
            await scene.fetch(1, demand=True)  # what the kernel asks a second time
        assert scene.parts.asked == 1
    await scene.fetch(1, demand=not first_is_demand)
    assert scene.parts.resident == [1]


async def test_readers_that_are_cancelled_leave_their_slots(autojump_clock: object, scene: Scene) -> None:
    scene.parts.hanging = 200
    async with trio.open_nursery() as nursery:
        for number in range(1, 201):
            nursery.start_soon(scene.try_, number, bool(number % 2))
    assert len(scene.failed) == 200 and scene.hydrator.statistics().in_flight == 0
    scene.parts.hanging = 0
    await trio.sleep(10)
    await scene.fetch(1, demand=True)
