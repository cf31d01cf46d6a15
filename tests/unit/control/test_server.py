from __future__ import annotations

import json
import os
import socket
import stat
import sys
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from s3lustrefs import errors
from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.control.faults import TABLE, fault_of
from s3lustrefs.control.http_door import MAX_REQUEST_BYTES
from s3lustrefs.control.server import ControlServer


async def echo(request: dict[str, Any]) -> dict[str, Any]:
    return {"got": request}


async def missing(request: dict[str, Any]) -> dict[str, Any]:
    raise errors.NotFound(f"no such path: {request['path']}")


async def defect(request: dict[str, Any]) -> dict[str, Any]:
    return {"value": request["absent"]}


async def unserialisable(_: dict[str, Any]) -> dict[str, Any]:
    return {"value": object()}


async def large(_: dict[str, Any]) -> dict[str, Any]:
    return {"value": "x" * 20_000_000}


OPERATIONS = {
    "Echo": echo,
    "Missing": missing,
    "Defect": defect,
    "Unserialisable": unserialisable,
    "Large": large,
    "AWSSimbaAPIService_v20180301.Echo": echo,
}

Call = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
async def call(socket_path: Path, nursery: trio.Nursery) -> Call:
    await nursery.start(ControlServer(socket_path, OPERATIONS).run)

    async def call(operation: str, *, prefix: str = "S3LustreFS", **request: object) -> dict[str, Any]:
        client = ControlClient(str(socket_path), prefix=prefix)
        return await trio.to_thread.run_sync(partial(client.call, operation, **request))

    return call


async def raw(socket_path: Path, request: bytes) -> bytes:
    """What the server answers to these bytes until it closes the connection."""
    stream = await trio.open_unix_socket(str(socket_path))
    async with stream:
        await stream.send_all(request)
        await stream.send_eof()
        return b"".join([piece async for piece in stream])


async def test_operation_answers_its_result(call: Call) -> None:
    assert await call("Echo", paths=["/ä"], urgent=True) == {"got": {"paths": ["/ä"], "urgent": True}}


async def test_operation_of_another_service_fits_in(call: Call) -> None:
    assert await call("Echo", prefix="AWSSimbaAPIService_v20180301") == {"got": {}}


async def test_our_error_becomes_a_fault_with_its_words(call: Call) -> None:
    with pytest.raises(errors.ControlFault, match="no such path: /x") as caught:
        await call("Missing", path="/x")
    assert caught.value.fault == "PathNotFound"


@pytest.mark.parametrize("operation", ["Defect", "Unserialisable"])
async def test_defect_is_logged_once_and_the_server_goes_on(call: Call, operation: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(errors.ControlFault, match="daemon.log has the traceback") as caught:
        await call(operation)
    assert caught.value.fault == "InternalServerError"
    (record,) = caplog.records
    assert record.levelname == "ERROR" and record.exc_info
    assert await call("Echo") == {"got": {}}


async def test_unknown_operation_is_refused_by_name(call: Call) -> None:
    with pytest.raises(errors.ControlFault, match="unknown operation 'S3LustreFS.Nonsense'"):
        await call("Nonsense")


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"{not json", "SerializationException"),
        (b"[1]", "SerializationException"),
        (b"\xff", "Serialization"),
        (b'{"a": NaN}', "Serialization"),
        pytest.param(b"[" * 500_000, "Serialization", id="deep"),
    ],
)
async def test_bad_body_is_refused(call: Call, socket_path: Path, body: bytes, fault: str) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: S3LustreFS.Echo\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = await raw(socket_path, head + body)
    assert answer.startswith(b"HTTP/1.1 400 ") and fault.encode() in answer


async def test_body_over_the_limit_is_refused(call: Call, socket_path: Path) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (MAX_REQUEST_BYTES + 1)
    answer = await raw(socket_path, head + b"x" * (MAX_REQUEST_BYTES + 1))
    assert b"larger than" in answer


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01 nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
async def test_what_is_not_http_is_refused(call: Call, socket_path: Path, garbage: bytes) -> None:
    assert (await raw(socket_path, garbage)).startswith(b"HTTP/1.1 400 ")
    assert await call("Echo") == {"got": {}}


async def test_connection_can_be_used_again(call: Call, socket_path: Path) -> None:
    one = b'POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: S3LustreFS.Echo\r\nContent-Length: 7\r\n\r\n{"n":1}'
    answer = await raw(socket_path, one + one)
    assert answer.count(b"HTTP/1.1 200") == 2


async def test_answers_have_the_protocols_headers(call: Call, socket_path: Path) -> None:
    request = b"POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: S3LustreFS.Echo\r\nContent-Length: 0\r\n\r\n"
    head, _, body = (await raw(socket_path, request)).partition(b"\r\n\r\n")
    assert b"application/x-amz-json-1.1" in head and b"x-amzn-requestid" in head.lower()
    assert json.loads(body) == {"got": {}}


