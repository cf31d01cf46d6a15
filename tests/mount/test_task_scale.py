"""Tasks over very many files."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest

from bench import servers
from tests.mount.background_proxy import background_proxy
from tests.mount.site import Site
from tests.mount.test_tasks import ENDED, EXPORT, REGION, client, counts
from tests.servers import free_ports

MANY = 100_000


@pytest.mark.long
@pytest.mark.timeout(600)
def test_export_of_unchanged_files_takes_seconds_and_asks_the_bucket_nothing(make_site: Callable[..., Site]) -> None:
    (port,) = free_ports(1)
    with servers.stub("generated", MANY) as server, background_proxy(server.endpoint_url) as proxy:
        place = make_site(
            "", server=server, bucket=servers.BUCKET, endpoint_url=proxy.endpoint_url, region=REGION,
            api_listen=f"127.0.0.1:{port}", auto_export="none", auto_import="none", posix_metadata="off",
        ).mount()  # fmt: skip
        with client(place, port) as fsx:
            since, started, answers = proxy.mark(), time.monotonic(), []
            task = fsx.create(EXPORT)
            while task["Lifecycle"] not in ENDED:
                asked = time.monotonic()
                task = fsx.look(task)
                answers.append(time.monotonic() - asked)
                time.sleep(0.05)
            assert time.monotonic() - started < 30
            lifecycle, total, succeeded, failed = counts(task)
            assert (lifecycle, failed) == ("SUCCEEDED", 0) and total == succeeded >= MANY
            assert proxy.requests(since=since) == []
            assert statistics.median(answers) < 0.1
