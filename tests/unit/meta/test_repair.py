"""Whatever `check` can find, `repair` makes good: nothing is found afterwards, and what was sound is still there."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3lustrefs.meta.check import check_engine
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.repair import TableRepair
from s3lustrefs.meta.schema import Table
from s3lustrefs.meta.table_view import view_of
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import InodeFlag
from tests.unit.meta.test_check import DAMAGE, sound


async def repaired(directory: Path, what: str) -> tuple[LmdbEngine, list[str]]:
    store, made = await sound(directory)
    with store.begin() as txn:
        DAMAGE[what][0](txn, made)
    repair = TableRepair(store)
    repair.run()
    assert check_engine(store) == [], repair.lines
    return LmdbEngine(store), repair.lines


@pytest.mark.parametrize("what", DAMAGE)
async def test_damage_is_repaired_and_reported(tmp_path: Path, what: str) -> None:
    _, lines = await repaired(tmp_path, what)
    assert lines


async def test_a_sound_table_is_left_as_it_is(tmp_path: Path) -> None:
    store, _ = await sound(tmp_path)
    before = [list(view_of(store).rows(table)) for table in Table]
    repair = TableRepair(store)
    repair.run()
    assert repair.lines == []
    assert [list(view_of(store).rows(table)) for table in Table] == before
    await store.close()


async def test_what_has_no_name_is_in_lost_and_found_with_its_content_and_subtree(tmp_path: Path) -> None:
    engine, lines = await repaired(tmp_path, "loop")
    assert [name for name, _ in await engine.readdir((await engine.resolve(b"/lost+found")).ino, b"", 9)] == [b"#5"]
    assert (await engine.resolve(b"/lost+found/#5/below")).is_dir
    assert (await engine.resolve(b"/a/file")).nlink == 2 and any("/lost+found/#5" in line for line in lines)


async def test_a_name_without_inode_goes_and_its_path_is_told(tmp_path: Path) -> None:
    engine, lines = await repaired(tmp_path, "inode missing")
    assert "/a/file: name removed: its inode is not there" in lines
    assert [name for name, _ in await engine.readdir(Ino(2), b"", 9)] == [b"cold", b"dir"]


async def test_the_directory_of_an_association_gets_its_name_back(tmp_path: Path) -> None:
    engine, _ = await repaired(tmp_path, "association elsewhere")
    assert (await engine.resolve(b"/a/cold")).flags & InodeFlag.PARTIAL
    assert engine.associations()[0].root_ino == 2


async def test_bytes_that_only_a_lost_object_had_are_told(tmp_path: Path) -> None:
    _, lines = await repaired(tmp_path, "source missing")
    assert any(line.startswith("/a/cold: LOST") for line in lines)
