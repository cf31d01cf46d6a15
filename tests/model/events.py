"""Which of the things that happen to a mount happens next, and when: now and then between system calls."""

from __future__ import annotations

import random
from typing import Any

from tests.model import bucket_faults
from tests.model.bucket_reference import ASSOCIATIONS
from tests.model.operations import Operation
from tests.model.policies import EVERYTHING
from tests.model.reference import Reference
from tests.model.reference_tree import Inode

_SHARE = 0.12
_POLICIES = ["none", "new", "changed", "deleted", "new+changed", "new+deleted", "changed+deleted", EVERYTHING]
_NEW = ["theirs", "ä b", "n+%"]
_HEADERS = [{}, {"file-permissions": "0100600", "file-owner": "11", "file-group": "12", "file-mtime": "77000000001ns"}]

_MARKER_HEADERS = [{}, {"file-permissions": "040750", "file-owner": "11", "file-group": "12"}]


class EventChooser:
    """Depends on nothing but the seed and the reference."""

    def __init__(
        self, rng: random.Random, *, outages: bool, stalls: bool = False, imports: bool = False, told: bool = False
    ) -> None:  # fmt: skip
        """`outages`: faults that last; `stalls`: also those that cost many seconds each; `imports`: others change the bucket;
        `told`: and the mount is told of it, under policies that change at run time."""
        self._rng = rng
        self._outages = outages
        self._stalls = stalls
        self._makers = [
            (self._export_now, 60),
            (self._drain, 4), (self._compare, 4), (self._remount, 2), (self._kill, 3), (self._kill_during_export, 1),
            (self._faults, 10), (self._replace_object, 3), (self._create_object, 1), (self._delete_object, 1),
            (self._import_anew, 1),
        ]  # fmt: skip
        if imports:
            self._makers.append((self._others, 20))
        if told:
            self._makers += [
                (self._others_told, 14), (self._tell, 10), (self._imports, 6), (self._exports, 6), (self._refresh, 2),
            ]  # fmt: skip

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
        return ["faults", bucket_faults.choose(self._rng, outages=self._outages, stalls=self._stalls)]

    def _import_anew(self, reference: Reference) -> Operation:
        return ["import_anew"]

    # --- by others -------------------------------------------------------------------------------------------------------

    def _object(self, reference: Reference) -> str:
        """The path of a file that has an object; of the root when there is none."""
        linked = [path for path, inode in reference.root.walk() if inode.kind == "file" and path.startswith(("one/", "two/"))]
        return self._rng.choice(linked) if linked else ""

    def _replace_object(self, reference: Reference) -> Operation:
        length = self._rng.choice([10, 1000, 70_000])
        return ["replace_object", self._object(reference), self._seed(), length, self._rng.choice(_HEADERS)]

    def _create_object(self, reference: Reference) -> Operation:
        directories = [path for path, inode in reference.root.walk() if inode.is_dir]
        return ["create_object", self._rng.choice(directories), self._seed(), self._rng.choice([10, 1000])]

    def _others(self, reference: Reference) -> Operation:
        """Several changes at once, one of which a job here may run into."""
        changes = self._changes(reference)
        policy = self._rng.choice(["", *_POLICIES])
        changed_here = changes[0][1] if self._rng.random() < 0.3 else ""
        return ["others", changes, policy, changed_here]

    def _changes(self, reference: Reference) -> list[list[Any]]:
        nodes = [(path, inode) for path, inode in reference.root.walk() if path.startswith(("one/", "two/"))]
        return [self._change(nodes) for _ in range(self._rng.randint(1, 6))]

    def _change(self, nodes: list[tuple[str, Inode]]) -> list[Any]:
        what = [self._seed(), self._rng.choice([10, 1000, 70_000])]
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

    # --- told of, under policies of the moment ---------------------------------------------------------------------------

    def _fate(self) -> list[Any]:
        """Of messages: see `telling.Fate`."""
        return [self._seed(), *self._rng.choice([(0, 0, 0), (0.3, 0, 0.3), (0.2, 0.3, 0.3), (1, 0, 0)])]

    def _others_told(self, reference: Reference) -> Operation:
        return ["others_told", self._changes(reference), self._fate(), self._rng.random() < 0.2]

    def _tell(self, reference: Reference) -> Operation:
        return ["tell", self._fate()]

    def _imports(self, reference: Reference) -> Operation:
        if self._rng.random() < 0.1:
            return ["imports", dict.fromkeys(ASSOCIATIONS, "none")]  # nobody listens any more
        return ["imports", {name: self._rng.choice([*_POLICIES, *[EVERYTHING] * 5]) for name in ASSOCIATIONS}]

    def _exports(self, reference: Reference) -> Operation:
        return ["exports", self._rng.choice(["none", "none", "new+changed", *_POLICIES[1:-1], *[EVERYTHING] * 4])]

    def _refresh(self, reference: Reference) -> Operation:
        return ["refresh"]
