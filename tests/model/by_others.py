"""What others do in the bucket while an import policy is on, and what of it a mount must show once it has looked.

A change is `[verb, path, seed, length, headers]`: `put` an object, `delete` one, `mark` a directory with an object of its own, or
`unmark` it by deleting that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.model.bucket_reference import ASSOCIATIONS, StoredObject, directory, leaf, read_object, take_headers
from tests.model.operations import content
from tests.model.reference_tree import Inode
from tests.mount.site import Site

EVENTS = ("new", "changed", "deleted")


@dataclass(frozen=True)
class RemoteChange:
    """One change that was made. `event` is the one of the import policy that it is."""

    verb: str
    path: str
    event: str
    stored: StoredObject | None

    @property
    def key(self) -> str:
        return self.path + "/" if self.verb in ("mark", "unmark") else self.path

    @property
    def order(self) -> tuple[bool, int]:
        """Directories lose their objects last and deepest first: then it shows what is left in them."""
        return self.verb == "unmark", -self.path.count("/")


def carry_out(site: Site, root: Inode, changes: Iterable[list[Any]]) -> list[RemoteChange]:
    """Make those changes that make sense for a tree which the bucket equals; one for each path."""
    made: dict[str, RemoteChange] = {}
    for verb, path, *what in changes:
        inode = dict(root.walk()).get(path)
        if path not in made and _is_possible(verb, inode, path) and _is_whole(root, inode):
            made[path] = RemoteChange(verb, path, _event(verb, inode), _do(site, verb, path, *what))
    return list(made.values())


def _is_possible(verb: str, inode: Inode | None, path: str) -> bool:
    if not path.startswith(tuple(f"{name}/" for name in ASSOCIATIONS)):
        return False
    if inode is None:
        return verb in ("put", "mark")
    if inode.is_dir:
        return verb == "unmark" and inode.has_marker
    return verb in ("put", "delete") and (inode.kind == "file" or (inode.kind == "link" and inode.nlink == 1))


def _is_whole(root: Inode, inode: Inode | None) -> bool:
    """Whether every name of a file has an object: it depends on what is local where another name could not keep the content."""
    if inode is None or inode.is_dir or inode.nlink == 1:
        return True
    inside = [path for path, each in root.walk() if each is inode and path.startswith(tuple(f"{name}/" for name in ASSOCIATIONS))]
    return len(inside) == inode.nlink


def _event(verb: str, inode: Inode | None) -> str:
    if verb in ("put", "mark"):
        return "new" if inode is None else "changed"
    return "deleted"


def _do(site: Site, verb: str, path: str, seed: int, length: int, headers: Mapping[str, str]) -> StoredObject | None:
    key = path + "/" if verb in ("mark", "unmark") else path
    if verb in ("delete", "unmark"):
        site.s3.delete_object(Bucket=site.bucket, Key=key)
        return None
    site.put(key, b"" if verb == "mark" else content(seed, length), Metadata=headers)
    return read_object(site, key)


def show(root: Inode, changes: Iterable[RemoteChange]) -> set[Inode]:
    """Bring the reference to where a look at the bucket brings the mount; directories that got another time by it."""
    touched: set[Inode] = set()
    for change in sorted(changes, key=lambda each: each.order):
        *above, name = change.path.split("/")
        parent = root
        for part in above:
            if part not in parent.children:
                touched |= {parent, directory(parent, part)}
            parent = parent.children[part]
        if change.stored is None:
            _take_away(parent, name, touched)
        else:
            _bring(parent, name, change.stored, touched)
    return {inode for _, inode in root.walk() if inode in touched}


def _take_away(parent: Inode, name: str, touched: set[Inode]) -> None:
    inode = parent.children[name]
    inode.has_marker = False
    if not inode.children:
        del parent.children[name]
        parent.nlink -= inode.is_dir
        inode.nlink -= not inode.is_dir and inode.nlink > 1
        touched.add(parent)


def _bring(parent: Inode, name: str, stored: StoredObject, touched: set[Inode]) -> None:
    old = parent.children.get(name)
    if stored.key.endswith("/"):
        inode = directory(parent, name)
        inode.has_marker = True
    else:
        inode = parent.children[name] = leaf(stored)
        if old is not None and old.kind == "file":
            # What the object does not say stays.
            inode.mode, inode.uid, inode.gid, inode.xattrs = old.mode, old.uid, old.gid, dict(old.xattrs)
            old.nlink -= old.nlink > 1  # the other names stay what they were
    if old is None or old.kind != inode.kind:
        touched.add(parent)
    take_headers(inode, stored)
