"""The power goes at any time under load, again and again on one state directory."""

from __future__ import annotations

import random
from collections.abc import Callable
from subprocess import TimeoutExpired

import pytest

from s3lustrefs.movers import repair
from tests.crash.test_kill import random_steps
from tests.crash.tree import File, Tree
from tests.crash.workload import Step
from tests.power.disk import SMALLEST_UNIT
from tests.power.harness import Powered
from tests.power.history import History

_LONGEST_LIFE_SECONDS = 1.5


def steps_with_syncs(rng: random.Random, tree: Tree, round_: int) -> list[Step]:
    """A job that also reads cold files, syncs some of what it does, and may wait for its exports."""
    steps: list[Step] = []
    for name, node in tree.nodes.items():
        if isinstance(node, File) and rng.random() < 0.3:
            steps.append(["read", name, 0, len(node.data)])
    for step in random_steps(rng, tree, round_):
        steps.append(step)
        if step[0] == "write" and rng.random() < 0.15:
            steps.append(["fsync", step[1]])
        elif step[0] != "create" and rng.random() < 0.04:
            steps.append(["sync_directory", ""])
        elif step[0] in ("close", "rename", "unlink") and rng.random() < 0.03:
            steps.append(["drain"])
    return steps


def cut_again_and_again(powered: Powered, rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    tree = powered.fill()
    powered.mount()
    powered.wait_import()
    for round_ in range(rounds):
        steps = steps_with_syncs(rng, tree, round_)
        job = powered.start_job(steps)
        try:
            job.wait(rng.uniform(0.1, _LONGEST_LIFE_SECONDS))
        except TimeoutExpired:
            pass
        keep = rng.choice([0.0, 0.0, 0.3, 0.7, 1.0])
        powered.cut_power(keep=keep, unit=rng.choice([SMALLEST_UNIT, 4096]), seed=rng.randrange(1 << 30))
        job.communicate()
        history = History(tree, steps)
        try:
            powered.check_no_torn_object(tree, steps)
            tree = history.find(powered.power_on(), powered.acknowledged())
            powered.forget_job()
            if rng.random() < 0.5:
                powered.check_settled(tree)
        except AssertionError as exc:
            raise AssertionError(f"seed {seed} round {round_} keep {keep}\n{powered.old_log}") from exc
    powered.check_settled(tree)
    assert powered.end_cleanly() == 0
    assert repair.find(powered.state_dir) == []


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.one_in(2)
def test_power_cuts_under_load_lose_nothing_that_was_synced(powered: Powered, seed: int) -> None:
    cut_again_and_again(powered, 3, seed)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@pytest.mark.parametrize("disks", [1, 2])
@pytest.mark.parametrize("seed", range(100, 110))
def test_many_power_cuts_under_load_lose_nothing_that_was_synced(
    make_powered: Callable[..., Powered], seed: int, disks: int, kind: str
) -> None:
    cut_again_and_again(make_powered(disks=disks, kind=kind), 20, seed)
