"""Deletes that go together never take what somebody has changed since it was looked at, at an endpoint without conditions."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from functools import partial

import pytest
import trio

from s3lustrefs import errors
from s3lustrefs.movers import delete_batches
from s3lustrefs.movers.delete_batches import DeleteBatches
from s3lustrefs.repository.s3 import S3Store
from tests.contract.test_object_store import NOTHING, make_store
from tests.faultproxy import FaultProxy
from tests.servers import S3Server

WAIT_SECONDS = 60.0
MINE, THEIRS = b"mine", b"theirs"


@dataclass
class Scene:
    """A bucket with three objects, seen through a proxy; one batch at once."""

    direct: S3Store
    proxy: FaultProxy
    batches: DeleteBatches
    etag: str

    def __post_init__(self) -> None:
        self.ends: dict[bytes, errors.RepositoryError | None] = {}

    async def delete(self, key: bytes) -> None:
        try:
            await self.batches.delete(key, self.etag)
            self.ends[key] = None
        except errors.RepositoryError as error:
            self.ends[key] = error

    async def held(self) -> bytes:
        """The key of the DELETE that is held."""
        with trio.fail_after(WAIT_SECONDS):
            await self.proxy.held.wait()
        return next(target for method, target, _ in reversed(self.proxy.log) if method == "DELETE").rpartition("/")[2].encode()

    async def looked_at(self, key: bytes) -> None:
        """Return once an answer to the HEAD of a key has had time to arrive."""
        with trio.fail_after(WAIT_SECONDS):
            while not any(method == "HEAD" and target.endswith(key.decode()) for method, target, _ in self.proxy.log):  # noqa: ASYNC110
                await trio.sleep(0.01)
        await self.direct.head(key)


@pytest.fixture
async def scene(moto_server: S3Server, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(delete_batches, "_AT_ONCE", 1)
    client, bucket = moto_server.client(), f"t-{uuid.uuid4().hex[:16]}"
    client.create_bucket(Bucket=bucket)
    client.close()
    proxy = FaultProxy(moto_server.endpoint_url)
    await nursery.start(proxy.serve)
    direct = make_store(moto_server, bucket)
    written = [await direct.put(key, MINE, NOTHING, None) for key in (b"a", b"b", b"c")]
    return Scene(direct, proxy, DeleteBatches(unconditional(moto_server, bucket, proxy.endpoint_url)), written[0].etag)


def unconditional(server: S3Server, bucket: str, url: str) -> S3Store:
    store = make_store(server, bucket, url=url)
    store.capabilities = replace(store.capabilities, delete_if_match=False)
    return store


async def test_where_batches_are_refused_each_object_is_looked_at_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delete_batches, "_LOOKED_SECONDS", WAIT_SECONDS)
    scene.proxy.add("notfound", method="POST", path="?delete", times=100)
    scene.proxy.add("hold", method="DELETE", times=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.delete, b"a")
        assert await scene.held() == b"a"
        nursery.start_soon(scene.delete, b"b")
        nursery.start_soon(scene.delete, b"c")
        await scene.looked_at(b"b")
        await scene.looked_at(b"c")
        scene.proxy.release()
        first = await scene.held()
        second = b"b" if first == b"c" else b"c"
        await scene.direct.put(second, THEIRS, NOTHING, None)
        scene.proxy.release()
    assert scene.ends[b"a"] is None is scene.ends[first]
    assert isinstance(scene.ends[second], errors.ObjectChanged)
    assert (await scene.direct.head(second)).version.size == len(THEIRS)


async def test_what_has_waited_long_is_looked_at_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delete_batches, "_LOOKED_SECONDS", 0.2)
    scene.proxy.add("hold", method="DELETE")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.delete, b"a")
        assert await scene.held() == b"a"
        nursery.start_soon(scene.delete, b"b")
        nursery.start_soon(scene.delete, b"c")
        await scene.looked_at(b"b")
        await scene.looked_at(b"c")
        await trio.sleep(0.3)
        await scene.direct.put(b"b", THEIRS, NOTHING, None)
        scene.proxy.release()
    assert scene.ends[b"a"] is None is scene.ends[b"c"]
    assert isinstance(scene.ends[b"b"], errors.ObjectChanged)
    assert (await scene.direct.head(b"b")).version.size == len(THEIRS)


@pytest.mark.parametrize(
    "error, kind",
    [
        (b"<Code>InternalError</Code>", errors.RepositoryUnavailable),
        (b"<Key></Key><Code>AccessDenied</Code>", errors.RepositoryDenied),
        (b"<Key>another</Key><Code>AccessDenied</Code>", errors.RepositoryRejected),
    ],
)
async def test_an_answer_that_does_not_say_which_key_failed_deletes_none(
    moto_server: S3Server, nursery: trio.Nursery, error: bytes, kind: type[errors.RepositoryError]
) -> None:
    body = b"<DeleteResult><Error>" + error + b"</Error></DeleteResult>"

    async def answer(stream: trio.SocketStream) -> None:
        async for received in stream:
            if received.endswith(b"</Delete>"):
                await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    (listener,) = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
    store = make_store(moto_server, "bucket", url=f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
    with pytest.raises(kind):
        await store.delete_batch([b"a", b"b"])
