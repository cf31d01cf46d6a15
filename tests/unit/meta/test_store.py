"""The store: atomic, durable as promised, and scans that see every layer as one."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from s3lustrefs import errors
from s3lustrefs.meta.schema import GROUPED, SUPER_FORMAT, Table
from s3lustrefs.meta.store import Store
from s3lustrefs.meta.table_view import view_of


def put(store: Store, key: bytes, value: bytes, table: Table = Table.INODES) -> None:
    with store.begin() as txn:
        txn.put(table, key, value)


async def reopened(store: Store, to: Path, boot_id: str) -> Store:
    """A store on what the files hold now, as after a death without any clean-up."""
    shutil.copytree(store.directory, to)
    await store.close()
    return Store(to, boot_id=boot_id)


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# --- transactions ------------------------------------------------------------------------------------------------------------


async def test_transaction_sees_its_own_changes_and_is_undone_by_an_exception(tmp_path: Path) -> None:
    store = Store(tmp_path / "m", boot_id="b")
    put(store, b"k", b"old")
    with pytest.raises(ZeroDivisionError), store.begin() as txn:
        txn.put(Table.INODES, b"k", b"new")
        txn.delete(Table.INODES, b"k")
        txn.put(Table.INODES, b"other", b"x")
        assert txn.get(Table.INODES, b"k") is None
        raise ZeroDivisionError
    assert store.scan(Table.INODES, b"") == [(b"k", b"old")]
    again = await reopened(store, tmp_path / "n", "b")
    assert again.scan(Table.INODES, b"") == [(b"k", b"old")]
    await again.close()


async def test_full_disk_undoes_the_transaction_and_leaves_the_log_usable(tmp_path: Path) -> None:
    store = Store(tmp_path / "m", boot_id="b")
    put(store, b"k", b"old")
    for room in range(0, 60, 7):
        with full_disk(store.statistics().log_bytes + room), pytest.raises(errors.StorageError), store.begin() as txn:
            txn.put(Table.INODES, b"k", b"new" * 100)
    assert store.get(Table.INODES, b"k") == b"old"
    put(store, b"after", b"1")
    again = await reopened(store, tmp_path / "n", "b")
    assert again.scan(Table.INODES, b"") == [(b"after", b"1"), (b"k", b"old")]
    await again.close()


# --- durability --------------------------------------------------------------------------------------------------------------


async def test_killed_process_loses_nothing_and_a_power_cut_only_what_was_not_synced(tmp_path: Path) -> None:
    store = Store(tmp_path / "m", boot_id="b")
    put(store, b"1", b"")
    await store.sync()
    put(store, b"2", b"")
    killed = await reopened(store, tmp_path / "n", "b")
    assert [key for key, _ in killed.scan(Table.INODES, b"")] == [b"1", b"2"]
    put(killed, b"3", b"")
    await killed.checkpoint()
    put(killed, b"4", b"")
    await killed.sync()
    put(killed, b"5", b"")
    cut = await reopened(killed, tmp_path / "o", "another boot")
    assert [key for key, _ in cut.scan(Table.INODES, b"")] == [b"1", b"2", b"3", b"4"]
    await cut.close()


async def test_content_is_synced_before_the_records_that_speak_of_it(tmp_path: Path) -> None:
    synced: list[str] = []

    async def content() -> None:
        synced.append("content")

    store = Store(tmp_path / "m", boot_id="b", sync_content=content)
    put(store, b"1", b"")
    await store.sync()
    await store.sync()
    assert synced == ["content"], "nothing new, nothing to sync"
    put(store, b"2", b"")
    await store.checkpoint()
    assert synced == ["content"] * 2
    await store.close()


async def test_what_is_durable_is_told(tmp_path: Path) -> None:
    told: list[bool] = []
    arriving: list[bytes] = []

    async def content() -> None:
        while arriving:
            put(store, arriving.pop(), b"")

    store = Store(tmp_path / "m", boot_id="b", sync_content=content, on_durable=told.append)
    put(store, b"1", b"")
    await store.sync()
    assert told == [True]
    arriving.append(b"2")
    put(store, b"3", b"")
    await store.sync()
    assert told == [True, False], "a change that came during the sync is not durable"
    await store.checkpoint()
    assert told == [True, False, True]
    await store.close()


async def test_failed_checkpoint_loses_nothing_and_syncs_content_again(tmp_path: Path) -> None:
    broken = True
    calls = 0

    async def content() -> None:
        nonlocal calls
        calls += 1
        if broken:
            raise errors.StorageError("the disk of the content is gone")

    store = Store(tmp_path / "m", boot_id="b", sync_content=content)
    put(store, b"1", b"")
    with pytest.raises(errors.StorageError):
        await store.checkpoint()
    put(store, b"2", b"")
    with pytest.raises(errors.StorageError):
        await store.checkpoint()
    assert calls == 2, "the content of the frozen records is still not synced"
    assert [key for key, _ in store.scan(Table.INODES, b"")] == [b"1", b"2"]
    broken = False
    await store.sync()
    cut = tmp_path / "n"
    shutil.copytree(store.directory, cut)
    await store.checkpoint()
    assert [key for key, _ in store.scan(Table.INODES, b"")] == [b"1", b"2"]
    await store.close()
    again = Store(cut, boot_id="another boot")
    assert [key for key, _ in again.scan(Table.INODES, b"")] == [b"1", b"2"], "a sync covers the segments before it as well"
    await again.close()


async def test_changes_during_a_checkpoint_are_kept(tmp_path: Path) -> None:
    started, go_on = trio.Event(), trio.Event()

    async def content() -> None:
        started.set()
        await go_on.wait()

    store = Store(tmp_path / "m", boot_id="b", sync_content=content)
    put(store, b"before", b"1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.checkpoint)
        await started.wait()
        put(store, b"before", b"2")
        put(store, b"during", b"1")
        with store.begin() as txn:
            txn.delete(Table.INODES, b"before")
        assert store.scan(Table.INODES, b"") == [(b"during", b"1")]
        killed = Store(shutil.copytree(store.directory, tmp_path / "n"), boot_id="b")
        assert killed.scan(Table.INODES, b"") == [(b"during", b"1")]
        await killed.close()
        go_on.set()
    assert store.scan(Table.INODES, b"") == [(b"during", b"1")]
    await store.checkpoint()
    assert store.count(Table.INODES) == 1
    await store.close()


async def test_end_leaves_an_empty_log(tmp_path: Path) -> None:
    store = Store(tmp_path / "m", boot_id="b")
    put(store, SUPER_FORMAT, b"1", Table.SUPER)
    await store.close()
    assert sum(path.stat().st_size for path in (tmp_path / "m").glob("log.*")) == 0


# --- scans -------------------------------------------------------------------------------------------------------------------

KEYS = st.binary(min_size=0, max_size=2).map(lambda tail: b"8bytes--" + tail) | st.binary(min_size=8, max_size=10)
CHANGES = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=3)), max_size=12)


@settings(max_examples=60)
@given(
    table=st.sampled_from([Table.INODES, Table.DENTRIES]), old=CHANGES, frozen=CHANGES, new=CHANGES,
    after=st.binary(max_size=2), limit=st.integers(0, 5),
)  # fmt: skip
def test_scan_sees_all_layers_as_one_dict(
    tmp_path_factory: pytest.TempPathFactory,
    table: Table,
    old: list[tuple[bytes, bytes | None]],
    frozen: list[tuple[bytes, bytes | None]],
    new: list[tuple[bytes, bytes | None]],
    after: bytes,
    limit: int,
) -> None:
    """LMDB, the overlay being committed, and the one being written; where a group is the unit, within one group."""
    model: dict[bytes, bytes] = {}
    failing = False

    async def fail() -> None:
        if failing:
            raise errors.StorageError("not now")

    def change(changes: list[tuple[bytes, bytes | None]]) -> None:
        for key, value in changes:
            with store.begin() as txn:
                if value is None:
                    txn.delete(table, key)
                    model.pop(key, None)
                else:
                    txn.put(table, key, value)
                    model[key] = value

    async def run() -> None:
        nonlocal failing
        change(old)
        await store.checkpoint()
        change(frozen)
        failing = True
        if frozen:
            with pytest.raises(errors.StorageError):
                await store.checkpoint()
        change(new)
        for prefix in {key[:8] for key in model} | {b"8bytes--"} | (set() if table in GROUPED else {b"", b"8"}):
            start = prefix + after if after else b""
            expected = sorted((k, v) for k, v in model.items() if k.startswith(prefix) and (not start or k > start))
            assert store.scan(table, prefix, after=start, limit=limit) == (expected[:limit] if limit else expected)
        assert list(view_of(store).rows(table)) == sorted(model.items())
        assert all(store.get(table, key) == model.get(key) for key, _ in old + frozen + new)
        failing = False
        await store.close()

    store = Store(tmp_path_factory.mktemp("store") / "m", boot_id="b", sync_content=fail)
    trio.run(run)
