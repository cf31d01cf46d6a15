"""Policies, switched on and off at run time by requests of the FSx API, and what an export policy keeps out of a bucket."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.cli.fsx import ANSWER_SECONDS, SERVICE_PREFIX
from tests.model.bucket_reference import StoredObject, expected_objects, faults
from tests.model.reference_tree import Inode
from tests.mount.site import Site

EVERYTHING = "new+changed+deleted"
_SECONDS = 60.0
_ENDED = ("SUCCEEDED", "FAILED", "CANCELED")


class Fsx:
    """The API of the mount that there is at the moment."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def call(self, operation: str, **request: object) -> Any:
        """Raises: ControlFault."""
        socket = str(self._site.state_dir / "control.sock")
        return ControlClient(socket, prefix=SERVICE_PREFIX, timeout=ANSWER_SECONDS).call(operation, **request)

    def set_policy(self, kind: str, policies: Mapping[str, str]) -> None:
        """`kind`: AutoImportPolicy or AutoExportPolicy; by directory. Returns once the associations can be used as before."""
        for each in self._associations():
            policy = policies[each["FileSystemPath"].strip("/")]
            events = [event.upper() for event in policy.split("+") if event not in ("", "none")]
            self.call("UpdateDataRepositoryAssociation", AssociationId=each["AssociationId"], S3={kind: {"Events": events}})
        deadline = time.monotonic() + _SECONDS
        while any(each["Lifecycle"] != "AVAILABLE" for each in self._associations()):
            assert time.monotonic() < deadline, self._associations()
            time.sleep(0.02)

    def _associations(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("DescribeDataRepositoryAssociations")["Associations"]
        return found

    def export_task(self) -> None:
        """Export whatever differs from the bucket. Raises: AssertionError when not everything succeeds."""
        file_system = self.call("DescribeFileSystems")["FileSystems"][0]["FileSystemId"]
        asked = {"Type": "EXPORT_TO_REPOSITORY", "FileSystemId": file_system, "Report": {"Enabled": False}}
        task = self.call("CreateDataRepositoryTask", **asked)["DataRepositoryTask"]["TaskId"]
        deadline = time.monotonic() + _SECONDS
        while True:
            (found,) = self.call("DescribeDataRepositoryTasks", TaskIds=[task])["DataRepositoryTasks"]
            if found["Lifecycle"] in _ENDED:
                break
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        assert found["Lifecycle"] == "SUCCEEDED" and not found["Status"]["FailedCount"], found


def check_kept(before: Mapping[str, StoredObject], found: Mapping[str, StoredObject], root: Inode, policy: str) -> None:
    """After a drain: nothing that the export policy excludes has happened to the bucket since `before`, and all that it includes.

    What becomes of one key by several events is not told apart: gone and made again may be a change or both.
    Raises: AssertionError with every difference.
    """
    events = policy.split("+")
    there = expected_objects(root)
    wrong: list[str] = []
    for key in before.keys() | found.keys() | there.keys():
        was, now, inode = before.get(key), found.get(key), there.get(key)
        wrong += [f"{key}: {fault}" for fault in _kept(events, was, now, inode)]
        if {"new", "changed"} <= set(events) and inode is not None:
            wrong += [f"{key}: {fault}" for fault in _exported(now, inode)]
        if "deleted" in events and inode is None and now is not None:
            wrong.append(f"{key}: nobody has this name")
    assert not wrong, f"not as the export policy {policy} says:\n" + "\n".join(wrong)


def _kept(events: list[str], was: StoredObject | None, now: StoredObject | None, inode: Inode | None) -> Iterable[str]:
    if was is None and now is not None and "new" not in events:
        yield "appeared"
    if was is not None and now is None and "deleted" not in events:
        yield "is gone"
    if was is None or now is None or (was.body, was.metadata) == (now.body, now.metadata):
        return
    if "changed" in events:
        if inode is not None:
            yield from faults(now, inode)
    elif not {"new", "deleted"} <= set(events):
        yield "has changed"


def _exported(now: StoredObject | None, inode: Inode) -> Iterable[str]:
    if now is not None:
        yield from faults(now, inode)
    elif inode.has_marker or not inode.is_dir:
        yield "missing"
