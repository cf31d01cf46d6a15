"""Storage targets that are not what they were: refused with the reason, never taken for content that is all zeros."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.mount.site import Site

BODY = b"content" * 1000


@pytest.fixture
def two(make_site: Callable[..., Site]) -> Site:
    """Two targets, both with content, unmounted."""
    site = make_site(imported_file_chunk_size="1")
    site.options["cache_dir"] = f"{site.scratch}/one:{site.scratch}/two"
    site.mount()
    for number in range(4):
        (site.root / f"f{number}").write_bytes(BODY)
    site.unmount()
    return site


def refused(site: Site, **options: str) -> str:
    done = site.try_mount(**options)
    assert done.returncode != 0
    return done.stderr


def test_a_target_whose_disk_is_not_mounted_is_refused(two: Site) -> None:
    two.expected_log.append("storage target")
    (two.scratch / "two").rename(two.scratch / "elsewhere")
    (two.scratch / "two").mkdir()
    assert f"{two.scratch}/two does not hold its content: is its disk mounted?" in refused(two)


def test_targets_in_another_order_are_refused(two: Site) -> None:
    two.expected_log.append("storage target")
    said = refused(two, cache_dir=f"{two.scratch}/two:{two.scratch}/one")
    assert f"{two.scratch}/two was number 2 of 2 targets, and is number 1 of 2 now" in said


def test_a_target_that_is_left_out_is_missed(two: Site) -> None:
    two.expected_log.append("storage target")
    assert "number 1 of 2" in refused(two, cache_dir=f"{two.scratch}/one")


def test_targets_of_another_file_system_are_refused(two: Site, make_site: Callable[..., Site]) -> None:
    other = make_site(cache_dir=two.options["cache_dir"])
    other.expected_log.append("storage target")
    assert "holds the content of another file system" in refused(other)


def test_targets_that_were_moved_are_found_by_their_marks(two: Site) -> None:
    (two.scratch / "two").rename(two.scratch / "moved")
    two.options["cache_dir"] = f"{two.scratch}/one:{two.scratch}/moved"
    two.mount()
    assert {path.read_bytes() for path in two.root.iterdir()} == {BODY}
    two.drain()
