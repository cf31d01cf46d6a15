"""Mounts for tests: a fresh one per test, or one per module and server in which every test has a directory of its own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.mount.background_proxy import BackgroundProxy, background_proxy
from tests.mount.site import Site, can_mount, site, two_associations
from tests.semantics.mounted import put_objects
from tests.servers import S3Server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and not can_mount():
            item.add_marker(pytest.mark.skip(reason="mounting needs /dev/fuse and root"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fixtures that share a mount print its log only for tests that failed."""
    report = yield
    if report.when == "call" and report.failed:
        item.stash[FAILED] = True
    return report


FAILED = pytest.StashKey[bool]()


def fresh_bucket(server: S3Server) -> str:
    name = f"t-{uuid.uuid4().hex[:16]}"
    client = server.client()
    client.create_bucket(Bucket=name)
    client.close()
    return name


@pytest.fixture
def proxy(moto_server: S3Server) -> Iterator[BackgroundProxy]:
    """Faults and a request log in front of moto."""
    with background_proxy(moto_server.endpoint_url) as running:
        yield running


@pytest.fixture
def make_site(moto_server: S3Server) -> Iterator[Callable[..., Site]]:
    """make_site(prefix="p", endpoint_url=..., server=..., bucket=..., option=value, ...): not mounted yet."""
    with ExitStack() as stack:

        def make(
            prefix: str = "p", *, endpoint_url: str = "", server: S3Server | None = None, bucket: str = "", **options: Any
        ) -> Site:
            chosen = server or moto_server
            place = site(chosen, bucket or fresh_bucket(chosen), prefix, endpoint_url=endpoint_url, options=options)
            return stack.enter_context(place)

        yield make


@pytest.fixture
def here(proxy: BackgroundProxy, make_site: Callable[..., Site]) -> Site:
    """An empty bucket on moto behind the proxy, not mounted yet."""
    return make_site(endpoint_url=proxy.endpoint_url)


@dataclass(frozen=True)
class Area:
    """One test's own directories in a mount that a module shares.

    `root` is in a linked directory (keys `one/NAME/...`), `other` in a second one linked with another prefix (`two/NAME/...`),
    `local` outside every association. `root` was imported with cold files: see `COLD`.
    """

    site: Site
    proxy: BackgroundProxy
    name: str

    @property
    def root(self) -> Path:
        return self.site.root / "one" / self.name

    @property
    def other(self) -> Path:
        return self.site.root / "two" / self.name

    @property
    def local(self) -> Path:
        return self.site.root / f"local-{self.name}"

    def key(self, path: str) -> str:
        return f"one/{self.name}/{path}"

    def drain(self) -> None:
        self.site.drain()

    def objects(self, under: str = "one") -> dict[str, bytes]:
        """Path relative to this test's directory -> content, as plain boto3 sees it."""
        prefix = f"{under}/{self.name}/"
        return {key.removeprefix(prefix): body for key, body in self.site.objects(prefix).items() if key != prefix}

    def about(self, path: str) -> dict[str, Any]:
        return self.site.about(f"one/{self.name}/{path}")


BIG = bytes(range(256)) * (3 * 4096) + b"tail!"
"""3 MiB and 5 bytes: four blocks of residency."""
COLD = {"a": b"content of a", "b": b"content of b", "c": b"content of c", "big": BIG, "d/x": b"x in d", "d/sub/y": b"y in sub"}


@pytest.fixture(scope="module", params=["moto", pytest.param("rgw", marks=pytest.mark.rgw)])
def shared_site(request: pytest.FixtureRequest) -> Iterator[tuple[Site, BackgroundProxy]]:
    """One mount for the tests of a module, on each server; the bucket holds `COLD` in a directory per test."""
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    bucket = fresh_bucket(server)
    names = {area_name(item) for item in request.session.items if item.path == request.path}
    seeds = [(f"one/{name}/{path}", body, {}) for name in names for path, body in COLD.items()]
    put_objects(server, bucket, seeds)
    with background_proxy(server.endpoint_url) as proxy, site(server, bucket, endpoint_url=proxy.endpoint_url) as place:
        place.source = str(two_associations(bucket, place.scratch))
        place.mount()
        yield place, proxy
        place.drain()
        place.unmount()


def area_name(item: Any) -> str:
    return str(item.name).replace("[", "-").replace("]", "").removesuffix("-")


@pytest.fixture
def area(shared_site: tuple[Site, BackgroundProxy], request: pytest.FixtureRequest) -> Iterator[Area]:
    place, proxy = shared_site
    found = Area(place, proxy, area_name(request.node))
    found.local.mkdir()
    found.other.mkdir()
    found.drain()
    mark = len(place.log())
    yield found
    proxy.clear_faults()
    if request.node.stash.get(FAILED, False):
        print(f"--- daemon.log\n{place.log()[mark:]}")
