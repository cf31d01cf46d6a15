"""The daemon dies while a request is under way that the bucket has carried out: what was done is recognised, and not done again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from s3lustrefs.meta.check import check_state_dir
from tests.crash.harness import Crashing
from tests.crash.test_versions import history, versioned
from tests.mount.background_proxy import BackgroundProxy, background_proxy

BIG = os.urandom(17 << 20)
TEXT = b"content"
PART_BYTES = 5 << 20
IN_PARTS = BIG[: PART_BYTES + 100]
OBJECTS = {"f": TEXT, "g": TEXT + b" of g", "parts": IN_PARTS, "d/": b"", "full/": b"kept by others"}
"""All cold files and directories: the bucket has them before the first mount."""


@dataclass(frozen=True)
class Case:
    """A change, the request whose answer is held, and what differs from the beginning: versions and markers, and content."""

    change: Callable[[Path], object]
    method: str
    path: str
    versions: dict[str, list[int]]
    content: dict[str, bytes | None] = field(default_factory=dict)
    is_conditional: bool = True
    then: Callable[[Path], object] | None = None
    """Another change, before the first one is tried again."""


MANY = [f"x{number:02d}" for number in range(40)]
"""Deletes go together only while others are under way."""
CASES = {
    "copy": Case(lambda root: (root / "f").chmod(0o640), "PUT", "p/f", {"f": [2, 0]}),
    "copy to a new key": Case(
        lambda root: (root / "f").rename(root / "h"), "PUT", "p/h", {"f": [1, 1], "h": [1, 0]}, {"f": None, "h": TEXT}
    ),
    "copy to a known key": Case(
        lambda root: (root / "f").rename(root / "g"), "PUT", "p/g", {"f": [1, 1], "g": [2, 0]}, {"f": None, "g": TEXT}
    ),
    "copy of an object in parts": Case(lambda root: (root / "parts").chmod(0o640), "PUT", "p/parts", {"parts": [2, 0]}),
    "copy of an object in parts that is changed again": Case(
        lambda root: (root / "parts").chmod(0o640), "PUT", "p/parts", {"parts": [3, 0]},
        then=lambda root: (root / "parts").chmod(0o600),
    ),
    "copy of an object in parts to a new key": Case(
        lambda root: (root / "parts").rename(root / "h"),
        "PUT", "p/h", {"parts": [1, 1], "h": [1, 0]}, {"parts": None, "h": IN_PARTS},
    ),
    "copy of a full marker": Case(lambda root: (root / "full").chmod(0o700), "PUT", "p/full/", {"full/": [2, 0]}),
    "delete": Case(lambda root: (root / "f").unlink(), "DELETE", "p/f", {"f": [1, 1]}, {"f": None}),
    "delete after a copy": Case(
        lambda root: (root / "f").rename(root / "h"), "DELETE", "p/f", {"f": [1, 1], "h": [1, 0]}, {"f": None, "h": TEXT}
    ),
    "deletes": Case(
        lambda root: [(root / name).unlink() for name in MANY],
        "POST", "?delete", {name: [1, 1] for name in MANY}, dict.fromkeys(MANY), is_conditional=False,
    ),
    "delete of a marker": Case(lambda root: (root / "d").rmdir(), "DELETE", "p/d/", {"d/": [1, 1]}, {"d/": None}),
    "complete": Case(
        lambda root: (root / "h").write_bytes(BIG), "POST", "p/h?uploadId", {"h": [1, 0]}, {"h": BIG}
    ),
    "complete over an object": Case(
        lambda root: (root / "f").write_bytes(BIG), "POST", "p/f?uploadId", {"f": [2, 0]}, {"f": BIG}
    ),
    "new marker": Case(lambda root: (root / "e").mkdir(), "PUT", "p/e/", {"e/": [1, 0]}, {"e/": b""}),
    "marker": Case(lambda root: (root / "d").chmod(0o700), "PUT", "p/d/", {"d/": [2, 0]}),
    "symlink": Case(lambda root: (root / "s").symlink_to("f"), "PUT", "p/s", {"s": [1, 0]}, {"s": b"f"}),
}  # fmt: skip


@pytest.fixture
def proxy(crashing: Crashing) -> Iterator[BackgroundProxy]:
    with background_proxy(crashing.server.endpoint_url) as running:
        crashing.endpoint_url = running.endpoint_url
        yield running


def fill(here: Crashing, beginning: dict[str, bytes]) -> None:
    versioned(here)
    for name, body in beginning.items():
        if name != "parts":
            here.s3.put_object(Bucket=here.bucket, Key=f"p/{name}", Body=body)
    place = {"Bucket": here.bucket, "Key": "p/parts"}
    upload = {**place, "UploadId": here.s3.create_multipart_upload(**place)["UploadId"]}
    parts = []
    for number, at in enumerate(range(0, len(IN_PARTS), PART_BYTES), 1):
        part = here.s3.upload_part(**upload, PartNumber=number, Body=IN_PARTS[at : at + PART_BYTES])
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    here.s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.one_in(3)
def test_a_request_carried_out_while_the_daemon_died_is_not_repeated(
    crashing: Crashing, proxy: BackgroundProxy, case: Case
) -> None:
    beginning = OBJECTS | (dict.fromkeys(MANY, b"x") if case.path == "?delete" else {})
    fill(crashing, beginning)
    if not case.is_conditional:
        proxy.strip_conditions()
    crashing.mount()
    crashing.wait_import()
    proxy.add("hold-reply", method=case.method, path=case.path)
    case.change(crashing.root)
    proxy.wait_held()
    crashing.kill()
    assert crashing.wait_death() == -9
    proxy.clear_faults()
    crashing.clear()
    assert check_state_dir(crashing.state_dir) == []
    if case.then is not None:
        proxy.add("hold", method="HEAD", path=case.path)
        crashing.mount()
        proxy.wait_held()
        case.then(crashing.root)
        proxy.clear_faults()
    else:
        crashing.mount()
    crashing.drain()
    check(crashing, beginning, case)
    assert crashing.end_cleanly() == 0
    assert check_state_dir(crashing.state_dir) == []


def check(here: Crashing, beginning: dict[str, bytes], case: Case) -> None:
    """Bucket and mount hold the same, nothing is lost or there twice, and nobody speaks of a conflict."""
    expected = {f"p/{name}": [1, 0] for name in beginning} | {f"p/{name}": found for name, found in case.versions.items()}
    assert history(here) == expected, here.log()
    content = {name: body for name, body in {**beginning, **case.content}.items() if body is not None}
    assert {key.removeprefix("p/") for key in here.keys()} == content.keys()
    for name, body in content.items():
        assert here.s3.get_object(Bucket=here.bucket, Key=f"p/{name}")["Body"].read() == body, name
        path = here.root / name
        assert path.is_dir() if name.endswith("/") else path.read_bytes() == (body if not path.is_symlink() else TEXT), name
    assert {each.name for each in here.root.iterdir()} == {name.rstrip("/") for name in content}
    assert here.s3.list_multipart_uploads(Bucket=here.bucket).get("Uploads", []) == []
    assert here.client().call("Status")["conflicts"] == 0
