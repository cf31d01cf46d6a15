"""What an endpoint and a bucket can do, found out before anything relies on it.

`preflight` runs when an association is made or mounted and raises the one thing that is wrong; `check` lists everything for
a person. Both take the same steps, in threads with boto3: a handful of requests, each bounded in time. With `writable` one
small object is written below the prefix to export to, and every version of it deleted again.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import botocore.exceptions
import botocore.parsers
import trio

from s3lustrefs import errors
from s3lustrefs.model.association import Endpoint
from s3lustrefs.repository.address import amazon_url
from s3lustrefs.repository.control_client import s3_client
from s3lustrefs.repository.credential_snapshot import CredentialSnapshot
from s3lustrefs.repository.credentials import Credentials, resolve_region
from s3lustrefs.repository.object_store import Capabilities
from s3lustrefs.repository.probe_conditions import Conditions, probe_conditions
from s3lustrefs.repository.replies import redacted

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0
"""How long an endpoint may take to answer the first request before it counts as silent."""

PROBE_PREFIX = ".s3lustrefs-probe-"
_WRITE_REMEDY = "Allow s3:PutObject on arn:aws:s3:::{bucket}/{prefix}*, or mount read-only."


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `error` is what `preflight` raises for it."""

    name: str
    result: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""
    error: errors.RepositoryError | None = None


class ProbedStore(Protocol):
    """What preflight needs to know of a store."""

    bucket: str
    endpoint: Endpoint
    region: str
    credentials: Credentials


async def preflight(
    store: ProbedStore, prefix: str, write_prefix: str | None = None, *, writable: bool, answer_seconds: float = ANSWER_SECONDS
) -> Capabilities:
    """Make sure that the association can work, and find out what the endpoint enforces. `write_prefix` None: `prefix`.

    Raises: RepositoryDenied (no credentials; no permission to list, to read, to write), BucketNotFound, RepositoryUnavailable
    (no answer), RepositoryRejected (wrong Region, no S3 endpoint). The message names the remedy.
    """
    snapshot = await store.credentials.snapshot()
    survey = Survey(store.bucket, prefix, write_prefix, store.endpoint, store.region, snapshot, writable, answer_seconds)

    def run() -> Capabilities:
        for finding in survey.findings():
            if finding.error is not None:
                raise finding.error
            if finding.result != "ok":
                log.info("probe found bucket=%s %s: %s", store.bucket, finding.name, finding.text)
        return survey.capabilities

    return await trio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))


async def reachable(
    store: ProbedStore, prefix: str, write_prefix: str | None = None, *, writable: bool, answer_seconds: float = ANSWER_SECONDS
) -> None:
    """Make sure that the bucket can still be used: listed, read, and written if `writable`. No object of anybody's is looked at.

    Raises: as `preflight`.
    """
    snapshot = await store.credentials.snapshot()
    survey = Survey(store.bucket, prefix, write_prefix, store.endpoint, store.region, snapshot, writable, answer_seconds)

    def run() -> None:
        for finding in survey.access():
            if finding.error is not None:
                raise finding.error

    await trio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))


def check(
    bucket: str,
    prefix: str,
    endpoint: Endpoint,
    write_prefix: str | None = None,
    *,
    writable: bool = True,
    answer_seconds: float = ANSWER_SECONDS,
) -> list[Finding]:
    """Everything worth knowing before mounting, for `s3lustrefs check`; ends where nothing further can work."""
    try:
        region = resolve_region(endpoint)
        snapshot = trio.run(Credentials(endpoint).snapshot)
    except errors.RepositoryError as error:
        text, _, remedy = str(error).partition("; ")
        return [Finding("credentials", "fail", text, remedy, error)]
    found = [Finding("credentials", "ok", f"found, signing for Region {region}")]
    found += Survey(bucket, prefix, write_prefix, endpoint, region, snapshot, writable, answer_seconds).findings()
    return found


