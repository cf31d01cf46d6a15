"""A name that others brought, in the eyes of programs whose calls were under way when it came."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from s3lustrefs.cli.control_client import ControlClient
from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import WAIT_SECONDS, Site
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
