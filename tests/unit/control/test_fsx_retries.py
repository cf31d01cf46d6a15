"""Answers that get lost: the AWS CLI asks again, with the token of its first request; it is done once."""

from __future__ import annotations

import json
from pathlib import Path

import trio

from tests.unit.control import aws_cli
from tests.unit.control.fsx_scene import PAIR, REGION
from tests.unit.control.host_scene import CREATE, Host, serving


class Forgetful:
    """Passes on what clients and a server say, but of every other connection the answer: it closes that when the answer comes."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.connections = 0

    async def serve(self, client: trio.SocketStream) -> None:
        self.connections += 1
        loses = self.connections % 2 == 1
        async with client, await trio.open_tcp_stream("127.0.0.1", self._port) as server, trio.open_nursery() as nursery:
            nursery.start_soon(self._pass, client, server)
            async for piece in server:
                if loses:
                    break
                await client.send_all(piece)
            nursery.cancel_scope.cancel()

    async def _pass(self, source: trio.SocketStream, target: trio.SocketStream) -> None:
        async for piece in source:
            await target.send_all(piece)


async def test_request_whose_answer_was_lost_is_asked_again_and_done_once(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with serving(Host(tmp_path)) as host, host.mounted("mine") as engine:
        record = engine.file_system()
        assert record is not None
        between = Forgetful(int(host.boto.meta.endpoint_url.rpartition(":")[2]))
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, between.serve, [listener])
        requests = [
            ["create-file-system", "--cli-input-json", json.dumps(CREATE)],
            [
                "create-data-repository-association", "--file-system-id", record.file_system_id, "--file-system-path", "/a",
                "--data-repository-path", "s3://bucket/a",
            ],
            [
                "create-data-repository-task", "--file-system-id", record.file_system_id, "--type", "RELEASE_DATA_FROM_FILESYSTEM",
                "--report", "Enabled=false",
            ],
        ]  # fmt: skip
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        said = await aws_cli.run_all(url, PAIR, REGION, requests[:2])
        assert [each.status for each in said] == [0, 0], said
        association = json.loads(said[1].out)["Association"]
        await engine.link_association(engine.all_associations()[0])
        await engine.move_association(engine.all_associations()[0].assoc_id, "AVAILABLE")
        said += await aws_cli.run_all(url, PAIR, REGION, requests[2:])
        assert said[2].status == 0, said
        assert between.connections == 6

        made = json.loads(said[0].out)["FileSystem"]["FileSystemId"]
        found = {each["FileSystemId"] for each in (await host.call("describe_file_systems"))["FileSystems"]}
        assert found == {record.file_system_id, made}
        assert [each.association_id for each in engine.all_associations()] == [association["AssociationId"]]
        (task,) = engine.tasks()
        assert task.task_id == json.loads(said[2].out)["DataRepositoryTask"]["TaskId"]
        nursery.cancel_scope.cancel()
