"""What an exported object carries beside its bytes, and whether an object carries it already."""

from __future__ import annotations

import hashlib
import mimetypes

from s3lustrefs import errors
from s3lustrefs.model.association import MAX_KEY_BYTES
from s3lustrefs.model.inode import Inode
from s3lustrefs.repository import posix_headers
from s3lustrefs.repository.object_store import ARCHIVE_CLASSES, ObjectHead, PutHeaders

_DIRECTORY_TYPE = "application/x-directory"
_DEFAULT_TYPE = "binary/octet-stream"
_NOT_KEPT = frozenset({"STANDARD", *ARCHIVE_CLASSES})
"""Storage classes not asked for: what is written is used, so it leaves the archive; lifecycle rules may bring it there again."""


def headers_of(inode: Inode, key: bytes, existing: ObjectHead | None) -> PutHeaders:
    """POSIX headers of the inode, and whatever else the existing object carries."""
    metadata = dict(posix_headers.encode(inode.mode, inode.uid, inode.gid, inode.atime_ns, inode.mtime_ns))
    content: dict[str, str] = {}
    storage_class = ""
    if existing is not None:
        metadata = {**posix_headers.foreign(existing.metadata), **metadata}
        content = dict(existing.content_headers)
        storage_class = existing.version.storage_class
    if "content-type" not in {name.lower() for name in content}:
        content["content-type"] = _content_type(inode, key)
    return PutHeaders(metadata, content, "" if storage_class in _NOT_KEPT else storage_class)


def kept_headers(existing: ObjectHead) -> PutHeaders:
    """What an object carries, to be written again as it is; only an archive storage class is not kept."""
    storage_class = existing.version.storage_class
    content = dict(existing.content_headers)
    return PutHeaders(dict(existing.metadata), content, "" if storage_class in _NOT_KEPT else storage_class)


def carries(head: ObjectHead, headers: PutHeaders) -> bool:
    """Whether an object has exactly the metadata that a request would write, nanoseconds included."""
    return dict(head.metadata) == dict(headers.metadata)


def holds(head: ObjectHead, body: bytes) -> bool:
    """Whether an object is known to have these bytes. False where its ETag tells nothing."""
    return head.version.etag == hashlib.md5(body, usedforsecurity=False).hexdigest()


def _content_type(inode: Inode, key: bytes) -> str:
    if inode.is_dir:
        return _DIRECTORY_TYPE
    return mimetypes.guess_type(key.decode(errors="replace"))[0] or _DEFAULT_TYPE


def check_key(key: bytes) -> None:
    """Raises: KeyNotExportable."""
    try:
        text = key.decode()
    except UnicodeDecodeError as exc:
        raise errors.KeyNotExportable(f"{key!r} is not UTF-8: rename the file to export it", key=repr(key)) from exc
    if len(key) > MAX_KEY_BYTES:
        raise errors.KeyNotExportable(
            f"the key would have {len(key)} bytes (at most {MAX_KEY_BYTES}): shorten the path {text[:80]}...", key=text
        )
