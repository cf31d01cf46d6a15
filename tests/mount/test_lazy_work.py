"""Random work in a file cache gives what it gives in a directory that has had everything from the start, deaths included."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from s3lustrefs.movers import repair
from tests.mount.conftest import fresh_bucket
from tests.mount.file_cache import FileCache, file_cache
from tests.semantics.mounted import put_objects
from tests.servers import S3Server

NAMES = "abcd"
STEPS = 150
Tree = dict[str, bytes | None]
"""Path -> content; None: a directory."""


def grown(choice: random.Random, below: str = "", depth: int = 0) -> Tree:
    tree: Tree = {}
    for name in NAMES:
        path, kind = below + name, choice.random()
        if kind < 0.35:
            tree[path] = path.encode()
        elif kind < 0.8 and depth < 3:
            tree[path] = None
            tree |= grown(choice, f"{path}/", depth + 1)
    return tree


def found(root: Path) -> Tree:
    tree: Tree = {}
    for directory, directories, files in os.walk(root):
        here = Path(directory)
        tree |= {str((here / name).relative_to(root)): None for name in directories}
        tree |= {str((here / name).relative_to(root)): (here / name).read_bytes() for name in files}
    return tree


def outcome(deed: Callable[[Path], object], root: Path) -> object:
    try:
        return deed(root)
    except OSError as exc:
        return exc.errno


def step(choice: random.Random) -> tuple[str, Callable[[Path], object]]:
    """What is done, in words, and how it is done in a directory."""

    def path() -> str:
        return "/".join(choice.choice(NAMES) for _ in range(choice.randint(1, 4)))

    one, other, number = path(), path(), choice.randrange(1000)
    deeds: dict[str, Callable[[Path], object]] = {
        f"list {one}": lambda root: sorted(os.listdir(root / one)),
        f"look at {one}": lambda root: (root / one).is_dir() or (root / one).read_bytes(),
        f"look for {one}": lambda root: os.path.lexists(root / one),
        f"rename {one} {other}": lambda root: os.rename(root / one, root / other),
        f"move {one} {other}": lambda root: os.rename(root / one, root / other),
        f"unlink {one}": lambda root: os.unlink(root / one),
        f"rmdir {one}": lambda root: os.rmdir(root / one),
        f"mkdir {one}": lambda root: os.mkdir(root / one),
        f"write {one} {number}": lambda root: (root / one).write_bytes(str(number).encode()),
    }
    if choice.random() < 0.1:
        deeds = {f"remove {one}": lambda root: shutil.rmtree(root / one)}
    return choice.choice(list(deeds.items()))


@pytest.fixture
def cache(moto_server: S3Server) -> Iterator[FileCache]:
    with file_cache(moto_server, fresh_bucket(moto_server)) as made:
        yield made


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.one_in(3)
def test_work_is_as_where_everything_was_there(cache: FileCache, tmp_path: Path, seed: int) -> None:
    choice = random.Random(seed)
    tree = grown(choice)
    keys = [(f"in/{path}" if body is not None else f"in/{path}/", body or b"", {}) for path, body in tree.items()]
    # Most directories are there by what is in them alone.
    keys = [key for key in keys if not key[0].endswith("/") or choice.random() < 0.3 or _is_leaf(tree, key[0][3:-1])]
    put_objects(cache.host.server, cache.bucket, keys)
    plain = tmp_path / "plain"
    plain.mkdir()
    for path, body in tree.items():
        if body is None:
            (plain / path).mkdir(parents=True, exist_ok=True)
        else:
            (plain / path).write_bytes(body)
    data = cache.mount()
    history: list[str] = []
    for number in range(STEPS):
        if number % 40 == 39:
            data = again(cache, choice, history)
            if choice.random() < 0.5:
                history.append("refresh")
                cache.run("refresh", data)
        words, deed = step(choice)
        history.append(words)
        assert outcome(deed, data) == outcome(deed, plain), history
    cache.run("refresh", data)
    assert found(data) == found(plain), history
    cache.unmount()
    assert repair.find(cache.state_dir) == []


def _is_leaf(tree: Tree, path: str) -> bool:
    return not any(other.startswith(f"{path}/") for other in tree)


def again(cache: FileCache, choice: random.Random, history: list[str]) -> Path:
    """Unmounted or killed, and mounted again."""
    if choice.random() < 0.5:
        history.append("remount")
        cache.unmount()
    else:
        history.append("kill")
        with cache.dying():
            os.kill(int((cache.state_dir / "lock").read_text().strip().lstrip("-")), signal.SIGKILL)
    return cache.mount()
