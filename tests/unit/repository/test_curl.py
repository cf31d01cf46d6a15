"""The libcurl bridge against a server of a few lines that answers as some products do, and the way round it."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import resource
import socket
import struct
from functools import partial

import pycurl
import pytest
import trio

from s3lustrefs import errors
from s3lustrefs.model.association import Endpoint
from s3lustrefs.repository import curl
from s3lustrefs.repository.credential_snapshot import CredentialSnapshot
from s3lustrefs.repository.credentials import StaticCredentials
from s3lustrefs.repository.exchange import Request, Stalled, TransferFailed
from s3lustrefs.repository.object_store import ObjectVersion, PutHeaders
from s3lustrefs.repository.replies import Response
from s3lustrefs.repository.s3 import S3Store
from tests.unit.repository.conftest import Serve

KEYS = CredentialSnapshot("A" * 20, "B" * 40, "the-token")
GOOD = b'HTTP/1.1 206 OK\r\nETag: "tag"\r\nContent-Range: bytes 2-4/10\r\nContent-Length: 3\r\n\r\nabc'


async def get(host: str, patience: float = 5.0) -> Response:
    request = Request("GetObject", "GET", host, "/b/k", (("range", "bytes=2-4"),), None, 3)
    return await curl.client().exchange(request, tls=False, region="eu-west-1", credentials=KEYS, patience=patience)


async def test_headers_and_body_come_back(serve: Serve) -> None:
    response = await get(await serve(b"HTTP/1.1 100 Continue\r\nX-Early: 1\r\n\r\n" + GOOD))
    assert (response.status, response.body) == (206, b"abc")
    assert response.headers == {"etag": '"tag"', "content-range": "bytes 2-4/10", "content-length": "3"}


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 SlowDown\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 307 Over there\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 206 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000),
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bytes(1_000_000),
        b"not even HTTP\r\n\r\n",
        b"HTTP/1.1 206 OK\r\nETa",
        b'HTTP/1.1 206 OK\r\nETag: "tag"\r\n',
        b"",
    ],
    ids=[
        "error",
        "redirect",
        "cut",
        "too long",
        "too long, length not told",
        "nonsense",
        "cut in a header",
        "cut between headers",
        "nothing",
    ],
)
async def test_every_other_end_is_a_failure_and_the_next_request_works(serve: Serve, answer: bytes) -> None:
    host = await serve(answer)
    with pytest.raises(TransferFailed):
        await get(host)
    assert (await get(await serve(GOOD))).body == b"abc"


async def test_a_name_with_an_address_nobody_listens_on_is_reached_at_the_other(serve: Serve) -> None:
    port = (await serve(GOOD)).rpartition(":")[2]  # at 127.0.0.1 only; localhost is ::1 too
    assert (await get(f"localhost:{port}")).body == b"abc"


async def test_nobody_listening_is_a_failure() -> None:
    with pytest.raises(TransferFailed):
        await get("127.0.0.1:1")


async def test_requests_cancelled_while_there_is_no_descriptor_for_a_socket_end_quietly() -> None:
    """libcurl knows at once that these fail, before their tasks wait: a cancellation in that moment ended the whole run."""
    curl.client()
    with contextlib.ExitStack() as stack:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
        with contextlib.suppress(OSError):
            while True:
                stack.callback(os.close, os.dup(0))
        for _ in range(20):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    for _ in range(20):
                        nursery.start_soon(_fail_to_connect)
                    nursery.start_soon(trio.lowlevel.checkpoint)
                    await trio.lowlevel.checkpoint()
                    scope.cancel()


class _FullEpoll:
    """What epoll(7) says at /proc/sys/fs/epoll/max_user_watches, which nobody can reach without hurting the whole machine."""

    def register(self, fd: int, mask: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def unregister(self, fd: int) -> None:
        raise FileNotFoundError


async def test_requests_whose_socket_cannot_be_watched_end(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = await trio.open_tcp_listeners(0, host="127.0.0.1")
    host = f"127.0.0.1:{silent[0].socket.getsockname()[1]}"
    client = curl.client()
    await trio.testing.wait_all_tasks_blocked()
    with monkeypatch.context() as patch:
        patch.setattr(client, "_sockets", _FullEpoll())
        with trio.fail_after(5), pytest.raises((TransferFailed, Stalled)):
            await get(host, patience=0.5)
    await silent[0].aclose()
    assert (await get(await serve(GOOD))).status == 206 and not client._transfers


async def _fail_to_connect() -> None:
    with pytest.raises(TransferFailed, match="connect"):
        await get("127.0.0.1:1")


async def test_a_server_that_never_answers_ends_within_the_patience(nursery: trio.Nursery) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    host = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    started = trio.current_time()
    with pytest.raises(Stalled):
        await get(host, patience=0.3)
    assert trio.current_time() - started < 2
    await listeners[0].aclose()


async def test_cancelled_requests_leave_nothing_behind(serve: Serve) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    host = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(get, host)
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    await listeners[0].aclose()
    good = await serve(GOOD)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(get, good)
    client = curl.client()
    assert not client._transfers  # what is watched and held belongs to the invariants
    await trio.testing.wait_all_tasks_blocked()
    assert len(client._watched) <= 10


async def test_hundreds_of_requests_to_a_server_that_drops_connections_all_end_and_leave_no_socket(nursery: trio.Nursery) -> None:
    draw = random.Random(7)
    failed: list[TransferFailed] = []

    async def answer(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            while b"\r\n\r\n" in await stream.receive_some(65536):
                fault = draw.random()
                if fault < 0.7:
                    await stream.send_all(GOOD)
                elif fault < 0.8:
                    await stream.send_all(GOOD[:-2])  # the rest never comes
                    await trio.sleep_forever()
                elif fault < 0.9:
                    await stream.send_all(GOOD[: draw.randrange(len(GOOD))])
                    return
                else:
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return  # reset

    async def serve_one(stream: trio.SocketStream) -> None:
        async with stream:
            await answer(stream)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    host = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    async with trio.open_nursery() as server:
        server.start_soon(trio.serve_listeners, serve_one, listeners)

        async def reader() -> None:
            for _ in range(20):
                # Some go away early, some find that the server stalls.
                with trio.move_on_after(draw.choice((0.001, 0.01, 5))):
                    try:
                        assert (await get(host, patience=0.2)).body == b"abc"
                    except TransferFailed as failure:
                        failed.append(failure)

        with trio.fail_after(60):
            async with trio.open_nursery() as readers:
                for _ in range(30):
                    readers.start_soon(reader)
        client = curl.client()
        assert failed
        assert not client._transfers
        await trio.testing.wait_all_tasks_blocked()
        assert not client._watched  # idle connections are not watched: they are looked at when they are used again
        assert len(client._idle) <= 30
        assert (await get(await serve_good(server))).body == b"abc"
        server.cancel_scope.cancel()


async def serve_good(nursery: trio.Nursery) -> str:
    return await serve_noting(nursery, [])


async def serve_noting(nursery: trio.Nursery, heard: list[bytes]) -> str:
    async def answer(stream: trio.SocketStream) -> None:
        heard.append(await stream.receive_some(65536))
        await stream.send_all(GOOD)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, answer, listeners)
    return f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"


async def test_the_request_is_signed_token_included(nursery: trio.Nursery) -> None:
    heard: list[bytes] = []
    await get(await serve_noting(nursery, heard))
    head = heard[0].decode().lower()
    assert head.startswith("get /b/k http/1.1\r\n")
    assert "\r\nx-amz-security-token: the-token\r\n" in head
    signed = head.partition("signedheaders=")[2].partition(",")[0].split(";")
    assert {"host", "range", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"} <= set(signed)
    assert "/eu-west-1/s3/aws4_request" in head
    assert "B" * 40 not in heard[0].decode()


def test_only_small_gets_of_plain_paths_go_this_way() -> None:
    def request(target: str, size: int = 10, operation: str = "GetObject") -> bool:
        return curl.can_send(Request(operation, "GET", "h", target, (), None, size))

    assert request("/b/.git/objects/..a/.b.")
    assert not request("/b/k", curl.MAX_BYTES + 1)
    assert not request("/b/k", operation="ListObjectsV2")
    for target in ("/b/a/./b", "/b/..", "/b/.?versionId=1", "/b/../c"):
        assert not request(target)


def put_request(host: str, body: bytes = b"body", *headers: tuple[str, str]) -> Request:
    return Request("PutObject", "PUT", host, "/b/k", (("content-length", "4"), *headers), io.BytesIO(body), len(body))


def test_only_small_bodies_and_plain_headers_go_this_way() -> None:
    assert curl.can_send(put_request("h", b"body", ("x-amz-meta-a", "two words")))
    assert not curl.can_send(put_request("h", bytes(curl.MAX_BODY_BYTES + 1)))
    for value in ("", " blank", "two  blanks", "tab\t", "\u00fc", "line\nbreak"):
        assert not curl.can_send(put_request("h", b"body", ("x-amz-meta-a", value)))


async def test_body_is_sent_as_it_is_and_nothing_is_made_up_about_it(nursery: trio.Nursery) -> None:
    heard: list[bytes] = []
    host = await serve_noting(nursery, heard)
    request = put_request(host, b"bo\0y", ("x-amz-meta-a", "1"))
    await curl.client().exchange(request, tls=False, region="eu-west-1", credentials=KEYS, patience=5)
    head, _, body = heard[0].partition(b"\r\n\r\n")
    lines = [line.lower() for line in head.split(b"\r\n")]
    assert body == b"bo\0y" and lines[0] == b"put /b/k http/1.1"
    assert lines.count(b"content-length: 4") == 1 and b"x-amz-meta-a: 1" in lines
    assert not [line for line in lines if line.startswith((b"expect", b"content-type", b"transfer-encoding"))]


async def test_head_of_a_large_object_has_its_length(serve: Serve) -> None:
    host = await serve(b"HTTP/1.1 200 OK\r\nContent-Length: 5000000000\r\nx-amz-meta-name: \xc3\xbc\r\n\r\n")
    request = Request("HeadObject", "HEAD", host, "/b/k")
    response = await curl.client().exchange(request, tls=False, region="eu-west-1", credentials=KEYS, patience=5)
    assert response.headers == {"content-length": "5000000000", "x-amz-meta-name": "\u00fc"}


async def test_what_failed_quickly_is_tried_again_by_the_crt(serve: Serve, nursery: trio.Nursery) -> None:
    """Nothing listens at first; the CRT's own retries find the server that comes up meanwhile."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(GOOD)

    async def come_up() -> None:
        await trio.sleep(0.3)
        await trio.serve_tcp(answer, port, host="127.0.0.1")

    nursery.start_soon(come_up)
    store = S3Store(Endpoint(endpoint_url=f"http://127.0.0.1:{port}"), "b", StaticCredentials("A" * 20, "B" * 40))
    assert await store.get_bytes(b"k", ObjectVersion("tag", 10), 2, 5) == b"abc"
    with pytest.raises(errors.ObjectChanged):
        await store.get_bytes(b"k", ObjectVersion("other", 10), 2, 5)
    nursery.cancel_scope.cancel()


