"""A name that others brought, in the eyes of programs whose calls were under way when it came."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from s3lustrefs.cli.control_client import ControlClient
from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import WAIT_SECONDS, Site, ended, two_associations
from tests.posix.calls import as_user

QUEUED_SECONDS = 0.5
"""Ample for a call to reach the lock it waits for."""


def test_creating_a_name_that_appeared_meanwhile(make_site: Callable[..., Site], proxy: BackgroundProxy) -> None:
    """As anywhere: with O_EXCL it is in the way, otherwise it is opened, if that is allowed.

    The kernel remembers that the names are absent, and each open waits for the directory, which a look-up holds that waits for the
    bucket: so all of them are ahead of the invalidation, and are sent to the daemon as creations.
    """
    here = make_site(endpoint_url=proxy.endpoint_url, allow_other="true")
    here.put("p/slow", b"x")
    here.put("p/target", b"target")
    proxy.add("hold", method="HEAD", path="/p/slow", times=10**6)
    here.mount()
    os.chmod(here.root, 0o777)
    appearing: dict[str, tuple[bytes, dict[str, str]]] = {
        "kept": (b"theirs", {}),
        "emptied": (b"theirs", {}),
        "exclusive": (b"theirs", {}),
        "directory/": (b"", {}),
        "link": (b"target", {"file-permissions": "0120777"}),
        "private": (b"secret", {"file-permissions": "0100600", "file-owner": "0"}),
    }
    for name in appearing:
        assert not (here.root / name.rstrip("/")).exists()
    with ThreadPoolExecutor(len(appearing) + 1) as pool:
        looking = pool.submit(os.stat, here.root / "slow")
        time.sleep(QUEUED_SECONDS)

        def opening(name: str, flags: int) -> Callable[[], int]:
            return lambda: os.open(here.root / name, flags | os.O_CREAT)

        kept = pool.submit(opening("kept", os.O_RDWR))
        emptied = pool.submit(opening("emptied", os.O_RDWR | os.O_TRUNC))
        exclusive = pool.submit(opening("exclusive", os.O_WRONLY | os.O_EXCL))
        directory = pool.submit(opening("directory", os.O_WRONLY))
        link = pool.submit(opening("link", os.O_RDONLY))
        private = pool.submit(as_user, 1000, 1000, opening("private", os.O_WRONLY))
        time.sleep(QUEUED_SECONDS)
        for name, (body, metadata) in appearing.items():
            here.put(f"p/{name}", body, Metadata=metadata)
        assert ControlClient(str(here.state_dir / "control.sock")).call("Refresh", path="/")["new"] == len(appearing)
        proxy.clear_faults()
        assert looking.result(WAIT_SECONDS).st_size == 1
        for open_file, content in ((kept, b"theirs"), (emptied, b""), (link, b"target")):
            with open(open_file.result(WAIT_SECONDS), "r+b" if open_file is not link else "rb") as file:
                assert file.read() == content
                if open_file is emptied:
                    file.write(b"ours")
        for refused, number in ((exclusive, errno.EEXIST), (directory, errno.EISDIR), (private, errno.EACCES)):
            with pytest.raises(OSError) as caught:
                os.close(refused.result(WAIT_SECONDS))
            assert caught.value.errno == number
    here.drain()
    assert here.objects("p/") == {
        **{f"p/{name}": body for name, (body, _) in appearing.items()},
        "p/slow": b"x", "p/target": b"target", "p/emptied": b"ours",
    }  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.one_in(2)
def test_daemon_ends_while_the_kernel_cannot_be_told(here: Site, proxy: BackgroundProxy, number: signal.Signals) -> None:
    """The order waits for a look-up, which waits for the daemon: one of them has to be let go.

    One that was killed cannot do it itself: see the README, "When something is wrong".
    """
    here.put("p/slow", b"x")
    proxy.add("hold", method="HEAD", path="/p/slow", times=10**6)
    here.mount()
    connection = Path(f"/sys/fs/fuse/connections/{os.minor(here.root.stat().st_dev)}/abort")
    assert not (here.root / "late").exists()
    with subprocess.Popen(["stat", here.root / "slow"], stderr=subprocess.DEVNULL) as looking:
        try:
            time.sleep(QUEUED_SECONDS)
            here.put("p/late", b"x")
            ControlClient(str(here.state_dir / "control.sock")).call("Refresh", path="/")
            assert looking.poll() is None
            pid = here.note_daemon()
            with ended(pid):
                os.kill(pid, number)
                if number == signal.SIGKILL:
                    subprocess.run(["umount", "-f", here.root], capture_output=True, check=False)
            assert looking.wait(WAIT_SECONDS) == 1
        finally:  # nothing else would ever end them
            with contextlib.suppress(OSError):
                connection.write_text("1")
    proxy.clear_faults()
    here.mount()
    assert (here.root / "late").exists()


def test_change_shows_while_the_kernel_cannot_be_told_of_others(make_site: Callable[..., Site], proxy: BackgroundProxy) -> None:
    """A look-up that waits for the bucket holds its directory, a read its pages: what concerns these has to wait, nothing else."""
    here = make_site("", endpoint_url=proxy.endpoint_url)
    here.source = str(two_associations(here.bucket, here.scratch))
    here.put("one/slow", b"x")
    here.put("one/d/read", b"first")
    here.put("two/d/old", b"x")
    proxy.add("hold", method="HEAD", path="/one/slow", times=10**6)
    here.mount()
    control = ControlClient(str(here.state_dir / "control.sock"))
    late = [f"one/late{n}" for n in range(40)]
    for name in [*late, "two/new", "two/d/new"]:
        assert not (here.root / name).exists()
    assert (here.root / "one/d/read").stat().st_size == 5
    proxy.add("hold", method="GET", path="/one/d/read", times=10**6)
    with ThreadPoolExecutor(2) as pool:
        looking = pool.submit(os.stat, here.root / "one/slow")
        reading = pool.submit((here.root / "one/d/read").read_bytes)
        time.sleep(QUEUED_SECONDS)
        for name in late:
            here.put(name, b"x")
        here.put("one/d/read", b"second")
        control.call("Refresh", path="/one")
        for name in ("two/new", "two/d/new"):
            here.put(name, b"x")
        here.s3.delete_object(Bucket=here.bucket, Key="two/d/old")
        control.call("Refresh", path="/two")
        assert sorted(os.listdir(here.root / "two/d")) == ["new"]
        assert not (here.root / "two/d/old").exists()
        assert (here.root / "two/new").exists() and (here.root / "two/d/new").exists()
        assert not looking.done()
        proxy.clear_faults()
        assert looking.result(WAIT_SECONDS).st_size == 1
        with contextlib.suppress(OSError):  # ESTALE
            assert reading.result(WAIT_SECONDS) in (b"first", b"second")
    deadline = time.monotonic() + WAIT_SECONDS
    while not all((here.root / name).exists() for name in late):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (here.root / "one/d/read").read_bytes() == b"second"
