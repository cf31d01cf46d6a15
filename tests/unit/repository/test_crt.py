"""The CRT bridge against a server of a few lines that answers as some products do."""

from __future__ import annotations

import pytest
import trio

from s3lustrefs import errors
from s3lustrefs.repository.bodies import RangeSink
from s3lustrefs.repository.credential_snapshot import CredentialSnapshot
from s3lustrefs.repository.crt import MAX_UNITS, UNIT_BYTES, Admission, CrtClient, Peer
from s3lustrefs.repository.exchange import Refused, Request
from s3lustrefs.repository.object_store import ObjectVersion
from tests.unit.repository.conftest import Serve


async def fetch(host: str, start: int, end: int, size: int) -> bytes:
    client = CrtClient(Peer("us-east-1", False, host), lambda: CredentialSnapshot("A" * 20, "B" * 40))
    sink = RangeSink("s3://b/k", ObjectVersion("tag", size), start, end, None)
    request = Request("GetObject", "GET", host, "/b/k", (("range", f"bytes={start}-{end - 1}"),), None, end - start)
    await client.exchange(request, sink)
    sink.finish()
    return bytes(sink.data)


async def test_a_200_with_content_range_is_as_good_as_a_206(serve: Serve) -> None:
    host = await serve(b'HTTP/1.1 200 OK\r\nETag: "tag"\r\nContent-Range: bytes 2-4/10\r\nContent-Length: 3\r\n\r\nabc')
    assert await fetch(host, 2, 5, 10) == b"abc"


async def test_a_whole_object_instead_of_a_range_is_refused(serve: Serve) -> None:
    host = await serve(b'HTTP/1.1 200 OK\r\nETag: "tag"\r\nContent-Length: 10\r\n\r\n0123456789')
    for start, end in ((2, 5), (0, 10)):
        with pytest.raises(Refused):
            await fetch(host, start, end, 10)


async def test_another_range_than_asked_for_is_refused(serve: Serve) -> None:
    host = await serve(b'HTTP/1.1 206 OK\r\nETag: "tag"\r\nContent-Range: bytes 3-5/10\r\nContent-Length: 3\r\n\r\nabc')
    with pytest.raises(Refused):
        await fetch(host, 2, 5, 10)


async def test_another_etag_or_size_is_a_changed_object(serve: Serve) -> None:
    host = await serve(b'HTTP/1.1 206 OK\r\nETag: "other"\r\nContent-Range: bytes 2-4/10\r\nContent-Length: 3\r\n\r\nabc')
    with pytest.raises(errors.ObjectChanged, match="other"):
        await fetch(host, 2, 5, 10)
    host = await serve(b'HTTP/1.1 206 OK\r\nETag: "tag"\r\nContent-Range: bytes 2-4/11\r\nContent-Length: 3\r\n\r\nabc')
    with pytest.raises(errors.ObjectChanged, match="11 bytes"):
        await fetch(host, 2, 5, 10)


async def test_two_servers_on_one_host_are_kept_apart(serve: Serve) -> None:
    hosts = [await serve(b'HTTP/1.1 206 OK\r\nETag: "tag"\r\nContent-Range: bytes 2-4/10\r\nContent-Length: 3\r\n\r\n' + body)
             for body in (b"abc", b"xyz")]  # fmt: skip
    assert [await fetch(host, 2, 5, 10) for host in (*hosts, *hosts)] == [b"abc", b"xyz", b"abc", b"xyz"]


async def test_large_bodies_wait_for_each_other_and_small_ones_do_not(autojump_clock: trio.testing.MockClock) -> None:
    admission = Admission()
    running: list[int] = []

    async def large(number: int) -> None:
        async with admission.admit(MAX_UNITS * UNIT_BYTES // 2):
            running.append(number)
            await trio.sleep(10)

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(large, number)
        await trio.testing.wait_all_tasks_blocked()
        assert len(running) == 2
        async with admission.admit(65536):
            assert trio.current_time() < 10
    assert len(running) == 4


async def test_a_request_cancelled_while_waiting_gives_back_what_it_holds(autojump_clock: trio.testing.MockClock) -> None:
    admission = Admission()
    async with admission.admit(UNIT_BYTES):
        with trio.move_on_after(1) as scope:
            async with admission.admit(MAX_UNITS * UNIT_BYTES):
                raise AssertionError("admitted beyond the limit")
        assert scope.cancelled_caught
    async with admission.admit(MAX_UNITS * UNIT_BYTES):
        assert trio.current_time() < 2
