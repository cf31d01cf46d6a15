"""What a user can get wrong: one clear line each, nothing mounted, nothing changed."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import lmdb
import pytest

from s3lustrefs.cli.launch import READY_SECONDS
from s3lustrefs.cli.mount_checks import Host
from s3lustrefs.cli.mount_helper import prepare
from s3lustrefs.errors import FuseUnavailable
from s3lustrefs.meta.schema import FORMAT_VERSION
from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import Site
from tests.servers import S3Server


@pytest.fixture
def bad(make_site: Callable[..., Site]) -> Site:
    """A site whose mount is about to fail."""
    here = make_site()
    here.expected_log.append("daemon ended reason")
    here.put("p/there", b"x")
    return here


def refused(here: Site, *words: str, **options: str) -> str:
    """The one line of a mount that fails."""
    done = here.try_mount(**options)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert len(lines) == 1, done.stderr
    assert not here.is_mounted()
    for word in words:
        assert word in lines[0], lines[0]
    return lines[0]


# --- the bucket -----------------------------------------------------------------------------------------------------------


def test_no_such_bucket(bad: Site) -> None:
    bad.source = "s3://no-such-bucket-here/p"
    refused(bad, "bucket no-such-bucket-here does not exist")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"method": "GET", "path": "list-type=2"}, "no permission to list"),
        ({"method": "GET", "path": "/p/there"}, "no permission to read"),
        ({"method": "PUT", "path": "/p/"}, "no permission to write"),
    ],
)
def test_missing_permission_is_named(bad: Site, proxy: BackgroundProxy, rule: dict[str, str], words: str) -> None:
    proxy.add("denied", times=10**6, **rule)
    bad.endpoint_url = proxy.endpoint_url
    line = refused(bad, words, "Allow s3:")
    assert bad.objects() == {"p/there": b"x"}, line


@pytest.mark.rgw
def test_bucket_of_somebody_else(rgw_server: S3Server, make_site: Callable[..., Site]) -> None:
    here = make_site(server=rgw_server)
    here.expected_log.append("daemon ended reason")
    here.environment |= {"AWS_ACCESS_KEY_ID": rgw_server.other_access_key, "AWS_SECRET_ACCESS_KEY": rgw_server.other_secret_key}
    line = refused(here, "no permission to list", "Allow s3:ListBucket")
    assert rgw_server.other_secret_key not in line + here.log()


@pytest.mark.rgw
def test_wrong_keys(rgw_server: S3Server, make_site: Callable[..., Site]) -> None:
    here = make_site(server=rgw_server)
    here.expected_log.append("daemon ended reason")
    here.environment |= {"AWS_SECRET_ACCESS_KEY": "wrong" * 8}
    refused(here, "correct the credentials")
    assert "wrong" * 8 not in here.log()


def test_prefix_without_objects_mounts_empty(bad: Site) -> None:
    bad.source = f"s3://{bad.bucket}/nothing-there"
    bad.mount()
    assert os.listdir(bad.root) == []
    (bad.root / "first").write_bytes(b"1")
    bad.drain()
    assert bad.body("nothing-there/first") == b"1"


def test_read_only_mount_needs_no_permission_to_write(bad: Site, proxy: BackgroundProxy) -> None:
    proxy.add("denied", method="PUT", times=10**6)
    bad.endpoint_url = proxy.endpoint_url
    done = bad.cli("mount", bad.source, bad.root, "-o", bad.option_string() + ",ro")
    assert done.returncode == 0
    bad.note_daemon()
    bad.wait_imported()
    assert (bad.root / "there").read_bytes() == b"x"
    with pytest.raises(OSError, match="Read-only file system"):
        (bad.root / "new").touch()
    assert proxy.changes() == []


# --- the endpoint ---------------------------------------------------------------------------------------------------------


class _WebPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<html><body>It works!</body></html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@contextlib.contextmanager
def web_server() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _WebPage)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_endpoint_that_is_no_s3(bad: Site) -> None:
    with web_server() as url:
        bad.endpoint_url = url
        refused(bad, url, "endpoint_url")


def test_endpoint_nobody_listens_on(bad: Site) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        bad.endpoint_url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        refused(bad, bad.endpoint_url, "cannot be reached", "endpoint_url")


@pytest.mark.long
def test_endpoint_that_accepts_and_says_nothing_is_given_up(bad: Site) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        bad.endpoint_url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        refused(bad, "does not answer within 10 seconds")
        assert time.monotonic() - started < READY_SECONDS


def test_no_credentials(bad: Site) -> None:
    home = bad.scratch / "home"
    home.mkdir()
    bad.environment = {
        "PATH": os.environ["PATH"], "HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true",
        **{name: value for name, value in os.environ.items() if name == "PYTHONPATH"},
    }  # fmt: skip
    refused(bad, "credentials", "AWS_ACCESS_KEY_ID")


def test_wrong_region(bad: Site, moto_server: S3Server) -> None:
    client = moto_server.client(region_name="eu-central-1")
    bucket = f"{bad.bucket}-eu"
    client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    client.close()
    bad.source = f"s3://{bucket}/p"
    refused(bad, f"bucket {bucket} is in Region eu-central-1, not us-west-2", "region=eu-central-1", region="us-west-2")


# --- options and files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cache_siz": "5GiB"}, ["unknown mount option 'cache_siz'", "did you mean 'cache_size'?"]),
        ({"cache_size": "many"}, ["cache_size=many", "is not a size", "500GiB"]),
        ({"cache_size": "1"}, ["cache_size=1", "too small"]),
        ({"imported_file_chunk_size": "0"}, ["imported_file_chunk_size"]),
        ({"auto_export": "sometimes"}, ["auto_export=sometimes"]),
        ({"posix_metadata": "maybe"}, ["posix_metadata=maybe", "lazy"]),
        ({"on_conflict": "shrug"}, ["on_conflict=shrug", "keep-both"]),
        ({"endpoint_url": "ftp://somewhere"}, ["endpoint_url=ftp://somewhere"]),
    ],
)
def test_bad_option(bad: Site, options: dict[str, str], words: list[str]) -> None:
    refused(bad, *words, **options)
    assert not bad.state_dir.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('state_dir = "/x"\n[[dra]]\nfile_system_path = \n', ["not valid TOML", "line 3"]),
        ('state_dirr = "/x"\n', ["line 1: state_dirr", "did you mean 'state_dir'?"]),
        ('\n\ncache_size = "big"\n', ["line 3: cache_size = 'big'", "is not a size"]),
        ('[[dra]]\nfile_system_path = "/a"\n', ["[[dra]] number 1 has no data_repository_path"]),
        (
            '[[dra]]\nfile_system_path = "/a"\ndata_repository_path = "s3://bkt1/p"\n'
            '[[dra]]\nfile_system_path = "/a/b"\ndata_repository_path = "s3://bkt2/q"\n',
            ["/a/b", "/a"],
        ),
    ],
)
def test_bad_file(bad: Site, text: str, words: list[str]) -> None:
    path = bad.scratch / "bad.toml"
    path.write_text(text)
    bad.source = str(path)
    refused(bad, str(path), *words)
    assert not bad.state_dir.exists()


def test_file_that_is_not_there(bad: Site) -> None:
    bad.source = "no-such-name"
    refused(bad, "/etc/s3lustrefs/no-such-name.toml")
    bad.source = str(bad.scratch / "absent.toml")
    refused(bad, "absent.toml", "No such file")


# --- the state directory --------------------------------------------------------------------------------------------------


def test_state_directory_of_a_newer_format(bad: Site) -> None:
    bad.mount()
    bad.unmount()
    set_format(bad.state_dir / "meta", b"999")
    refused(bad, str(bad.state_dir), "format 999")
    set_format(bad.state_dir / "meta", str(FORMAT_VERSION).encode())
    bad.mount()
    assert (bad.root / "there").read_bytes() == b"x"


def set_format(meta: Path, version: bytes) -> None:
    """Where the format version is kept is documented in meta/schema."""
    with lmdb.open(str(meta), max_dbs=64, subdir=True) as environment:
        names = []
        with environment.begin() as txn:
            names = [bytes(key) for key, _ in txn.cursor()]
        changed = False
        for name in names:
            try:
                table = environment.open_db(name, create=False)
            except lmdb.Error:
                continue
            with environment.begin(write=True) as txn:
                if txn.get(b"format", db=table) is not None:
                    txn.put(b"format", version, db=table)
                    changed = True
    assert changed


def test_state_directory_in_use(bad: Site, make_site: Callable[..., Site]) -> None:
    bad.mount()
    other = make_site(bucket=bad.bucket)
    other.state_dir = bad.state_dir
    other.expected_log = bad.expected_log
    refused(other, f"{bad.state_dir} is in use by another daemon", "process ")
    assert (bad.root / "there").read_bytes() == b"x"


@contextlib.contextmanager
def tmpfs(point: Path, options: str) -> Iterator[Path]:
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


def test_read_only_state_directory(bad: Site) -> None:
    with tmpfs(bad.scratch / "ro", "ro") as point:
        bad.state_dir = point / "state"
        refused(bad, str(bad.state_dir), "Read-only file system")
    bad.state_dir = bad.scratch / "state"


def test_state_directory_on_a_full_disk(bad: Site) -> None:
    with tmpfs(bad.scratch / "full", "size=1m") as point:
        with contextlib.suppress(OSError), open(point / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        bad.state_dir = point / "state"
        refused(bad, str(point), "No space left on device")
    bad.state_dir = bad.scratch / "state"


# --- the mount point --------------------------------------------------------------------------------------------------------


def test_mount_point_missing(bad: Site) -> None:
    bad.root = bad.scratch / "absent"
    refused(bad, f"{bad.root}: no such directory", "mkdir -p")
    assert not bad.root.exists()


def test_mount_point_is_a_file(bad: Site) -> None:
    bad.root = bad.scratch / "file"
    bad.root.touch()
    refused(bad, "not a directory")


def test_mount_point_not_empty(bad: Site) -> None:
    (bad.root / "precious").touch()
    refused(bad, "not empty", "'precious'")
    assert (bad.root / "precious").exists()


def test_already_mounted(bad: Site, make_site: Callable[..., Site]) -> None:
    bad.mount()
    done = bad.cli("mount", bad.source, bad.root, "-o", bad.option_string(), check=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert f"{bad.source} (fuse.s3lustrefs) is already mounted here" in done.stderr
    assert (bad.root / "there").read_bytes() == b"x"


def test_commands_where_nothing_is_mounted(bad: Site) -> None:
    for command in (["unmount"], ["status"], ["drain"], ["why"], ["hsm", "state"]):
        done = bad.cli(*command, bad.root, check=False)
        assert done.returncode != 0
        assert len(done.stderr.splitlines()) == 1 and str(bad.root) in done.stderr, done.stderr


# --- the host -----------------------------------------------------------------------------------------------------------------


def test_no_dev_fuse(bad: Site, tmp_path: Path) -> None:
    with pytest.raises(FuseUnavailable, match="absent does not exist: load the kernel module with `modprobe fuse`"):
        prepare(bad.source, str(bad.root), bad.option_string(), Host(dev_fuse=tmp_path / "absent"))
    assert not bad.state_dir.exists()


def test_neither_root_nor_fusermount3(bad: Site) -> None:
    with pytest.raises(FuseUnavailable, match="needs fusermount3: install the package fuse3"):
        prepare(bad.source, str(bad.root), bad.option_string(), Host(euid=1000, fusermount=None))
    assert not bad.state_dir.exists()
