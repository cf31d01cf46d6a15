"""Which conditional requests an endpoint enforces: each is tried with a condition that does not hold.

An endpoint that knows no conditions ignores the header and says 200, so only a refusal proves anything. Seen: rclone and Swift
enforce none; Ceph compares If-Match of a PUT without quotes only, and no condition of a PUT in a versioned bucket.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import botocore.exceptions

WRONG_ETAG = "00000000000000000000000000000000"
_BODY = b"s3lustrefs"
_REFUSALS = frozenset({304, 409, 412})


@dataclass(slots=True)
class Conditions:
    """What is enforced. True means that a condition that does not hold was refused, and one that holds was not."""

    put_if_none_match: bool = False
    put_if_match: bool = False
    if_match_quoted: bool = True
    get_if_match: bool = False
    complete_if_match: bool = False
    copy_source_if_match: bool = False
    delete_if_match: bool = False
    etag_is_md5: bool = False


def probe_conditions(client: Any, bucket: str, key: str) -> Conditions:
    """Try all conditions on one probe object and delete every version of it again.

    Raises: botocore's errors other than refusals.
    """
    return _Probe(client, bucket, key).run()


@dataclass(slots=True)
class _Probe:
    client: Any
    bucket: str
    key: str
    versions: list[str] = field(default_factory=list)
    etag: str = ""

    def run(self) -> Conditions:
        found = Conditions()
        try:
            self._put()
            found.etag_is_md5 = self.etag == hashlib.md5(_BODY, usedforsecurity=False).hexdigest()
            found.put_if_none_match = self._refused(lambda: self._put(IfNoneMatch="*"))
            self._probe_put_if_match(found)
            found.get_if_match = self._refused(lambda: self._get(WRONG_ETAG)) and not self._refused(lambda: self._get(self.etag))
            found.copy_source_if_match = self._refused(lambda: self._copy(WRONG_ETAG)) and not self._refused(
                lambda: self._copy(self.etag)
            )
            found.complete_if_match = self._complete_refused(IfNoneMatch="*") and self._complete_refused(IfMatch=f'"{WRONG_ETAG}"')
            found.delete_if_match = self._refused(lambda: self._delete(IfMatch=f'"{WRONG_ETAG}"'))
        finally:
            self._clean()
        return found

    def _probe_put_if_match(self, found: Conditions) -> None:
        for quote in ('"', ""):
            wrong = quote + WRONG_ETAG + quote
            right = quote + self.etag + quote
            enforced = self._refused(functools.partial(self._put, IfMatch=wrong))
            if enforced and not self._refused(functools.partial(self._put, IfMatch=right)):
                found.put_if_match, found.if_match_quoted = True, bool(quote)
                return

    def _refused(self, attempt: Callable[[], None]) -> bool:
        """Whether the condition was refused as such; 501 and the like mean that the endpoint does not know it."""
        try:
            attempt()
        except botocore.exceptions.ClientError as error:
            return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in _REFUSALS
        return False

    def _put(self, **condition: str) -> None:
        answer = self.client.put_object(Bucket=self.bucket, Key=self.key, Body=_BODY, **condition)
        self._remember(answer)
        self.etag = answer.get("ETag", "").strip('"')

    def _get(self, etag: str) -> None:
        self.client.get_object(Bucket=self.bucket, Key=self.key, IfMatch=f'"{etag}"')["Body"].read()

    def _copy(self, etag: str) -> None:
        source = {"Bucket": self.bucket, "Key": self.key}
        answer = self.client.copy_object(
            Bucket=self.bucket,
            Key=self.key,
            CopySource=source,
            CopySourceIfMatch=f'"{etag}"',
            MetadataDirective="REPLACE",
            Metadata={"probe": "1"},
        )
        self._remember(answer)

    def _complete_refused(self, **condition: str) -> bool:
        """Complete a one-part upload onto the probe object, which exists and has another ETag."""
        upload = {"Bucket": self.bucket, "Key": self.key}
        try:
            upload["UploadId"] = self.client.create_multipart_upload(**upload).get("UploadId", "")
        except botocore.exceptions.ClientError:
            return False  # no multipart uploads here at all: large files will say so when they are exported
        part = self.client.upload_part(**upload, PartNumber=1, Body=b"s3lustrefs")
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        refused = self._refused(
            lambda: self._remember(self.client.complete_multipart_upload(**upload, MultipartUpload=parts, **condition))
        )
        if refused:
            with contextlib.suppress(botocore.exceptions.ClientError):
                self.client.abort_multipart_upload(**upload)
        return refused

    def _delete(self, **condition: str) -> None:
        self._remember(self.client.delete_object(Bucket=self.bucket, Key=self.key, **condition))

    def _remember(self, answer: dict[str, Any]) -> None:
        if answer.get("VersionId"):
            self.versions.append(answer["VersionId"])

    def _clean(self) -> None:
        """Delete the probe object; a failure to delete is the `delete` finding's business, not this one's."""
        with contextlib.suppress(botocore.exceptions.ClientError):
            if not self.versions:
                self._delete()
        # A conditional delete may have left a marker, and Ceph names no version for a completed upload: ask what there is.
        with contextlib.suppress(botocore.exceptions.ClientError):
            if self.versions:
                page = self.client.list_object_versions(Bucket=self.bucket, Prefix=self.key)
                found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
                self.versions += [each["VersionId"] for each in found if each["Key"] == self.key]
            for version in dict.fromkeys(self.versions):
                self.client.delete_object(Bucket=self.bucket, Key=self.key, VersionId=version)
