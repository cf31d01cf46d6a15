"""What puts load on a mount or a server, each in a process of its own: prints how many seconds the work took.

sequential FILE · many THREADS DIRECTORY · create COUNT DIRECTORY · find DIRECTORY COUNT · find-sizes DIRECTORY COUNT ·
download URL FILE · list URL · put COUNT URL · move COUNT URL NEW-URL
"""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

MIB = 1 << 20
IN_FLIGHT = 32
"""Requests of the client library at once: as many as the exporter has."""


def sequential(file: str) -> Callable[[], None]:
    """Read a file from start to end in requests of 1 MiB."""
    buffer = bytearray(MIB)

    def work() -> None:
        fd = os.open(file, os.O_RDONLY)
        total = 0
        while count := os.readv(fd, [buffer]):
            total += count
        if total != os.fstat(fd).st_size:
            raise RuntimeError(f"{file}: {total} bytes read, which is not its size")
        os.close(fd)

    return work


def many(threads: str, directory: str) -> Callable[[], None]:
    """Read every file of a directory by several threads."""
    paths = sorted(entry.path for entry in os.scandir(directory))

    def read(path: str) -> int:
        fd = os.open(path, os.O_RDONLY)
        size = 0
        while piece := os.read(fd, 128 << 10):
            size += len(piece)
        os.close(fd)
        return size

    def work() -> None:
        with ThreadPoolExecutor(int(threads)) as pool:
            sizes = set(pool.map(read, paths))
        if len(sizes) != 1:
            raise RuntimeError(f"{directory}: files of one size were expected, sizes read: {sorted(sizes)}")

    return work


def create(count: str, directory: str) -> Callable[[], None]:
    """Create, write 4 KiB, close: one file after another."""
    data = bytes(range(256)) * 16

    def work() -> None:
        for number in range(int(count)):
            fd = os.open(f"{directory}/f{number:06d}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(fd, data)
            os.close(fd)

    return work


def find(directory: str, count: str, *expression: str) -> Callable[[], None]:
    """Run find(1) and check that it sees `count` files."""

    def work() -> None:
        done = subprocess.run(["find", directory, *expression], stdout=subprocess.PIPE, check=True)
        seen = done.stdout.count(b".bin\n")
        if seen != int(count):
            raise RuntimeError(f"find saw {seen} files, not {count}")

    return work


def find_sizes(directory: str, count: str) -> Callable[[], None]:
    """The same with a stat of every entry."""
    return find(directory, count, "-printf", "%s %p\\n")


def download(url: str, file: str) -> Callable[[], None]:
    """What the client library does by itself: one GET_OBJECT straight into a file."""
    from awscrt.http import HttpHeaders, HttpRequest
    from awscrt.s3 import S3RequestType

    parts = urlsplit(url)
    client = _library()

    def work() -> None:
        request = HttpRequest("GET", parts.path, HttpHeaders([("host", parts.netloc)]))
        client.make_request(type=S3RequestType.GET_OBJECT, request=request, recv_filepath=file).finished_future.result()

    return work


def _library() -> Any:
    """A client of awscrt, as it comes."""
    from awscrt.auth import AwsCredentialsProvider
    from awscrt.io import ClientBootstrap, DefaultHostResolver, EventLoopGroup
    from awscrt.s3 import S3Client, S3RequestTlsMode, create_default_s3_signing_config

    loops = EventLoopGroup()
    keys = os.environ.get("AWS_ACCESS_KEY_ID", "BENCH"), os.environ.get("AWS_SECRET_ACCESS_KEY", "bench")
    provider = AwsCredentialsProvider.new_static(*keys)
    return S3Client(
        bootstrap=ClientBootstrap(loops, DefaultHostResolver(loops)),
        region="us-east-1",
        tls_mode=S3RequestTlsMode.DISABLED,
        signing_config=create_default_s3_signing_config(region="us-east-1", credential_provider=provider),
        throughput_target_gbps=50.0,
    )


def _requests(chains: list[list[tuple[str, str, str, dict[str, str], bytes]]]) -> Callable[[], None]:
    """Chains of (operation, method, URL, headers, body), `IN_FLIGHT` of them at once, each request after the one before it."""
    import io

    from awscrt.http import HttpHeaders, HttpRequest
    from awscrt.s3 import S3RequestType

    client = _library()

    def one(chain: list[tuple[str, str, str, dict[str, str], bytes]]) -> None:
        for operation, method, url, headers, body in chain:
            parts = urlsplit(url)
            named = HttpHeaders([("host", parts.netloc), ("content-length", str(len(body))), *headers.items()])
            request = HttpRequest(method, parts.path, named, io.BytesIO(body) if body else None)
            client.make_request(type=S3RequestType.DEFAULT, operation_name=operation, request=request).finished_future.result()

    def work() -> None:
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            for _ in pool.map(one, chains):
                pass

    return work


def put(count: str, url: str) -> Callable[[], None]:
    """What the client library does by itself: PUT of objects of 4 KiB."""
    data = bytes(range(256)) * 16
    return _requests([[("PutObject", "PUT", f"{url}f{number:06d}", {}, data)] for number in range(int(count))])


def move(count: str, url: str, new_url: str) -> Callable[[], None]:
    """What the client library does by itself: CopyObject and DeleteObject of every object."""
    source = urlsplit(url).path
    return _requests(
        [
            [
                ("CopyObject", "PUT", new_url + name, {"x-amz-copy-source": source + name}, b""),
                ("DeleteObject", "DELETE", url + name, {}, b""),
            ]
            for name in (f"f{number:06d}" for number in range(int(count)))
        ]
    )


def list_alone(url: str) -> Callable[[], None]:
    """Fetch every list page over one connection and throw it away: what the stub can do at most."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc)

    def work() -> None:
        token: bytes | None = b""
        while token is not None:
            query = f"&continuation-token={token.decode()}" if token else ""
            connection.request("GET", f"{parts.path}?list-type=2{query}")
            page = connection.getresponse().read()
            found = re.search(rb"<NextContinuationToken>(\d+)<", page[:1000])
            token = found[1] if found else None

    return work


def stat_all(directory: str) -> Callable[[], None]:
    """stat(2) every file below a directory."""
    paths = [os.path.join(base, name) for base, _, names in os.walk(directory) for name in names]

    def work() -> None:
        for path in paths:
            os.stat(path)

    return work


PROGRAMS: dict[str, Callable[..., Callable[[], None]]] = {
    "sequential": sequential,
    "many": many,
    "create": create,
    "find": find,
    "find-sizes": find_sizes,
    "download": download,
    "list": list_alone,
    "put": put,
    "move": move,
}


def main() -> None:
    work = PROGRAMS[sys.argv[1]](*sys.argv[2:])
    start = time.perf_counter()
    work()
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
