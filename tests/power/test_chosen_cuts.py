"""The power goes just after something whose effects reach the disk, or the bucket, in an order nobody asked for.

The kernel may write anything back at any time: `write_back` is that moment. What the table says is trusted only up to the last
sync that returned, so everything else on the disk, and in the bucket, is then newer than the table.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.workload import content
from tests.power.harness import Powered

MIB = 1 << 20
OLD, NEW = content(1, 300_000), content(2, 200_000)


def write(path: Path, data: bytes, *, sync: bool = True) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


@pytest.fixture
def local(powered: Powered) -> Powered:
    """Mounted with an empty bucket, and all of that durable."""
    return begin(powered)


def begin(powered: Powered, *options: str) -> Powered:
    powered.mount("", *options)
    powered.wait_import()
    sync_directory(powered.root)
    return powered


def cut_and_look(powered: Powered, *, keep: float = 1.0) -> dict[str, bytes]:
    powered.machine.write_back()
    powered.cut_power(keep=keep)
    return {name: data for name, (kind, _, data) in powered.power_on().items() if kind == "file"}


def test_a_file_replaced_by_rename_is_the_old_one_or_the_new_one(local: Powered) -> None:
    write(local.root / "f", OLD)
    write(local.root / "f.tmp", NEW)
    os.rename(local.root / "f.tmp", local.root / "f")
    found = cut_and_look(local)
    assert found in ({"f": OLD, "f.tmp": NEW}, {"f": NEW})


def test_an_unlink_that_is_undone_brings_the_bytes_back(local: Powered) -> None:
    write(local.root / "f", OLD)
    (local.root / "f").unlink()
    assert cut_and_look(local) in ({"f": OLD}, {})


def test_a_synced_unlink_is_not_undone(local: Powered) -> None:
    write(local.root / "f", OLD)
    (local.root / "f").unlink()
    sync_directory(local.root)
    assert cut_and_look(local, keep=0) == {}


def test_a_truncation_that_is_undone_brings_the_bytes_back(local: Powered) -> None:
    write(local.root / "f", OLD)
    write(local.root / "g", OLD)
    os.truncate(local.root / "f", 0)
    os.truncate(local.root / "g", 1000)
    found = cut_and_look(local)
    assert found["f"] in (OLD, b"") and found["g"] in (OLD, OLD[:1000])


def test_bytes_cut_off_do_not_come_back(make_powered: Callable[..., Powered]) -> None:
    """The cache is on a disk of its own: a sync of the table says nothing about it."""
    here = begin(make_powered(disks=2))
    write(here.root / "f", OLD)
    os.truncate(here.root / "f", 0)
    os.truncate(here.root / "f", len(OLD))
    with (here.root / "f").open("rb+") as file:
        os.fsync(file.fileno())
    here.cut_power(keep=0)
    here.power_on()
    assert (here.root / "f").read_bytes() == bytes(len(OLD))


def test_bytes_of_a_file_that_never_was_are_not_seen_in_another_one(local: Powered) -> None:
    write(local.root / "secret", OLD, sync=False)
    local.machine.write_back()
    local.cut_power(keep=1)
    assert "secret" not in local.power_on()
    with (local.root / "other").open("wb") as file:
        file.truncate(len(OLD))
    assert (local.root / "other").read_bytes() == bytes(len(OLD))


def test_bytes_past_the_end_are_not_seen_when_the_file_grows(local: Powered) -> None:
    write(local.root / "f", OLD[:1000])
    with (local.root / "f").open("ab") as file:
        file.write(NEW)
    local.drain()  # nothing is due any more
    local.machine.write_back()
    local.cut_power(keep=1)
    local.power_on()
    size = (local.root / "f").stat().st_size
    os.truncate(local.root / "f", MIB)
    assert (local.root / "f").read_bytes() == (OLD[:1000] + NEW)[:size].ljust(MIB, b"\0")


def test_released_content_is_fetched_again(powered: Powered) -> None:
    files = {f"f{number}": content(20 + number, 4 * MIB) for number in range(12)}
    here = begin(powered, "cache_size=32MiB")
    for name, data in files.items():
        write(here.root / name, data)
    assert "room made" in here.log()
    assert cut_and_look(here) == files


def test_a_renamed_cold_file_keeps_its_content(powered: Powered) -> None:
    tree = powered.fill()
    here = begin(powered)
    os.rename(here.root / "old/b.bin", here.root / "moved.bin")
    here.drain()
    here.machine.write_back()
    here.cut_power(keep=1)
    found = here.power_on()
    tree.apply("rename", "old/b.bin", "moved.bin")
    assert found == tree.snapshot()
    here.check_settled(tree)


def test_a_deleted_object_leaves_no_name_without_content(powered: Powered) -> None:
    tree = powered.fill()
    here = begin(powered)
    (here.root / "old/b.bin").unlink()
    here.drain()
    here.machine.write_back()
    here.cut_power(keep=1)
    found = here.power_on()
    tree.apply("unlink", "old/b.bin")
    assert found == tree.snapshot()
    here.check_settled(tree)


def test_what_is_in_the_bucket_is_on_the_disk_too(powered: Powered) -> None:
    tree = powered.fill()
    here = begin(powered)
    for verb, *arguments in (
        ["create", "new"],
        ["write", "new", 0, 5, 7000],
        ["write", "old/a.txt", 0, 6, 500],
        ["truncate", "old/c.txt", 7],
    ):
        tree.apply(verb, *arguments)
    write(here.root / "new", content(5, 7000), sync=False)
    with (here.root / "old/a.txt").open("rb+") as file:
        file.write(content(6, 500))
    os.truncate(here.root / "old/c.txt", 7)
    here.drain()
    here.cut_power(keep=0)
    assert here.power_on() == tree.snapshot()
    here.check_settled(tree)


def test_an_object_that_changed_shows_its_old_bytes_or_its_new_ones(powered: Powered) -> None:
    powered.s3.put_object(Bucket=powered.bucket, Key="p/f", Body=OLD)
    here = begin(powered)
    assert (here.root / "f").read_bytes() == OLD
    sync_directory(here.root)
    powered.s3.put_object(Bucket=powered.bucket, Key="p/f", Body=NEW)
    os.chmod(here.root / "f", 0o600)
    here.drain()
    assert (here.root / "f").read_bytes() == NEW
    assert cut_and_look(here)["f"] in (OLD, NEW)
