"""An association that exports to another prefix, and deaths: nothing is written twice or lost, and nothing imported is touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from s3lustrefs.meta.check import check_state_dir
from tests.crash.harness import Crashing
from tests.crash.test_deaths_elsewhere import dying

BODIES = {"in/d/": b"", "in/d/x": b"x", "in/edited": b"as imported", "in/mode": b"mode", "in/moved": b"moved", "in/gone": b"gone"}


def edit(root: Path) -> None:
    (root / "edited").write_bytes(b"edited")


def chmod(root: Path) -> None:
    (root / "mode").chmod(0o640)


def move(root: Path) -> None:
    (root / "moved").rename(root / "d" / "moved")
    (root / "d").rename(root / "e")


def unlink_what_was_exported(root: Path) -> None:
    (root / "edited").unlink()


MOVED = {"out/e/": b"", "out/e/x": b"x", "out/e/moved": b"moved"}
EDITED, CHMODDED = {"out/edited": b"edited"}, {"out/mode": b"mode"}
DEATHS: list[tuple[str, Callable[[Path], None], dict[str, bytes]]] = [
    ("put.answered", edit, EDITED),
    ("copy.answered", chmod, CHMODDED),
    ("copy.answered", move, MOVED),
    ("settle.after:2", move, MOVED),
    ("expand.batch", move, MOVED),
]
BESIDE: list[tuple[str, Callable[[Path], None], dict[str, bytes]]] = [
    ("put.before", edit, EDITED),
    ("settle.before", edit, EDITED),
    ("settle.after", edit, EDITED),
    ("copy.before", chmod, CHMODDED),
]
"""Every export passes these; that the object is another than the imported one changes little."""


@pytest.mark.parametrize(
    ("failpoint", "change", "expected"), [*DEATHS, *(pytest.param(*each, marks=pytest.mark.long) for each in BESIDE)]
)
@pytest.mark.one_in(2)
def test_export_cut_short_is_finished_by_the_next_mount(
    crashing: Crashing, failpoint: str, change: Callable[[Path], None], expected: dict[str, bytes]
) -> None:
    start(crashing, failpoint)
    change(crashing.root)
    with dying():
        crashing.drain()
    assert crashing.wait_death() == -9
    finish(crashing, expected)


@pytest.mark.parametrize("failpoint", ["delete.before", "delete.answered"])
@pytest.mark.one_in(2)
def test_delete_cut_short_takes_only_what_was_exported(crashing: Crashing, failpoint: str) -> None:
    start(crashing, failpoint)
    edit(crashing.root)
    crashing.drain()
    with dying():
        unlink_what_was_exported(crashing.root)
        (crashing.root / "gone").unlink()
        crashing.drain()
    assert crashing.wait_death() == -9
    finish(crashing, {})


def test_sweep_cut_short_leaves_what_was_changed_here(crashing: Crashing) -> None:
    start(crashing, "sweep.batch")
    edit(crashing.root)
    crashing.drain()
    crashing.s3.put_object(Bucket=crashing.bucket, Key="in/edited", Body=b"by others")
    crashing.s3.put_object(Bucket=crashing.bucket, Key="in/mode", Body=b"by others")
    with dying():
        crashing.client().call("Refresh", path="/")
    assert crashing.wait_death() == -9
    finish(crashing, {"out/edited": b"edited"}, {**BODIES, "in/edited": b"by others", "in/mode": b"by others"})


def start(crashing: Crashing, failpoint: str) -> None:
    """`BODIES` imported, and everything listed, before anything dies."""
    for key, body in BODIES.items():
        crashing.s3.put_object(Bucket=crashing.bucket, Key=key, Body=body)
    source = crashing.scratch / "apart.toml"
    source.write_text(
        f'[[dra]]\nfile_system_path = "/"\ndata_repository_path = "s3://{crashing.bucket}/in"\n'
        f'export_repository_path = "s3://{crashing.bucket}/out"\nimport_interval = 0\n'
    )
    crashing.source = str(source)
    crashing.mount()
    crashing.wait_import()
    assert crashing.end_cleanly() == 0
    crashing.clear()
    crashing.mount(failpoint)


def finish(crashing: Crashing, expected: dict[str, bytes], imported: dict[str, bytes] | None = None) -> None:
    crashing.clear()
    assert check_state_dir(crashing.state_dir) == []
    crashing.mount()
    crashing.drain()
    bodies = {key: crashing.s3.get_object(Bucket=crashing.bucket, Key=key)["Body"].read() for key in crashing.keys()}
    assert bodies == {**(imported or BODIES), **expected}, crashing.log()
    shown = {path.relative_to(crashing.root).as_posix(): path.read_bytes() for path in crashing.root.rglob("*") if path.is_file()}
    crashing.client().call("Refresh", path="/")
    for key, body in expected.items():
        if not key.endswith("/"):
            assert shown[key.removeprefix("out/")] == body
    again = {path.relative_to(crashing.root).as_posix(): path.read_bytes() for path in crashing.root.rglob("*") if path.is_file()}
    assert {**shown, "mode": b""} == {**again, "mode": b""}, "nothing that was removed or renamed here comes back"
    assert crashing.end_cleanly() == 0
    assert check_state_dir(crashing.state_dir) == []
