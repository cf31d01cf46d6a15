"""What an endpoint's answers mean: XML bodies and the one table from status and error code to our exceptions.

Endpoints differ: an error may come with XML, with HTML or with nothing, and CopyObject and CompleteMultipartUpload can say 200 and
carry an <Error>. Nothing here trusts a body to have any particular form.
"""

from __future__ import annotations

import email.utils
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from s3lustrefs import errors


@dataclass(frozen=True, slots=True)
class Response:
    """What came back. Header names are lower-case; `body` is empty where a sink took it."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
"""The keys were good once: refreshing them may help. InvalidToken is not one: such keys never were."""

_RETRYABLE_CODES = frozenset(
    """SlowDown Throttling ThrottlingException RequestThrottled RequestLimitExceeded TooManyRequests InternalError
    ServiceUnavailable RequestTimeout OperationAborted IncompleteBody BadDigest BucketAlreadyBeingCreated""".split()
)
_WRONG_REGION_CODES = frozenset(
    {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_DENIED_CODES = frozenset({"InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "RequestTimeTooSkewed"})
_STATUS_WORDS = {
    400: "refused without a reason, as for credentials that have expired",
    403: "access denied",
    404: "not found",
    412: "a condition does not hold",
    503: "the endpoint is overloaded",
}
"""For answers without a body, such as every answer to HEAD."""
_MAX_REASON = 300


def xml_fields(body: bytes) -> dict[str, str]:
    """Text of the direct children of the root, by name without namespace; the root's own name under `""`. Empty if no XML."""
    try:
        root = ElementTree.fromstring(body.strip())
    except ElementTree.ParseError:
        return {}
    fields = {_local(child.tag): (child.text or "").strip() for child in root}
    fields[""] = _local(root.tag)
    return fields


def xml_root(body: bytes) -> str:
    """Name of the root element, or an empty string."""
    return xml_fields(body).get("", "") if body.lstrip()[:1] == b"<" else ""


def xml_tags(body: bytes) -> list[tuple[str, str]]:
    """Key and value pairs of a GetObjectTagging answer. Raises: ValueError when it is none."""
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise ValueError("the answer is not XML") from error
    pairs = []
    for tag in root.iter():
        if _local(tag.tag) == "Tag":
            parts = {_local(child.tag): child.text or "" for child in tag}
            pairs.append((parts.get("Key", ""), parts.get("Value", "")))
    return pairs


def xml_uploads(body: bytes) -> list[tuple[bytes, str]]:
    """Key and UploadId of every upload of a ListMultipartUploads answer. Raises: ValueError when it is none."""
    try:
        root = ElementTree.fromstring(body.strip())
    except ElementTree.ParseError as error:
        raise ValueError("the answer is not XML") from error
    encoded = any(_local(child.tag) == "EncodingType" and child.text == "url" for child in root)
    uploads = []
    for upload in root:
        if _local(upload.tag) == "Upload":
            parts = {_local(child.tag): child.text or "" for child in upload}
            key = parts.get("Key", "")
            uploads.append((unquote_to_bytes(key.replace("+", " ")) if encoded else key.encode(), parts.get("UploadId", "")))
    return uploads


def xml_delete_errors(body: bytes) -> list[tuple[bytes, str, str]]:
    """Key, code and message of what a DeleteObjects answer says is not deleted. Raises: ValueError when it is none."""
    try:
        root = ElementTree.fromstring(body.strip())
    except ElementTree.ParseError as error:
        raise ValueError("the answer is not XML") from error
    if _local(root.tag) != "DeleteResult":
        raise ValueError(f"the answer is a {_local(root.tag)}")
    failures = []
    for element in root:
        if _local(element.tag) == "Error":
            parts = {_local(child.tag): child.text or "" for child in element}
            failures.append((parts.get("Key", "").encode(), parts.get("Code", ""), parts.get("Message", "")))
    return failures


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def bare_etag(text: str) -> str:
    """An ETag without its quotes."""
    return text.strip().removeprefix("W/").strip('"')