class Survey:
    """The steps, in the order in which one needs the other; `capabilities` is complete once `findings` has ended."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        write_prefix: str | None,
        endpoint: Endpoint,
        region: str,
        snapshot: CredentialSnapshot,
        writable: bool,
        answer_seconds: float,
    ) -> None:
        self.capabilities = Capabilities()
        self._bucket = bucket
        self._prefix = prefix
        self._write_prefix = prefix if write_prefix is None else write_prefix
        self._url = endpoint.endpoint_url or amazon_url(region)
        self._region = region
        self._secrets = (snapshot.secret_key, snapshot.token or "", snapshot.access_key)
        self._writable = writable
        self._answer_seconds = answer_seconds
        self._client = s3_client(endpoint, region, snapshot, answer_seconds)
        self._some_key = ""

    def findings(self) -> Iterator[Finding]:
        """Look at one thing after the other. Stops after a finding that makes the rest pointless."""
        return self._take(self._reach, self._read, self._write, self._versioning, self._encryption, self._conditions)

    def access(self) -> Iterator[Finding]:
        """Whether the bucket is there and may be used. One object that cannot be opened says nothing about that."""
        return self._take(self._reach, self._read_nothing, self._write)

    def _take(self, *steps: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
        for step in steps:
            try:
                found = list(step())
            except botocore.exceptions.ClientError as error:
                text = f"{self._url} fails: {self._words(error)}"
                found = [self._failed("endpoint", errors.RepositoryUnavailable, text, "Try again later.")]
            except (botocore.exceptions.BotoCoreError, botocore.parsers.ResponseParserError) as error:
                found = [self._no_answer(error)]
            yield from found
            if any(finding.result == "fail" for finding in found):
                return

    # --- steps -----------------------------------------------------------------------------------------------------------

    def _reach(self) -> Iterator[Finding]:
        """List one page: the first request tells endpoint, credentials, bucket, Region and the permission to list."""
        try:
            page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=20)
        except botocore.exceptions.ClientError as error:
            yield self._list_refused(error)
            return
        if "Name" not in page:
            yield self._no_s3("no listing in the answer")
            return
        yield Finding("endpoint", "ok", f"{self._url} answers")
        actual = self._actual_region()
        if actual and actual != self._region:
            yield self._wrong_region(actual)
            return
        yield Finding("list", "ok", f"objects below s3://{self._bucket}/{self._prefix} can be listed")
        sized = [each["Key"] for each in page.get("Contents", []) if each.get("Size")]
        self._some_key = sized[0] if sized else ""
        if not page.get("KeyCount"):
            yield Finding(
                "prefix",
                "warn",
                f"nothing is below s3://{self._bucket}/{self._prefix} yet",
                "Check the spelling if something should be.",
            )

    def _actual_region(self) -> str:
        """The bucket's Region, or an empty string where the endpoint knows none (Ceph calls its only one `default`)."""
        try:
            headers = _headers(self._client.head_bucket(Bucket=self._bucket))
        except botocore.exceptions.ClientError as error:
            headers = _headers(error.response)
        region = headers.get("x-amz-bucket-region", "")
        return region if "-" in region else ""

    def _read(self) -> Iterator[Finding]:
        """Read one byte of something; where there is nothing, a missing key answers 404 only to those who may read it (at Ceph to
        those who may list, too)."""
        key = self._some_key or self._prefix + PROBE_PREFIX + "none"
        try:
            self._client.get_object(Bucket=self._bucket, Key=key, Range="bytes=0-0")["Body"].read()
        except botocore.exceptions.ClientError as error:
            code, status = _code(error), _status(error)
            if status == 403 and code != "InvalidObjectState":
                remedy = f"Allow s3:GetObject on arn:aws:s3:::{self._bucket}/{self._prefix}*."
                yield self._denied("read", f"no permission to read objects below s3://{self._bucket}/{self._prefix}", remedy, error)
                return
            if status >= 500:
                yield self._failed(
                    "read", errors.RepositoryUnavailable, f"reading {key} failed: {self._words(error)}", "Try again later."
                )
                return
        yield Finding("read", "ok", "objects can be read")

    def _read_nothing(self) -> Iterator[Finding]:
        self._some_key = ""
        yield from self._read()

    def _write(self) -> Iterator[Finding]:
        if not self._writable:
            return
        where = f"below s3://{self._bucket}/{self._write_prefix}"
        key = self._write_prefix + PROBE_PREFIX + secrets.token_hex(8)
        try:
            version = self._client.put_object(Bucket=self._bucket, Key=key, Body=b"s3lustrefs").get("VersionId")
        except botocore.exceptions.ClientError as error:
            if _status(error) == 403:
                remedy = _WRITE_REMEDY.format(bucket=self._bucket, prefix=self._write_prefix)
                yield self._denied("write", f"no permission to write objects {where}", remedy, error)
            else:
                kind = errors.RepositoryUnavailable if _status(error) >= 500 else errors.RepositoryRejected
                yield self._failed("write", kind, f"writing {key} failed: {self._words(error)}", "See the endpoint's own log.")
            return
        yield Finding("write", "ok", f"objects can be written {where}")
        try:
            self._client.delete_object(Bucket=self._bucket, Key=key, **({"VersionId": version} if version else {}))
        except botocore.exceptions.ClientError as error:
            text = f"no permission to delete objects {where} ({self._words(error)}); {key} is left behind"
            yield Finding(
                "delete",
                "warn",
                text,
                f"Allow s3:DeleteObject (and s3:DeleteObjectVersion) on arn:aws:s3:::{self._bucket}/{self._write_prefix}*.",
            )
            return
        yield Finding("delete", "ok", f"objects can be deleted {where}")

    def _versioning(self) -> Iterator[Finding]:
        try:
            state = self._client.get_bucket_versioning(Bucket=self._bucket).get("Status", "Unversioned")
        except botocore.exceptions.ClientError as error:
            yield Finding("versioning", "warn", f"unknown ({self._words(error)})", "Allow s3:GetBucketVersioning to have it shown.")
            return
        self.capabilities = replace(self.capabilities, versioning=state)
        yield Finding("versioning", "ok", state)

    def _encryption(self) -> Iterator[Finding]:
        try:
            rules = self._client.get_bucket_encryption(Bucket=self._bucket)["ServerSideEncryptionConfiguration"]["Rules"]
            default = rules[0]["ApplyServerSideEncryptionByDefault"]
        except botocore.exceptions.ClientError as error:
            if _status(error) == 403:
                yield Finding(
                    "encryption", "warn", "unknown: access denied", "Allow s3:GetEncryptionConfiguration to have it shown."
                )
                return
            default = {}
        except (KeyError, IndexError):  # Ceph answers with an empty document where none is set
            default = {}
        words = " ".join(filter(None, [default.get("SSEAlgorithm"), default.get("KMSMasterKeyID")]))
        yield Finding("encryption", "ok", words or "no default encryption is set")

    def _conditions(self) -> Iterator[Finding]:
        if not self._writable:
            return
        found = probe_conditions(self._client, self._bucket, self._write_prefix + PROBE_PREFIX + secrets.token_hex(8))
        self.capabilities = replace(
            self.capabilities,
            put_if_none_match=found.put_if_none_match,
            put_if_match=found.put_if_match,
            if_match_quoted=found.if_match_quoted,
            get_if_match=found.get_if_match,
            complete_if_match=found.complete_if_match,
            copy_source_if_match=found.copy_source_if_match,
            delete_if_match=found.delete_if_match,
            etag_is_md5=found.etag_is_md5,
            is_write_probed=True,
        )
        yield from _condition_findings(found)

    # --- what went wrong -------------------------------------------------------------------------------------------------

    def _list_refused(self, error: botocore.exceptions.ClientError) -> Finding:
        code, status = _code(error), _status(error)
        if code == "NoSuchBucket":
            remedy = "Correct the name, or create it; a bucket of another account may also be hidden from these credentials."
            return self._failed("bucket", errors.BucketNotFound, f"bucket {self._bucket} does not exist at {self._url}", remedy)
        region = str(error.response.get("Error", {}).get("Region") or _headers(error.response).get("x-amz-bucket-region", ""))
        if status in (301, 307) or code in (
            "AuthorizationHeaderMalformed",
            "PermanentRedirect",
            "IllegalLocationConstraintException",
        ):
            return self._wrong_region(region)
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"):
            text = f"{self._url} does not accept the credentials: {self._words(error)}"
            return self._failed("credentials", errors.RepositoryDenied, text, "Correct or renew the key pair.")
        if code == "RequestTimeTooSkewed":
            return self._failed(
                "clock", errors.RepositoryDenied, "this host's clock is wrong", "Synchronise it, for example with chrony."
            )
        if status == 403:
            remedy = f"Allow s3:ListBucket on arn:aws:s3:::{self._bucket}, or correct the credentials."
            return self._denied("list", f"no permission to list s3://{self._bucket}/{self._prefix}", remedy, error)
        if status >= 500 and status != 501:
            # botocore says "500" also for a 200 whose body is no XML: a gateway that is ill, or a web server.
            remedy = "Check endpoint_url, or try again later." if code.isdigit() else "Try again later."
            return self._failed("endpoint", errors.RepositoryUnavailable, f"{self._url} fails: {self._words(error)}", remedy)
        return self._no_s3(self._words(error))

    def _no_answer(self, error: Exception) -> Finding:
        if isinstance(error, botocore.exceptions.ConnectTimeoutError | botocore.exceptions.ReadTimeoutError):
            text = f"{self._url} does not answer within {self._answer_seconds:g} seconds"
            return self._failed("endpoint", errors.RepositoryUnavailable, text, "Check endpoint_url, the network and the firewall.")
        if isinstance(error, botocore.exceptions.HTTPClientError | botocore.exceptions.ConnectionError):
            text = f"{self._url} cannot be reached: {_cause(error)}"
            return self._failed("endpoint", errors.RepositoryUnavailable, text, "Check endpoint_url and that the server runs.")
        return self._no_s3(type(error).__name__)

    def _no_s3(self, words: str) -> Finding:
        text = f"{self._url} does not answer as an S3 endpoint does ({words})"
        return self._failed("endpoint", errors.RepositoryRejected, text, "Correct endpoint_url.")

    def _wrong_region(self, region: str) -> Finding:
        where = f"is in Region {region}, not {self._region}" if region else f"is not in Region {self._region}"
        remedy = f"Set region={region or 'THE-BUCKET-REGION'}."
        return self._failed("region", errors.RepositoryRejected, f"bucket {self._bucket} {where}", remedy)

    def _denied(self, name: str, text: str, remedy: str, error: botocore.exceptions.ClientError) -> Finding:
        return self._failed(name, errors.RepositoryDenied, f"{text} ({self._words(error)})", remedy)

    def _failed(self, name: str, kind: type[errors.RepositoryError], text: str, remedy: str) -> Finding:
        return Finding(name, "fail", text, remedy, kind(f"{text}. {remedy}", bucket=self._bucket))

    def _words(self, error: botocore.exceptions.ClientError) -> str:
        found = error.response.get("Error", {})
        words = " ".join(filter(None, [found.get("Code"), found.get("Message")])) or f"HTTP status {_status(error)}"
        return redacted(words, self._secrets)[:200]


