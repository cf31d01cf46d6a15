"""One operation on both sides, and whether they agree: the part of the test that knows nothing of mounts and buckets."""

from __future__ import annotations

import time
from typing import Protocol

from tests.model.operations import Operation, Outcome
from tests.model.reference import Reference, Skipped
from tests.model.reference_tree import Inode

CLOCK_SLACK_NS = 20_000_000
"""ext4 takes times from the tick of a coarse clock."""


class Does(Protocol):
    def do(self, operation: Operation) -> Outcome: ...


class Follower:
    """Does operations on a real tree and on the reference. Times that are "now" are taken over from the real one, once they have
    been found between the operation's beginning and its end; from then on they must stay."""

    def __init__(self, reference: Reference, real: Does) -> None:
        self.reference = reference
        self.real = real
        self.done = 0

    def do(self, operation: Operation) -> bool:
        """False when the operation was left out. Raises: AssertionError when the sides differ."""
        before = time.time_ns() - CLOCK_SLACK_NS
        try:
            expected = self.reference.do(operation)
        except Skipped:
            return False
        outcome = self.real.do(operation)
        after = time.time_ns()
        assert outcome == expected, f"{operation}: {shown(outcome)}, expected {shown(expected)}"
        self._adopt_times(operation, before, after)
        self.done += 1
        return True

    def _adopt_times(self, operation: Operation, before: int, after: int) -> None:
        touched, perhaps = self.reference.touched, self.reference.perhaps_touched
        for inode in touched | perhaps:
            found = self._mtime_of(inode)
            if found is None:
                continue
            unchanged = inode in perhaps and found == inode.mtime_ns
            assert unchanged or before <= found <= after, f"{operation}: mtime {found} not in [{before}, {after}]"
            inode.mtime_ns = found
        for _, inode in self.reference.root.walk():
            inode.header_mtimes = inode.header_mtimes or {inode.mtime_ns}

    def _mtime_of(self, inode: Inode) -> int | None:
        path = next((path for path, each in self.reference.root.walk() if each is inode), None)
        slot = next((slot for slot, file in self.reference.slots.items() if file.inode is inode), None)
        if path is None and slot is None:
            return None  # the root itself, or gone
        outcome = self.real.do(["stat", path] if path is not None else ["fstat", slot])
        assert outcome[0] == "ok", (path, slot, outcome)
        mtime_ns: int = outcome[1]["mtime_ns"]
        return mtime_ns

    def compare_tree(self, *, with_content: bool) -> None:
        """Raises: AssertionError with every difference."""
        _, found = self.real.do(["tree", with_content])
        _, expected = self.reference.do(["tree", with_content])
        assert isinstance(found, dict), f"the tree cannot be read: {found}"
        wrong = [
            f"{path}: {shown(found.get(path))}\n{'':{len(path)}}  expected {shown(expected.get(path))}"
            for path in sorted(found.keys() | expected.keys())
            if found.get(path) != expected.get(path)
        ]
        assert not wrong, "the tree differs:\n" + "\n".join(wrong)


def shown(value: object) -> str:
    """Without whole contents."""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes {hash(value) & 0xFFFF:04x}>"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(each)}" for key, each in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(shown(each) for each in value) + ")"
    return repr(value)
