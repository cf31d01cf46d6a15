"""SIGKILL at any time under load, again and again on one state directory: a model follows, and the bucket ends up equal."""

from __future__ import annotations

import random
from subprocess import TimeoutExpired

import pytest

from s3lustrefs.meta.check import check_state_dir
from tests.crash.harness import Crashing
from tests.crash.tree import Directory, File, Tree
from tests.crash.workload import Step

_STEPS = 60
_LONGEST_LIFE_SECONDS = 1.2


def random_steps(rng: random.Random, tree: Tree, round_: int) -> list[Step]:
    """Steps that all succeed on `tree` as it is, in an order that depends on the round alone."""
    ahead = tree.copy()
    steps: list[Step] = []

    def add(*step: object) -> None:
        steps.append(list(step))
        ahead.apply(str(step[0]), *step[1:])

    for number in range(_STEPS):
        files = [name for name, node in ahead.nodes.items() if isinstance(node, File)]
        directories = [name for name, node in ahead.nodes.items() if isinstance(node, Directory)]
        fresh = f"r{round_}-{number}"
        place = rng.choice(["", *(f"{name}/" for name in directories)]) + fresh
        verb = rng.choice(["new", "new", "change", "append", "rename", "rename", "move", "over", "unlink", "mkdir", "chmod", "cut"])
        if verb == "mkdir" and len(directories) < 8:
            add("mkdir", place)
        elif verb == "new" or len(files) < 4:
            add("create", place)
            add("write", place, 0, number, rng.choice([1, 100, 5000, 200_000]))
            add("close", place)
        elif verb in ("change", "append"):
            name = rng.choice(files)
            node = ahead.nodes[name]
            assert isinstance(node, File)
            add("open_old", name)
            add("write", name, len(node.data) if verb == "append" else 0, number, 50)
            add("close", name)
        elif verb == "rename":
            add("rename", rng.choice(files), place)
        elif verb == "move" and directories:
            moved = rng.choice(directories)
            if not place.startswith(moved + "/"):
                add("rename", moved, place)
        elif verb == "over" and len(files) > 1:
            add("rename", *rng.sample(files, 2))
        elif verb == "unlink":
            add("unlink", rng.choice(files))
        elif verb == "chmod":
            add("chmod", rng.choice([*files, *directories]), rng.choice([0o600, 0o644, 0o755]))
        elif verb == "cut":
            add("truncate", rng.choice(files), rng.choice([0, 10, 6000]))
    return steps


def kill_again_and_again(crashing: Crashing, rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    tree = crashing.fill()
    crashing.mount()
    crashing.wait_import()
    for round_ in range(rounds):
        steps = random_steps(rng, tree, round_)
        job = crashing.start_job(steps)
        try:
            job.wait(rng.uniform(0.1, _LONGEST_LIFE_SECONDS))
        except TimeoutExpired:
            pass
        crashing.kill()
        assert crashing.wait_death() == -9
        job.communicate()
        crashing.check_no_torn_object(tree, steps)
        tree = crashing.recover(tree, steps)
        crashing.forget_job()
        if rng.random() < 0.4:
            crashing.drain()
            crashing.check_bucket(tree)
    crashing.drain()
    crashing.check_bucket(tree)
    assert crashing.end_cleanly() == 0
    assert check_state_dir(crashing.state_dir) == []


def test_kills_under_load_lose_nothing(crashing: Crashing) -> None:
    kill_again_and_again(crashing, 20, seed=1)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(10))
def test_hundreds_of_kills_under_load_lose_nothing(crashing: Crashing, seed: int) -> None:
    kill_again_and_again(crashing, 30, seed=seed + 100)