def _condition_findings(found: Conditions) -> Iterator[Finding]:
    """What is missing, and what we do instead."""
    missing: tuple[tuple[bool, str, str], ...] = (
        (found.put_if_none_match and found.put_if_match, "conditional writes", "a HEAD just before each write stands in"),
        (found.get_if_match, "conditional reads", "the ETag of each answer is compared instead"),
        (found.complete_if_match, "conditional multipart completion", "a HEAD just before stands in"),
        (found.copy_source_if_match, "conditional copies", "a HEAD just before stands in"),
        (found.delete_if_match, "conditional deletes", "a HEAD just before stands in"),
    )
    for enforced, name, instead in missing:
        if enforced:
            target = "; a HEAD just before stands in for what a copy replaces" if name == "conditional copies" else ""
            yield Finding(name, "ok", f"enforced by the endpoint{target}")
        else:
            text = f"not enforced by the endpoint: {instead}"
            yield Finding(name, "warn", text, "Let no other client write the same keys at the same time.")


def _code(error: botocore.exceptions.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: botocore.exceptions.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _headers(answer: Any) -> dict[str, str]:
    return dict(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}))


def _cause(error: BaseException) -> str:
    """The innermost words of a chain of connection errors, which hold the reason."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return str(error).partition("] ")[2] or str(error) or type(error).__name__
