"""A walk meets every name once, also when it is taken up by another one that only knows where the first one stood."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.store import Store
from s3lustrefs.model.ids import ROOT_INO
from s3lustrefs.movers import task_walk
from s3lustrefs.movers.task_walk import Met, Name, Position, TreeWalk, walk_names


@asynccontextmanager
async def engine_at(directory: Path) -> AsyncIterator[LmdbEngine]:
    store = Store(directory / "meta", boot_id="boot")
    try:
        yield LmdbEngine(store)
    finally:
        await store.close()


async def plant(engine: LmdbEngine, paths: Sequence[str]) -> set[bytes]:
    """Directories end in a slash. Every path there is then, below the root."""
    made: set[bytes] = set()
    for path in paths:
        parent, at = ROOT_INO, b""
        parts = path.strip("/").encode().split(b"/")
        for depth, name in enumerate(parts):
            at += b"/" + name
            is_dir = depth < len(parts) - 1 or path.endswith("/")
            if at not in made:
                kind = stat.S_IFDIR if is_dir else stat.S_IFREG
                await engine.create(parent, name, kind | 0o755, 0, 0)
                made.add(at)
            found = await engine.lookup(parent, name)
            if not found.is_dir:
                break
            parent = found.ino
    return made


async def rest(walking: TreeWalk[Name]) -> list[Met[Name]]:
    found = []
    while met := await walking.next():
        found += met
    return found


PATHS = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=4).map("/".join).flatmap(
        lambda path: st.sampled_from([path, path + "/"])
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths=PATHS, page=st.integers(1, 3), cut=st.integers(0, 20))
async def test_every_name_is_met_once_wherever_the_walk_is_taken_up(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, paths: list[str], page: int, cut: int
) -> None:
    monkeypatch.setattr(task_walk, "PAGE", page)
    async with engine_at(tmp_path_factory.mktemp("walk")) as engine:
        made = await plant(engine, paths)
        everything = await rest(walk_names(engine, [b"/"]))
        assert [met.path for met in everything] == sorted(made, key=lambda path: path.split(b"/"))

        first = walk_names(engine, [b"/"])
        met: list[Met[Name]] = []
        while len(met) < cut and (more := await first.next()):
            met += more
        second = walk_names(engine, [b"/"])
        if met:
            assert await second.resume(Position.of_words(first.position.as_words()))
        assert [each.path for each in (*met, *await rest(second))] == [each.path for each in everything]
        for at, each in enumerate(everything):  # what an export remembers of the oldest order under way
            third = walk_names(engine, [b"/"])
            if each.before.root:
                assert await third.resume(each.before)
            assert [other.path for other in await rest(third)] == [other.path for other in everything[at:]]


async def test_roots_are_walked_one_after_the_other_and_what_vanished_is_left_out(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        await plant(engine, ["one/a", "two/x/y", "three/z", "file"])
        roots = [b"/two", b"/file", b"/gone", b"/one"]
        walking = walk_names(engine, roots)
        assert [met.path for met in await walking.next()] == [b"/two/x"]
        again = walk_names(engine, roots)
        assert await again.resume(walking.position)
        assert [met.path for met in await rest(walking)] == [b"/two/x/y", b"/one/a"]
        two = await engine.resolve(b"/two")
        x = await engine.lookup(two.ino, b"x")
        await engine.unlink(x.ino, b"y")
        await engine.rmdir(two.ino, b"x")
        assert [met.path for met in await rest(again)] == [b"/one/a"]
        assert not await walk_names(engine, roots).resume(Position(b"/elsewhere", b"/elsewhere", b"a"))


def test_position_survives_names_that_are_not_utf_8() -> None:
    position = Position(b"/", b"/d\xff", b"\xfe")
    assert Position.of_words(position.as_words()) == position
