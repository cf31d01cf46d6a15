"""Every key exactly once, whatever the shape of the bucket and the habits of the server."""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3lustrefs import errors
from s3lustrefs.model.association import Endpoint
from s3lustrefs.repository.credential_snapshot import CredentialSnapshot
from s3lustrefs.repository.list_page import Page
from s3lustrefs.repository.list_request import ListClient, ListingTarget
from s3lustrefs.repository.listing import FREE_MISSES, BulkListing, PriorityGate, list_directory, probe_name
from tests.fakes.list_server import MTIME_NS, Habits, ListServer, Reply, class_of, etag_of, serving, size_of

KEYS = CredentialSnapshot("AKEXAMPLE", "not-a-secret")


def make_client(server: ListServer, prefix: bytes = b"", credentials: CredentialSnapshot = KEYS) -> ListClient:
    return ListClient(ListingTarget("b", prefix, "us-east-1", Endpoint(endpoint_url=server.endpoint_url)), credentials)


def list_all(
    server: ListServer, prefix: bytes = b"", workers: int = 4
) -> tuple[list[tuple[bytes, int, bytes, int, bytes]], BulkListing]:
    found: list[tuple[bytes, int, bytes, int, bytes]] = []
    lock = threading.Lock()

    def emit(page: Page) -> None:
        with lock:
            found.extend(page.objects())

    listing = BulkListing(make_client(server, prefix), emit, workers=workers, patience_seconds=5)
    listing.run()
    return found, listing


def expect_exactly(found: list[tuple[bytes, int, bytes, int, bytes]], keys: list[bytes]) -> None:
    counted = Counter(entry[0] for entry in found)
    assert counted == Counter(keys)
    for key, size, etag, mtime_ns, storage_class in found:
        assert (size, etag, mtime_ns) == (size_of(key), etag_of(key), MTIME_NS)
        assert storage_class in (class_of(key), b"STANDARD")


