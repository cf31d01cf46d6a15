"""What a power cut may leave of a job: the tree as it was after some step, and in it no byte that was never there.

The table comes back as it was at one moment, not before the last sync that returned. File content may be newer than that, sector
by sector, since writes in place reach the disk whenever the kernel likes.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.crash.tree import Directory, File, Node, Snapshot, Symlink, Tree, differences
from tests.crash.workload import Step

SECTOR_BYTES = 512
SYNCS = ("fsync", "sync_directory")


@dataclass(frozen=True)
class Moment:
    """The tree after a step. Files are told apart by their place in `History.contents`, whatever names they have."""

    snapshot: Snapshot
    files: dict[str, int]


class History:
    """Every state a job passes through, from `start` over `steps`."""

    def __init__(self, start: Tree, steps: list[Step]) -> None:
        tree = start.copy()
        self._numbers: dict[int, int] = {}
        self._files: list[File] = []
        self.contents: list[dict[int, bytes]] = []
        """Per file: moment -> content, where it changed."""
        self._steps = steps
        self.moments = [self._moment(tree, 0)]
        for at, (verb, *arguments) in enumerate(steps):
            tree.apply(str(verb), *arguments)
            self.moments.append(self._moment(tree, at + 1))

    def _moment(self, tree: Tree, at: int) -> Moment:
        files: dict[str, int] = {}
        for name, node in tree.nodes.items():
            if isinstance(node, File):
                if id(node) not in self._numbers:
                    self._numbers[id(node)] = len(self._files)
                    self._files.append(node)
                    self.contents.append({})
                number = files[name] = self._numbers[id(node)]
                known = self.contents[number]
                if not known or known[max(known)] != node.data:
                    known[at] = node.data
        return Moment(tree.snapshot(), files)

    def last_synced(self, acknowledged: int) -> int:
        """The moment before which nothing may be lost."""
        return max((at + 1 for at, step in enumerate(self._steps[:acknowledged]) if step[0] in SYNCS), default=0)

    def find(self, found: Snapshot, acknowledged: int, *, earliest: int | None = None) -> Tree:
        """The tree that `found` is. Raises: AssertionError with the differences to the moment it is most like."""
        latest = min(acknowledged + 1, len(self._steps))
        first = self.last_synced(acknowledged) if earliest is None else earliest
        wrong = {at: self._defects(found, at, latest) for at in range(first, latest + 1)}
        best = min(wrong, key=lambda at: len(wrong[at]))
        assert not wrong[best], (f"steps {first}-{latest}; most like {best}", wrong[best], self._steps[max(0, best - 3) : latest])
        return self._adopt(found, self.moments[best])

    def _defects(self, found: Snapshot, at: int, latest: int) -> list[str]:
        moment = self.moments[at]
        expected = {name: entry if name not in moment.files else (*entry[:2], b"") for name, entry in moment.snapshot.items()}
        shown = {name: (*entry[:2], b"") if entry[0] == "file" else entry for name, entry in found.items()}
        wrong = differences(shown, expected)
        if wrong:
            return wrong
        return [
            defect
            for name, number in moment.files.items()
            if (defect := self._content_defect(name, found[name][2], number, at, latest))
        ]

    def _content_defect(self, name: str, found: bytes, number: int, at: int, latest: int) -> str:
        changes = self.contents[number]
        then = changes[max(moment for moment in changes if moment <= at)]
        later = [data for moment, data in sorted(changes.items()) if at < moment <= latest]
        lengths = sorted((len(then), len(changes.get(at + 1, then))))  # a write arrives in several requests
        if not lengths[0] <= len(found) <= lengths[1]:
            return f"{name}: {len(found)} bytes, expected {lengths}"
        for start in range(0, len(found), SECTOR_BYTES):
            piece = found[start : start + SECTOR_BYTES]
            if not any(data[start : start + len(piece)] == piece for data in (then, *later)):
                what = "zeros" if not any(piece) else "other bytes"
                return f"{name}: {what} at {start} of {len(found)}, which were never there"
        return ""

    @staticmethod
    def _adopt(found: Snapshot, moment: Moment) -> Tree:
        files: dict[int, File] = {}
        nodes: dict[str, Node] = {}
        for name, (kind, mode, data) in found.items():
            if kind == "file":
                nodes[name] = files.setdefault(moment.files[name], File(data, mode))
            else:
                nodes[name] = Symlink(data.decode()) if kind == "link" else Directory(mode)
        return Tree(nodes)
