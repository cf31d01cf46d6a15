"""The small tools of every day, and the ways in which editors and jobs save."""

from __future__ import annotations

import os
import random
from pathlib import Path

from tests.applications.conftest import Workplace


def test_find_sees_what_is_newer_and_du_what_is_there(workplace: Workplace) -> None:
    for number in range(10):
        path = workplace.root / f"file{number}"
        path.write_bytes(os.urandom(10_000))
        os.utime(path, ns=(0, 10**18 + number))
    reference = workplace.root / "file5"
    workplace.settle()
    newer = workplace.run("find", workplace.root, "-type", "f", "-newer", reference).split()
    assert sorted(Path(path).name for path in newer) == ["file6", "file7", "file8", "file9"]
    assert workplace.run("find", workplace.root, "-size", "10000c").count("\n") == 10
    apparent = workplace.run("du", "-s", "--apparent-size", "--block-size=1", reference)
    assert int(apparent.split()[0]) == 10_000 <= int(workplace.run("du", "-s", "--block-size=1", reference).split()[0])


def test_sort_of_a_big_file_with_its_temporary_files_here(workplace: Workplace) -> None:
    rng = random.Random(1)
    lines = [f"{rng.randrange(10**12):012d} some more text" for _ in range(60_000)]
    (workplace.root / "big").write_text("\n".join(lines) + "\n")
    (workplace.root / "tmp").mkdir()
    here: list[str | Path] = ["-T", workplace.root / "tmp", "-o", workplace.root / "sorted", workplace.root / "big"]
    workplace.run("env", "LC_ALL=C", "sort", "-S", "500k", *here)
    assert os.listdir(workplace.root / "tmp") == []
    assert (workplace.root / "sorted").read_text().splitlines() == sorted(lines)


def test_sed_in_place_keeps_mode_and_replaces_content(workplace: Workplace) -> None:
    path = workplace.root / "settings"
    path.write_text("colour=red\n" * 1000)
    path.chmod(0o640)
    workplace.export()
    workplace.run("sed", "-i.before", "s/red/green/", path)
    assert path.read_text() == "colour=green\n" * 1000
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(workplace.root)) == ["settings", "settings.before"]


def test_editors_save_by_writing_beside_and_renaming_over(workplace: Workplace) -> None:
    path = workplace.root / "text"
    path.write_text("first\n")
    for number in range(20):
        backup, fresh = workplace.root / "text~", workplace.root / ".text.swp"
        fresh.write_text(f"version {number}\n")
        with open(fresh) as file:
            os.fsync(file.fileno())
        backup.unlink(missing_ok=True)
        os.link(path, backup)
        os.replace(fresh, path)
        assert path.read_text() == f"version {number}\n"
    backup.unlink()
    assert os.listdir(workplace.root) == ["text"]


def test_vim_saves(workplace: Workplace) -> None:
    path = workplace.root / "notes"
    path.write_text("one\n")
    workplace.run("sh", "-c", 'printf "%%s/one/two/\\nwq\\n" | ex -s "$0"', path)
    assert path.read_text() == "two\n"
    assert os.listdir(workplace.root) == ["notes"]


def test_appends_guarded_by_flock_lose_no_line(workplace: Workplace) -> None:
    log = workplace.root / "log"
    script = 'for n in $(seq 40); do flock "$0.lock" sh -c "echo $1 $n >> $0"; done'
    workers = [workplace.start("sh", "-c", script, log, str(me)) for me in range(4)]
    for worker in workers:
        _, said = worker.communicate(timeout=150)
        assert worker.returncode == 0, said
    lines = log.read_text().splitlines()
    assert sorted(lines) == sorted(f"{me} {number}" for me in range(4) for number in range(1, 41))


def test_appends_without_a_lock_are_atomic_too(workplace: Workplace) -> None:
    log = workplace.root / "log"
    script = 'for n in $(seq 200); do echo "$1 $n"; done >> "$0"'
    workers = [workplace.start("bash", "-c", script, log, str(me)) for me in range(4)]
    for worker in workers:
        _, said = worker.communicate(timeout=150)
        assert worker.returncode == 0, said
    assert sorted(log.read_text().splitlines()) == sorted(f"{me} {number}" for me in range(4) for number in range(1, 201))
