"""Where requests go."""

from __future__ import annotations

import pytest

from s3lustrefs import errors
from s3lustrefs.model.association import Endpoint
from s3lustrefs.repository.address import BucketAddress, bucket_address


@pytest.mark.parametrize(
    ("endpoint", "bucket", "host", "tls", "base"),
    [
        (Endpoint(), "lab-results", "lab-results.s3.eu-west-1.amazonaws.com", True, ""),
        (Endpoint(), "lab.results", "s3.eu-west-1.amazonaws.com", True, "/lab.results"),
        (Endpoint(addressing_style="path"), "lab", "s3.eu-west-1.amazonaws.com", True, "/lab"),
        (Endpoint(endpoint_url="http://127.0.0.1:9000"), "lab", "127.0.0.1:9000", False, "/lab"),
        (Endpoint(endpoint_url="https://store.example/s3/"), "lab", "store.example", True, "/s3/lab"),
        (Endpoint(endpoint_url="https://store.example", addressing_style="virtual"), "lab", "lab.store.example", True, ""),
    ],
)
def test_addresses(endpoint: Endpoint, bucket: str, host: str, tls: bool, base: str) -> None:
    assert bucket_address(endpoint, "eu-west-1", bucket) == BucketAddress(host, tls, base)


def test_amazon_in_china() -> None:
    assert bucket_address(Endpoint(), "cn-north-1", "lab").host == "lab.s3.cn-north-1.amazonaws.com.cn"


@pytest.mark.parametrize("url", ["localhost:9000", "ftp://host", "http://", "nonsense"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(errors.ConfigError, match="endpoint_url"):
        bucket_address(Endpoint(endpoint_url=url), "eu-west-1", "b")


def test_keys_and_queries_are_encoded_byte_for_byte() -> None:
    address = BucketAddress("h", True, "/b")
    assert address.target("a b/ä+%41/../x?y#z~".encode()) == "/b/a%20b/%C3%A4%2B%2541/../x%3Fy%23z~"
    assert address.target(b"/lead//x") == "/b//lead//x"
    assert address.target(b"k", [("uploads", "")]) == "/b/k?uploads"
    assert address.target(b"k", [("versionId", "a+b/="), ("x", "1")]) == "/b/k?versionId=a%2Bb%2F%3D&x=1"
    assert address.target(None) == "/b"
    assert BucketAddress("b.h", True, "").target(None) == "/"
