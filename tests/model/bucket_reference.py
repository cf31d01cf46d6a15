"""What the bucket must hold for a tree of the reference, and what tree a mount must show for a bucket."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.model.reference_tree import Inode
from tests.mount.site import Site

ASSOCIATIONS = ("one", "two")
"""Directories in the root, each linked with the prefix of its own name."""
_TYPES = {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "link": stat.S_IFLNK}


@dataclass(frozen=True)
class StoredObject:
    """One object as plain boto3 sees it."""

    key: str
    body: bytes
    metadata: Mapping[str, str] = field(default_factory=dict)
    content_type: str = ""
    modified_ns: int = 0

    @property
    def permissions(self) -> int | None:
        text = self.metadata.get("file-permissions")
        return None if text is None else int(text, 8)


def read_bucket(site: Site) -> dict[str, StoredObject]:
    with ThreadPoolExecutor(4) as pool:
        return {found.key: found for found in pool.map(lambda key: read_object(site, key), site.keys())}


def read_object(site: Site, key: str) -> StoredObject:
    answer = site.s3.get_object(Bucket=site.bucket, Key=key)
    modified_ns = int(answer["LastModified"].timestamp()) * 10**9
    return StoredObject(key, answer["Body"].read(), answer["Metadata"], answer["ContentType"], modified_ns)


# --- from the tree to the bucket ------------------------------------------------------------------------------------------


def check_bucket(site: Site, root: Inode) -> None:
    """Exactly the tree, object by object, and nothing unfinished. Raises: AssertionError with every difference."""
    found = read_bucket(site)
    wrong = []
    for key, inode in expected_objects(root).items():
        stored = found.pop(key, None)
        if stored is not None:
            wrong += [f"{key}: {fault}" for fault in faults(stored, inode)]
        elif inode.has_marker or not inode.is_dir:
            wrong.append(f"{key}: missing")
    wrong += [f"{key}: nobody has this name" for key in found]
    uploads = site.s3.list_multipart_uploads(Bucket=site.bucket).get("Uploads", [])
    wrong += [f"{upload.get('Key')}: unfinished upload" for upload in uploads]
    assert not wrong, "the bucket differs:\n" + "\n".join(wrong)


def expected_objects(root: Inode) -> dict[str, Inode]:
    """By key: what in the tree has, or may have, an object."""
    keys = {}
    for path, inode in root.walk():
        inside = path.partition("/")[0] in ASSOCIATIONS and "/" in path
        if inside and inode.kind in _TYPES:
            keys[path + "/" if inode.is_dir else path] = inode
    return keys


def faults(stored: StoredObject, inode: Inode) -> Iterable[str]:
    """In what an object is not what is here."""
    body = inode.target.encode() if inode.kind == "link" else bytes(inode.data)
    if stored.body != body:
        yield f"{len(stored.body)} bytes that are not the {len(body)} of the file"
    if stored.permissions is None and inode.is_bare:
        return
    headers = stored.metadata
    expected = {"file-permissions": f"0{_TYPES[inode.kind] | inode.mode:o}", "file-owner": str(inode.uid)}
    for name, value in {**expected, "file-group": str(inode.gid)}.items():
        if headers.get(name) != value:
            yield f"{name} is {headers.get(name)}, not {value}"
    if not inode.is_dir and int(headers.get("file-mtime", "0ns")[:-2]) not in inode.header_mtimes:
        yield f"file-mtime is {headers.get('file-mtime')}, not one of {inode.header_mtimes}"
    for name, value in inode.foreign.items():
        there = stored.content_type if name == "content-type" else headers.get(name)
        if there != value:
            yield f"{name} was {value} and is {there}"


# --- from the bucket to the tree ------------------------------------------------------------------------------------------


def imported(objects: Iterable[StoredObject]) -> Inode:
    """The tree of a mount that was just made. Directories' times that no object tells are 0."""
    root = Inode("dir", 0o755, nlink=2)
    for name in ASSOCIATIONS:
        directory(root, name).association = name
    for stored in sorted(objects, key=lambda each: each.key):
        above, _, name = stored.key.rstrip("/").rpartition("/")
        parent = root
        for part in above.split("/"):
            parent = directory(parent, part)
        if stored.key.endswith("/"):
            inode = directory(parent, name)
            inode.has_marker = True
        else:
            inode = parent.children[name] = leaf(stored)
        take_headers(inode, stored)
    return root


def directory(parent: Inode, name: str) -> Inode:
    if name not in parent.children:
        parent.children[name] = Inode("dir", 0o755, nlink=2, has_marker=False, is_bare=True)
        parent.nlink += 1
    return parent.children[name]


def leaf(stored: StoredObject) -> Inode:
    if stored.permissions is not None and stat.S_ISLNK(stored.permissions):
        return Inode("link", 0o777, target=stored.body.decode())
    foreign = {name: value for name, value in stored.metadata.items() if not name.startswith("file-") and name != "user-agent"}
    return Inode("file", 0o755, data=bytearray(stored.body), foreign={**foreign, "content-type": stored.content_type})


def take_headers(inode: Inode, stored: StoredObject) -> None:
    """What the object says about the inode; what it does not say stays."""
    headers: Mapping[str, Any] = stored.metadata
    inode.is_bare = stored.permissions is None
    if stored.permissions is not None and inode.kind != "link":
        inode.mode = stored.permissions & 0o3777
    inode.uid = int(headers.get("file-owner", inode.uid))
    inode.gid = int(headers.get("file-group", inode.gid))
    inode.mtime_ns = int(headers["file-mtime"][:-2]) if "file-mtime" in headers else stored.modified_ns
    inode.header_mtimes = {inode.mtime_ns}
