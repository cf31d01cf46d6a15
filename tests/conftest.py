"""Options of the whole test run, and the S3 servers that tests share."""

from __future__ import annotations

import signal
import uuid
from collections import Counter
from collections.abc import Iterator

import hypothesis
import pytest

from tests import servers
from tests.servers import S3Server


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.register_profile("suite", deadline=None)  # how busy the machine is decides nothing
    hypothesis.settings.load_profile("suite")
    # A shell ignores it for what it starts in the background, and so would every program that tests start and then interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "one_in(n): without --long only each n-th of its parameters, the first among them")
    config.addinivalue_line("markers", "rgw: needs Ceph's RADOS Gateway (12 s to start); deselect with -m 'not rgw'")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests marked `long`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    met: Counter[tuple[str, str]] = Counter()
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="long; run with --long"))
            continue
        one_in = item.get_closest_marker("one_in")
        test = str(item.path), item.name.partition("[")[0]
        if one_in is not None and met[test] % one_in.args[0]:
            item.add_marker(pytest.mark.skip(reason="one of many alike; run with --long"))
        met[test] += 1


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    """One moto for the whole run: tests keep apart by their buckets, nobody resets it."""
    with servers.moto() as server:
        yield server


@pytest.fixture(scope="session")
def rgw_server() -> Iterator[S3Server]:
    with servers.radosgw() as server:
        yield server


@pytest.fixture(params=["moto", pytest.param("rgw", marks=pytest.mark.rgw)])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Each server in turn."""
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """A fresh empty bucket on that server."""
    name = f"t-{uuid.uuid4().hex[:16]}"
    client = s3_server.client()
    client.create_bucket(Bucket=name)
    client.close()
    return name
