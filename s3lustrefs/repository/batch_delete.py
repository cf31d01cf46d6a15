"""DeleteObjects: up to 1,000 keys in one request, each with an end of its own.

Without conditions: products differ in which they know here, and none says so. Source: Amazon S3 API Reference, "DeleteObjects".
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from s3lustrefs import errors
from s3lustrefs.repository import replies
from s3lustrefs.repository.bucket_client import BucketClient, Meaning
from s3lustrefs.repository.object_headers import content_md5
from s3lustrefs.repository.replies import Response

MOST_KEYS = 1000
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
"""What XML 1.0 cannot say in any way."""
_BLANKS = {"\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
"""Written as they are, parsers may make others of them."""

_UNKNOWN_REQUEST: Meaning = {"404": errors.RepositoryRejected, "NoSuchKey": errors.RepositoryRejected}


def can_name(key: bytes) -> bool:
    """Whether a key can stand in such a request."""
    try:
        return _NOT_XML.search(key.decode()) is None
    except UnicodeDecodeError:
        return False


async def delete_objects(client: BucketClient, bucket: str, keys: Sequence[bytes]) -> Mapping[bytes, errors.RepositoryError]:
    """Delete objects, whatever they hold; the keys that are still there, with the reason. No object is fine.

    Raises: RepositoryError when nothing is known of any key, as when the answer does not say which of them failed;
    RepositoryRejected where the endpoint has no such request, or knows the keys by other names.
    """
    rows = "".join(f"<Object><Key>{escape(key.decode(), _BLANKS)}</Key></Object>" for key in keys)
    body = f'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{rows}<Quiet>true</Quiet></Delete>'.encode()
    headers = [content_md5(body), ("content-type", "application/xml"), ("content-length", str(len(body)))]
    response = await client.call(
        "DeleteObjects",
        "POST",
        b"",
        query=[("delete", "")],
        headers=headers,
        body=io.BytesIO(body),
        length=len(body),
        meaning=_UNKNOWN_REQUEST,
    )
    try:
        failures = replies.xml_delete_errors(response.body)
    except ValueError as error:
        raise errors.RepositoryRejected(f"{client.where(b'')}: DeleteObjects: {error}", bucket=bucket) from error
    asked = set(keys)
    for key, code, text in failures:
        if not key:
            raise _error(bucket, key, code, text)
        if key not in asked:
            raise errors.RepositoryRejected(f"{client.where(b'')}: DeleteObjects: the answer is about {key!r}", bucket=bucket)
    return {key: _error(bucket, key, code, text) for key, code, text in failures if code != "NoSuchKey"}


def _error(bucket: str, key: bytes, code: str, text: str) -> errors.RepositoryError:
    """As if the key had had a request of its own."""
    answer = f"<Error><Code>{escape(code)}</Code><Message>{escape(text)}</Message></Error>".encode()
    return replies.error_of(Response(400, {}, answer), code, operation="DeleteObjects", bucket=bucket, key=key)
