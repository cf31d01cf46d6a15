"""The event log of FSx, on real mounts: each event where it occurs, under its name, once its level is asked for."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.cli.fsx import SERVICE_PREFIX
from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import WAIT_SECONDS, Site

MIB = 1 << 20
LONG = "n" * 256
_LINE = re.compile(r" (\w+) s3lustrefs\.events: .*?event=(\w+) (.*)")


def fsx(place: Site, operation: str, **request: Any) -> Any:
    return ControlClient(str(place.state_dir / "control.sock"), prefix=SERVICE_PREFIX).call(operation, **request)


def watched(place: Site, **options: str) -> Site:
    """Mounted, with warnings and errors in its event log."""
    place.expected_log += ["event=", "failed", "not fetched", "misconfigured"]
    place.mount(**options)
    (found,) = fsx(place, "DescribeFileSystems")["FileSystems"]
    level = {"LogConfiguration": {"Level": "WARN_ERROR"}}
    fsx(place, "UpdateFileSystem", FileSystemId=found["FileSystemId"], LustreConfiguration=level)
    return place


def told(place: Site) -> list[tuple[str, str, str]]:
    """(level, event, the rest) of each line."""
    return [match.group(1, 2, 3) for line in place.log().splitlines() if (match := _LINE.search(line))]


def wait(place: Site, *events: str) -> dict[str, str]:
    """Once all of these are there: the rest of the last line of each."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not {event for _, event, _ in told(place)}.issuperset(events):
        assert time.monotonic() < deadline, told(place)
        time.sleep(0.05)
    return {event: rest for _, event, rest in told(place)}


def refresh(place: Site, *, check: bool = True) -> None:
    place.cli("refresh", place.root, check=check)


# --- import --------------------------------------------------------------------------------------------------------------


def test_archived_files_and_links_are_told_as_they_are_imported(here: Site) -> None:
    watched(here)
    here.put("p/cold", b"x" * 100, StorageClass="GLACIER", Metadata={"file-permissions": "0100600"})
    here.put("p/link", b"target", StorageClass="DEEP_ARCHIVE", Metadata={"file-permissions": "0120777"})
    here.put("p/warm", b"x", StorageClass="STANDARD_IA")
    refresh(here)
    found = wait(here, "S3ImportUnsupportedTierWarning", "S3ImportSymlinkInUnsupportedTierWarning")
    assert found["S3ImportUnsupportedTierWarning"] == "key=p/cold tier=GLACIER"
    assert found["S3ImportSymlinkInUnsupportedTierWarning"] == "key=p/link tier=DEEP_ARCHIVE"
    assert (here.root / "warm").read_bytes() == b"x"
    refresh(here)
    assert sorted((level, event) for level, event, _ in told(here)) == [
        ("ERROR", "S3ImportSymlinkInUnsupportedTierWarning"), ("WARNING", "S3ImportUnsupportedTierWarning"),
    ]  # fmt: skip


def test_keys_that_show_as_nothing_are_told_apart(here: Site) -> None:
    watched(here)
    here.expected_log.append("conflict kept")
    here.put(f"p/{LONG}", b"")
    here.put("p/a//b", b"")
    (here.root / "made").mkdir()
    here.drain()
    here.put("p/made", b"a file of this name")
    refresh(here)
    found = wait(here, "S3ImportNameTooLong", "S3ImportObjectPathNotPosixCompliant", "S3ImportObjectTypeMismatch")
    assert f"key={LONG}" in found["S3ImportNameTooLong"] and "key=a//b" in found["S3ImportObjectPathNotPosixCompliant"]
    assert "key=made" in found["S3ImportObjectTypeMismatch"]


def test_object_that_may_not_be_looked_at_or_is_gone_again(here: Site, proxy: BackgroundProxy) -> None:
    watched(here)
    proxy.add("denied", method="HEAD", path="/p/secret", times=10**6)
    proxy.add("hold", method="HEAD", path="/p/brief", times=1)
    here.put("p/secret", b"x")
    here.put("p/brief", b"x")
    refresh(here)
    proxy.wait_held()
    here.s3.delete_object(Bucket=here.bucket, Key="p/brief")
    for _ in range(2):  # whoever asks again is refused again, and told nothing new
        with pytest.raises(PermissionError):
            (here.root / "secret").stat()
    found = wait(here, "S3ImportAccessDenied")
    assert found["S3ImportAccessDenied"].startswith("key=p/secret ")
    proxy.clear_faults()
    assert "key=p/brief" in wait(here, "S3ImportObjectDeleted")["S3ImportObjectDeleted"]
    assert [event for _, event, _ in told(here)].count("S3ImportAccessDenied") == 1
    assert (here.root / "secret").stat().st_size == 1


