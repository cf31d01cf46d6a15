"""cache_size: more data than fits flows through; what only exists locally is never dropped."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from tests.mount.site import Site

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
