"""The listing process against real servers, and how its two sides treat each other."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trio

from s3lustrefs import errors
from s3lustrefs.model.association import Endpoint
from s3lustrefs.movers.listing_frames import Batch, BatchKind, ListingRequest
from s3lustrefs.movers.listing_process import ListingProcess, open_listing
from s3lustrefs.repository.credential_snapshot import CredentialSnapshot
from s3lustrefs.repository.list_request import ListingTarget
from tests import servers
from tests.fakes.list_server import Habits, ListServer, Reply, serving

BUCKET = "listing"
GOOD = [
    "p/a", "p/a-b", "p/a0", "p/dir/", "p/dir/x", "p/dir/sub/y", "p/both", "p/both/x", "p/x y", "p/x+y", "p/x%41", "p/x%2Fy", "p/%",
    "p/é", "p/日本/😀", "p/e\u0301", "p/&<>\"'", "p/tab\tbed", "p/del\x7f", "p/.hidden", "p/" + "n" * 255,
]  # fmt: skip
BAD = ["p/a//b", "p//lead", "p/.", "p/../up", "p/a/./b", "p/" + "m" * 256]
MANY = 1200
OUTSIDE = ["o", "p", "p-", "p0/x", "q/x"]


@pytest.fixture(scope="module", params=["moto", "radosgw"])
def server(request: pytest.FixtureRequest) -> Iterator[servers.S3Server]:
    start = getattr(servers, request.param)
    with start() as running:
        client = running.client()
        client.create_bucket(Bucket=BUCKET)
        for key in GOOD + BAD + OUTSIDE:
            client.put_object(Bucket=BUCKET, Key=key, Body=b"x" * len(key))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: client.put_object(Bucket=BUCKET, Key=f"many/{n % 3}/f{n:05d}", Body=b""), range(MANY)))
        yield running


def request_for(server: servers.S3Server, prefix: bytes, **options: Any) -> ListingRequest:
    target = ListingTarget(options.pop("bucket", BUCKET), prefix, servers.REGION, Endpoint(endpoint_url=server.endpoint_url))
    keys = options.pop("credentials", CredentialSnapshot(server.access_key, server.secret_key))
    return ListingRequest(target, keys, **options)


def stub_request(server: ListServer, **options: Any) -> ListingRequest:
    target = ListingTarget("b", b"", servers.REGION, Endpoint(endpoint_url=server.endpoint_url))
    return ListingRequest(target, CredentialSnapshot("AKEXAMPLE", "not-a-secret"), **options)


async def collect(request: ListingRequest) -> list[Batch]:
    async with open_listing(request) as listing:
        return [batch async for batch in listing.batches()]


def keys_of(batches: list[Batch]) -> list[bytes]:
    """Relative keys of all entries and markers."""
    found = [
        b"/".join([directory, entry[0]]).lstrip(b"/") for batch in batches for directory, group in batch.groups for entry in group
    ]
    return sorted(found + [marker[0] + b"/" for batch in batches for marker in batch.markers])


async def test_real_server_is_listed_byte_for_byte(server: servers.S3Server) -> None:
    batches = await collect(request_for(server, b"p/"))
    assert keys_of(batches) == sorted(key[2:].encode() for key in GOOD)
    assert sorted(key for batch in batches for key, _ in batch.skipped) == sorted(key[2:].encode() for key in BAD)
    assert batches[-1].done and batches[-1].progress.keys == len(GOOD) + len(BAD)


async def test_listed_attributes_agree_with_head(server: servers.S3Server) -> None:
    entries = {
        entry[0]: entry for batch in await collect(request_for(server, b"p/")) for group in batch.groups for entry in group[1]
    }
    for name in ("a", "x+y", "é"):
        head = server.client().head_object(Bucket=BUCKET, Key=f"p/{name}")
        _, size, etag, mtime_ns, storage_class = entries[name.encode()]
        assert (size, etag.decode(), storage_class) == (head["ContentLength"], head["ETag"].strip('"'), b"STANDARD")
        assert mtime_ns // 10**9 == int(head["LastModified"].timestamp())


async def test_several_pages_are_listed_by_several_workers(server: servers.S3Server) -> None:
    batches = await collect(request_for(server, b"many/"))
    assert keys_of(batches) == sorted(b"%d/f%05d" % (n % 3, n) for n in range(MANY))
    groups = [directory for batch in batches for directory, _ in batch.groups]
    assert set(groups) == {b"0", b"1", b"2"}


async def test_single_requests_are_answered(server: servers.S3Server) -> None:
    async with open_listing(request_for(server, b"p/", bulk=False)) as listing:
        top = await listing.request_directory(b"")
        inner = await listing.request_directory("日本".encode())
        probes = {name: await listing.request_probe(name) for name in (b"both", b"dir", b"x+y", b"absent")}
        await listing.finish()
        answers = {batch.request_id: batch async for batch in listing.batches()}
    # `a` counts, although no key below it can be a file: a delimiter listing does not show why it is there.
    children = {key.split("/")[1] for key in GOOD if key.count("/") > 1} | {"a"}
    # `..` and the empty name are subdirectories that cannot be.
    assert set(answers[top].common_prefixes) == {name.encode() for name in children}
    assert {key for key, _ in answers[top].skipped} >= {b"/", b"../", b"."}
    assert set(keys_of([answers[top]])) == {key[2:].encode() for key in GOOD if key.count("/") == 1}
    assert answers[inner].groups[0][0] == "日本".encode()
    assert keys_of([answers[inner]]) == ["日本/😀".encode()]
    found = {name: (keys_of([answers[number]]), answers[number].common_prefixes) for name, number in probes.items()}
    assert found == {b"both": ([b"both"], [b"both"]), b"dir": ([b"dir/"], [b"dir"]), b"x+y": ([b"x+y"], []), b"absent": ([], [])}


async def test_missing_bucket_is_named(server: servers.S3Server) -> None:
    with pytest.raises(errors.BucketNotFound, match="s3://not-there/"):
        await collect(request_for(server, b"", bucket="not-there"))


async def test_wrong_key_is_denied(server: servers.S3Server) -> None:
    if server.kind == "moto":
        pytest.skip("moto checks no signature")
    with pytest.raises(errors.RepositoryDenied) as caught:
        await collect(request_for(server, b"", credentials=CredentialSnapshot(server.access_key, "x" * 40)))
    assert "x" * 40 not in str(caught.value)


# --- the two sides -----------------------------------------------------------------------------------------------------


async def test_single_requests_pass_a_bulk_listing_that_is_stuck() -> None:
    server = ListServer([b"d%02d/%03d" % (n % 50, n) for n in range(500)], Habits(page_keys=20))
    release = threading.Event()

    def hold(number: int, query: dict[str, str]) -> Reply | None:
        if "prefix" not in query:
            release.wait(60)
        return None

    server.interfere = hold
    with serving(server):
        async with open_listing(stub_request(server)) as listing:
            registered: list[int] = []
            number = await listing.request_directory(b"d07", registered.append)
            assert registered == [number]
            batches = listing.batches()
            answer = await anext(batches)
            assert (answer.kind, answer.request_id, answer.done) == (BatchKind.DIRECTORY, number, True)
            assert len(answer.groups[0][1]) == 10
            release.set()
            bulk = [batch async for batch in batches]
    assert sum(len(group[1]) for batch in bulk for group in batch.groups) == 500


async def test_refused_single_request_leaves_the_bulk_listing_alone() -> None:
    server = ListServer([b"d/x", b"y"])
    refusal: Reply = (403, {}, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
    server.interfere = lambda number, query: refusal if query.get("prefix") == "d/" else None
    with serving(server):
        async with open_listing(stub_request(server)) as listing:
            number = await listing.request_directory(b"d")
            batches = [batch async for batch in listing.batches()]
            with pytest.raises(errors.RepositoryUnavailable, match="ended"):
                await listing.request_directory(b"d")
    refused = [batch for batch in batches if batch.request_id == number]
    assert isinstance(refused[0].error, errors.RepositoryDenied)
    assert keys_of(batches) == [b"d/x", b"y"]


def prepare_sizes(factor: int) -> Any:
    """A preparer as the importer plugs one in."""
    return lambda relative, name, size, etag, mtime_ns, storage_class: (name, relative, size * factor)


async def test_entries_are_prepared_in_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with serving(ListServer([b"d/ab"])) as server:
        batches = await collect(stub_request(server, preparer=f"{__name__}:prepare_sizes", preparer_options={"factor": 10}))
    assert batches[0].groups == [(b"d", [(b"ab", b"d/ab", 4 * 977 * 10)])]


def prepare_with_state() -> Any:
    """A preparer that works on one record for all entries, and lets other threads run in the middle of it."""
    record: list[bytes] = [b""]

    def prepare(relative: bytes, name: bytes, size: int, etag: bytes, mtime_ns: int, storage_class: bytes) -> tuple[bytes, bytes]:
        record[0] = relative
        time.sleep(0)
        return name, record[0]

    return prepare


async def test_preparer_is_called_by_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    server = ListServer([b"d%d/%05d" % (n % 9, n) for n in range(4000)], Habits(page_keys=100))
    with serving(server):
        batches = await collect(stub_request(server, preparer=f"{__name__}:prepare_with_state"))
    entries = [(directory, *entry) for batch in batches for directory, group in batch.groups for entry in group]
    assert len(entries) == 4000
    assert [entry for entry in entries if entry[0] + b"/" + entry[1] != entry[2]] == []


async def test_slow_reader_holds_the_child_up() -> None:
    keys = [b"d/%06d-%s" % (n, b"x" * 200) for n in range(20_000)]
    server = ListServer(keys, Habits(honours_start_after=False, honours_delimiter=False))
    whole = threading.Event()

    def watch(number: int, query: dict[str, str]) -> Reply | None:
        if query.get("continuation-token") == "15000":
            whole.set()
        return None

    server.interfere = watch
    with serving(server):
        async with open_listing(stub_request(server)) as listing:
            batches = listing.batches()
            await anext(batches)
            with trio.move_on_after(1):
                await trio.to_thread.run_sync(whole.wait, abandon_on_cancel=True)
            assert not whole.is_set()
            whole.set()
            rest = [batch async for batch in batches]
    assert rest[-1].progress.keys == 20_000


def stuck_server() -> tuple[ListServer, threading.Event]:
    """A server that answers nothing until the event is set."""
    server, release = ListServer([b"x"]), threading.Event()

    def hold(number: int, query: dict[str, str]) -> None:
        release.wait(60)

    server.interfere = hold
    return server, release


async def test_interrupt_from_the_terminal_is_left_to_the_daemon() -> None:
    server, release = stuck_server()
    with serving(server):
        async with open_listing(stub_request(server)) as listing:
            await trio.to_thread.run_sync(server.asked.wait, 20)
            os.kill(listing.pid, signal.SIGINT)
            release.set()
            batches = [batch async for batch in listing.batches()]
    assert keys_of(batches) == [b"x"]


async def test_killed_child_is_reported() -> None:
    server, release = stuck_server()
    with serving(server):
        async with open_listing(stub_request(server)) as listing:
            os.kill(listing.pid, 9)
            with pytest.raises(errors.RepositoryUnavailable, match="-9"):
                await anext(listing.batches())
        release.set()


async def test_cancelled_reader_leaves_no_child_behind() -> None:
    server, release = stuck_server()
    opened: list[ListingProcess] = []
    with serving(server):
        with trio.move_on_after(0.5) as scope:
            async with open_listing(stub_request(server)) as listing:
                opened.append(listing)
                await anext(listing.batches())
        release.set()
    assert scope.cancelled_caught
    with pytest.raises(ProcessLookupError):
        os.kill(opened[0].pid, 0)


async def test_credentials_travel_on_standard_input_only_and_can_be_replaced(caplog: pytest.LogCaptureFixture) -> None:
    server = ListServer([b"x"])
    expired: Reply = (403, {}, b"<Error><Code>ExpiredToken</Code><Message>old</Message></Error>")

    def refuse_old(number: int, query: dict[str, str]) -> Reply | None:
        return expired if server.headers[number - 1]["x-amz-security-token"] == "token-old" else None

    server.interfere = refuse_old
    with serving(server), caplog.at_level(logging.DEBUG):
        request = stub_request(server)
        request = ListingRequest(request.target, CredentialSnapshot("AKEXAMPLE", "secret-old", "token-old"))
        async with open_listing(request) as listing:
            await trio.to_thread.run_sync(server.asked.wait, 20)
            for name in ("cmdline", "environ"):
                with open(f"/proc/{listing.pid}/{name}", "rb") as file:
                    assert b"-old" not in file.read()
            await listing.replace_credentials(CredentialSnapshot("AKEXAMPLE", "secret-new", "token-new"))
            batches = [batch async for batch in listing.batches()]
    assert keys_of(batches) == [b"x"]
    assert "-old" not in repr(request) + caplog.text
