"""How long one association's exports may keep those of another waiting."""

from __future__ import annotations

import pytest
import trio

from s3lustrefs.model.ids import AssocId
from s3lustrefs.movers.export_shares import ExportShares

A, B = AssocId(1), AssocId(2)
MOST = 3


@pytest.fixture
def shares() -> ExportShares:
    """A has as many exports under way as it may."""
    found = ExportShares()
    for _ in range(MOST):
        found.add(A)
    return found


async def has_room(shares: ExportShares, assoc: AssocId, *, is_alone: bool = False) -> tuple[bool, float]:
    """The answer, and after how many seconds it came."""
    started = trio.current_time()
    answer = await shares.has_room(assoc, MOST, lambda: is_alone)
    return answer, trio.current_time() - started


async def end_one(shares: ExportShares, seconds: float) -> None:
    await trio.sleep(seconds)
    shares.remove(A)


async def test_one_that_hangs_is_waited_for_once(autojump_clock: object, shares: ExportShares, nursery: trio.Nursery) -> None:
    assert await has_room(shares, A) == (False, 2.0)
    shares.begin_pass()
    assert await has_room(shares, A) == (False, 0.0)
    assert await has_room(shares, B) == (True, 0.0)
    shares.remove(A)
    assert await has_room(shares, A) == (True, 0.0)
    shares.add(A)
    nursery.start_soon(end_one, shares, 1.5)
    assert await has_room(shares, A) == (True, 1.5)


async def test_one_that_is_slow_keeps_others_waiting_for_a_while_only(autojump_clock: object, shares: ExportShares) -> None:
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(1, 100):
            nursery.start_soon(end_one, shares, number * 0.75)
        while (await has_room(shares, A))[0]:
            shares.add(A)
        assert trio.current_time() - started == 2.0
        assert (await has_room(shares, B))[0]
        shares.begin_pass()
        await trio.sleep(0.5)
        assert await has_room(shares, A) == (True, 0.0)
        shares.add(A)
        assert await has_room(shares, A) == (True, 0.5)
        nursery.cancel_scope.cancel()


async def test_one_that_is_alone_is_waited_for(autojump_clock: object, shares: ExportShares, nursery: trio.Nursery) -> None:
    nursery.start_soon(end_one, shares, 600.0)
    assert await has_room(shares, A, is_alone=True) == (True, 600.0)
