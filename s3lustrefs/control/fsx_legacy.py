"""File systems linked with one bucket when they are created (ImportPath, ExportPath), FSx's way before associations.

Such a link is an association of `/` that exports nothing by itself. With a bare bucket as ExportPath a file is exported to the key
that it was, or would be, imported from. With any other, or FSx's default where none is given, it is exported below that prefix, and
the imported objects stay as they are.
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
    export_path = given.get("ExportPath") or f"s3://{source[0]}/FSxLustre{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"
    is_bucket = rules.split_repository_path(export_path) == (source[0], "")
    if not is_bucket and (defect := rules.export_path_defect(export_path, *source)):
        raise refused("InvalidExportPath", f"ExportPath: {defect}")
    return {
        "ImportPath": given["ImportPath"],
        "ExportPath": export_path,
        "ImportedFileChunkSize": given.get("ImportedFileChunkSize", 1024),
        "AutoImportPolicy": given.get("AutoImportPolicy", "NONE"),
    }


def configured(link: Json) -> Json:
    """The keys of its [[dra]]."""
    imported = rules.split_repository_path(link["ImportPath"])[1]
    return {
        "file_system_path": "/",
        "data_repository_path": link["ImportPath"],
        **({"export_repository_path": link["ExportPath"]} if rules.export_prefix_of(link["ExportPath"], imported) else {}),
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
