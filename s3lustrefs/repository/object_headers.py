"""How what we know of an object travels in HTTP headers: those of a request that writes it, and those of the answer to a HEAD."""

from __future__ import annotations

import base64
import hashlib
import re
import urllib.parse

from s3lustrefs.repository.object_store import ARCHIVE_CLASSES, ObjectHead, ObjectVersion, PutHeaders, RestoreState
from s3lustrefs.repository.replies import Response, bare_etag, http_time_ns

_CONTENT_HEADERS = ("content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires")
_META = "x-amz-meta-"
_EXPIRY = re.compile(r'expiry-date="([^"]*)"')


def object_headers(headers: PutHeaders) -> list[tuple[str, str]]:
    """Headers of a request that writes an object."""
    sent = [(name, value) for name, value in headers.content_headers.items()]
    sent += [(_META + name, value) for name, value in headers.metadata.items()]
    if headers.storage_class:
        sent.append(("x-amz-storage-class", headers.storage_class))
    if headers.tags:
        sent.append(("x-amz-tagging", urllib.parse.urlencode(list(headers.tags), quote_via=urllib.parse.quote)))
    return sent


def head_of(response: Response) -> ObjectHead:
    """The answer to a HEAD."""
    headers = response.headers
    storage_class = headers.get("x-amz-storage-class", "") or "STANDARD"
    archived = storage_class in ARCHIVE_CLASSES or "x-amz-archive-status" in headers
    restore = _restore_state(headers.get("x-amz-restore", ""))
    tags = headers.get("x-amz-tagging-count", "")
    return ObjectHead(
        ObjectVersion(
            bare_etag(headers.get("etag", "")),
            int(headers.get("content-length", "0")),
            http_time_ns(headers.get("last-modified", "")),
            headers.get("x-amz-version-id", ""),
            storage_class,
        ),
        {name.removeprefix(_META): value for name, value in headers.items() if name.startswith(_META)},
        {name.title(): headers[name] for name in _CONTENT_HEADERS if name in headers},
        int(tags) if tags.isdecimal() else 0,
        archived and (restore is None or restore.ongoing),
        restore,
    )


def _restore_state(text: str) -> RestoreState | None:
    """`ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"`. Source: Amazon S3 API Reference, "HeadObject"."""
    if "ongoing-request" not in text:
        return None
    expiry = _EXPIRY.search(text)
    return RestoreState('ongoing-request="true"' in text, http_time_ns(expiry[1]) if expiry else 0)


def content_md5(body: bytes) -> tuple[str, str]:
    """The header that lets a server refuse a damaged body."""
    return ("content-md5", base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode())
