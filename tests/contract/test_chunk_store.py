"""What callers of the chunk store rely on, on real directories."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.model.ids import ContentVersion, Ino

MIB = 1 << 20
INO = Ino(0x1234)
V1 = ContentVersion(1)
V2 = ContentVersion(2)


def open_store(*targets: Path, **options: int) -> ChunkStore:
    store = ChunkStore(targets, **options)
    store.open_()
    return store


@pytest.fixture(params=[1, 3], ids=["one-target", "three-targets"])
def targets(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, ...]:
    return tuple(tmp_path / f"target{number}" for number in range(request.param))


@pytest.fixture
def store(targets: tuple[Path, ...]) -> Iterator[ChunkStore]:
    store = open_store(*targets)
    yield store
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB that fills up like a real one, because it is one."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


def drop_page_cache(*targets: Path) -> None:
    for path in (file for target in targets for file in target.rglob("*") if file.is_file()):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def files_of(*targets: Path) -> list[str]:
    return sorted(path.name for target in targets for path in target.rglob("*") if path.is_file())


@pytest.mark.parametrize("size", [1, 4096, 100_000, 3 * MIB + 17])
@pytest.mark.parametrize("chunk_bytes", [1000, MIB, 1 << 30])
async def test_written_bytes_are_read_back(store: ChunkStore, chunk_bytes: int, size: int) -> None:
    data = os.urandom(size)
    await store.write(INO, V1, chunk_bytes, 0, data)
    assert await store.read(INO, V1, chunk_bytes, 0, size) == data
    assert await store.read(INO, V1, chunk_bytes, size // 3, size) == data[size // 3 :]


async def test_bytes_never_written_read_as_zeros(store: ChunkStore) -> None:
    await store.write(INO, V1, 1000, 5500, b"x")
    assert await store.read(INO, V1, 1000, 0, 9000) == bytes(5500) + b"x" + bytes(3499)
    assert bytes(store.read_nowait(Ino(99), V1, 1000, 0, 10) or b"cold") == bytes(10)


async def test_versions_and_inodes_do_not_share_bytes(store: ChunkStore) -> None:
    await store.write(INO, V1, MIB, 0, b"one")
    await store.write(INO, V2, MIB, 0, b"two")
    await store.write(Ino(INO + 256), V1, MIB, 0, b"six")
    assert await store.read(INO, V1, MIB, 0, 3) == b"one"
    assert await store.read(INO, V2, MIB, 0, 3) == b"two"
    assert await store.read(Ino(INO + 256), V1, MIB, 0, 3) == b"six"


async def test_chunks_go_round_the_targets(tmp_path: Path) -> None:
    targets = [tmp_path / name for name in "abc"]
    store = open_store(*targets)
    await store.write(Ino(7), V1, 1000, 0, bytes(4000))
    store.close()
    assert [files_of(target) for target in targets] == [["7.1.2"], ["7.1.0", "7.1.3"], ["7.1.1"]]


async def test_bytes_outlive_the_store(targets: tuple[Path, ...]) -> None:
    first = open_store(*targets)
    await first.write(INO, V1, 1000, 0, b"ab" * 5000)
    first.close()
    second = open_store(*targets)
    assert await second.read(INO, V1, 1000, 0, 10_000) == b"ab" * 5000
    second.close()


async def test_reading_nowait_hits_the_page_cache_and_refuses_the_disk(store: ChunkStore, targets: tuple[Path, ...]) -> None:
    data = os.urandom(3 * MIB)
    await store.write(INO, V1, MIB, 0, data)
    if store.read_nowait(INO, V1, MIB, 0, len(data)) is None:
        pytest.skip("this file system does not know RWF_NOWAIT")
    assert bytes(store.read_nowait(INO, V1, MIB, 10, len(data)) or b"cold") == data[10:]
    drop_page_cache(*targets)
    assert store.read_nowait(INO, V1, MIB, 0, len(data)) is None
    assert await store.read(INO, V1, MIB, 0, len(data)) == data
    assert store.statistics().thread_reads <= 1


async def test_a_store_with_few_descriptors_serves_many_chunks(targets: tuple[Path, ...]) -> None:
    store = open_store(*targets, open_files=4)
    before = len(os.listdir("/proc/self/fd"))
    await store.write(INO, V1, 10, 0, bytes(range(200)))
    await store.sync_dirty()
    # Unsynced chunks keep theirs until then, since only they hear of lost bytes.
    assert len(os.listdir("/proc/self/fd")) <= before + 4
    assert await store.read(INO, V1, 10, 0, 200) == bytes(range(200))
    store.close()


async def test_a_pinned_descriptor_survives_eviction_and_deletion(targets: tuple[Path, ...]) -> None:
    store = open_store(*targets, open_files=1)
    with store.pinned(INO, V1, 1000, 1500) as (fd, offset):
        await store.write(Ino(2), V1, 1000, 0, b"another")
        await store.write(Ino(3), V1, 1000, 0, b"third")
        os.pwrite(fd, b"fetched", offset)
        assert await store.read(INO, V1, 1000, 1500, 1507) == b"fetched"
        await store.delete(INO, V1, 1000, 2000)
        os.pwrite(fd, b"too late", offset)
    with pytest.raises(OSError):
        os.fstat(fd)
    assert await store.read(INO, V1, 1000, 1500, 1507) == bytes(7)
    store.close()


async def test_slices_name_the_files_of_an_extent(store: ChunkStore) -> None:
    data = os.urandom(2500)
    await store.write(INO, V1, 1000, 0, data)
    slices = store.slices(INO, V1, 1000, 500, 2500)
    assert [(piece.offset, piece.length) for piece in slices] == [(500, 500), (0, 1000), (0, 500)]
    assert b"".join(Path(piece.path).read_bytes()[piece.offset :][: piece.length] for piece in slices) == data[500:]


async def test_slices_of_a_hole_name_files_that_exist(store: ChunkStore) -> None:
    assert all(Path(piece.path).stat().st_size == 0 for piece in store.slices(INO, V1, 1000, 0, 3000))


@pytest.mark.parametrize("new_size", [0, 1, 999, 1000, 1001, 2500, 5000, 6000])
async def test_bytes_cut_off_read_as_zeros_when_the_file_grows_again(store: ChunkStore, new_size: int) -> None:
    await store.write(INO, V1, 1000, 0, b"x" * 5000)
    await store.truncate(INO, V1, 1000, 5000, new_size)
    kept = min(new_size, 5000)
    assert await store.read(INO, V1, 1000, 0, 6000) == b"x" * kept + bytes(6000 - kept)


async def test_truncating_frees_large_files_too(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    await store.write(INO, V1, 50 * MIB, 0, bytes(MIB))
    await store.write(INO, V1, 50 * MIB, 120 * MIB, b"end")
    await store.truncate(INO, V1, 50 * MIB, 120 * MIB + 3, 10)
    assert files_of(tmp_path) == [f"{INO:x}.1.0"]
    store.close()


@pytest.mark.parametrize("size", [2500, None])
async def test_delete_leaves_no_file_of_that_version(store: ChunkStore, targets: tuple[Path, ...], size: int | None) -> None:
    await store.write(INO, V1, 1000, 0, bytes(2500))
    await store.write(INO, V2, 1000, 0, bytes(100))
    await store.delete(INO, V1, 1000, size)
    assert files_of(*targets) == [f"{INO:x}.2.0"]
    await store.delete(INO, V1, 1000, size)


async def test_delete_of_a_sparse_giant_looks_only_at_what_is_there(store: ChunkStore, targets: tuple[Path, ...]) -> None:
    await store.write(INO, V1, MIB, 5 << 40, b"end")
    await store.delete(INO, V1, MIB, (5 << 40) + 3)
    assert files_of(*targets) == []


async def test_use_follows_writes_holes_truncates_and_deletes(store: ChunkStore) -> None:
    await store.measure_used()
    empty = store.used_bytes()
    await store.write(INO, V1, MIB, 0, b"x" * (3 * MIB))
    assert 3 * MIB <= store.used_bytes() - empty <= 3 * MIB + 64 * 1024
    await store.write(Ino(2), V1, 1 << 30, 100 * MIB, b"x")
    assert store.used_bytes() - empty < 4 * MIB
    await store.truncate(INO, V1, MIB, 3 * MIB, MIB)
    assert store.used_bytes() - empty < 2 * MIB
    await store.delete(INO, V1, MIB, MIB)
    await store.delete(Ino(2), V1, 1 << 30, None)
    assert store.used_bytes() == empty


async def test_use_is_counted_anew_at_start(targets: tuple[Path, ...]) -> None:
    first = open_store(*targets)
    await first.write(INO, V1, MIB, 0, b"x" * (3 * MIB))
    await first.sync_dirty()
    first.close()
    second = open_store(*targets)
    await second.measure_used()
    assert second.used_bytes() >= 3 * MIB
    await second.delete(INO, V1, MIB, 3 * MIB)
    assert second.used_bytes() == 0
    second.close()


async def test_space_counts_a_shared_file_system_once(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    store = open_store(tmp_path / "a", tmp_path / "b")
    assert store.space().capacity_bytes == status.f_blocks * status.f_frsize
    store.close()


async def test_space_is_bounded_by_the_cache_size(tmp_path: Path) -> None:
    store = open_store(tmp_path, cache_bytes=10 * MIB)
    await store.write(INO, V1, MIB, 0, b"x" * (3 * MIB))
    space = store.space()
    assert space.capacity_bytes == 10 * MIB
    assert space.available_bytes == 10 * MIB - space.used_bytes <= 7 * MIB
    store.close()


async def test_every_chunk_file_is_listed_and_foreign_files_are_not(store: ChunkStore, targets: tuple[Path, ...]) -> None:
    await store.write(INO, V1, 1000, 0, bytes(1500))
    (targets[0] / "chunks" / "00" / "README").touch()
    found = sorted(store.chunk_files())
    assert [(file.key, file.length) for file in found] == [((INO, V1, 0), 1000), ((INO, V1, 1), 500)]
    assert all(Path(file.path).is_file() for file in found)


async def test_condemned_content_goes_only_once_the_table_is_durable(store: ChunkStore) -> None:
    await store.write(INO, V1, 1000, 0, bytes(1500))
    await store.write(Ino(2), V1, 1000, 0, bytes(10))
    store.condemn(INO, V1, 1000, 1500)
    await store.remove_condemned()
    assert len(list(store.chunk_files())) == 3 and store.has_condemned
    await store.sync_dirty()
    store.condemn(Ino(2), V1, 1000, None)  # its record came after the sync began
    store.table_is_durable(False)
    await store.remove_condemned()
    assert [file.key.ino for file in store.chunk_files()] == [2]
    store.table_is_durable(True)
    await store.remove_condemned()
    assert not list(store.chunk_files()) and not store.has_condemned and store.used_bytes() == 0


@pytest.mark.parametrize("size", [100 << 10, 2 * MIB])
async def test_a_full_disk_is_out_of_space_and_names_the_file(small_disk: Path, size: int) -> None:
    store = open_store(small_disk)
    with pytest.raises(errors.OutOfSpace, match=rf"{small_disk}/chunks/01/1234\.1\.0.*No space left"):
        for number in range(20 * MIB // size):
            await store.write(INO, V1, 1 << 30, number * size, b"x" * size)
    assert await store.read(INO, V1, 1 << 30, 0, 4096) == b"x" * 4096
    await store.delete(INO, V1, 1 << 30, None)
    await store.write(INO, V2, 1 << 30, 0, b"room again")
    await store.sync_dirty()
    store.close()


async def test_a_target_turned_read_only_says_so(small_disk: Path) -> None:
    store = open_store(small_disk)
    store.close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(errors.ReadOnlyStorage, match="Read-only"):
        await store.write(INO, V1, MIB, 0, b"x")
    store.close()
    with pytest.raises(errors.StateDirError, match=f"{small_disk} cannot be written: Read-only"):
        open_store(small_disk)


def test_a_target_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.StateDirError, match="cannot be written: Not a directory"):
        open_store(tmp_path / "file")


def test_no_target_is_refused() -> None:
    with pytest.raises(errors.StateDirError, match="no storage target"):
        ChunkStore([])


async def test_a_write_to_a_removed_target_is_a_storage_error(tmp_path: Path) -> None:
    store = open_store(tmp_path / "target")
    (tmp_path / "target" / "chunks").rename(tmp_path / "gone")
    with pytest.raises(errors.StorageError, match=r"cannot create .*No such file"):
        await store.write(INO, V1, MIB, 0, b"x")
    store.close()


operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 900), st.binary(min_size=1, max_size=300)),
        st.tuples(st.just("truncate"), st.integers(0, 1000), st.just(b"")),
        st.tuples(st.just("drop"), st.just(0), st.just(b"")),
        st.tuples(st.just("sync"), st.just(0), st.just(b"")),
    ),
    max_size=25,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunk_bytes=st.sampled_from([1, 7, 64, 333, 4096]), open_files=st.sampled_from([1, 3, 512]), steps=operations)
def test_any_sequence_of_operations_matches_a_byte_array(
    tmp_path_factory: pytest.TempPathFactory, chunk_bytes: int, open_files: int, steps: list[tuple[str, int, bytes]]
) -> None:
    async def run() -> None:
        base = tmp_path_factory.mktemp("model")
        targets = (base / "a", base / "b")
        store = open_store(*targets, open_files=open_files)
        content = bytearray()
        for verb, number, data in steps:
            if verb == "write":
                await store.write(INO, V1, chunk_bytes, number, data)
                content.extend(bytes(max(0, number + len(data) - len(content))))
                content[number : number + len(data)] = data
            elif verb == "truncate":
                await store.truncate(INO, V1, chunk_bytes, len(content), number)
                content = content[:number] + bytes(max(0, number - len(content)))
            elif verb == "drop":
                store.close()
                drop_page_cache(*targets)
                store = open_store(*targets, open_files=open_files)
            else:
                await store.sync_dirty()
            assert await store.read(INO, V1, chunk_bytes, 0, len(content)) == content
        await store.delete(INO, V1, chunk_bytes, len(content))
        assert files_of(*targets) == []
        store.close()

    trio.run(run)
