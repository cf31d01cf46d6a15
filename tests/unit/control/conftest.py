"""The FSx API on TCP, for boto3."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from s3lustrefs.control.api_server import ApiServer, listen
from s3lustrefs.control.signature import Verifier
from tests.unit.control.fsx_scene import PAIR, REGION, Api


@pytest.fixture
async def api(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Api]:
    running = Api(tmp_path)
    fsx = running.start()
    await fsx.file_systems.establish(REGION)
    await running.link()
    server = ApiServer(listen("127.0.0.1:0"), running.service, Verifier(PAIR, REGION))
    await nursery.start(server.run)
    running.connect(server.url)
    yield running
    running.boto.close()
    nursery.cancel_scope.cancel()
    await running.store.close()
