"""ObjectStore: what the movers need of a bucket, as a protocol, with its result records and error contract.

Keys are bytes, exactly as S3 has them, prefix included. ETags are bare: quotes are stripped on arrival and added back
where a header needs them. Every method raises `errors.RepositoryError` subclasses and nothing else (Cancelled aside):
`RepositoryUnavailable` after the client's own quick retries are used up; longer patience is the caller's. Methods are
cancellable; once Cancelled is raised nothing of the request is still running and no buffer is still in use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from s3lustrefs import errors


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """What the bucket said an object is: from a listing, a HEAD or the answer to a PUT."""

    etag: str
    size: int
    mtime_ns: int = 0
    """LastModified, ns since the epoch; 0 where the answer had none."""
    version_id: str = ""
    storage_class: str = "STANDARD"

    @property
    def is_kept(self) -> bool:
        """Whether the bucket keeps this version when the object is replaced; `null` versions are written over."""
        return self.version_id not in ("", "null")


@dataclass(frozen=True, slots=True)
class KeptVersion:
    """One entry of the history of a key. A delete marker has neither ETag nor size."""

    version: ObjectVersion
    is_current: bool
    is_delete_marker: bool


ARCHIVE_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects must be restored before they can be read. Intelligent-Tiering archives some of its objects too:
only a HEAD tells which."""


@dataclass(frozen=True, slots=True)
class RestoreState:
    """What became of a request to restore an archived object: under way, or readable until `expires_ns` (0: for good)."""

    ongoing: bool
    expires_ns: int


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """One HEAD answer. `metadata` has lower-case names without `x-amz-meta-`."""

    version: ObjectVersion
    metadata: Mapping[str, str] = field(default_factory=dict)
    content_headers: Mapping[str, str] = field(default_factory=dict)
    """Content-Type, Cache-Control, Content-Disposition, Content-Encoding, Content-Language, Expires: as received."""
    tag_count: int = 0
    archived: bool = False
    """In an archive storage class and not restored for reading: a GET would raise ObjectArchived."""
    restore: RestoreState | None = None
    """None: nobody asked for it to be restored, or that has ended."""


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Bytes `[offset, offset + length)` of the file at `path`. Bytes past its end read as zeros (a sparse tail)."""

    path: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Condition:
    """What must still be true of the destination: the object has this ETag, or (empty) there is no object. None: no condition."""

    etag: str = ""


@dataclass(frozen=True, slots=True)
class PutHeaders:
    """What is written beside the bytes."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    content_headers: Mapping[str, str] = field(default_factory=dict)
    storage_class: str = ""
    tags: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the probe found out about an endpoint and bucket; shown by `check` and `status`."""

    put_if_none_match: bool = True
    put_if_match: bool = True
    if_match_quoted: bool = True
    """False: the server compares If-Match of a PUT only without quotes (Ceph)."""
    get_if_match: bool = True
    complete_if_match: bool = False
    copy_source_if_match: bool = False
    delete_if_match: bool = False
    etag_is_md5: bool = False
    """The ETag of an object written in one piece is its MD5 sum. False: not known."""
    versioning: str = "Unversioned"
    """Unversioned, Enabled or Suspended."""
    is_write_probed: bool = False
    """Whether any of this was found out: a look that may not write finds nothing out about conditions."""


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """One finished part of a multipart upload."""

    number: int
    etag: str


class ObjectStore(Protocol):
    """One bucket, as one association sees it."""

    bucket: str
    capabilities: Capabilities

    async def head(self, key: bytes, *, version_id: str = "") -> ObjectHead:
        """Raises: ObjectNotFound, RepositoryDenied, RepositoryUnavailable."""
        ...

    async def get_range(self, key: bytes, version: ObjectVersion, start: int, end: int, fd: int, fd_offset: int) -> bool:
        """Fetch bytes `[start, end)` of exactly this version and write them at `fd_offset` of `fd`, outside Python where possible.

        Returns only when every byte arrived and length and ETag agreed. On any error some bytes of the destination
        may be overwritten: they are not to be trusted. Never called with `start == end`.
        False: the object was replaced or removed; the bytes are those of the version wanted, which the bucket still keeps.
        Raises: ObjectChanged when the object has another ETag now, and ObjectNotFound, unless that version is kept; ObjectArchived.
        """
        ...

    async def get_bytes(self, key: bytes, version: ObjectVersion, start: int, end: int) -> bytes:
        """The same for a few bytes (symlink targets)."""
        ...

    async def put(self, key: bytes, body: FileSlice | bytes, headers: PutHeaders, condition: Condition | None) -> ObjectVersion:
        """Write one object in one request. Raises: ObjectChanged when the condition does not hold."""
        ...

    async def create_upload(self, key: bytes, headers: PutHeaders) -> str:
        """Start a multipart upload; the answer is its UploadId."""
        ...

    async def upload_part(self, key: bytes, upload_id: str, number: int, body: FileSlice | bytes) -> UploadedPart: ...

    async def copy_part(
        self,
        key: bytes,
        upload_id: str,
        number: int,
        source_bucket: str,
        source_key: bytes,
        source: ObjectVersion,
        start: int,
        end: int,
    ) -> UploadedPart:
        """Server-side copy of bytes `[start, end)` of a source object into one part."""
        ...

    async def complete_upload(
        self, key: bytes, upload_id: str, parts: Sequence[UploadedPart], condition: Condition | None
    ) -> ObjectVersion: ...

    async def abort_upload(self, key: bytes, upload_id: str) -> None:
        """Drop an unfinished upload; an upload that is already gone is fine."""
        ...

    async def unfinished_uploads(self, key: bytes) -> Sequence[str]:
        """UploadIds of the multipart uploads of exactly this key that were neither completed nor aborted."""
        ...

    async def copy(
        self,
        key: bytes,
        source_bucket: str,
        source_key: bytes,
        source: ObjectVersion,
        headers: PutHeaders,
        condition: Condition | None,
        found: ObjectHead | None = None,
        tags: Sequence[tuple[str, str]] = (),
    ) -> ObjectVersion:
        """Server-side copy of at most 5 GiB on the same endpoint, metadata replaced by `headers`, tags kept.

        With a version id in `source` it is that version, current or not. `found`: what a HEAD of it has just said, if there
        was one. `tags`: to be set afterwards if the copy has none; looked up where none are given.
        Raises: ObjectChanged when source or destination is not as expected.
        """
        ...

    async def versioning(self) -> str:
        """Of the bucket, as it is now: one of the words of `Capabilities.versioning`."""
        ...

    async def list_versions(self, key: bytes) -> Sequence[KeptVersion]:
        """The history of exactly this key, delete markers included: the current entry first, then the newest."""
        ...

    async def restore(self, key: bytes, days: int | None, tier: str) -> None:
        """Ask for an archived object to be made readable, for so many days (None: for good, as Intelligent-Tiering does).

        `tier` is Expedited, Standard or Bulk. A HEAD tells when it is done. Raises: RepositoryRejected where there is nothing to
        restore, or where it is under way already.
        """
        ...

    async def get_tags(self, key: bytes, *, version_id: str = "") -> Sequence[tuple[str, str]]: ...

    async def put_tags(self, key: bytes, tags: Sequence[tuple[str, str]]) -> None: ...

    async def delete(self, key: bytes, condition: Condition | None) -> None:
        """Delete one object; no object is fine. With a condition the object must still be that version (ObjectChanged)."""
        ...

    async def delete_batch(self, keys: Sequence[bytes]) -> Mapping[bytes, errors.RepositoryError]:
        """Delete up to 1,000 objects, without conditions; the keys that are still there, with the reason."""
        ...
