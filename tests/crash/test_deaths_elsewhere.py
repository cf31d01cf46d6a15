"""Deaths outside the ordinary job: while recovering from a death, while making room, and where the bucket has changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from s3lustrefs.errors import UsageError
from s3lustrefs.meta.check import check_state_dir
from tests.crash.harness import Crashing
from tests.crash.test_failpoints import STEPS
from tests.crash.tree import look
from tests.crash.workload import content

MIB = 1 << 20
RECOVERING = ["checkpoint.commit.before:1", "checkpoint.commit.after:1", "log.append.after:1", "put.answered", "settle.after:1"]


@contextlib.contextmanager
def dying() -> Iterator[None]:
    """Whatever a job on the mount hears of the death."""
    with contextlib.suppress(OSError, UsageError):
        yield


@pytest.mark.parametrize("second", RECOVERING)
@pytest.mark.one_in(3)
def test_a_daemon_that_dies_again_while_recovering_loses_nothing(crashing: Crashing, second: str) -> None:
    before = crashing.fill()
    # Content goes up before the first copy, which waits for a HEAD.
    crashing.mount("put.before" if second == "put.answered" else "copy.before")
    job = crashing.start_job(STEPS)
    job.communicate()
    assert crashing.wait_death() == -9
    crashing.clear()
    if crashing.mount(second):
        with dying():
            crashing.drain()
        crashing.tell_to_end()
    assert not crashing.pid or crashing.wait_death() == -9, f"{second} was never passed"
    tree = crashing.recover(before, STEPS)
    crashing.drain()
    crashing.check_bucket(tree)
    assert crashing.end_cleanly() == 0
    assert check_state_dir(crashing.state_dir) == []


def test_an_unlinked_open_file_is_swept_even_if_the_sweep_dies(crashing: Crashing) -> None:
    before = crashing.fill()
    crashing.mount()
    crashing.wait_import()
    with (crashing.root / "orphan").open("wb") as file:
        file.write(content(5, 3 * MIB))
        file.flush()
        (crashing.root / "orphan").unlink()
        crashing.kill()
        crashing.wait_death()
        with dying():
            file.close()
    crashing.clear()
    assert not crashing.mount("recovery.orphan")
    crashing.pid = 0
    tree = crashing.recover(before, [])
    crashing.drain()
    crashing.check_bucket(tree)
    assert crashing.end_cleanly() == 0
    assert check_state_dir(crashing.state_dir) == []
    # Counted in bytes: chunk files of the orphan are gone, whichever of the two starts removed them.
    assert sum(f.stat().st_size for f in (crashing.state_dir / "cache").rglob("*") if f.is_file()) < 3 * MIB


def test_a_release_cut_short_loses_no_byte(crashing: Crashing) -> None:
    tree = crashing.fill()
    options = "cache_size=32MiB", "imported_file_chunk_size=1"
    crashing.mount("release.recorded", *options)
    crashing.wait_import()
    files = {f"f{number}": content(20 + number, 4 * MIB) for number in range(20)}
    written: dict[str, bytes] = {}
    with dying():
        for name, data in files.items():
            (crashing.root / name).write_bytes(data)
            written[name] = data
    assert crashing.wait_death() == -9
    crashing.clear()
    assert check_state_dir(crashing.state_dir) == []
    crashing.mount("", *options)
    assert written
    for name, data in written.items():
        assert (crashing.root / name).read_bytes() == data
    for name in files.keys() - written.keys():
        (crashing.root / name).unlink(missing_ok=True)
    crashing.drain()
    found = {key: crashing.s3.get_object(Bucket=crashing.bucket, Key=key)["Body"].read() for key in crashing.keys()}
    assert {key[2:]: data for key, data in found.items() if key[2:] in files} == written
    assert set(tree.nodes) <= {key[2:].rstrip("/") for key in found}
    assert crashing.end_cleanly() == 0


def test_a_replacement_cut_short_shows_the_new_version_whole(crashing: Crashing) -> None:
    crashing.fill()
    old, theirs = content(76, 20 * MIB), content(77, 2 * MIB + 1)
    crashing.s3.put_object(Bucket=crashing.bucket, Key="p/old/b.bin", Body=old)
    crashing.mount("refresh.recorded")
    crashing.wait_import()
    path = crashing.root / "old/b.bin"
    with path.open("rb") as file:
        assert file.read(10) == old[:10]
    crashing.s3.put_object(Bucket=crashing.bucket, Key="p/old/b.bin", Body=theirs)
    with dying(), path.open("rb") as file:
        file.seek(19 * MIB)
        file.read(10)
    assert crashing.wait_death() == -9
    crashing.clear()
    assert check_state_dir(crashing.state_dir) == []
    crashing.mount()
    assert path.read_bytes() == theirs
    crashing.drain()
    assert crashing.s3.get_object(Bucket=crashing.bucket, Key="p/old/b.bin")["Body"].read() == theirs
    assert crashing.end_cleanly() == 0


def test_a_conflict_cut_short_keeps_both_sides_once(crashing: Crashing) -> None:
    crashing.fill()
    crashing.mount("conflict.recorded")
    crashing.wait_import()
    ours, theirs = content(80, 5000), content(81, 6000)
    with dying(), (crashing.root / "old/a.txt").open("wb") as file:
        file.write(ours)
        crashing.s3.put_object(Bucket=crashing.bucket, Key="p/old/a.txt", Body=theirs)
    assert crashing.wait_death() == -9
    crashing.clear()
    assert check_state_dir(crashing.state_dir) == []
    crashing.mount()
    crashing.drain()
    assert (crashing.root / "old/a.txt").read_bytes() == theirs
    kept = [path for path in (crashing.root / "old").iterdir() if path.name.startswith("a.txt.conflict-")]
    assert [path.read_bytes() for path in kept] == [ours]
    keys = {key for key in crashing.keys() if key.startswith("p/old/a.txt")}
    assert keys == {"p/old/a.txt", f"p/old/{kept[0].name}"}
    for key, data in (("p/old/a.txt", theirs), (f"p/old/{kept[0].name}", ours)):
        assert crashing.s3.get_object(Bucket=crashing.bucket, Key=key)["Body"].read() == data
    assert crashing.end_cleanly() == 0


@pytest.mark.parametrize("failpoint", ["sweep.batch", "sweep.removed:1", "sweep.removed:2"])
@pytest.mark.one_in(3)
def test_a_sweep_cut_short_is_finished_by_the_next(crashing: Crashing, failpoint: str) -> None:
    tree = crashing.fill()
    crashing.mount(failpoint)
    crashing.wait_import()
    body = content(90, 3000)
    crashing.s3.put_object(Bucket=crashing.bucket, Key="p/new/file", Body=body)
    crashing.s3.put_object(Bucket=crashing.bucket, Key="p/old/a.txt", Body=body)
    for key in ("p/old/b.bin", "p/old/gone.txt", "p/deep/er/x.txt", "p/deep/er/", "p/deep/"):
        crashing.s3.delete_object(Bucket=crashing.bucket, Key=key)
    with dying():
        crashing.client().call("Refresh", path="/")
    assert crashing.wait_death() == -9
    crashing.clear()
    assert check_state_dir(crashing.state_dir) == []
    crashing.mount()
    crashing.client().call("Refresh", path="/")
    expected = {name for name in tree.nodes if not name.startswith("deep") and name not in ("old/b.bin", "old/gone.txt")}
    found = look(crashing.root)
    assert set(found) == expected | {"new", "new/file"}
    assert found["old/a.txt"][2] == found["new/file"][2] == body
    assert crashing.end_cleanly() == 0
    assert check_state_dir(crashing.state_dir) == []