@pytest.mark.parametrize("queue", ["", "create"], ids=["sweep", "events"])
def test_name_stays_while_nobody_may_say_that_its_object_is_gone(
    proxy: BackgroundProxy, make_site: Callable[..., Site], queue: str
) -> None:
    """S3 answers 403 for what is not there to those who may not list."""
    here = make_site(endpoint_url=proxy.endpoint_url, **({"event_queue_url": queue} if queue else {}))
    here.put("p/gone", b"x")
    watched(here)
    here.expected_log += ["events wait", "name stays"]
    if queue:
        deadline = time.monotonic() + WAIT_SECONDS
        while here.status()["associations"][0]["events"]["state"] != "LISTENING":
            assert time.monotonic() < deadline
    assert (here.root / "gone").read_bytes() == b"x"
    proxy.add("denied", method="HEAD", path="/p/gone", times=10**6)
    here.s3.delete_object(Bucket=here.bucket, Key="p/gone")
    if not queue:
        refresh(here, check=False)
    assert wait(here, "S3ImportDeleteAccessDenied")["S3ImportDeleteAccessDenied"].startswith("key=p/gone ")
    assert (here.root / "gone").exists()
    proxy.clear_faults()
    refresh(here)  # the message of the queue comes again later
    deadline = time.monotonic() + WAIT_SECONDS
    while (here.root / "gone").exists():
        assert time.monotonic() < deadline


def test_bucket_that_cannot_be_listed(here: Site, proxy: BackgroundProxy) -> None:
    watched(here, import_interval="1")
    proxy.add("denied", method="GET", path="list-type", times=10**6)
    wait(here, "S3ImportAccessDenied")
    proxy.clear_faults()
    here.s3.delete_bucket(Bucket=here.bucket)
    assert "association=" in wait(here, "S3ImportBucketDoesNotExist")["S3ImportBucketDoesNotExist"]


# --- export --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "event"), [("no-kms-key", "S3ExportKMSKeyNotFound"), ("denied", "S3ExportAccessDenied")])
def test_file_that_the_bucket_does_not_take(here: Site, proxy: BackgroundProxy, fault: str, event: str) -> None:
    watched(here)
    proxy.add(fault, method="PUT", path="/p/file", times=10**6)
    (here.root / "file").write_bytes(b"x")
    assert "key=p/file" in wait(here, event)[event]
    assert here.try_drain().returncode == 1
    proxy.clear_faults()
    here.drain()
    assert here.objects() == {"p/file": b"x"}


# --- restore -------------------------------------------------------------------------------------------------------------


def restored(place: Site, path: str, event: str) -> str:
    """The rest of the one line that a restore of a released file ends with."""
    before = len(told(place))
    place.cli("hsm", "restore", place.root / path)
    deadline = time.monotonic() + WAIT_SECONDS
    while len(told(place)) == before:
        assert time.monotonic() < deadline, place.log()[-2000:]
        time.sleep(0.05)
    while "NOOP" not in place.cli("hsm", "action", place.root / path).stdout:
        assert time.monotonic() < deadline
    assert "released" in place.hsm(path)
    ((_, name, rest),) = told(place)[before:]
    assert name == event, rest
    return rest


def test_each_restore_that_fails_is_one_event(here: Site, proxy: BackgroundProxy) -> None:
    here.put("p/cold", b"x", StorageClass="GLACIER")
    for name in ("denied", "gone", "last"):
        here.put(f"p/{name}", bytes(20 * MIB))  # several ranges, which all fail
    here.options["import_interval"] = "1h"
    watched(here)
    for name in ("cold", "denied", "gone", "last"):
        (here.root / name).stat()
    first = len(told(here))
    proxy.add("denied", method="GET", path="/p/denied", times=10**6)
    for _ in range(2):
        assert "key=p/denied" in restored(here, "denied", "S3RestoreAccessDenied")
    proxy.clear_faults()
    assert "key=p/cold" in restored(here, "cold", "S3RestoreUnsupportedTierWarning")
    here.s3.delete_object(Bucket=here.bucket, Key="p/gone")
    assert "key=p/gone" in restored(here, "gone", "S3RestoreObjectDoesNotExist")
    for key in here.keys():
        here.s3.delete_object(Bucket=here.bucket, Key=key)
    here.s3.delete_bucket(Bucket=here.bucket)
    restored(here, "last", "S3RestoreBucketDoesNotExist")
    levels = [(level, event) for level, event, _ in told(here)[first:] if event.startswith("S3Restore")]
    assert levels.count(("WARNING", "S3RestoreUnsupportedTierWarning")) == 1 and len(levels) == 5


def test_restore_into_a_full_cache(make_site: Callable[..., Site]) -> None:
    here = make_site(cache_size="16MiB", auto_export="none")
    here.put("p/big", bytes(12 * MIB))
    watched(here)
    (here.root / "kept").write_bytes(os.urandom(10 * MIB))
    assert "do not fit" in restored(here, "big", "NoDiskSpace")


def test_reader_of_what_cannot_be_had(here: Site) -> None:
    here.put("p/cold", b"x", StorageClass="GLACIER")
    watched(here)
    with pytest.raises(OSError, match="No data available"):
        (here.root / "cold").read_bytes()
    assert "key=p/cold" in wait(here, "S3RestoreUnsupportedTierWarning")["S3RestoreUnsupportedTierWarning"]
