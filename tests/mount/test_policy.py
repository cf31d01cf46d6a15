"""Export policy per event, and what `drain` says: 0, 1, 2."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest

from s3lustrefs.repository import posix_headers
from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import Site

OBJECTS = {"p/old": b"old", "p/gone": b"gone", "p/moved": b"moved"}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("new", {**OBJECTS, "p/fresh": b"fresh", "p/renamed": b"moved"}),
        ("changed", {**OBJECTS, "p/old": b"changed"}),
        ("deleted", {"p/old": b"old"}),
        ("none", OBJECTS),
        ("new+deleted", {"p/old": b"old", "p/fresh": b"fresh", "p/renamed": b"moved"}),
    ],
)
@pytest.mark.one_in(2)
def test_only_events_of_the_policy_are_exported(make_site: Callable[..., Site], policy: str, expected: dict[str, bytes]) -> None:
    here = make_site(auto_export=policy)
    for key, body in OBJECTS.items():
        here.put(key, body)
    here.mount()
    (here.root / "fresh").write_bytes(b"fresh")
    (here.root / "old").write_bytes(b"changed")
    (here.root / "gone").unlink()
    (here.root / "moved").rename(here.root / "renamed")
    here.drain()
    assert here.objects() == expected

    def check_local() -> None:
        local = {path.name: path.read_bytes() for path in here.root.iterdir()}
        assert local == {"fresh": b"fresh", "old": b"changed", "renamed": b"moved"}

    check_local()
    if "changed" not in policy:
        assert here.about("old")["excluded_by_policy"]
        assert "the export policy of the association keeps the change local" in here.cli("why", here.root / "old").stdout
    here.unmount()
    here.mount()
    check_local()
    assert here.objects() == expected


def test_what_one_policy_kept_goes_with_the_next_export(make_site: Callable[..., Site]) -> None:
    here = make_site(auto_export="none")
    here.put("p/f", b"x")
    here.mount()
    (here.root / "f").chmod(0o640)
    here.drain()
    linked = here.status()["associations"][0]["association_id"]
    here.cli("dra", "update", "--mount", here.root, "--association-id", linked, "--s3", "AutoExportPolicy={Events=[NEW,CHANGED]}")
    os.link(here.root / "f", here.root / "g")
    here.drain()
    assert {key: here.head(key)["Metadata"]["file-permissions"] for key in here.keys()} == {"p/f": "0100640", "p/g": "0100640"}
    assert not here.about("f")["excluded_by_policy"]
    here.unmount()


def test_drain_of_nothing_is_0(here: Site) -> None:
    here.mount()
    here.drain()


def test_drain_lists_what_was_denied_and_ends_with_1(here: Site, proxy: BackgroundProxy) -> None:
    here.mount()
    here.expected_log.append("export failed .*secret")
    proxy.add("denied", path="/secret", times=10**6)
    (here.root / "secret").write_bytes(b"x")
    (here.root / "open").write_bytes(b"y")
    done = here.try_drain(here.root)
    assert done.returncode == 1
    assert "/secret: " in done.stderr and "[S3AccessDenied]" in done.stderr and "s3:PutObject" in done.stderr
    assert "/open" not in done.stderr
    assert here.objects() == {"p/open": b"y"}
    answer = json.loads(here.try_drain(here.root, "--json").stdout)
    assert [file["path"] for file in answer["failed"]] == ["/secret"]
    why = here.why("secret")
    assert why["export"]["failed"] and why["export"]["code"] == "S3AccessDenied"
    assert "last error" in "\n".join(why["lines"]) and "what to do" in "\n".join(why["lines"])
    assert here.try_drain(here.root / "open").returncode == 0
    proxy.clear_faults()
    here.drain()
    assert here.objects() == {"p/open": b"y", "p/secret": b"x"}


def test_drain_gives_up_in_time_when_the_bucket_stalls(here: Site, proxy: BackgroundProxy) -> None:
    here.mount()
    here.expected_log.append("export failed")
    proxy.add("hold", method="PUT", path="/p/", times=10**6)
    (here.root / "file").write_bytes(b"x")
    done = here.cli("drain", here.root, "--timeout", "2", check=False)
    assert done.returncode == 2
    assert "1 still to be exported" in done.stderr
    assert here.keys() == []
    refused = here.cli("unmount", here.root, "--timeout", "1", check=False)
    assert refused.returncode == 2 and "still mounted" in refused.stderr
    assert here.is_mounted()
    proxy.clear_faults()
    here.drain()
    assert here.objects() == {"p/file": b"x"}


def test_drain_of_a_path_that_is_not_there_is_3(here: Site) -> None:
    here.mount()
    done = here.cli("drain", here.root / "absent", check=False)
    assert done.returncode == 3 and len(done.stderr.splitlines()) == 1


def test_writing_on_while_the_bucket_stalls(here: Site, proxy: BackgroundProxy) -> None:
    """A hung bucket never hangs work that does not need it."""
    here.put("p/cold", b"cold")
    here.mount()
    here.expected_log.append("export failed")
    proxy.add("hold", method="PUT", path="/p/", times=10**6)
    (here.root / "log").write_bytes(b"1")
    proxy.wait_held()
    with open(here.root / "log", "ab") as file:
        file.write(b"2")
    (here.root / "other").write_bytes(b"3")
    (here.root / "cold").chmod(0o600)
    assert (here.root / "log").read_bytes() == b"12"
    proxy.clear_faults()
    here.drain()
    assert here.objects() == {"p/cold": b"cold", "p/log": b"12", "p/other": b"3"}


def test_failures_that_pass_are_retried_until_they_are_gone(here: Site, proxy: BackgroundProxy) -> None:
    here.mount()
    here.expected_log.append("export failed|fetch failed")
    for action in ("slowdown", "internal", "reset", "lost-reply", "html"):
        proxy.add(action, method="PUT", path=f"/p/{action}", times=2)
        (here.root / action).write_bytes(action.encode())
    here.drain()
    assert here.objects() == {f"p/{a}": a.encode() for a in ("slowdown", "internal", "reset", "lost-reply", "html")}


def test_cancelled_upload_leaves_nothing_under_the_old_name(here: Site, proxy: BackgroundProxy) -> None:
    here.mount()
    proxy.add("hold", method="PUT", path="/p/log")
    (here.root / "log").write_bytes(b"1")
    proxy.wait_held()
    with open(here.root / "log", "ab") as file:
        file.write(b"2")
    (here.root / "log").rename(here.root / "log2")
    proxy.clear_faults()
    here.drain()
    assert here.objects() == {"p/log2": b"12"}


def test_upload_carried_out_late_is_removed_when_its_file_has_another_name(here: Site, proxy: BackgroundProxy) -> None:
    """It lands between the look at the object that the table knows and its delete, and makes that one fail."""
    here.mount()
    here.expected_log.append("export failed")
    (here.root / "log").write_bytes(b"0")
    here.drain()
    proxy.add("reset", method="PUT", path="/p/log", times=10**6)
    proxy.add("hold", method="DELETE", path="/p/log")
    (here.root / "log").write_bytes(b"1")
    here.cli("drain", here.root, "--timeout", "2", check=False)
    assert proxy.hits(), "a PUT without an answer"
    st = (here.root / "log").stat()
    (here.root / "log").rename(here.root / "moved")
    proxy.wait_held()
    here.put("p/log", b"1", Metadata=posix_headers.encode(st.st_mode, st.st_uid, st.st_gid, st.st_atime_ns, st.st_mtime_ns))
    proxy.clear_faults()
    here.drain()
    assert here.objects() == {"p/moved": b"1"}


@pytest.mark.parametrize("first", [{"ro": "true"}, {"auto_export": "none"}], ids=["read-only", "no exports"])
def test_endpoint_that_was_only_read_is_asked_for_its_conditions_before_it_is_written(
    make_site: Callable[..., Site], first: dict[str, str]
) -> None:
    place = make_site().mount(**first)
    assert not place.status()["associations"][0]["capabilities"]["is_write_probed"]
    place.unmount()
    place.mount()
    found = place.status()["associations"][0]["capabilities"]
    assert found["is_write_probed"] and found["delete_if_match"]  # as moto has it, and nobody takes for granted
    (place.root / "x").write_text("x")
    place.drain()
    place.unmount()
