"""What a versioned bucket keeps: whether it does at all, and the history of one key."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from s3lustrefs import errors
from s3lustrefs.repository.bucket_client import BucketClient, Headers
from s3lustrefs.repository.list_page import decode_texts, parse_mtime
from s3lustrefs.repository.object_store import KeptVersion, ObjectVersion
from s3lustrefs.repository.replies import bare_etag, xml_fields

PAGE_VERSIONS = 1000


async def bucket_versioning(client: BucketClient) -> str:
    """As `ObjectStore.versioning` promises it. Raises: RepositoryError."""
    response = await client.call("GetBucketVersioning", "GET", b"", query=[("versioning", "")])
    return xml_fields(response.body).get("Status") or "Unversioned"


async def list_versions(client: BucketClient, key: bytes) -> Sequence[KeptVersion]:
    """As `ObjectStore.list_versions` promises it. Raises: RepositoryError."""
    found: list[KeptVersion] = []
    marker: Headers = []
    while True:
        query = [("versions", ""), ("encoding-type", "url"), ("prefix", key.decode()), ("max-keys", str(PAGE_VERSIONS)), *marker]
        response = await client.call("ListObjectVersions", "GET", b"", query=query)
        try:
            page = _page(response.body)
        except ValueError as error:
            raise errors.RepositoryRejected(f"{client.where(key)}: list versions: {error}") from error
        found += [version for name, version in page.versions if name == key]
        # Keys that only begin with it come after the key itself.
        if not page.next_marker or any(name != key for name, _ in page.versions):
            return sorted(found, key=lambda each: (not each.is_current, -each.version.mtime_ns))
        marker = page.next_marker


@dataclass(frozen=True, slots=True)
class _Page:
    """Versions with their keys; `next_marker` is what to ask the next page with, empty at the end."""

    versions: list[tuple[bytes, KeptVersion]]
    next_marker: list[tuple[str, str]]


def _page(body: bytes) -> _Page:
    """Raises: ValueError when it is no ListObjectVersions answer."""
    try:
        root = ElementTree.fromstring(body.strip())
    except ElementTree.ParseError as error:
        raise ValueError("the answer is not XML") from error
    fields = _texts(root)
    encoded = fields.get("EncodingType") == "url"
    entries = [(_local(entry.tag), _texts(entry)) for entry in root if _local(entry.tag) in ("Version", "DeleteMarker")]
    keys = decode_texts([texts.get("Key") for _, texts in entries], encoded)
    versions = [(key, _kept_version(kind, texts)) for key, (kind, texts) in zip(keys, entries, strict=True)]
    if fields.get("IsTruncated") != "true":
        return _Page(versions, [])
    (key_marker,) = decode_texts([fields.get("NextKeyMarker")], encoded)
    return _Page(versions, [("key-marker", key_marker.decode()), ("version-id-marker", fields.get("NextVersionIdMarker", ""))])


def _kept_version(kind: str, texts: Mapping[str, str]) -> KeptVersion:
    version = ObjectVersion(
        bare_etag(texts.get("ETag", "")),
        int(texts.get("Size") or 0),
        parse_mtime(texts.get("LastModified", "")),
        texts.get("VersionId", ""),
        texts.get("StorageClass") or "STANDARD",
    )
    return KeptVersion(version, texts.get("IsLatest") == "true", kind == "DeleteMarker")


def _texts(element: ElementTree.Element) -> dict[str, str]:
    return {_local(child.tag): child.text or "" for child in element}


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
