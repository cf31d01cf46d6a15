"""Mounting in every way there is, ending in every way there is, and finding everything again afterwards."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import S3LUSTREFS, WAIT_SECONDS, Site, ended

needs_helper = pytest.mark.skipif(not os.path.exists("/sbin/mount.fuse.s3lustrefs"), reason="needs `s3lustrefs install-helper`")


@pytest.fixture
def place(make_site: Callable[..., Site]) -> Site:
    here = make_site()
    here.put("p/d/file", b"content")
    return here


def check_usable(here: Site) -> None:
    here.note_daemon()
    assert (here.root / "d/file").read_bytes() == b"content"
    (here.root / "d/new").write_bytes(b"new")
    here.drain()
    assert here.body("p/d/new") == b"new"


# --- ways to mount --------------------------------------------------------------------------------------------------------


@needs_helper
@pytest.mark.parametrize("kind", ["fuse.s3lustrefs", "s3lustrefs"])
def test_mount_by_type(place: Site, kind: str) -> None:
    options = place.option_string() + ",noatime,nosuid,nodev,_netdev,nofail,x-systemd.automount"
    place.run("mount", "-t", kind, place.source, place.root, "-o", options)
    check_usable(place)
    (line,) = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if line.split()[4] == str(place.root)]
    assert f" - fuse.s3lustrefs {place.source} " in line
    assert "nosuid" in line and "nodev" in line and "noatime" in line
    pid = place.note_daemon()
    with ended(pid):
        place.run("umount", place.root)
    assert not place.is_mounted()


@needs_helper
def test_line_in_fstab(place: Site) -> None:
    fstab = place.scratch / "fstab"
    fstab.write_text(f"{place.source} {place.root} fuse.s3lustrefs _netdev,nofail,{place.option_string()} 0 0\n")
    place.run("mount", "--all", "--fstab", fstab)
    check_usable(place)
    place.run("mount", "--all", "--fstab", fstab)  # again: nothing to do
    place.run("umount", place.root)


@needs_helper
def test_mount_that_fails_is_mounts_own_failure_status(place: Site) -> None:
    place.expected_log.append("daemon ended reason")
    done = place.run(
        "mount", "-t", "s3lustrefs", "s3://no-such-bucket-at-all", place.root, "-o", place.option_string(), check=False
    )
    assert done.returncode == 32
    assert "bucket no-such-bucket-at-all does not exist" in done.stderr
    assert not place.is_mounted()


def test_two_associations_from_a_file(place: Site) -> None:
    place.put("q/other", b"in q")
    path = place.scratch / "two.toml"
    path.write_text(
        f'state_dir = "{place.state_dir}"\nendpoint_url = "{place.endpoint_url}"\naddressing_style = "path"\n\n'
        f'[[dra]]\nfile_system_path = "/ref"\ndata_repository_path = "s3://{place.bucket}/p"\nauto_export = []\n\n'
        f'[[dra]]\nfile_system_path = "/results/deep"\ndata_repository_path = "s3://{place.bucket}/q/"\n'
    )
    place.run(S3LUSTREFS, "mount", path, place.root)
    place.note_daemon()
    place.wait_imported()
    assert sorted(os.listdir(place.root)) == ["ref", "results"]
    assert (place.root / "ref/d/file").read_bytes() == b"content"
    assert (place.root / "results/deep/other").read_bytes() == b"in q"
    for folder in ("ref", "results/deep", "results", "."):
        (place.root / folder / "made").write_bytes(b"made")
    place.drain()
    assert place.keys() == ["p/d/file", "q/made", "q/other"]
    associations = {a["file_system_path"]: a["data_repository_path"] for a in place.status()["associations"]}
    assert associations == {"/ref": f"s3://{place.bucket}/p/", "/results/deep": f"s3://{place.bucket}/q/"}


@pytest.fixture
def configured_name() -> Iterator[Path]:
    """A file of its own in /etc/s3lustrefs."""
    folder = Path("/etc/s3lustrefs")
    made = not folder.exists()
    folder.mkdir(exist_ok=True)
    path = folder / f"test-{uuid.uuid4().hex}.toml"
    yield path
    path.unlink(missing_ok=True)
    if made:
        folder.rmdir()


def test_name_below_etc(place: Site, configured_name: Path) -> None:
    configured_name.write_text(
        f'state_dir = "{place.state_dir}"\nendpoint_url = "{place.endpoint_url}"\n'
        f'[[dra]]\nfile_system_path = "/"\ndata_repository_path = "s3://{place.bucket}/p"\n'
    )
    place.run(S3LUSTREFS, "mount", configured_name.stem, place.root)
    check_usable(place)


def test_file_without_associations_is_local_scratch(place: Site) -> None:
    path = place.scratch / "none.toml"
    path.write_text(f'state_dir = "{place.state_dir}"\n')
    place.run(S3LUSTREFS, "mount", path, place.root)
    place.note_daemon()
    (place.root / "file").write_bytes(b"local")
    place.drain()
    assert (place.root / "file").read_bytes() == b"local"
    assert "no associations" in place.cli("status", place.root).stdout


# --- ways to end ----------------------------------------------------------------------------------------------------------


def foreground(here: Site) -> subprocess.Popen[str]:
    command = [S3LUSTREFS, "mount", "--foreground", here.source, str(here.root), "-o", here.option_string()]
    process = subprocess.Popen(command, env=here.environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "mount ready" in line:
            return process
    raise AssertionError(f"ended with {process.wait()} before it was ready")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_foreground_ends_with_a_signal(place: Site, number: signal.Signals) -> None:
    process = foreground(place)
    assert (place.root / "d/file").read_bytes() == b"content"
    process.send_signal(number)
    _, said = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert not place.is_mounted() and os.listdir(place.root) == []


def test_foreground_ends_with_umount(place: Site) -> None:
    process = foreground(place)
    place.run("umount", place.root)
    _, said = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_daemon_ends_with_a_signal_although_a_file_is_open(place: Site, number: signal.Signals) -> None:
    place.mount()
    pid = place.note_daemon()
    descriptor = os.open(place.root / "d/open", os.O_WRONLY | os.O_CREAT)
    try:
        os.write(descriptor, b"acknowledged")
        with ended(pid):
            os.kill(pid, number)
        assert not place.is_mounted() and os.listdir(place.root) == []
        with pytest.raises(OSError) as caught:
            os.write(descriptor, b"too late")
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
    finally:
        with contextlib.suppress(OSError):  # close() says the same, and closes all the same
            os.close(descriptor)
    place.mount()
    assert (place.root / "d/open").read_bytes() == b"acknowledged"
    place.drain()
    assert place.body("p/d/open") == b"acknowledged"
    assert place.cli("unmount", place.root).returncode == 0
    assert place.cli("fsck", place.state_dir, check=False).returncode == 0


def test_unmount_is_refused_while_a_file_is_open(place: Site) -> None:
    place.mount()
    with open(place.root / "d/file", "rb"):
        done = place.cli("unmount", place.root, check=False)
        assert done.returncode == 1 and "cannot be unmounted" in done.stderr and "busy" in done.stderr
        assert place.is_mounted()
    assert place.cli("unmount", place.root).returncode == 0


def test_unmount_exports_what_is_due(place: Site) -> None:
    place.mount()
    for number in range(50):
        (place.root / f"d/f{number}").write_bytes(b"%d" % number)
    assert place.cli("unmount", place.root).returncode == 0
    assert not place.is_mounted()
    assert {f"p/d/f{number}" for number in range(50)} < set(place.keys())


def test_umount_and_mount_again_at_once(place: Site) -> None:
    place.mount()
    for number in range(3):
        (place.root / f"f{number}").write_bytes(b"x")
        place.run("umount", place.root)
        place.mount()
        assert (place.root / f"f{number}").read_bytes() == b"x"
    place.drain()
    assert place.keys() == ["p/d/file", "p/f0", "p/f1", "p/f2"]


def test_killed_daemon_leaves_enotconn_and_the_next_mount_recovers(place: Site) -> None:
    place.mount()
    (place.root / "closed").write_bytes(b"closed")
    with open(place.root / "open", "wb", buffering=0) as file:
        file.write(b"acknowledged")
        place.kill_daemon()
    with pytest.raises(OSError) as caught:
        os.listdir(place.root)
    assert caught.value.errno == errno.ENOTCONN
    done = place.cli("status", place.root, check=False)
    assert done.returncode != 0 and "its daemon is gone; mount it again" in done.stderr
    done = place.try_mount()
    assert done.returncode == 0 and "cleared a mount whose daemon is gone" in done.stderr
    assert (place.root / "closed").read_bytes() == b"closed"
    assert (place.root / "open").read_bytes() == b"acknowledged"
    place.drain()
    assert place.objects() == {"p/d/file": b"content", "p/closed": b"closed", "p/open": b"acknowledged"}
    assert place.cli("unmount", place.root).returncode == 0
    assert place.cli("fsck", place.state_dir, check=False).returncode == 0


def test_upload_under_way_at_unmount_is_done_after_the_next_mount(here: Site, proxy: BackgroundProxy) -> None:
    here.mount()
    body = os.urandom(40 << 20)
    proxy.add("hold", method="PUT", path="partNumber=2")
    (here.root / "large").write_bytes(body)
    proxy.wait_held()
    here.expected_log.append("multipart upload left behind")
    here.unmount()
    proxy.clear_faults()
    assert here.keys() == []
    here.mount()
    here.drain()
    assert here.body("p/large") == body
    assert here.s3.list_multipart_uploads(Bucket=here.bucket).get("Uploads", []) == []


def test_no_secret_is_written_anywhere(place: Site) -> None:
    place.mount()
    place.drain()
    pid = place.note_daemon()
    secret = place.server.secret_key.encode()
    assert secret not in Path(f"/proc/{pid}/cmdline").read_bytes()
    place.unmount()
    for path in place.state_dir.rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes(), path