def shapes(seed: int) -> dict[str, list[bytes]]:
    pick = random.Random(seed)
    odd = [
        b"a",
        b"a/",
        b"a/b",
        b"a-b",
        b"a0",
        b"a//b",
        b"/",
        b"//",
        b"x y",
        b"x+y",
        b"x%41",
        b"x%2Fy",
        b"n\nl",
        b"t\tb",
        "é".encode(),
    ]
    odd += ["日本/😀".encode(), "e\u0301".encode(), b"&<>\"'", b"..", b"./x", b"z\x7f", "\uffff".encode(), "\U0010ffff".encode()]
    return {
        "odd": odd,
        "odd, below each other": sorted({a + b"/" + b for a in odd for b in odd}),
        "flat numbers": [b"dir/frame-%08d.exr" % n for n in range(700)],
        "flat hashes": sorted({b"%08x" % pick.getrandbits(32) for _ in range(700)}),
        "many small directories": [b"p/run-%04d/sub_%d/f%d" % (n // 6, n // 3 % 2, n % 3) for n in range(900)],
        "one heavy directory": [b"a/x", b"b/x", b"z/y", *(b"m/%d" % pick.getrandbits(60) for _ in range(600))],
        "random": sorted({bytes(pick.choices(b"ab/-0~ ", k=pick.randint(1, 9))) for _ in range(800)}),
        "deep": [b"/".join([b"d"] * n) + b"/f" for n in range(1, 200)],
        "empty": [],
        "one page": [b"k%d" % n for n in range(20)],
    }


HABITS = {
    "amazon": Habits(page_keys=20),
    "ceph": Habits(page_keys=20, blank_as_plus=False, encodes_slash=True),
    "bare": Habits(page_keys=20, namespace=False, quoted_etag=False, storage_class=False),
    "without start-after": Habits(page_keys=20, honours_start_after=False),
    "without delimiter": Habits(page_keys=20, honours_delimiter=False),
    "recorded pages": Habits(page_keys=20, honours_start_after=False, honours_delimiter=False),
}


@pytest.mark.parametrize("habits", HABITS)
@pytest.mark.parametrize("shape", shapes(0))
def test_every_key_is_listed_exactly_once(shape: str, habits: str) -> None:
    keys = shapes(0)[shape]
    with serving(ListServer(keys, HABITS[habits])) as server:
        found, listing = list_all(server)
    expect_exactly(found, keys)
    progress = listing.progress()
    assert progress.keys == len(keys)
    assert progress.requests <= progress.pages * 1.5 + FREE_MISSES + 8


@settings(max_examples=40)
@given(
    keys=st.sets(st.text("ab/-0é +%\U0001f600", min_size=1, max_size=7).map(str.encode), max_size=120),
    page_keys=st.integers(1, 9),
    workers=st.integers(1, 6),
    prefix=st.sampled_from([b"", b"a/", "é/".encode()]),
)
def test_any_set_of_keys_is_listed_exactly_once(keys: set[bytes], page_keys: int, workers: int, prefix: bytes) -> None:
    with serving(ListServer(list(keys), Habits(page_keys=page_keys))) as server:
        found, _ = list_all(server, prefix, workers)
    expect_exactly(found, [key for key in keys if key.startswith(prefix)])


@pytest.mark.parametrize("shape", ["flat numbers", "flat hashes", "many small directories", "one heavy directory"])
def test_big_listing_is_read_by_several_workers(shape: str) -> None:
    keys = shapes(1)[shape]
    with serving(ListServer(keys, Habits(page_keys=20))) as server:
        found, _ = list_all(server, workers=4)
        boundaries = {query["start-after"] for query in server.queries if "start-after" in query and "delimiter" not in query}
        continued = [query for query in server.queries if "continuation-token" in query]
    expect_exactly(found, keys)
    assert len(boundaries) >= 3
    assert continued


def test_server_without_start_after_is_read_once_and_left_alone() -> None:
    keys = [b"d/%05d" % n for n in range(1000)]
    with serving(ListServer(keys, HABITS["recorded pages"])) as server:
        found, _ = list_all(server)
        assert len(server.queries) <= 50 + 2
    expect_exactly(found, keys)


def test_unsorted_server_is_listed_whole() -> None:
    keys = [b"%s/%05d" % (letter, n) for n in range(200) for letter in (b"A", b"b", b"C", b"d")]
    habits = Habits(page_keys=20, order=lambda key: (key.lower()[::-1], key))
    with serving(ListServer(keys, habits)) as server:
        found, _ = list_all(server)
    expect_exactly(found, keys)


def test_order_violation_after_splitting_starts_again_and_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A server that sorts without case looks sorted until the first capital letter."""
    keys = [b"a%04d" % (n * 25) for n in range(400)] + [b"B%04d" % n for n in range(200)] + [b"c%04d" % n for n in range(200)]
    with serving(ListServer(keys, Habits(page_keys=20, order=bytes.lower))) as server, caplog.at_level(logging.WARNING):
        found, _ = list_all(server)
    assert {entry[0] for entry in found} == set(keys)
    assert "listing restart" in caplog.text


def test_refused_start_after_leaves_one_sequential_listing() -> None:
    keys = [b"d/%05d" % n for n in range(600)]
    server = ListServer(keys, Habits(page_keys=20))
    refusal = b"<Error><Code>NotImplemented</Code><Message>no start-after</Message></Error>"
    server.interfere = lambda number, query: (501, {}, refusal) if "start-after" in query else None
    with serving(server):
        found, _ = list_all(server)
    expect_exactly(found, keys)


def test_throttled_and_failing_requests_are_repeated() -> None:
    keys = [b"d%d/%05d" % (n % 7, n) for n in range(600)]
    server = ListServer(keys, Habits(page_keys=20))
    slow: Reply = (503, {"Retry-After": "0"}, b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>")
    cut_off: Reply = (200, {}, b'<?xml version="1.0"?><ListBucketResult><Contents>')
    server.interfere = lambda number, query: slow if number % 5 == 2 else cut_off if number % 7 == 3 else None
    with serving(server):
        found, _ = list_all(server)
    expect_exactly(found, keys)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "AccessDenied", errors.RepositoryDenied),
        (403, "SignatureDoesNotMatch", errors.RepositoryDenied),
        (404, "NoSuchBucket", errors.BucketNotFound),
        (404, "", errors.BucketNotFound),
        (400, "InvalidArgument", errors.RepositoryRejected),
        (503, "SlowDown", errors.RepositoryUnavailable),
    ],
)
def test_refused_listing_raises_what_the_server_meant(status: int, code: str, expected: type[errors.RepositoryError]) -> None:
    server = ListServer([])
    body = f"<Error><Code>{code}</Code><Message>because</Message></Error>".encode() if code else b"<html>gone"
    server.interfere = lambda number, query: (status, {}, body)
    with serving(server):
        listing = BulkListing(make_client(server), lambda page: None, patience_seconds=0.05)
        with pytest.raises(errors.RepositoryError) as caught:
            listing.run()
    assert type(caught.value) is expected
    assert "s3://b/" in str(caught.value)


def test_wrong_region_names_the_right_one() -> None:
    server = ListServer([])
    body = b"<Error><Code>PermanentRedirect</Code><Message>elsewhere</Message></Error>"
    server.interfere = lambda number, query: (301, {"x-amz-bucket-region": "eu-central-1"}, body)
    with serving(server), pytest.raises(errors.RepositoryRejected, match="eu-central-1"):
        make_client(server).page()


def test_unreachable_endpoint_is_unavailable() -> None:
    with serving(ListServer([])) as server:
        client = make_client(server)
    with pytest.raises(errors.RepositoryUnavailable):
        client.page(patience_seconds=0.05)


def test_expired_credentials_wait_for_newer_ones() -> None:
    server = ListServer([b"k"])
    expired: Reply = (403, {}, b"<Error><Code>ExpiredToken</Code><Message>old</Message></Error>")

    def refuse_old(number: int, query: dict[str, str]) -> Reply | None:
        return expired if server.headers[number - 1]["x-amz-security-token"] == "old" else None

    server.interfere = refuse_old
    pages: list[Page] = []
    with serving(server):
        client = make_client(server, credentials=CredentialSnapshot("AKEXAMPLE", "not-a-secret", "old"))
        thread = threading.Thread(target=lambda: pages.append(client.page()))
        thread.start()
        assert server.asked.wait(10)
        client.replace_credentials(CredentialSnapshot("AKEXAMPLE", "not-a-secret", "new"))
        thread.join(10)
    assert [page.keys for page in pages] == [[b"k"]]


@pytest.mark.parametrize("habits", ["amazon", "ceph", "without delimiter"])
def test_directory_has_its_objects_and_subdirectories_once(habits: str) -> None:
    keys = [b"p/d/", b"p/d/x", b"p/d/y z", b"p/d-e", b"p/dd/q", *(b"p/d/s%02d/%d" % (n, m) for n in range(30) for m in range(3))]
    with serving(ListServer(keys, HABITS[habits])) as server:
        pages = list(list_directory(make_client(server, b"p/"), b"d"))
    assert sorted(key for page in pages for key in page.keys) == [b"p/d/", b"p/d/x", b"p/d/y z"]
    assert sorted(name for page in pages for name in page.common_prefixes) == [b"p/d/s%02d/" % n for n in range(30)]
    assert pages[-1].token is None


@pytest.mark.parametrize(
    ("name", "objects", "prefixes"),
    [
        (b"file", [b"p/file"], []),
        (b"dir", [], [b"p/dir/"]),
        (b"marked", [b"p/marked/"], [b"p/marked/"]),
        (b"both", [b"p/both"], [b"p/both/"]),
        (b"hidden", [], [b"p/hidden/"]),
        (b"absent", [], []),
        (b"di", [], []),
    ],
)
def test_probe_finds_object_and_directory(name: bytes, objects: list[bytes], prefixes: list[bytes]) -> None:
    keys = [b"p/file", b"p/dir/x", b"p/marked/", b"p/both", b"p/both/x", b"p/hidden/x", *(b"p/hidden-%d" % n for n in range(50))]
    with serving(ListServer(keys)) as server:
        page = probe_name(make_client(server, b"p/"), name)
    assert (page.keys, page.common_prefixes, page.token) == (objects, prefixes, None)
    assert list(page.objects())[:1] == [(key, size_of(key), etag_of(key), MTIME_NS, class_of(key)) for key in objects[:1]]


def test_gate_lets_urgent_threads_pass_first() -> None:
    gate = PriorityGate()
    order: list[str] = []

    def enter(name: str, urgent: bool) -> None:
        with gate.turn(urgent):
            order.append(name)

    threads = [threading.Thread(target=enter, args=(f"bulk{n}", False)) for n in range(4)]
    threads.append(threading.Thread(target=enter, args=("urgent", True)))
    with gate.turn(False):
        for thread in threads:
            thread.start()
        while gate.waiting() < len(threads):
            pass
    for thread in threads:
        thread.join()
    assert order[0] == "urgent"
    assert len(order) == 5
