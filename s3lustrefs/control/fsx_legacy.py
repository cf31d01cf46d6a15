"""File systems linked with one bucket when they are created (ImportPath, ExportPath), FSx's way before associations.

Such a link is an association of `/` that exports nothing by itself. A file is exported to the key that it was, or would be,
imported from: FSx's one-to-one mapping, which it has with a bare bucket as ExportPath. Its other mapping, to a prefix apart from
the imported objects, is refused: an association has one prefix, and to export over the originals instead would destroy them.
Source: Amazon FSx API Reference, "CreateFileSystemLustreConfiguration"; fsx-spec section 11.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from s3lustrefs.control.fsx_request import Json, refused
from s3lustrefs.model import association_rules as rules

MEMBERS = ("ImportPath", "ExportPath", "ImportedFileChunkSize", "AutoImportPolicy")
_DEPLOYMENTS = ("SCRATCH_1", "SCRATCH_2", "PERSISTENT_1")
EVENTS: Mapping[str, tuple[str, ...]] = {
    "NONE": (), "NEW": ("NEW",), "NEW_CHANGED": ("NEW", "CHANGED"), "NEW_CHANGED_DELETED": ("NEW", "CHANGED", "DELETED"),
}  # fmt: skip


def link_of(request: Json, now: float) -> Json | None:
    """What a creation asks for, with FSx's defaults; None: no link. `now`: seconds since the epoch. Raises: ControlFault."""
    given = request.get("LustreConfiguration", {})
    if "ImportPath" not in given:
        for member in MEMBERS:
            if member in given:
                fault = "InvalidExportPath" if member == "ExportPath" else "BadRequest"
                raise refused(fault, f"{member} needs an ImportPath")
        return None
    deployment = given.get("DeploymentType", "SCRATCH_1")
    if deployment not in _DEPLOYMENTS:
        message = f"ImportPath is for {', '.join(_DEPLOYMENTS)}: link a {deployment} file system by a data repository association"
        raise refused("IncompatibleParameterError", message, Parameter="ImportPath")
    source = rules.split_repository_path(given["ImportPath"])
    if isinstance(source, str):
        raise refused("InvalidImportPath", f"ImportPath: {source}")
    _check_export_path(given.get("ExportPath"), given["ImportPath"], source, now)
    return {
        "ImportPath": given["ImportPath"],
        "ExportPath": given["ExportPath"],
        "ImportedFileChunkSize": given.get("ImportedFileChunkSize", 1024),
        "AutoImportPolicy": given.get("AutoImportPolicy", "NONE"),
    }


def _check_export_path(given: str | None, import_path: str, source: tuple[str, str], now: float) -> None:
    """Raises: ControlFault."""
    bucket, prefix = source
    remedy = f"give ExportPath=s3://{bucket}, with which each file is exported to the object that it was imported from"
    if given is None:
        default = f"s3://{bucket}/FSxLustre{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"
        raise refused("InvalidExportPath", f"without ExportPath FSx exports to {default}, which is not available here: {remedy}")
    split = rules.split_repository_path(given)
    if isinstance(split, str):
        raise refused("InvalidExportPath", f"ExportPath: {split}")
    if split[0] != bucket:
        raise refused("InvalidExportPath", f"ExportPath must be in the bucket of ImportPath, {import_path}")
    if split[1] not in ("", prefix):
        raise refused("InvalidExportPath", f"ExportPath {given}: exporting to another prefix is not available here: {remedy}")


def configured(link: Json) -> Json:
    """The keys of its [[dra]]."""
    return {
        "file_system_path": "/",
        "data_repository_path": link["ImportPath"],
        "auto_import": [event.lower() for event in EVENTS[link["AutoImportPolicy"]]],
        "auto_export": [],
        "imported_file_chunk_size": link["ImportedFileChunkSize"],
    }


def policy_of(events: frozenset[str]) -> str:
    """The AutoImportPolicy that says the same, or most of it."""
    return max((each for each in EVENTS if frozenset(EVENTS[each]) <= events), key=lambda each: len(EVENTS[each]))


def described(link: Mapping[str, Any], *, lifecycle: str, events: frozenset[str] | None, failure: str) -> Json:
    """FSx's DataRepositoryConfiguration. `events` None: as it was asked for."""
    return {
        **link,
        "Lifecycle": lifecycle,
        **({"AutoImportPolicy": policy_of(events)} if events is not None else {}),
        **({"FailureDetails": {"Message": failure[:256]}} if failure else {}),
    }
