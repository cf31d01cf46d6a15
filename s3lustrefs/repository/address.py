"""Where the requests of a bucket go: host, TLS and percent-encoded target, path-style or virtual-host style."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass

from s3lustrefs import errors
from s3lustrefs.model.association import Endpoint

DEFAULT_REGION = "us-east-1"
_DNS_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
"""Bucket names that can be a host label under one TLS wildcard: no dots, no capitals."""


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """One bucket on one endpoint. `base` precedes the key in every target and has no trailing slash."""

    host: str
    tls: bool
    base: str

    def target(self, key: bytes | None, query: Sequence[tuple[str, str]] = ()) -> str:
        """Percent-encoded path and query of an object, or of the bucket when `key` is None. Keys are sent byte for byte."""
        path = f"{self.base}/{quote_key(key)}" if key is not None else self.base or "/"
        if not query:
            return path
        encoded = "&".join(f"{_quote(name)}={_quote(value)}" if value else _quote(name) for name, value in query)
        return f"{path}?{encoded}"


def bucket_address(endpoint: Endpoint, region: str, bucket: str) -> BucketAddress:
    """How to reach `bucket`. `auto` means path style on custom endpoints, else virtual-host style where the name allows it.

    Raises: ConfigError for an endpoint URL that is none.
    """
    url = endpoint.endpoint_url or amazon_url(region)
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise errors.ConfigError(f"endpoint_url {url!r} is no URL like https://HOST[:PORT]: correct it")
    virtual = endpoint.addressing_style == "virtual"
    if endpoint.addressing_style == "auto":
        virtual = endpoint.endpoint_url is None and _DNS_BUCKET.fullmatch(bucket) is not None
    host = parts.netloc.rpartition("@")[2]
    base = parts.path.rstrip("/")
    if virtual:
        return BucketAddress(f"{bucket}.{host}", parts.scheme == "https", base)
    return BucketAddress(host, parts.scheme == "https", f"{base}/{bucket}")


def amazon_url(region: str) -> str:
    """Amazon's own endpoint of a Region."""
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://s3.{region}.{suffix}"


def is_amazon(endpoint: Endpoint) -> bool:
    """Whether this is Amazon's S3, so that its other services are at Amazon's too."""
    host = urllib.parse.urlsplit(endpoint.endpoint_url or "").hostname
    return not host or host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def quote_key(key: bytes) -> str:
    """A key as it stands in a path or in x-amz-copy-source: `/` and unreserved characters stay, all else is %XX."""
    return urllib.parse.quote(key, safe="/")


def _quote(text: str) -> str:
    return urllib.parse.quote(text, safe="")
