"""cache_size: more data than fits flows through; what only exists locally is never dropped."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable

import pytest

from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import Site, two_associations

MIB = 1 << 20


def test_more_than_the_cache_holds_is_written_and_read_back(make_site: Callable[..., Site]) -> None:
    place = make_site(cache_size="32MiB").mount()
    contents = [os.urandom(4 * MIB) for _ in range(20)]
    for number, content in enumerate(contents):
        (place.root / f"f{number}").write_bytes(content)
    place.drain()
    for number, content in enumerate(contents):
        assert (place.root / f"f{number}").read_bytes() == content
    assert place.status()["cache"]["used_bytes"] <= 32 * MIB
    states = [place.hsm(f"f{number}") for number in range(20)]
    assert any("released" in state for state in states)
    place.unmount()


def test_a_cache_full_of_unexported_data_is_enospc_and_keeps_every_byte(make_site: Callable[..., Site]) -> None:
    place = make_site(cache_size="16MiB", auto_export="none").mount()
    kept = os.urandom(10 * MIB)
    (place.root / "kept").write_bytes(kept)
    with pytest.raises(OSError) as caught:
        (place.root / "too-much").write_bytes(bytes(10 * MIB))
    assert caught.value.errno == errno.ENOSPC
    assert (place.root / "kept").read_bytes() == kept
    place.expected_log.append("do not fit")
    place.unmount()


def test_statfs_shows_the_cache_and_not_the_disk(make_site: Callable[..., Site]) -> None:
    place = make_site(cache_size="32MiB", auto_export="none").mount()
    empty = os.statvfs(place.root)
    assert empty.f_blocks * empty.f_frsize == 32 * MIB
    (place.root / "f").write_bytes(os.urandom(8 * MIB))
    used = os.statvfs(place.root)
    assert 8 * MIB <= (empty.f_bavail - used.f_bavail) * used.f_frsize <= 9 * MIB
    (place.root / "f").unlink()
    while os.statvfs(place.root).f_bavail != empty.f_bavail:
        time.sleep(0.1)  # the bytes go once the table is on disk without them
    place.unmount()


def test_what_the_bucket_has_makes_way_for_what_it_has_not(make_site: Callable[..., Site]) -> None:
    place = make_site(cache_size="16MiB", auto_export="none")
    body = os.urandom(10 * MIB)
    place.put("p/cold", body)
    place.mount()
    assert (place.root / "cold").read_bytes() == body
    local = os.urandom(12 * MIB)
    (place.root / "local").write_bytes(local)
    assert "released" in place.hsm("cold")
    assert (place.root / "local").read_bytes() == local
    place.unmount()


def test_the_only_bytes_of_a_file_renamed_here_alone_do_not_make_way(make_site: Callable[..., Site]) -> None:
    place = make_site(cache_size="16MiB", auto_export="none")
    body = os.urandom(8 * MIB)
    for name in ("a", "other"):
        place.put(f"p/{name}", body)
    place.mount()
    place.expected_log.append("conflict kept kind=only-here path=/b")
    assert (place.root / "a").read_bytes() == body
    (place.root / "a").rename(place.root / "b")
    place.drain()
    place.s3.delete_object(Bucket=place.bucket, Key="p/a")
    place.cli("refresh", place.root)
    place.drain()
    assert (place.root / "other").read_bytes() == body  # above the mark from which on content is released
    deadline = time.monotonic() + 30
    while "released" not in place.hsm("other"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    place.unmount()
    place.mount()
    assert (place.root / "b").read_bytes() == body
    place.unmount()


@pytest.mark.parametrize("change", ["write", "delete"])
def test_bytes_whose_object_is_going_do_not_make_way(here: Site, proxy: BackgroundProxy, change: str) -> None:
    here.options["cache_size"] = "16MiB"
    here.source = str(two_associations(here.bucket, here.scratch))
    body = os.urandom(8 * MIB)
    here.put("one/x", body)
    for number in range(6):
        here.put(f"two/f{number}", os.urandom(2 * MIB))
    here.mount()
    assert (here.root / "one/x").read_bytes() == body
    for method, path in (("PUT", "one/x"), ("DELETE", "one/x"), ("POST", "delete")):
        proxy.add("hold", method=method, path=path)
    (here.root / "one/x").rename(here.root / "x.bak")
    if change == "write":
        (here.root / "one/x").write_bytes(b"new")
    proxy.wait_held()
    for number in range(6):
        assert len((here.root / f"two/f{number}").read_bytes()) == 2 * MIB
    proxy.clear_faults()
    here.drain()
    assert here.objects("one/") == ({"one/x": b"new"} if change == "write" else {})
    assert (here.root / "x.bak").read_bytes() == body
    here.unmount()


@pytest.mark.long
def test_writers_wait_for_a_slow_bucket_then_get_enospc_and_can_go_on_when_it_answers(here: Site, proxy: BackgroundProxy) -> None:
    here.options["cache_size"] = "16MiB"
    here.expected_log += ["do not fit", "export failed"]
    here.mount()
    first = os.urandom(12 * MIB)
    proxy.add("hold", method="PUT", path="first", times=1000)
    (here.root / "first").write_bytes(first)
    proxy.wait_held()
    with (here.root / "second").open("wb", buffering=0) as file, pytest.raises(OSError) as caught:
        while True:  # in single requests, each of which would wait
            file.write(bytes(128 << 10))
    assert caught.value.errno == errno.ENOSPC
    assert (here.root / "first").read_bytes() == first
    (here.root / "dir").mkdir()
    (here.root / "second").unlink()
    third = os.urandom(8 * MIB)
    writer = threading.Thread(target=(here.root / "third").write_bytes, args=(third,))
    writer.start()
    proxy.clear_faults()
    writer.join(60)
    assert not writer.is_alive()
    here.drain()
    assert here.body("p/first") == first and here.body("p/third") == third
    assert here.status()["cache"]["used_bytes"] <= 16 * MIB
    here.unmount()
