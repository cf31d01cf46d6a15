"""Which of the things that happen to a mount happens next, and when: now and then between system calls."""

from __future__ import annotations

import random
from typing import Any

from tests.model.operations import Operation
from tests.model.reference import Reference
from tests.model.reference_tree import Inode

_SHARE = 0.12
_FAULTS = [
    ("slowdown", ""), ("internal", ""), ("reset", ""), ("html", ""), ("lost-reply", "PUT"), ("lost-reply", "DELETE"),
    ("late-error", "PUT"), ("truncate:100", "GET"), ("internal", "HEAD"), ("lost-reply", ""),
]  # fmt: skip
_OUTAGES = [("slowdown", "PUT"), ("denied", "PUT"), ("reset", "PUT"), ("expired", "PUT"), ("internal", "DELETE"), ("html", "POST")]
"""Whatever writes to the bucket fails in this way until the next drain."""
_FOR_EVER = 10**9
_POLICIES = ["none", "new", "changed", "deleted", "new+changed", "new+deleted", "changed+deleted", "new+changed+deleted"]
_NEW = ["theirs", "ä b", "n+%"]
_HEADERS = [{}, {"file-permissions": "0100600", "file-owner": "11", "file-group": "12", "file-mtime": "77000000001ns"}]

_MARKER_HEADERS = [{}, {"file-permissions": "040750", "file-owner": "11", "file-group": "12"}]


class EventChooser:
    """Depends on nothing but the seed and the reference."""

    def __init__(self, rng: random.Random, *, outages: bool, imports: bool) -> None:
        self._rng = rng
        self._outages = outages
        self._makers = [
            (self._export_now, 60),
            (self._drain, 4), (self._compare, 4), (self._remount, 2), (self._kill, 3), (self._kill_during_export, 1),
            (self._faults, 6), (self._replace_object, 3), (self._create_object, 1), (self._delete_object, 1),
            (self._import_anew, 1),
        ]  # fmt: skip
        if imports:
            self._makers.append((self._others, 20))

    def next(self, reference: Reference) -> Operation | None:
        """None: a system call is next."""
        if self._rng.random() >= _SHARE:
            return None
        makers, weights = zip(*self._makers, strict=True)
        operation: Operation = self._rng.choices(makers, weights)[0](reference)
        return operation

    def _seed(self) -> int:
        return self._rng.randrange(1 << 30)

    def _export_now(self, reference: Reference) -> Operation:
        return ["export_now"]

    def _drain(self, reference: Reference) -> Operation:
        return ["drain"]

    def _compare(self, reference: Reference) -> Operation:
        return ["compare", self._rng.random() < 0.3]

    def _remount(self, reference: Reference) -> Operation:
        return ["remount"]

    def _kill(self, reference: Reference) -> Operation:
        return ["kill"]

    def _kill_during_export(self, reference: Reference) -> Operation:
        return ["kill_during_export", self._rng.choice(["hold", "hold-reply"]), self._seed(), self._rng.choice([5000, 300_000])]

    def _faults(self, reference: Reference) -> Operation:
        if self._outages and self._rng.random() < 0.3:
            return ["faults", [[*self._rng.choice(_OUTAGES), _FOR_EVER, 0]]]
        chosen = self._rng.sample(_FAULTS, self._rng.randint(1, 3))
        faults = [[action, method, self._rng.randint(1, 3), self._rng.randint(0, 4)] for action, method in chosen]
        return ["faults", faults]

    def _import_anew(self, reference: Reference) -> Operation:
        return ["import_anew"]

    # --- by others -------------------------------------------------------------------------------------------------------

    def _object(self, reference: Reference) -> str:
        """The path of a file that has an object; of the root when there is none."""
        linked = [path for path, inode in reference.root.walk() if inode.kind == "file" and path.startswith(("one/", "two/"))]
        return self._rng.choice(linked) if linked else ""

    def _replace_object(self, reference: Reference) -> Operation:
        length = self._rng.choice([1, 1000, 70_000])
        return ["replace_object", self._object(reference), self._seed(), length, self._rng.choice(_HEADERS)]

    def _create_object(self, reference: Reference) -> Operation:
        directories = [path for path, inode in reference.root.walk() if inode.is_dir]
        return ["create_object", self._rng.choice(directories), self._seed(), self._rng.choice([10, 1000])]

    def _others(self, reference: Reference) -> Operation:
        """Several changes at once, one of which a job here may run into."""
        nodes = [(path, inode) for path, inode in reference.root.walk() if path.startswith(("one/", "two/"))]
        changes = [self._change(nodes) for _ in range(self._rng.randint(1, 6))]
        policy = self._rng.choice(["", *_POLICIES])
        changed_here = changes[0][1] if self._rng.random() < 0.3 else ""
        return ["others", changes, policy, changed_here]

    def _change(self, nodes: list[tuple[str, Inode]]) -> list[Any]:
        what = [self._seed(), self._rng.choice([1, 1000, 70_000])]
        directories = ["one", "two", *(path for path, inode in nodes if inode.is_dir)]
        new = f"{self._rng.choice(directories)}/{self._rng.choice(_NEW)}-{self._rng.randrange(1000)}"
        leaves = [path for path, inode in nodes if not inode.is_dir] or [new]
        verb, path = self._rng.choices(
            [("put", new), ("put", f"{new}/d/x"), ("put", self._rng.choice(leaves)), ("delete", self._rng.choice(leaves)),
             ("mark", new), ("unmark", self._rng.choice(directories))],
            [3, 2, 4, 4, 1, 2],
        )[0]  # fmt: skip
        return [verb, path, *what, self._rng.choice(_MARKER_HEADERS if verb == "mark" else _HEADERS)]

    def _delete_object(self, reference: Reference) -> Operation:
        return ["delete_object", self._object(reference), self._seed()]