def http_time_ns(text: str) -> int:
    """ns since the epoch of an HTTP date; 0 where there is none or it cannot be read."""
    parsed = email.utils.parsedate_tz(text)
    return email.utils.mktime_tz(parsed) * 1_000_000_000 if parsed else 0


def error_code(response: Response) -> str:
    """The S3 error code of an answer, or an empty string."""
    return xml_fields(response.body).get("Code", "")


def error_of(
    response: Response,
    reason: str,
    *,
    operation: str,
    bucket: str,
    key: bytes,
    secrets: Iterable[str] = (),
    meaning: Mapping[str, type[errors.RepositoryError]] | None = None,
) -> errors.RepositoryError:
    """The exception for an answer that is no success. A status of 0 means that no answer came, and `reason` says why.

    `meaning` overrides the general table for this request, by error code or, for answers without one, by status.
    """
    fields = xml_fields(response.body)
    code = fields.get("Code", "")
    special = meaning or {}
    kind = special.get(code or str(response.status)) or _kind(response.status, code)
    detail = redacted(_reason(response, fields, reason), secrets)[:_MAX_REASON]
    name = key.decode("utf-8", "backslashreplace")
    return kind(f"s3://{bucket}/{name}: {operation}: {detail}", bucket=bucket, key=name)


def _kind(status: int, code: str) -> type[errors.RepositoryError]:
    by_code: Mapping[str, type[errors.RepositoryError]] = {
        "NoSuchBucket": errors.BucketNotFound,
        "NoSuchKey": errors.ObjectNotFound,
        "NoSuchVersion": errors.ObjectNotFound,
        "PreconditionFailed": errors.ObjectChanged,
        "ConditionalRequestConflict": errors.ObjectChanged,
        "InvalidObjectState": errors.ObjectArchived,
        "ObjectNotInActiveTierError": errors.ObjectArchived,
        "KMS.NotFoundException": errors.EncryptionKeyNotFound,
        "KMS.DisabledException": errors.EncryptionKeyNotFound,
        "KMS.KMSInvalidStateException": errors.EncryptionKeyNotFound,
        "KeyTooLongError": errors.KeyNotExportable,
        "EntityTooLarge": errors.ObjectTooLarge,
        # The upload was aborted or completed by somebody else: the whole export may well succeed later.
        "NoSuchUpload": errors.RepositoryUnavailable,
    }
    if code in by_code:
        return by_code[code]
    if code in _RETRYABLE_CODES or status in (0, 408, 429) or (status >= 500 and status != 501):
        return errors.RepositoryUnavailable
    if code in EXPIRED_CODES or code in _DENIED_CODES or status in (401, 403):
        return errors.RepositoryDenied
    if status == 404 and not code:
        return errors.ObjectNotFound
    if status in (412, 304):
        return errors.ObjectChanged
    return errors.RepositoryRejected


def _reason(response: Response, fields: Mapping[str, str], reason: str) -> str:
    code = fields.get("Code", "")
    if code in _WRONG_REGION_CODES or response.status in (301, 307):
        region = response.headers.get("x-amz-bucket-region") or fields.get("Region") or ""
        where = f"in Region {region}: set region={region}" if region else "in another Region: set the region option"
        return f"the bucket is {where}"
    if code == "RequestTimeTooSkewed":
        return "RequestTimeTooSkewed: this host's clock differs too much from the endpoint's; synchronise it"
    if response.status == 0:
        return reason
    words = " ".join(filter(None, [code, fields.get("Message", "")])) or _STATUS_WORDS.get(
        response.status, f"HTTP status {response.status}"
    )
    return words


def redacted(text: str, secrets: Iterable[str]) -> str:
    """Without keys, tokens and signatures, which some products repeat in their messages."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return re.sub(r"(?i)(signature|credential|security-token)=[^&\s,]+", r"\1=***", text)
