"""Credentials of an association: botocore resolves them in a thread, everybody else reads the latest snapshot.

The CRT asks for credentials in its own event-loop threads, once per request; a refresh there (STS, instance metadata, a helper
process) would stall every transfer. So `run` refreshes ahead of time and `current` only reads a field.

Nothing here is ever written to disk or to the log; the repr of a snapshot shows no secret.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import botocore.exceptions
import trio
from botocore.config import Config as BotoConfig
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from botocore.session import Session

from s3lustrefs import errors
from s3lustrefs.model.association import Endpoint
from s3lustrefs.repository.address import DEFAULT_REGION, is_amazon
from s3lustrefs.repository.credential_snapshot import CredentialSnapshot

log = logging.getLogger(__name__)

CHECK_SECONDS = 60.0
"""botocore renews temporary keys 15 minutes before they expire, but only when asked; this is how often it is asked."""

RESOLVE_SECONDS = 50.0
"""STS may take 45 s with its retries; a reader waits 60 s at most."""


class Credentials:
    """The keys of one association: resolved on first use, renewed by `run`, and by `refresh` when they expired early."""

    def __init__(self, endpoint: Endpoint, *, check_seconds: float = CHECK_SECONDS) -> None:
        self._endpoint = endpoint
        self._check_seconds = check_seconds
        self._source: Any = None
        self._now: CredentialSnapshot | None = None
        self._lock = trio.Lock()
        self._attempts = 0
        self._failure: errors.RepositoryError | None = None
        self._limiter = trio.CapacityLimiter(1)

    async def snapshot(self) -> CredentialSnapshot:
        """The keys to use now, resolving them the first time. Raises: RepositoryDenied when there are none."""
        if self._now is None:
            await self.refresh(None)
        return self.current()

    def current(self) -> CredentialSnapshot:
        """The latest keys, without waiting. Raises: RepositoryDenied before the first `snapshot`."""
        if self._now is None:
            raise errors.RepositoryDenied("credentials were never resolved")
        return self._now

    async def refresh(self, stale: CredentialSnapshot | None) -> None:
        """Resolve again from scratch, unless somebody has replaced `stale` meanwhile.

        Raises: RepositoryDenied, RepositoryUnavailable.
        """
        attempts = self._attempts
        async with self._lock:
            if self._now is not stale:
                return
            if self._failure is not None and self._attempts != attempts:
                raise type(self._failure)(str(self._failure)) from self._failure  # of the one this task waited for
            self._attempts += 1
            try:
                self._now = await self._in_thread(self._resolve)
                self._failure = None
            except errors.RepositoryError as error:
                self._failure = error
                raise

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the snapshot fresh until cancelled. A failed renewal keeps the old keys and is tried again."""
        await self.snapshot()
        task_status.started()
        while True:
            await trio.sleep(self._check_seconds)
            async with self._lock:
                try:
                    self._now = await self._in_thread(self._renew)
                except errors.RepositoryError as error:
                    log.warning("credentials renewal failed error=%s", error)

    async def _in_thread(self, resolve: Callable[[], CredentialSnapshot]) -> CredentialSnapshot:
        """Abandoned when it takes too long: botocore waits for ever for a credential process that hangs."""
        with trio.move_on_after(RESOLVE_SECONDS):
            return await trio.to_thread.run_sync(resolve, abandon_on_cancel=True, limiter=self._limiter)
        raise errors.RepositoryUnavailable(f"credentials cannot be fetched: no answer within {RESOLVE_SECONDS:.0f} s")

    def _resolve(self) -> CredentialSnapshot:
        with _botocore_errors(self._endpoint):
            self._source = _resolve_source(self._endpoint)
        return self._renew()

    def _renew(self) -> CredentialSnapshot:
        with _botocore_errors(self._endpoint):
            frozen = self._source.get_frozen_credentials()
        if not frozen.access_key or not frozen.secret_key:
            raise errors.RepositoryDenied(_none_found(self._endpoint))
        return CredentialSnapshot(frozen.access_key, frozen.secret_key, frozen.token)


class StaticCredentials(Credentials):
    """Keys that never change."""

    def __init__(self, access_key: str, secret_key: str, token: str | None = None) -> None:
        super().__init__(Endpoint())
        self._fixed = CredentialSnapshot(access_key, secret_key, token)

    def _resolve(self) -> CredentialSnapshot:
        return self._fixed

    def _renew(self) -> CredentialSnapshot:
        return self._fixed


def resolve_region(endpoint: Endpoint) -> str:
    """The Region to sign for: given, or from the environment or profile, or us-east-1.

    Raises: RepositoryDenied for an unknown profile.
    """
    if endpoint.region:
        return endpoint.region
    with _botocore_errors(endpoint):
        return _session(endpoint).get_config_variable("region") or DEFAULT_REGION


def _session(endpoint: Endpoint) -> Session:
    return Session(profile=endpoint.profile) if endpoint.profile else Session()


def _resolve_source(endpoint: Endpoint) -> Any:
    session = _session(endpoint)
    source = session.get_credentials()
    if source is None:
        raise errors.RepositoryDenied(_none_found(endpoint))
    if not endpoint.role_arn:
        return source
    fetcher = AssumeRoleCredentialFetcher(
        _sts_client_creator(session, endpoint),
        source,
        endpoint.role_arn,
        extra_args={"RoleSessionName": f"s3lustrefs-{os.getpid()}"},
    )
    return DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")


def _sts_client_creator(session: Session, endpoint: Endpoint) -> Any:
    """Makes STS clients: Amazon's STS for Amazon's S3; products of their own (Ceph) serve STS on the S3 endpoint itself."""
    own = None if is_amazon(endpoint) else endpoint.endpoint_url
    if os.environ.get("AWS_ENDPOINT_URL_STS"):
        own = None

    def create(service: str, **kwargs: Any) -> Any:
        config = BotoConfig(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3})
        return session.create_client(service, region_name=resolve_region(endpoint), endpoint_url=own, config=config, **kwargs)

    return create


@contextmanager
def _botocore_errors(endpoint: Endpoint) -> Iterator[None]:
    """Turn what botocore raises while resolving into ours; nobody else resolves credentials."""
    try:
        yield
    except botocore.exceptions.ProfileNotFound as error:
        raise errors.RepositoryDenied(
            f"profile {endpoint.profile!r} is in neither ~/.aws/config nor ~/.aws/credentials: correct the profile option or add it"
        ) from error
    except botocore.exceptions.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown error")
        raise errors.RepositoryDenied(
            f"assuming role {endpoint.role_arn} was refused: {code}; check the role's trust policy"
        ) from error
    except (botocore.exceptions.HTTPClientError, botocore.exceptions.MetadataRetrievalError) as error:
        raise errors.RepositoryUnavailable(f"credentials cannot be fetched: {type(error).__name__}") from error
    except botocore.exceptions.BotoCoreError as error:
        raise errors.RepositoryDenied(f"credentials cannot be resolved: {error}") from error


def _none_found(endpoint: Endpoint) -> str:
    where = f"profile {endpoint.profile!r}" if endpoint.profile else "the default profile"
    return (
        f"no credentials found: tried the environment (AWS_ACCESS_KEY_ID), {where} in ~/.aws/credentials and ~/.aws/config, "
        "and the container and instance roles; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, run `aws configure`, "
        "or name a profile with -o profile=NAME"
    )
