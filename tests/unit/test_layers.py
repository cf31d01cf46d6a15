"""The import order of the rooms, the fences around third parties, and no await inside a transaction: read from the source.

Every `import` statement counts, wherever it stands: at the top, inside a function, under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "s3lustrefs"

ROWS = (
    ("model", "errors", "failpoints"),
    ("config", "log", "mountinfo", "durable_files"),
    ("meta", "data", "repository"),
    ("movers",),
    ("fs",),
    ("fuse", "control"),
    ("mount", "host"),
    ("cli",),
    ("__main__",),
)
HEIGHT = {room: height for height, row in enumerate(ROWS) for room in row}

FENCES = {
    "pyfuse3": {"fuse"},
    "lmdb": {"meta"},
    "boto3": {"repository"},
    "botocore": {"repository", "control"},
    "awscrt": {"repository"},
    "pycurl": {"repository"},
    "click": {"cli"},
    "rich": {"cli"},
    "h11": {"control"},
}
THREADS = {
    "meta",
    "data",
    "repository",
    "fuse/invalidator",
    "fuse/session",
    "control/fsx_model",
    "control/host_mounts",
    "control/unmounted",
    "mount",
    "cli",
}


def room_of(path: Path, package: Path) -> str:
    """`meta` for s3lustrefs/meta/store.py, `config` for s3lustrefs/config.py."""
    first = path.relative_to(package).parts[0]
    return first.removesuffix(".py")


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import; `from a import b` counts as both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield node.lineno, module
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def import_violations(room: str, module: str, name: str) -> Iterator[str]:
    parts = name.split(".")
    if name.startswith("."):
        yield "relative import"
    elif parts[0] == "s3lustrefs" and len(parts) > 1 and parts[1] in HEIGHT:
        other = parts[1]
        if other != room and HEIGHT[other] >= HEIGHT[room]:
            yield f"{room} must not import {other}"
    elif parts[0] in FENCES and room not in FENCES[parts[0]]:
        yield f"{parts[0]} is fenced off from {room}"
    elif name in ("trio.to_thread", "trio.from_thread") and not THREADS & {room, module}:
        yield f"threads are fenced off from {module}"


def is_transaction(item: ast.withitem) -> bool:
    return isinstance(item.optional_vars, ast.Name) and item.optional_vars.id in ("txn", "transaction")


def body_violations(tree: ast.AST, room: str, module: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and any(is_transaction(item) for item in node.items):
            for inner in (inner for statement in node.body for inner in ast.walk(statement)):
                if isinstance(inner, ast.Await | ast.AsyncFor | ast.AsyncWith):
                    yield inner.lineno, "await inside a transaction"
        elif isinstance(node, ast.AsyncWith) and any(is_transaction(item) for item in node.items):
            yield node.lineno, "a transaction is not opened with `async with`"
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "trio"
            and node.attr in ("to_thread", "from_thread")
            and not THREADS & {room, module}
        ):
            yield node.lineno, f"threads are fenced off from {module}"


def violations(package: Path) -> list[str]:
    """`path:line: what` for everything wrong in a package."""
    found = set()
    for path in sorted(package.rglob("*.py")):
        room, module = room_of(path, package), str(path.relative_to(package).with_suffix(""))
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if room == "__init__":
            found |= {f"{path}:{line}: the package itself imports nothing" for line, _ in imported_modules(tree)}
            continue
        if room not in HEIGHT:
            found.add(f"{path}:1: no such room: {room}")
            continue
        wrong = [(line, what) for line, name in imported_modules(tree) for what in import_violations(room, module, name)]
        found |= {f"{path}:{line}: {what}" for line, what in [*wrong, *body_violations(tree, room, module)]}
    return sorted(found)


def test_package_keeps_the_layers() -> None:
    assert violations(PACKAGE) == []


def test_every_source_file_is_looked_at() -> None:
    assert {room_of(path, PACKAGE) for path in PACKAGE.rglob("*.py")} >= {"model", "config", "meta", "cli", "control"}


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("model/inode.py", "from s3lustrefs import meta\n", "model must not import meta"),
        ("model/inode.py", "from s3lustrefs.errors import NotFound\n", "model must not import errors"),
        ("meta/store.py", "import s3lustrefs.data.layout\n", "meta must not import data"),
        ("fs/file_io.py", "def f():\n    from s3lustrefs.fuse import operations\n", "fs must not import fuse"),
        (
            "fs/file_io.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from s3lustrefs.mount import build\n",
            "fs must not import mount",
        ),
        ("config.py", "import s3lustrefs.log\n", "config must not import log"),
        ("fs/file_io.py", "from .handles import Handle\n", "relative import"),
        ("fs/file_io.py", "from . import handles\n", "relative import"),
        ("fs/file_io.py", "import pyfuse3\n", "pyfuse3 is fenced off from fs"),
        ("movers/exporter.py", "from botocore.exceptions import ClientError\n", "botocore is fenced off from movers"),
        ("data/space.py", "import lmdb\n", "lmdb is fenced off from data"),
        ("movers/exporter.py", "import trio\nasync def f():\n    await trio.to_thread.run_sync(print)\n", "threads are fenced off"),
        ("fuse/operations.py", "from trio import to_thread\n", "threads are fenced off"),
        ("meta/journal.py", "async def f(e):\n    with e.begin() as txn:\n        await e.sleep()\n", "await inside a transaction"),
        (
            "meta/journal.py",
            "async def f(e):\n    with e.begin() as txn:\n        async for _ in e: pass\n",
            "await inside a transaction",
        ),
        ("meta/journal.py", "async def f(e):\n    async with e.begin() as txn: pass\n", "not opened with `async with`"),
        ("helpers/misc.py", "", "no such room: helpers"),
        ("__init__.py", "from s3lustrefs.config import Config\n", "the package itself imports nothing"),
    ],
)
def test_violation_is_found(tmp_path: Path, path: str, source: str, expected: str) -> None:
    package = tmp_path / "s3lustrefs"
    (package / path).parent.mkdir(parents=True, exist_ok=True)
    (package / path).write_text(source)
    (found,) = violations(package)
    assert expected in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("movers/exporter.py", "from s3lustrefs.meta import engine\nfrom s3lustrefs.repository.object_store import ObjectStore\n"),
        ("movers/exporter.py", "from s3lustrefs.movers import hydrator\nfrom s3lustrefs import errors\n"),
        ("fuse/invalidator.py", "import trio\nimport pyfuse3\nasync def f():\n    await trio.to_thread.run_sync(print)\n"),
        ("meta/journal.py", "async def f(e):\n    with e.begin() as txn:\n        txn.put()\n    await e.sync()\n"),
        ("cli/admin.py", "from s3lustrefs import mount, config\nimport click\n"),
    ],
)
def test_what_is_allowed_passes(tmp_path: Path, path: str, source: str) -> None:
    package = tmp_path / "s3lustrefs"
    (package / path).parent.mkdir(parents=True)
    (package / path).write_text(source)
    assert violations(package) == []
