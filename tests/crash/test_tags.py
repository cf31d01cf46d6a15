"""Tags of others on an endpoint that drops them in a copy: they are put back, or it is told that they were not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from s3lustrefs.cli.draining import poll
from s3lustrefs.meta.check import check_state_dir
from tests.crash.harness import DRAIN_SECONDS, Crashing
from tests.crash.test_deaths_elsewhere import dying
from tests.mount.background_proxy import background_proxy
from tests.servers import S3Server

pytestmark = pytest.mark.rgw

TAGS = [{"Key": "project", "Value": "a=b & <c>"}, {"Key": "stage", "Value": "x/y"}]


@pytest.fixture
def crashing(rgw_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crashing]:
    here = Crashing(rgw_server, tmp_path, monkeypatch)
    for key in ("p/f", "p/d/"):
        here.s3.put_object(Bucket=here.bucket, Key=key, Body=b"content")
        here.s3.put_object_tagging(Bucket=here.bucket, Key=key, Tagging={"TagSet": TAGS})
    try:
        yield here
    finally:
        here.clear()


def tags(here: Crashing, key: str) -> Any:
    return sorted(here.s3.get_object_tagging(Bucket=here.bucket, Key=key)["TagSet"], key=str)


def check_ends_well(here: Crashing) -> None:
    assert here.end_cleanly() == 0
    assert check_state_dir(here.state_dir) == []


Change = Callable[[Path], object]
CHANGES: list[tuple[str, Change, str]] = [
    ("chmod", lambda root: (root / "f").chmod(0o640), "p/f"),
    ("rename", lambda root: (root / "f").rename(root / "g"), "p/g"),
    ("directory", lambda root: (root / "d").chmod(0o750), "p/d/"),
]


@pytest.mark.parametrize(("change", "key"), [each[1:] for each in CHANGES], ids=[each[0] for each in CHANGES])
@pytest.mark.one_in(3)
def test_tags_are_put_back_after_a_death_between_copy_and_tagging(crashing: Crashing, change: Change, key: str) -> None:
    crashing.mount("copy.untagged")
    crashing.wait_import()
    change(crashing.root)
    with dying():
        crashing.drain()
    assert crashing.wait_death() == -9
    assert tags(crashing, key) == []
    crashing.clear()
    crashing.mount()
    crashing.drain()
    assert tags(crashing, key) == TAGS
    check_ends_well(crashing)


FURTHER: list[tuple[str, Change]] = [
    ("chmod", lambda root: (root / "f").chmod(0o600)),
    ("rename", lambda root: (root / "f").rename(root / "g")),
    ("write", lambda root: (root / "f").write_bytes(b"new content")),
]


@pytest.mark.parametrize(("first", "key"), [each[1:] for each in CHANGES], ids=[each[0] for each in CHANGES])
@pytest.mark.one_in(3)
def test_tags_that_may_not_be_written_fail_the_export_until_they_may(crashing: Crashing, first: Change, key: str) -> None:
    with background_proxy(crashing.server.endpoint_url) as proxy:
        crashing.endpoint_url = proxy.endpoint_url
        crashing.mount()
        crashing.wait_import()
        proxy.add("denied", method="PUT", path="?tagging", times=1000)
        first(crashing.root)
        for _ in range(2):
            check_is_told(crashing)
        assert tags(crashing, key) == []
        proxy.clear_faults()
        crashing.drain()
        assert tags(crashing, key) == TAGS
        check_ends_well(crashing)


@pytest.mark.parametrize("then", [each[1] for each in FURTHER], ids=[each[0] for each in FURTHER])
@pytest.mark.one_in(3)
def test_tags_survive_whatever_is_exported_instead_of_putting_them_back(crashing: Crashing, then: Change) -> None:
    with background_proxy(crashing.server.endpoint_url) as proxy:
        crashing.endpoint_url = proxy.endpoint_url
        crashing.mount()
        crashing.wait_import()
        proxy.add("denied", method="PUT", path="?tagging", times=1000)
        (crashing.root / "f").chmod(0o640)
        check_is_told(crashing)
        then(crashing.root)
        proxy.clear_faults()
        crashing.drain()
        key = next(key for key in crashing.keys() if key != "p/d/")
        assert tags(crashing, key) == TAGS
        check_ends_well(crashing)


def test_tags_of_markers_and_symlinks_survive_new_attributes(crashing: Crashing) -> None:
    crashing.s3.put_object(Bucket=crashing.bucket, Key="p/e/")
    crashing.s3.put_object(Bucket=crashing.bucket, Key="p/link", Body=b"f", Metadata={"file-permissions": "0120777"})
    for key in ("p/e/", "p/link"):
        crashing.s3.put_object_tagging(Bucket=crashing.bucket, Key=key, Tagging={"TagSet": TAGS})
    crashing.mount()
    crashing.wait_import()
    (crashing.root / "e").chmod(0o700)
    os.lchown(crashing.root / "link", 1, 1)
    crashing.drain()
    for key in ("p/e/", "p/link"):
        assert "file-mtime" in crashing.s3.head_object(Bucket=crashing.bucket, Key=key)["Metadata"]
        assert tags(crashing, key) == TAGS
    check_ends_well(crashing)


def check_is_told(here: Crashing) -> None:
    timed_out, remaining, failed = poll(here.client(), [], timeout=DRAIN_SECONDS, progress=lambda *_: None)
    assert not timed_out and failed, (remaining, failed, here.log())
    assert all("PutObjectTagging" in each["error"] for each in failed), failed
