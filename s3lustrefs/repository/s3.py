"""S3Store: one bucket through awscrt, as `object_store.ObjectStore` promises it.

Every foreign error becomes ours here (table in `replies`). Conditions are sent where the endpoint enforces them (`capabilities`,
found out by `probe`); elsewhere a HEAD just before stands in, which leaves a window of one round trip in which another writer's
object can be replaced unseen.
"""

from __future__ import annotations

import io
import logging
import urllib.parse
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from s3lustrefs import errors
from s3lustrefs.failpoints import failpoint
from s3lustrefs.model.association import Endpoint
from s3lustrefs.repository import batch_delete, replies, versions
from s3lustrefs.repository.address import quote_key
from s3lustrefs.repository.bodies import RangeSink
from s3lustrefs.repository.bucket_client import BucketClient, Headers, Meaning, body_length
from s3lustrefs.repository.credentials import Credentials
from s3lustrefs.repository.crt import STALL_SECONDS
from s3lustrefs.repository.object_headers import content_md5, head_of, object_headers
from s3lustrefs.repository.object_store import (
    Capabilities,
    Condition,
    FileSlice,
    KeptVersion,
    ObjectHead,
    ObjectVersion,
    PutHeaders,
    UploadedPart,
)
from s3lustrefs.repository.replies import Response
from s3lustrefs.repository.upload_parts import complete_body, composite_etag, part_query
from s3lustrefs.repository.verification import CHECKSUM_MODE, MOST_BYTES, Md5Etags

log = logging.getLogger(__name__)

DEFAULT_CAPABILITIES = Capabilities()

COPY_SECONDS = 600.0
"""Server-side copies send nothing until they are done; 5 GiB took minutes on some products."""

_SHORTER_MEANS_CHANGED: Meaning = {"InvalidRange": errors.ObjectChanged, "416": errors.ObjectChanged}
_GONE_MEANS_CHANGED: Meaning = {"NoSuchKey": errors.ObjectChanged, "404": errors.ObjectChanged}


