"""The parts of a multipart upload on the wire: which one a request is about, the list that completes it, the ETag it makes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from xml.sax.saxutils import escape

from s3lustrefs.repository.object_store import UploadedPart


def composite_etag(parts: Sequence[UploadedPart]) -> str:
    """The ETag that a multipart object of these parts has, or an empty string where part ETags are no MD5 sums (SSE-KMS)."""
    etags = [part.etag for part in parts]
    if not all(re.fullmatch(r"[0-9a-f]{32}", etag) for etag in etags):
        return ""
    joined = b"".join(bytes.fromhex(etag) for etag in etags)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(etags)}"


def complete_body(parts: Sequence[UploadedPart]) -> bytes:
    """What CompleteMultipartUpload sends."""
    rows = (
        f"<Part><PartNumber>{part.number}</PartNumber><ETag>{escape(part.etag)}</ETag></Part>"
        for part in sorted(parts, key=lambda part: part.number)
    )
    return f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{"".join(rows)}</CompleteMultipartUpload>'.encode()


def part_query(upload_id: str, number: int) -> list[tuple[str, str]]:
    """Query of a request about one part."""
    return [("partNumber", str(number)), ("uploadId", upload_id)]