async def test_upload_whose_beginning_is_answered_in_part_is_not_begun_twice(nursery: trio.Nursery) -> None:
    """Nobody would know of the first one, and parts that nobody sees cost money."""
    asked = []

    async def answer(stream: trio.SocketStream) -> None:
        asked.append(await stream.receive_some(65536))
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n<InitiateMultipartUploadResult>")
        await stream.aclose()

    listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
    url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    store = S3Store(Endpoint(endpoint_url=url), "b", StaticCredentials("A" * 20, "B" * 40))
    for times in (1, 2):
        with pytest.raises(errors.RepositoryUnavailable):
            await store.create_upload(b"k", PutHeaders({"file-mtime": "1ns"}))
        assert len(asked) == times
    assert asked[0].startswith(b"POST /b/k?uploads HTTP/1.1")
    nursery.cancel_scope.cancel()


async def test_upload_is_not_begun_twice_when_a_kept_connection_ends_without_an_answer(nursery: trio.Nursery) -> None:
    asked = []

    async def answer(stream: trio.SocketStream) -> None:
        while request := await stream.receive_some(65536):
            asked.append(request.split(None, 1)[0])
            if asked[-1] == b"POST" and b"uploads" in request:
                break
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n<DeleteResult/>          ")
        await stream.aclose()

    listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
    url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    store = S3Store(Endpoint(endpoint_url=url), "b", StaticCredentials("A" * 20, "B" * 40))
    await store.delete_batch([b"other"])
    with pytest.raises(errors.RepositoryUnavailable):
        await store.create_upload(b"k", PutHeaders())
    assert asked == [b"POST", b"POST"]
    nursery.cancel_scope.cancel()


async def test_body_that_the_server_is_slow_to_take_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """libcurl wants to write and to read then, both at once."""
    wanted: list[int] = []
    on_socket = curl.CurlClient._on_socket

    def noting(self: curl.CurlClient, events: int, *rest: object) -> None:
        wanted.append(events)
        on_socket(self, events, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(curl.CurlClient, "_on_socket", noting)
    body = random.Random(0).randbytes(8 << 20)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    received = b""

    async def serve() -> None:
        nonlocal received
        stream, _ = await trio.socket.from_stdlib_socket(listener).accept()
        while not received.endswith(body[-1000:]):
            received += await stream.recv(1 << 20)
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        stream.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        request = Request("PutObject", "PUT", f"127.0.0.1:{listener.getsockname()[1]}", "/b/k", (), io.BytesIO(body), len(body))
        found = await curl.client().exchange(request, tls=False, region="eu-west-1", credentials=KEYS, patience=20.0)
    listener.close()
    assert found.status == 200 and received.endswith(b"\r\n\r\n" + body)
    assert pycurl.POLL_INOUT in wanted