class S3Store:
    """One bucket, as one association sees it. Cheap to make: nothing is opened or resolved before the first request."""

    def __init__(
        self,
        endpoint: Endpoint,
        bucket: str,
        credentials: Credentials,
        *,
        capabilities: Capabilities = DEFAULT_CAPABILITIES,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self.bucket = bucket
        self.endpoint = endpoint
        self.capabilities = capabilities
        self.credentials = credentials
        self._stall_seconds = stall_seconds
        self._md5 = Md5Etags(known=capabilities.etag_is_md5)
        self._client = BucketClient(endpoint, bucket, credentials, stall_seconds)
        self.region = self._client.region

    async def aclose(self) -> None:
        """Nothing is left open: connections belong to the process, and requests end with the tasks that wait for them."""

    # --- reading ---------------------------------------------------------------------------------------------------------

    async def head(self, key: bytes, *, version_id: str = "") -> ObjectHead:
        query = [("versionId", version_id)] if version_id else []
        response = await self._client.call("HeadObject", "HEAD", key, query=query)
        return head_of(response)

    async def get_range(self, key: bytes, version: ObjectVersion, start: int, end: int, fd: int, fd_offset: int) -> bool:
        return await self._get(key, version, start, end, self._sink(key, version, start, end, fd, fd_offset))

    async def get_bytes(self, key: bytes, version: ObjectVersion, start: int, end: int) -> bytes:
        sink = self._sink(key, version, start, end, None)
        await self._get(key, version, start, end, sink)
        return bytes(sink.data)

    def _sink(self, key: bytes, version: ObjectVersion, start: int, end: int, fd: int | None, fd_offset: int = 0) -> RangeSink:
        return RangeSink(self._client.where(key), version, start, end, fd, fd_offset, self._md5)

    async def get_tags(self, key: bytes, *, version_id: str = "") -> Sequence[tuple[str, str]]:
        query = [("tagging", ""), *([("versionId", version_id)] if version_id else [])]
        response = await self._client.call("GetObjectTagging", "GET", key, query=query)
        try:
            return replies.xml_tags(response.body)
        except ValueError as error:
            raise errors.RepositoryRejected(f"{self._client.where(key)}: GET tagging: {error}", bucket=self.bucket) from error

    async def _get(self, key: bytes, version: ObjectVersion, start: int, end: int, sink: RangeSink) -> bool:
        """By ETag first: that takes no permission but s3:GetObject, and tells that the object was replaced."""
        try:
            await self._get_version(key, version, start, end, sink, by_id=not self.capabilities.get_if_match)
            return True
        except (errors.ObjectChanged, errors.ObjectNotFound):
            if not (self.capabilities.get_if_match and version.is_kept):
                raise
            if not await self._get_kept(key, version, start, end, sink):
                raise
            return False

    async def _get_kept(self, key: bytes, version: ObjectVersion, start: int, end: int, sink: RangeSink) -> bool:
        """Read a version that is no longer the current one. False: it is gone, or s3:GetObjectVersion is not allowed."""
        try:
            await self._get_version(key, version, start, end, sink, by_id=True)
        except (errors.ObjectNotFound, errors.ObjectChanged, errors.RepositoryDenied, errors.RepositoryRejected) as error:
            log.debug("version cannot be read key=%r reason=%s", key, error)
            return False
        return True

    async def _get_version(
        self, key: bytes, version: ObjectVersion, start: int, end: int, sink: RangeSink, *, by_id: bool
    ) -> None:  # fmt: skip
        headers: Headers = []
        if sink.is_whole and end <= MOST_BYTES:
            headers.append(CHECKSUM_MODE)  # Amazon states none for a range, even when that is all there is
        else:
            headers.append(("range", f"bytes={start}-{end - 1}"))
        query: Headers = []
        if by_id:
            query = [("versionId", version.version_id)] if version.version_id else []
        else:
            headers.append(("if-match", f'"{version.etag}"'))
        await self._client.call(
            "GetObject", "GET", key, query=query, headers=headers, length=end - start, sink=sink, meaning=_SHORTER_MEANS_CHANGED
        )
        sink.finish()

    # --- versions and archives ---------------------------------------------------------------------------------------------

    async def versioning(self) -> str:
        return await versions.bucket_versioning(self._client)

    async def list_versions(self, key: bytes) -> Sequence[KeptVersion]:
        return await versions.list_versions(self._client, key)

    async def restore(self, key: bytes, days: int | None, tier: str) -> None:
        wanted = f"<Days>{days}</Days>" if days is not None else ""
        body = f"<RestoreRequest>{wanted}<GlacierJobParameters><Tier>{tier}</Tier></GlacierJobParameters></RestoreRequest>".encode()
        headers = [("content-length", str(len(body))), ("content-type", "application/xml"), content_md5(body)]
        meaning: Meaning = {"InvalidObjectState": errors.RepositoryRejected}
        query = [("restore", "")]
        await self._client.call("RestoreObject", "POST", key, query=query, headers=headers, body=io.BytesIO(body), meaning=meaning)

    # --- writing whole objects -------------------------------------------------------------------------------------------

    async def put(self, key: bytes, body: FileSlice | bytes, headers: PutHeaders, condition: Condition | None) -> ObjectVersion:
        able = self.capabilities
        sent = object_headers(headers)
        sent += await self._condition_headers(key, condition, none_match=able.put_if_none_match, match=able.put_if_match)
        response = await self._client.send_body("PutObject", key, body, sent, [], meaning=_GONE_MEANS_CHANGED if condition else {})
        return await self._written(key, response, body_length(body), headers.storage_class)

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
        """Few endpoints take a condition on the destination of a copy (Amazon among them only lately), so HEAD stands in for it."""
        if condition is not None:
            await self._check_by_head(key, condition)
        sent, found = await self._source_headers(source_bucket, source_key, source, found)
        sent += [("content-length", "0"), ("x-amz-metadata-directive", "REPLACE"), *object_headers(headers)]
        if headers.tags:
            sent.append(("x-amz-tagging-directive", "REPLACE"))
        kept = tags
        if found is not None and found.tag_count and not kept and not headers.tags:
            kept = await self.sibling(source_bucket).get_tags(
                source_key, version_id=source.version_id
            )  # before: the copy may be of the object onto itself
        response = await self._client.call("CopyObject", "PUT", key, headers=sent, seconds=COPY_SECONDS)
        if kept:
            failpoint("copy.untagged")
            await self._keep_tags(key, kept)
        etag = replies.bare_etag(replies.xml_fields(response.body).get("ETag", ""))
        if not etag:
            return (await self.head(key)).version
        version_id = response.headers.get("x-amz-version-id", "")
        return ObjectVersion(etag, source.size, 0, version_id, headers.storage_class or "STANDARD")

    async def _keep_tags(self, key: bytes, tags: Sequence[tuple[str, str]]) -> None:
        """Ceph drops the tags of a copy whose metadata is replaced, and garbles those sent with it: set them afterwards."""
        if not (await self.head(key)).tag_count:
            await self.put_tags(key, tags)

    async def put_tags(self, key: bytes, tags: Sequence[tuple[str, str]]) -> None:
        rows = "".join(f"<Tag><Key>{escape(name)}</Key><Value>{escape(value)}</Value></Tag>" for name, value in tags)
        body = f"<Tagging><TagSet>{rows}</TagSet></Tagging>".encode()
        await self._client.send_body("PutObjectTagging", key, body, [content_md5(body)], [("tagging", "")])

    async def delete(self, key: bytes, condition: Condition | None) -> None:
        headers: Headers = []
        try:
            if condition is not None and condition.etag and self.capabilities.delete_if_match:
                headers.append(self._if_match(condition))
            elif condition is not None:
                self._compare(key, (await self.head(key)).version.etag, condition)
        except errors.ObjectNotFound:
            log.debug("object delete found none bucket=%s", self.bucket)
            return
        try:
            await self._client.call("DeleteObject", "DELETE", key, headers=headers)
        except errors.ObjectNotFound:
            await self._check_gone(key)

    async def delete_batch(self, keys: Sequence[bytes]) -> Mapping[bytes, errors.RepositoryError]:
        return await batch_delete.delete_objects(self._client, self.bucket, keys)

    async def _check_gone(self, key: bytes) -> None:
        """Few endpoints answer 404 to DELETE: Amazon says 204 whether there was an object or not."""
        try:
            await self.head(key)
        except errors.ObjectNotFound:
            return
        raise errors.RepositoryUnavailable(f"{self._client.where(key)}: DELETE finds no object, but there is one")

    # --- multipart uploads -----------------------------------------------------------------------------------------------

    async def create_upload(self, key: bytes, headers: PutHeaders) -> str:
        response = await self._client.call(
            "CreateMultipartUpload", "POST", key, query=[("uploads", "")], headers=object_headers(headers)
        )
        upload_id = replies.xml_fields(response.body).get("UploadId", "")
        if not upload_id:
            raise errors.RepositoryRejected(
                f"{self._client.where(key)}: create upload: the answer has no UploadId", bucket=self.bucket
            )
        return upload_id

    async def upload_part(self, key: bytes, upload_id: str, number: int, body: FileSlice | bytes) -> UploadedPart:
        response = await self._client.send_body("UploadPart", key, body, [], part_query(upload_id, number))
        return UploadedPart(number, self._part_etag(key, response.headers.get("etag", "")))

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
        headers, _ = await self._source_headers(source_bucket, source_key, source)
        headers += [("content-length", "0"), ("x-amz-copy-source-range", f"bytes={start}-{end - 1}")]
        query = part_query(upload_id, number)
        response = await self._client.call("UploadPartCopy", "PUT", key, query=query, headers=headers, seconds=COPY_SECONDS)
        return UploadedPart(number, self._part_etag(key, replies.xml_fields(response.body).get("ETag", "")))

    async def complete_upload(
        self, key: bytes, upload_id: str, parts: Sequence[UploadedPart], condition: Condition | None
    ) -> ObjectVersion:
        able = self.capabilities.complete_if_match
        headers = await self._condition_headers(key, condition, none_match=able, match=able)
        body = complete_body(parts)
        headers += [("content-length", str(len(body))), ("content-type", "application/xml")]
        try:
            response = await self._client.call(
                "CompleteMultipartUpload",
                "POST",
                key,
                query=[("uploadId", upload_id)],
                headers=headers,
                body=io.BytesIO(body),
                seconds=COPY_SECONDS,
                meaning=_GONE_MEANS_CHANGED if condition else {},
            )
        except errors.RepositoryUnavailable as error:
            return await self._completed_before(key, parts, error)
        etag = replies.bare_etag(replies.xml_fields(response.body).get("ETag", ""))
        version = (await self.head(key)).version
        if etag and version.etag != etag:
            raise errors.ObjectChanged(
                f"{self._client.where(key)}: replaced by somebody else as soon as it was complete", bucket=self.bucket
            )
        return version

    async def abort_upload(self, key: bytes, upload_id: str) -> None:
        query = [("uploadId", upload_id)]
        try:
            await self._client.call(
                "AbortMultipartUpload", "DELETE", key, query=query, meaning={"NoSuchUpload": errors.ObjectNotFound}
            )
        except errors.ObjectNotFound:
            log.debug("upload abort found none bucket=%s", self.bucket)

    async def unfinished_uploads(self, key: bytes) -> Sequence[str]:
        query = [("uploads", ""), ("encoding-type", "url"), ("prefix", key.decode()), ("max-uploads", "1000")]
        response = await self._client.call("ListMultipartUploads", "GET", b"", query=query)
        try:
            return [upload_id for found, upload_id in replies.xml_uploads(response.body) if found == key]
        except ValueError as error:
            raise errors.RepositoryRejected(f"{self._client.where(key)}: list uploads: {error}", bucket=self.bucket) from error

    async def _completed_before(
        self, key: bytes, parts: Sequence[UploadedPart], error: errors.RepositoryUnavailable
    ) -> ObjectVersion:
        """A Complete whose answer was lost is repeated by the CRT and then finds no upload: the object itself tells."""
        try:
            version = (await self.head(key)).version
        except errors.RepositoryError:
            raise error from None
        if version.etag != composite_etag(parts):
            raise error
        return version

    def _part_etag(self, key: bytes, text: str) -> str:
        etag = replies.bare_etag(text)
        if not etag:
            raise errors.RepositoryRejected(f"{self._client.where(key)}: the endpoint gave a part no ETag", bucket=self.bucket)
        return etag

    # --- conditions ------------------------------------------------------------------------------------------------------

    async def _condition_headers(self, key: bytes, condition: Condition | None, *, none_match: bool, match: bool) -> Headers:
        """Headers that make the endpoint check `condition`; where it would not, check it here and now."""
        if condition is None:
            return []
        if condition.etag and match:
            return [self._if_match(condition)]
        if not condition.etag and none_match:
            return [("if-none-match", "*")]
        await self._check_by_head(key, condition)
        return []

    def _if_match(self, condition: Condition) -> tuple[str, str]:
        return ("if-match", f'"{condition.etag}"' if self.capabilities.if_match_quoted else condition.etag)

    async def _check_by_head(self, key: bytes, condition: Condition) -> None:
        try:
            found = (await self.head(key)).version.etag
        except errors.ObjectNotFound:
            found = ""
        self._compare(key, found, condition)

    def _compare(self, key: bytes, found: str, condition: Condition) -> None:
        if found != condition.etag:
            text = f"has ETag {found or 'none'} now, expected {condition.etag or 'none'}"
            name = key.decode("utf-8", "backslashreplace")
            raise errors.ObjectChanged(f"{self._client.where(key)}: {text}", bucket=self.bucket, key=name)

    async def _source_headers(
        self, bucket: str, key: bytes, source: ObjectVersion, found: ObjectHead | None = None
    ) -> tuple[Headers, ObjectHead | None]:
        """Name the source of a copy so that only this version of it is copied; the HEAD is there where one was needed for that."""
        name = f"{bucket}/{quote_key(key)}"
        if self.capabilities.copy_source_if_match:
            if source.version_id:
                name += f"?versionId={urllib.parse.quote(source.version_id, safe='')}"
            return [("x-amz-copy-source", name), ("x-amz-copy-source-if-match", f'"{source.etag}"')], None
        other = self.sibling(bucket)
        found = found or await other.head(key, version_id=source.version_id)
        other._compare(key, found.version.etag, Condition(source.etag))
        if found.version.is_kept:
            name += f"?versionId={urllib.parse.quote(found.version.version_id, safe='')}"
        return [("x-amz-copy-source", name)], found

    def sibling(self, bucket: str) -> S3Store:
        """The same endpoint and credentials, perhaps another bucket."""
        if bucket == self.bucket:
            return self
        return S3Store(self.endpoint, bucket, self.credentials, capabilities=self.capabilities, stall_seconds=self._stall_seconds)

    async def _written(self, key: bytes, response: Response, size: int, storage_class: str) -> ObjectVersion:
        etag = replies.bare_etag(response.headers.get("etag", ""))
        if not etag:
            return (await self.head(key)).version
        return ObjectVersion(etag, size, 0, response.headers.get("x-amz-version-id", ""), storage_class or "STANDARD")
