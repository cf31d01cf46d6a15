"""Making, refusing and ending mounts. A refusal is one line on standard error, a non-zero exit, and nothing left mounted."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.semantics.mounted import S3LUSTREFS, Place, can_mount, place, wait_for_end
from tests.servers import S3Server

pytestmark = pytest.mark.skipif(not can_mount(), reason="this host cannot mount: no /dev/fuse or no fusermount3")


@pytest.fixture
def here(moto_server: S3Server) -> Iterator[Place]:
    """An empty bucket, not yet mounted."""
    name = f"t-{uuid.uuid4().hex[:16]}"
    moto_server.client().create_bucket(Bucket=name)
    with place(moto_server, name) as there:
        there.mount_point.mkdir()
        yield there


def refusal(here: Place, source: str = "", **environment: str) -> str:
    """The one line a mount that must not succeed says."""
    command = [S3LUSTREFS, "mount", source or here.source, str(here.mount_point), "-o", here.option_string]
    variables = {**os.environ, "HOME": str(here.scratch), **here.server.environment(), **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    assert done.returncode != 0
    assert not os.path.ismount(here.mount_point)
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("s3lustrefs: ") and "a defect" not in line
    return line


def test_missing_bucket(here: Place) -> None:
    assert "nosuchbucket" in refusal(here, "s3://nosuchbucket") and "does not exist" in refusal(here, "s3://nosuchbucket")


def test_missing_credentials(here: Place) -> None:
    line = refusal(here, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert "credentials" in line


def test_endpoint_that_is_not_there(here: Place) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        here.options["endpoint_url"] = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        assert here.options["endpoint_url"] in refusal(here)


@pytest.mark.long
def test_endpoint_that_does_not_answer(here: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        here.options["endpoint_url"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert here.options["endpoint_url"] in refusal(here)


def test_endpoint_that_is_no_s3_server(here: Place, tmp_path: Path) -> None:
    with subprocess.Popen(
        ["python3", "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as other:
        assert other.stdout is not None
        port = other.stdout.readline().split()[5].decode()
        here.options["endpoint_url"] = f"http://127.0.0.1:{port}"
        try:
            refusal(here)
        finally:
            other.kill()


def test_state_directory_in_use(here: Place) -> None:
    here.mount()
    here.scratch.joinpath("other").mkdir()
    second = Place(here.server, here.bucket, here.scratch, here.source, {**here.options, "state_dir": str(here.state_dir)})
    command = [S3LUSTREFS, "mount", second.source, str(here.scratch / "other"), "-o", second.option_string]
    done = here.run(*command, check=False)
    assert done.returncode != 0 and str(here.state_dir) in done.stderr and "in use" in done.stderr
    assert os.listdir(here.mount_point) == []
    here.unmount()


def test_mount_point_in_use(here: Place) -> None:
    here.mount()
    done = here.run(*here.mount_command(), check=False)
    assert done.returncode != 0 and "already mounted here" in done.stderr
    here.unmount()


def test_prefix_without_objects_is_an_empty_file_system(here: Place) -> None:
    here.mount()
    assert os.listdir(here.mount_point) == []
    here.unmount()


def test_linked_directories_of_a_file_appear_by_themselves(here: Place, tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(
        f'[[dra]]\nfile_system_path = "/a/deep"\ndata_repository_path = "s3://{here.bucket}/one"\n'
        f'[[dra]]\nfile_system_path = "/b"\ndata_repository_path = "s3://{here.bucket}/two"\n'
    )
    two = Place(here.server, here.bucket, here.scratch, str(tmp_path / "two.toml"))
    two.mount()
    assert sorted(os.listdir(here.mount_point)) == ["a", "b"]
    assert os.listdir(here.mount_point / "a") == ["deep"]
    (here.mount_point / "b/x").write_bytes(b"x")
    (here.mount_point / "scratch").write_bytes(b"not exported")
    two.unmount()
    listed = here.server.client().list_objects_v2(Bucket=here.bucket)["Contents"]
    assert [each["Key"] for each in listed] == ["two/x"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_mount_cleanly(here: Place, number: signal.Signals) -> None:
    here.mount()
    (here.mount_point / "written").write_bytes(b"before the signal")
    pid = here.status()["pid"]
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, number)
    wait_for_end(pidfd)
    assert not os.path.ismount(here.mount_point)
    here.mount()
    assert (here.mount_point / "written").read_bytes() == b"before the signal"
    here.unmount()
    assert here.server.client().get_object(Bucket=here.bucket, Key="written")["Body"].read() == b"before the signal"


def test_plain_umount_ends_the_daemon(here: Place) -> None:
    here.mount()
    pidfd = os.pidfd_open(here.status()["pid"])
    here.run("umount", str(here.mount_point))
    wait_for_end(pidfd)


@pytest.mark.skipif(os.geteuid() != 0, reason="mount -a is root's")
def test_fstab_line_is_mounted_by_mount_a(here: Place, tmp_path: Path) -> None:
    table = tmp_path / "fstab"
    table.write_text(f"{here.source} {here.mount_point} s3lustrefs _netdev,nofail,x-note=1,{here.option_string} 0 0\n")
    for _ in range(2):  # a second time there is nothing to do
        here.run("mount", "-a", "-T", str(table))
    assert os.path.ismount(here.mount_point)
    here.unmount()
