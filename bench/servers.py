"""Servers for measurements: the stub alone, or nginx serving files with the stub behind it for listings and writes."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.workplace import Workplace, child
from tests.servers import S3Server

BUCKET = "bench"
LINKED = "linked"

_NGINX = """
daemon off; worker_processes 1; pid {scratch}/pid; error_log {scratch}/error.log; user root;
events {{ worker_connections 1024; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 10000000; open_file_cache max=10000 inactive=60s;
    client_body_temp_path {scratch}/body; proxy_temp_path {scratch}/proxy; fastcgi_temp_path {scratch}/fastcgi;
    uwsgi_temp_path {scratch}/uwsgi; scgi_temp_path {scratch}/scgi; default_type binary/octet-stream;
    upstream stub {{ server 127.0.0.1:{stub}; keepalive 16; }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location ~ ^/[^/]+/?$ {{ error_page 418 = @stub; return 418; }}
        location ~ ^/[^/]+/(?<key>.+)$ {{ root {root}; try_files /$key @stub; error_page 404 405 = @stub; }}
        location @stub {{ proxy_pass http://stub; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
}}
"""


@contextlib.contextmanager
def stub(kind: str, value: int | Path) -> Iterator[S3Server]:
    """`generated` COUNT, `flat` COUNT or `served` DIRECTORY, see `bench.stub`."""
    with child([sys.executable, "-m", "bench.stub", kind, str(value)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the stub server did not start")
        yield S3Server("stub", f"http://127.0.0.1:{int(line)}", "BENCH", "bench")


@contextlib.contextmanager
def nginx(place: Workplace, root: Path) -> Iterator[S3Server]:
    """Objects are the files below `root`, sent by nginx with its own ETags, conditions and ranges."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise RuntimeError("nginx not found: apt-get install nginx-light")
    scratch = place.directory("nginx")
    with stub("served", root) as behind, contextlib.ExitStack() as stack:
        port = _free_port()
        conf = scratch / "nginx.conf"
        conf.write_text(_NGINX.format(scratch=scratch, stub=behind.endpoint_url.rpartition(":")[2], port=port, root=root))
        root.chmod(0o755)
        stack.enter_context(child([program, "-e", scratch / "error.log", "-c", conf]))
        _wait_port(port)
        yield S3Server("nginx", f"http://127.0.0.1:{port}", "BENCH", "bench")


def linked_directory(place: Workplace) -> str:
    """A source that links one directory, `LINKED`, with a prefix of the same name, and leaves room outside of it."""
    path = place.directory("source") / "linked.toml"
    path.write_text(f'[[dra]]\nfile_system_path = "/{LINKED}"\ndata_repository_path = "s3://{BUCKET}/{LINKED}/"\n')
    return str(path)


def listed(client: Any, prefix: str) -> list[str]:
    """The keys below a prefix, as plain boto3 sees them."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", ())]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"nothing listens on 127.0.0.1:{port}") from None
            time.sleep(0.02)
