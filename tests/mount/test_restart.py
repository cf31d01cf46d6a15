"""State after restart: nothing is imported or downloaded again, and what was pending goes on."""

from __future__ import annotations

import os

from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import Site

MIB = 1 << 20


def test_remount_neither_lists_nor_fetches(here: Site, proxy: BackgroundProxy) -> None:
    big = os.urandom(3 * MIB)
    here.put("p/d/small", b"small")
    here.put("p/d/big", big)
    here.put("p/cold", b"cold")
    here.mount()
    assert (here.root / "d/big").read_bytes() == big
    here.unmount()
    mark = proxy.mark()
    here.mount()
    assert sorted(os.listdir(here.root)) == ["cold", "d"]
    assert sorted(os.listdir(here.root / "d")) == ["big", "small"]
    assert (here.root / "d/big").read_bytes() == big
    assert (here.root / "cold").stat().st_size == 4
    assert proxy.listings(mark) == []
    assert proxy.content_gets(mark) == []
    assert here.hsm("d/big").startswith("(0x00000009)")
    assert here.hsm("d/small").startswith("(0x0000000d)")


def test_partially_hydrated_file_keeps_its_blocks(here: Site, proxy: BackgroundProxy) -> None:
    body = os.urandom(20 * MIB)
    here.put("p/big", body)
    here.mount()
    with open(here.root / "big", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 1, 10 * MIB) == body[10 * MIB : 10 * MIB + 1]
    resident = here.about("big")["resident_bytes"]
    assert 0 < resident < 20 * MIB
    here.unmount()
    here.mount()
    mark = proxy.mark()
    assert here.about("big")["resident_bytes"] == resident
    with open(here.root / "big", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 100, 10 * MIB) == body[10 * MIB : 10 * MIB + 100]
    assert proxy.content_gets(mark) == []
    assert (here.root / "big").read_bytes() == body


def test_pending_exports_go_on_after_the_next_mount(here: Site, proxy: BackgroundProxy) -> None:
    here.put("p/old", b"old")
    here.put("p/gone", b"gone")
    here.mount()
    here.expected_log.append("export failed")
    for method in ("PUT", "POST", "DELETE"):
        proxy.add("slowdown", method=method, times=10**6)
    (here.root / "written").write_bytes(b"pending")
    (here.root / "old").write_bytes(b"rewritten")
    (here.root / "gone").unlink()
    (here.root / "dir").mkdir()
    here.unmount()
    assert here.objects() == {"p/old": b"old", "p/gone": b"gone"}
    proxy.clear_faults()
    here.mount()
    assert (here.root / "written").read_bytes() == b"pending"
    assert not (here.root / "gone").exists()
    here.drain()
    assert here.objects() == {"p/old": b"rewritten", "p/written": b"pending", "p/dir/": b""}


def test_hsm_states_survive(here: Site) -> None:
    here.put("p/released", b"x")
    here.put("p/read", b"y")
    here.mount()
    assert (here.root / "read").read_bytes() == b"y"
    (here.root / "exported").write_bytes(b"z")
    here.drain()
    before = {name: here.hsm(name) for name in ("released", "read", "exported")}
    assert [text.split()[0] for text in before.values()] == ["(0x0000000d)", "(0x00000009)", "(0x00000009)"]
    here.unmount()
    here.mount()
    assert {name: here.hsm(name) for name in before} == before
    here.unmount()
    assert here.cli("fsck", here.state_dir).returncode == 0


def test_appended_to_without_reading_survives_a_restart_before_the_export(here: Site) -> None:
    """The appended bytes are local before the rest is: whatever fetches the rest must leave them alone."""
    here.put("p/journal", b"day 1\n")
    here.mount()
    with open(here.root / "journal", "ab", buffering=0) as file:
        file.write(b"day 2\n")
    here.unmount()
    here.mount()
    here.drain()
    assert here.body("p/journal") == b"day 1\nday 2\n"
    assert (here.root / "journal").read_bytes() == b"day 1\nday 2\n"
