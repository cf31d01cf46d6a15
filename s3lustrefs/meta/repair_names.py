"""Repair of names: every inode gets a place in the tree again, and the tree says what the inodes say.

Dentries are what is trusted: they say which names there are, and inodes are made to agree. What no dentry leads to is put into
`/lost+found` under its number.
"""

from __future__ import annotations

import stat
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from s3lustrefs import errors
from s3lustrefs.meta import records
from s3lustrefs.model.ids import NO_INO, ROOT_INO, Ino
from s3lustrefs.model.inode import Inode

LOST_AND_FOUND = b"lost+found"


@dataclass(slots=True)
class Names:
    """All names in memory; `report(what, where)` hears of each repair."""

    inodes: dict[Ino, Inode]
    dentries: dict[tuple[Ino, bytes], Ino]
    orphans: set[Ino]
    allocate: Callable[[], Ino]
    now_ns: int
    report: Callable[[str, str], None]
    missing: set[Ino] = field(default_factory=set)
    """Inodes that a name led to and that are not there."""
    _children: dict[Ino, list[bytes]] = field(default_factory=lambda: defaultdict(list))

    def repair(self) -> None:
        """Afterwards every inode but the root and orphans has its names, and its link count is right."""
        self._repair_root()
        self._drop_bad_dentries()
        reached = self._reach({ROOT_INO}, ROOT_INO)
        while homeless := self._homeless(reached):
            self._take_in(homeless)
            reached = self._reach({ROOT_INO}, ROOT_INO)
        self._agree()

    def path(self, ino: Ino) -> str:
        """As far up as it leads."""
        parts: list[bytes] = []
        seen: set[Ino] = set()
        inode = self.inodes.get(ino)
        while inode is not None and inode.ino != ROOT_INO and inode.ino not in seen:
            seen.add(inode.ino)
            parts.append(inode.name or str(inode.ino).encode())
            inode = self.inodes.get(inode.parent)
        return "/" + b"/".join(reversed(parts)).decode(errors="backslashreplace")

    def _repair_root(self) -> None:
        root = self.inodes.get(ROOT_INO)
        if root is None or not root.is_dir:
            self.report("the root directory was not there: made anew", "/")
            self.inodes[ROOT_INO] = _directory(ROOT_INO, self.now_ns)
        elif root.parent or root.name:
            self.report("the root directory had a name", "/")
            root.parent, root.name = NO_INO, b""

    def _drop_bad_dentries(self) -> None:
        directories: dict[Ino, tuple[Ino, bytes]] = {}
        for place, ino in sorted(self.dentries.items(), key=lambda row: not self._is_primary(row[0], row[1])):
            child = self.inodes.get(ino)
            defect = self._dentry_defect(place, child)
            if not defect and child is not None and child.is_dir and directories.setdefault(ino, place) != place:
                defect = f"is a second name of directory {ino}"
            if defect:
                if child is None:
                    self.missing.add(ino)
                del self.dentries[place]
                self.report(f"name removed: {defect}", self.path(place[0]).rstrip("/") + "/" + place[1].decode(errors="replace"))
            else:
                self._children[place[0]].append(place[1])

    def _is_primary(self, place: tuple[Ino, bytes], ino: Ino) -> bool:
        inode = self.inodes.get(ino)
        return inode is not None and (inode.parent, inode.name) == place

    def _dentry_defect(self, place: tuple[Ino, bytes], child: Inode | None) -> str:
        parent = self.inodes.get(place[0])
        try:
            records.check_name(place[1])
        except errors.MetadataError as exc:
            return str(exc)
        if parent is None or not parent.is_dir:
            return "its directory is not there"
        if child is None:
            return "its inode is not there"
        return "it names the root directory" if child.ino == ROOT_INO else ""

    def _reach(self, reached: set[Ino], start: Ino) -> set[Ino]:
        waiting = [start]
        while waiting:
            parent = waiting.pop()
            for name in self._children.get(parent, ()):
                ino = self.dentries[parent, name]
                if ino not in reached:
                    reached.add(ino)
                    if self.inodes[ino].is_dir:
                        waiting.append(ino)
        return reached

    def _homeless(self, reached: set[Ino]) -> list[Ino]:
        """What is not reached and has no name at all; in a circle of directories, one of them."""
        unreached = [ino for ino in self.inodes if ino not in reached and not self._is_orphan(ino)]
        named = set(self.dentries.values())
        nameless = [ino for ino in unreached if ino not in named]
        return nameless or unreached[:1]

    def _is_orphan(self, ino: Ino) -> bool:
        return ino in self.orphans or not self.inodes[ino].nlink

    def _take_in(self, homeless: list[Ino]) -> None:
        shelter = self._shelter()
        for ino in homeless:
            for place in [place for place, child in self.dentries.items() if child == ino]:
                del self.dentries[place]
                self._children[place[0]].remove(place[1])
            name = b"#%d" % ino
            self.dentries[shelter, name] = ino
            self._children[shelter].append(name)
            old = self.inodes[ino].name.decode(errors="replace")
            self.report(f"had no place in the tree: is now /lost+found/{name.decode()}", old or f"inode {ino}")

    def _shelter(self) -> Ino:
        found = self.dentries.get((ROOT_INO, LOST_AND_FOUND))
        if found is not None and self.inodes[found].is_dir:
            return found
        name = LOST_AND_FOUND if found is None else LOST_AND_FOUND + b".fsck"
        ino = self.allocate()
        self.inodes[ino] = _directory(ino, self.now_ns)
        self.dentries[ROOT_INO, name] = ino
        self._children[ROOT_INO].append(name)
        return ino

    def _agree(self) -> None:
        """Primary names, orphans and link counts follow the dentries."""
        places: dict[Ino, list[tuple[Ino, bytes]]] = defaultdict(list)
        for place, ino in self.dentries.items():
            places[ino].append(place)
        subdirectories: dict[Ino, int] = defaultdict(int)
        for ino, inode in self.inodes.items():
            if inode.is_dir and ino != ROOT_INO and places[ino]:
                subdirectories[places[ino][0][0]] += 1
        for ino, inode in self.inodes.items():
            if ino == ROOT_INO:
                nlink = 2 + subdirectories[ino]
            elif names := places[ino]:
                if (inode.parent, inode.name) not in names:
                    inode.parent, inode.name = min(names)
                    self.report("its inode did not know this name", self.path(ino))
                nlink = 2 + subdirectories[ino] if inode.is_dir else len(names)
                if ino in self.orphans:
                    self.orphans.discard(ino)
                    self.report("was taken for unlinked", self.path(ino))
            else:
                inode.parent, inode.name, nlink = NO_INO, b"", 0
                if ino not in self.orphans:
                    self.orphans.add(ino)
                    self.report("has no name: removed at the next mount", f"inode {ino}")
            if inode.nlink != nlink:
                self.report(f"had nlink {inode.nlink} instead of {nlink}", self.path(ino))
                inode.nlink = nlink

    def links(self) -> dict[Ino, list[tuple[Ino, bytes]]]:
        """Names of files beside their primary ones."""
        found: dict[Ino, list[tuple[Ino, bytes]]] = defaultdict(list)
        for place, ino in self.dentries.items():
            if not self._is_primary(place, ino):
                found[ino].append(place)
        return found


def _directory(ino: Ino, now_ns: int) -> Inode:
    return Inode(ino, stat.S_IFDIR | 0o700, 0, 0, 2, 0, now_ns, now_ns, now_ns)
