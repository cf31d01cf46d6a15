"""The inode table on a disk that fails or is full: nothing half-done, nothing acknowledged lost, no restart needed."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from s3lustrefs import errors
from s3lustrefs.meta.schema import SUPER_FORMAT, Table
from s3lustrefs.meta.store import Store
from tests.disk.disks import fill
from tests.disk.failing_disk import FailingDisk


def put(store: Store, key: bytes, value: bytes = b"v") -> None:
    with store.begin() as txn:
        txn.put(Table.INODES, key, value)


def keys(store: Store) -> list[bytes]:
    return [key for key, _ in store.scan(Table.INODES, b"")]


def after_death(store: Store, to: Path, *, boot_id: str = "b") -> Store:
    """What a start would find now: of a killed process, or with another boot id after a power cut."""
    shutil.copytree(store.directory, to)
    return Store(to / ".", boot_id=boot_id)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
async def test_a_log_that_cannot_be_written_undoes_the_change_and_goes_on_afterwards(
    disk: FailingDisk, tmp_path: Path, number: int
) -> None:
    store = Store(disk.path / "meta", boot_id="b")
    put(store, b"1")
    # A half record that cannot be cut off either: whatever was appended behind it would be lost.
    disk.fail("write", "truncate", names="log", number=number)
    kind = {errno.EIO: errors.StorageError, errno.ENOSPC: errors.OutOfSpace, errno.EROFS: errors.ReadOnlyStorage}[number]
    with pytest.raises(kind, match=r"cannot append to .*/meta/log\.0.*; .*file system of the state directory") as caught:
        put(store, b"2")
    assert type(caught.value) is kind
    assert keys(store) == [b"1"]
    disk.fail("truncate", names="log", number=number)
    with pytest.raises(kind):
        put(store, b"2")
    disk.heal()
    put(store, b"3")
    again = after_death(store, tmp_path / "copy")
    assert keys(again) == [b"1", b"3"]
    await again.close()
    await store.close()


async def test_a_log_that_lost_pages_is_never_synced_again_but_replaced(disk: FailingDisk, tmp_path: Path) -> None:
    store = Store(disk.path / "meta", boot_id="b")
    put(store, b"1")
    await store.sync()
    put(store, b"2")
    disk.fail("fsync", names="log")
    with pytest.raises(errors.StorageError, match="cannot bring to disk the log"):
        await store.sync()
    disk.heal()
    checkpoints = store.statistics().checkpoints
    await store.sync()
    # The kernel takes lost pages for clean, so that a second fdatasync of the same log would have proven nothing.
    assert store.statistics().checkpoints == checkpoints + 1
    again = after_death(store, tmp_path / "copy", boot_id="another boot")
    assert keys(again) == [b"1", b"2"]
    await again.close()
    await store.close()


@pytest.mark.parametrize(
    ("operation", "names", "after"),
    [
        pytest.param("write", "data", 0, id="page"),
        pytest.param("fsync", "data", 0, id="pages-synced"),
        pytest.param("fsync", "data", 1, id="last-page-synced"),
        pytest.param("create", "log", 0, id="new-segment"),
        pytest.param("fsync", "meta/$", 0, id="directory"),
        pytest.param("unlink", "log", 0, id="old-segment"),
    ],
)
async def test_a_checkpoint_that_fails_is_repeated_when_the_disk_works(
    disk: FailingDisk, tmp_path: Path, operation: str, names: str, after: int
) -> None:
    store = Store(disk.path / "meta", boot_id="b")
    put(store, b"1")
    await store.checkpoint()
    put(store, b"2")
    disk.fail(operation, names=names, after=after)
    for number in (b"3", b"4"):
        with pytest.raises(errors.StorageError, match=str(store.directory)):
            await store.checkpoint()
        put(store, number)
    assert disk.hits(operation)
    assert keys(store) == [b"1", b"2", b"3", b"4"]
    again = after_death(store, tmp_path / "during")
    assert keys(again) == [b"1", b"2", b"3", b"4"]
    await again.close()
    disk.heal()
    put(store, b"5")
    await store.sync()
    await store.checkpoint()
    assert len(list(store.directory.glob("log.*"))) == 1
    again = after_death(store, tmp_path / "after", boot_id="another boot")
    assert keys(again) == [b"1", b"2", b"3", b"4", b"5"]
    await again.close()
    await store.close()


async def test_closing_on_a_failing_disk_leaves_the_log_to_the_next_start(disk: FailingDisk) -> None:
    store = Store(disk.path / "meta", boot_id="b")
    put(store, b"1")
    disk.fail("fsync", "write", "create", "unlink")
    await store.close()
    disk.heal()
    again = Store(disk.path / "meta", boot_id="b")
    assert keys(again) == [b"1"]
    await again.close()


async def test_a_full_disk_is_out_of_space_to_every_step_and_loses_nothing(small: Path, tmp_path: Path) -> None:
    store = Store(small / "meta", boot_id="b")
    put(store, b"1")
    await store.checkpoint()
    filler = fill(small, leave=64 << 10)
    written = [b"1"]
    with pytest.raises(errors.OutOfSpace, match="free space on the file system of the state directory"):
        for number in range(10_000):
            put(store, b"k%05d" % number, bytes(1000))
            written.append(b"k%05d" % number)
    assert len(written) > 10
    with pytest.raises(errors.OutOfSpace, match="cannot commit the inode table"):
        await store.checkpoint()
    assert keys(store) == sorted(written)
    filler.unlink()
    await store.checkpoint()
    put(store, b"z")
    again = after_death(store, tmp_path / "copy")
    assert keys(again) == sorted([*written, b"z"])
    await again.close()
    await store.close()


def test_a_start_on_a_full_disk_says_so(small: Path) -> None:
    fill(small)
    with pytest.raises(errors.StateDirError, match="No space left on device"):
        Store(small / "meta", boot_id="b")


async def test_a_later_start_on_a_full_disk_says_so_and_loses_nothing(small: Path) -> None:
    store = Store(small / "meta", boot_id="b")
    put(store, b"1")
    await store.close()
    filler = fill(small)
    try:
        full = Store(small / "meta", boot_id="c")
    except errors.StateDirError as exc:
        assert "No space left" in str(exc)
    else:
        await full.close()
    filler.unlink()
    again = Store(small / "meta", boot_id="d")
    assert keys(again) == [b"1"]
    assert again.get(Table.SUPER, SUPER_FORMAT) is None
    await again.close()