async def test_many_clients_at_once_are_answered_and_leave_no_descriptor(call: Call) -> None:
    await call("Echo")
    before = len(os.listdir("/proc/self/fd"))
    answers: list[dict[str, Any]] = []

    async def one(number: int) -> None:
        answers.append(await call("Echo", n=number))

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(one, number)
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(answer["got"]["n"] for answer in answers) == list(range(50))
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_socket_is_only_for_its_owner(call: Call, socket_path: Path) -> None:
    assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600


ASK = """
import os, socket, sys
user = int(sys.argv[2])  # only now: the interpreter may be where nobody else can read
os.setgroups([]); os.setresgid(user, user, user); os.setresuid(user, user, user)
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(20)
    try:
        sock.connect(sys.argv[1])
    except PermissionError:
        sys.exit(13)
    sock.sendall(b"POST / HTTP/1.1\\r\\nHost: x\\r\\nX-Amz-Target: S3LustreFS.Echo\\r\\nContent-Length: 0\\r\\n\\r\\n")
    sys.exit(0 if sock.recv(100).startswith(b"HTTP/1.1 200 ") else 1)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(("user", "status"), [(0, 0), (65534, 13)])
async def test_socket_refuses_other_users(nursery: trio.Nursery, user: int, status: int) -> None:
    """By its own permissions, also where the directory lets everybody in."""
    with tempfile.TemporaryDirectory(prefix="s3lustrefs-t-", dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        server = ControlServer(Path(directory, "control.sock"), OPERATIONS)
        await nursery.start(server.run)
        command = [sys.executable, "-I", "-S", "-c", ASK, f"{directory}/control.sock", str(user)]
        done = await trio.run_process(command, check=False, capture_stderr=True)
        assert done.returncode == status, done.stderr
        nursery.cancel_scope.cancel()


async def test_cancelling_ends_every_connection_and_removes_the_socket(socket_path: Path) -> None:
    """Also while a client has stopped reading in the middle of an answer."""
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(ControlServer(socket_path, OPERATIONS).run)
            idle = await trio.open_unix_socket(str(socket_path))
            stuck = await trio.open_unix_socket(str(socket_path))
            await stuck.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: S3LustreFS.Large\r\nContent-Length: 0\r\n\r\n")
            assert await stuck.receive_some(10) == b"HTTP/1.1 2"
            nursery.cancel_scope.cancel()
    assert not socket_path.exists()
    assert os.listdir(socket_path.parent) == []
    async with idle, stuck:
        assert await idle.receive_some(1) == b""


async def test_socket_of_a_killed_daemon_is_replaced(socket_path: Path, nursery: trio.Nursery) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(socket_path))
    stale.close()
    await nursery.start(ControlServer(socket_path, OPERATIONS).run)
    assert await trio.to_thread.run_sync(ControlClient(str(socket_path)).call, "Echo") == {"got": {}}


async def test_socket_of_a_successor_is_left_alone(socket_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlServer(socket_path, OPERATIONS).run)
        successor = socket_path.with_name("successor")
        successor.touch()
        successor.rename(socket_path)
        nursery.cancel_scope.cancel()
    assert socket_path.exists()


async def test_path_longer_than_an_address_works(tmp_path: Path, nursery: trio.Nursery) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    await nursery.start(ControlServer(deep / "control.sock", OPERATIONS).run)
    assert await trio.to_thread.run_sync(ControlClient(str(deep / "control.sock")).call, "Echo") == {"got": {}}


def test_client_without_a_daemon_says_so(socket_path: Path) -> None:
    with pytest.raises(errors.DaemonUnreachable, match="no daemon answers on"):
        ControlClient(str(socket_path)).call("Echo")
    with pytest.raises(errors.DaemonUnreachable, match="no daemon answers on"):
        ControlClient(str(socket_path.parent / "absent" / "control.sock")).call("Echo")


def leaf_errors(cls: type[Exception] = errors.S3LustreError) -> list[type[Exception]]:
    return [leaf for sub in cls.__subclasses__() for leaf in leaf_errors(sub)] or [cls]


@pytest.mark.parametrize("leaf", leaf_errors(), ids=lambda leaf: leaf.__name__)
def test_every_error_of_ours_has_a_row(leaf: type[Exception]) -> None:
    assert any(ancestor in TABLE for ancestor in leaf.__mro__)


def test_server_faults_are_logged_and_answers_are_not(caplog: pytest.LogCaptureFixture) -> None:
    assert fault_of(errors.NotFound("x"), "Why").status == 400
    assert not caplog.records
    assert fault_of(errors.OutOfSpace("full"), "Why").status == 500
    assert [record.levelname for record in caplog.records] == ["WARNING"]
