"""Where an inode stands: its path, and which association (with which object key) that path belongs to.

The table stores names, not paths, so that renaming a directory is one record whatever it holds. Paths of directories are
remembered here until any directory moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from s3lustrefs import errors
from s3lustrefs.meta import records
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.association import Association
from s3lustrefs.model.ids import ROOT_INO, AssocId, Ino
from s3lustrefs.model.inode import Inode

LOST_FOUND = b".s3lustrefs-lost+found"
"""At the root of the mount: where the losers of conflicts are kept. In no association, whatever contains it."""
_REMEMBERED_DIRECTORIES = 50_000


@dataclass(frozen=True, slots=True)
class Location:
    """A place inside an association: `relative` has no leading slash and is empty for the linked directory itself."""

    association: Association
    relative: bytes

    @property
    def key(self) -> bytes:
        """Of its object, as it is exported."""
        return self.association.export_key_of(self.relative)

    @property
    def imported_key(self) -> bytes:
        """Of the object it is, or would be, imported from: mostly the same."""
        return self.association.key_of(self.relative)

    def child(self, name: bytes) -> Location:
        return Location(self.association, self.relative + b"/" + name if self.relative else name)


class LocationMap:
    """Directory ino -> Location or None (outside every association). One per engine; trio thread only."""

    def __init__(self) -> None:
        self._by_root: dict[Ino, Association] = {}
        self._by_id: dict[AssocId, Association] = {}
        self._known: dict[Ino, Location | None] = {}

    def set_associations(self, associations: Iterable[Association]) -> None:
        self._by_id = {a.assoc_id: a for a in associations}
        self._by_root = {Ino(a.root_ino): a for a in self._by_id.values() if a.is_linked}
        self._known.clear()

    def association(self, assoc: AssocId) -> Association | None:
        """None also while it is being made or deleted: nothing has a key in it then."""
        found = self._by_id.get(assoc)
        return found if found is not None and found.is_linked else None

    def associations(self) -> list[Association]:
        """All of them, whatever state they are in."""
        return list(self._by_id.values())

    def is_root(self, ino: Ino) -> bool:
        """Whether this directory itself is linked."""
        return ino in self._by_root

    def has_root_below(self, txn: Txn, ino: Ino) -> bool:
        """Whether some linked directory is a descendant of this one."""
        for above in self._by_root:
            while above != ROOT_INO:
                above = records.get_inode(txn, above).parent or ROOT_INO
                if above == ino:
                    return True
        return False

    def forget_paths(self) -> None:
        """Some directory moved."""
        self._known.clear()

    def of_directory(self, txn: Txn, ino: Ino) -> Location | None:
        """Raises: StaleInode."""
        if len(self._known) >= _REMEMBERED_DIRECTORIES:
            self._known.clear()
        climbed: list[Inode] = []  # no recursion: a local tree may be deeper than any stack
        while ino not in self._known:
            if ino in self._by_root or ino == ROOT_INO:
                self._known[ino] = Location(self._by_root[ino], b"") if ino in self._by_root else None
            else:
                inode = records.get_inode(txn, ino)
                if not inode.parent:
                    return None
                climbed.append(inode)
                ino = inode.parent
        found = self._known[ino]
        for inode in reversed(climbed):
            is_lost_found = (inode.parent, inode.name) == (ROOT_INO, LOST_FOUND)
            found = self._known[inode.ino] = None if found is None or is_lost_found else found.child(inode.name)
        return found

    def of_name(self, txn: Txn, parent: Ino, name: bytes) -> Location | None:
        if parent == ROOT_INO and name == LOST_FOUND:
            return None
        above = self.of_directory(txn, parent)
        return above.child(name) if above else None


def path_of(txn: Txn, ino: Ino) -> bytes:
    """Absolute path inside the mount, by primary names. Raises: StaleInode; NotFound for an orphan."""
    parts: list[bytes] = []
    while ino != ROOT_INO:
        inode = records.get_inode(txn, ino)
        if not inode.parent:
            raise errors.NotFound(f"inode {ino} has no name any more")
        parts.append(inode.name)
        ino = inode.parent
    return b"/" + b"/".join(reversed(parts))


def is_lost_found(txn: Txn, ino: Ino) -> bool:
    """Whether a directory is the one of the losers, or below it."""
    while ino != ROOT_INO:
        inode = records.find_inode(txn, ino)
        if inode is None or not inode.parent:
            return False
        if inode.parent == ROOT_INO and inode.name == LOST_FOUND:
            return True
        ino = inode.parent
    return False


def check_entry(txn: Txn, parent: Ino, name: bytes) -> None:
    """Raises: NotPermitted for a name that nobody but the conflicts may make."""
    if (parent == ROOT_INO and name == LOST_FOUND) or is_lost_found(txn, parent):
        raise errors.NotPermitted(f"/{LOST_FOUND.decode()} holds the losers of conflicts, nothing else can be put there")


def walk(txn: Txn, start: Ino, relative: bytes) -> Ino | None:
    """Follow a relative path of dentries (no symlinks, `.` or `..`); None when some part is missing.

    A path that ends in a slash is a directory's: None also when something else has the name.
    """
    ino = start
    for part in relative.split(b"/"):
        if part:
            found = records.find_child(txn, ino, part)
            if found is None:
                return None
            ino = found
    if relative.endswith(b"/"):
        inode = records.find_inode(txn, ino)
        return ino if inode is not None and inode.is_dir else None
    return ino
