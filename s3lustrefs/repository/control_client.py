"""Plain boto3 clients for the rare control calls; they block, so they are used in threads only."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import boto3.session
from botocore.config import Config

from s3lustrefs.model.association import Endpoint
from s3lustrefs.repository.credential_snapshot import CredentialSnapshot


def s3_client(endpoint: Endpoint, region: str, keys: CredentialSnapshot, answer_seconds: float) -> Any:
    """One attempt per call, each bounded in time. Kept: a bucket is looked at again and again, and each client costs megabytes."""
    return _kept_s3_client(endpoint, region, keys, answer_seconds, os.environ.get("AWS_CA_BUNDLE"))


@lru_cache(maxsize=16)
def _kept_s3_client(
    endpoint: Endpoint, region: str, keys: CredentialSnapshot, answer_seconds: float, authorities: str | None
) -> Any:
    style = "path" if endpoint.addressing_style == "auto" and endpoint.endpoint_url else endpoint.addressing_style
    options: dict[str, Any] = {
        "s3": {"addressing_style": style},
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    return service_client("s3", endpoint.endpoint_url, region, keys, answer_seconds, verify=authorities, **options)


def service_client(
    service: str,
    url: str | None,
    region: str,
    keys: CredentialSnapshot,
    answer_seconds: float,
    *,
    verify: str | None = None,
    **options: Any,
) -> Any:
    """A client of one service; `url` None: Amazon's own endpoint; `verify`: file of authorities, None: as AWS is configured."""
    settings: dict[str, Any] = {
        "connect_timeout": answer_seconds,
        "read_timeout": answer_seconds,
        "retries": {"mode": "standard", "total_max_attempts": 1},
        "ignore_configured_endpoint_urls": True,
        **options,
    }
    return boto3.session.Session().client(
        service,  # type: ignore[call-overload]
        region_name=region,
        endpoint_url=url,
        verify=verify,
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        aws_session_token=keys.token,
        config=Config(**settings),
    )
