"""ImportPath and ExportPath of a creation: what they come to, and what is refused in FSx's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s3lustrefs.control import fsx_caches, fsx_legacy
from s3lustrefs.control.host_config import config_text, settings_in
from s3lustrefs.errors import ControlFault
from s3lustrefs.model.file_system import FileSystemRecord
from tests.unit.control.host_scene import MODEL

AT = 1541456542.0
"""2018-11-05 22:22:22 UTC."""


def link_of(**lustre: Any) -> dict[str, Any] | None:
    return fsx_legacy.link_of({"LustreConfiguration": lustre}, AT)


@pytest.mark.parametrize("export", ["s3://lab", "s3://lab/", "s3://lab/in", "s3://lab/in/"])
@pytest.mark.parametrize(("policy", "events"), [*fsx_legacy.EVENTS.items(), (None, ())])
def test_one_to_one_link_is_an_association_of_the_root_that_exports_nothing(
    export: str, policy: str | None, events: tuple[str, ...]
) -> None:
    more = {"AutoImportPolicy": policy} if policy else {}
    link = link_of(ImportPath="s3://lab/in", ExportPath=export, ImportedFileChunkSize=7, **more)
    assert link is not None
    assert fsx_legacy.configured(link) == {
        "file_system_path": "/", "data_repository_path": "s3://lab/in", "auto_export": [], "imported_file_chunk_size": 7,
        "auto_import": [event.lower() for event in events],
    }  # fmt: skip
    shown = fsx_legacy.described(link, lifecycle="AVAILABLE", events=frozenset(events), failure="")
    assert shown == {
        "ImportPath": "s3://lab/in", "ExportPath": export, "ImportedFileChunkSize": 7, "AutoImportPolicy": policy or "NONE",
        "Lifecycle": "AVAILABLE",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("imported", "given", "shown", "prefix"),
    [
        ("s3://lab/in", "s3://lab/out", "s3://lab/out", "out/"),
        ("s3://lab/in/", "s3://lab/in/out/", "s3://lab/in/out/", "in/out/"),
        ("s3://lab", "s3://lab/out", "s3://lab/out", "out/"),
        ("s3://lab/in", None, "s3://lab/FSxLustre20181105T222222Z", "FSxLustre20181105T222222Z/"),
        ("s3://lab", None, "s3://lab/FSxLustre20181105T222222Z", "FSxLustre20181105T222222Z/"),
    ],
)
def test_other_export_path_is_a_prefix_of_its_own(imported: str, given: str | None, shown: str, prefix: str) -> None:
    link = link_of(ImportPath=imported, **({"ExportPath": given} if given else {}))
    assert link is not None
    assert fsx_legacy.described(link, lifecycle="AVAILABLE", events=None, failure="")["ExportPath"] == shown
    (only,) = settings_in(config_text(FileSystemRecord("fs-1", 1, "r"), Path("/st"), {}, [fsx_legacy.configured(link)]))
    assert (only.bucket, only.prefix, only.export_prefix) == ("lab", "" if imported == "s3://lab" else "in/", prefix)
    assert (only.file_system_path, only.auto_export) == ("/", frozenset())


def test_without_import_path_there_is_no_link() -> None:
    assert link_of(DeploymentType="SCRATCH_2") is None and fsx_legacy.link_of({}, AT) is None


@pytest.mark.parametrize(
    ("lustre", "fault", "words"),
    [
        ({"ExportPath": "s3://lab"}, "InvalidExportPath", "needs an ImportPath"),
        ({"AutoImportPolicy": "NEW"}, "BadRequest", "needs an ImportPath"),
        ({"ImportedFileChunkSize": 5}, "BadRequest", "needs an ImportPath"),
        ({"ImportPath": "lab/in"}, "InvalidImportPath", "s3://BUCKET"),
        ({"ImportPath": "s3://"}, "InvalidImportPath", "names no bucket"),
        ({"ImportPath": "s3://lab", "ExportPath": "lab"}, "InvalidExportPath", "s3://BUCKET"),
        (
            {"ImportPath": "s3://lab", "ExportPath": "s3://other"},
            "InvalidExportPath",
            "must be in the bucket that is imported, s3://lab",
        ),
        ({"ImportPath": "s3://lab", "ExportPath": "s3://other/out"}, "InvalidExportPath", "must be in the bucket"),
        ({"ImportPath": "s3://lab/in/a", "ExportPath": "s3://lab/in"}, "InvalidExportPath", "contains what is imported"),
        ({"ImportPath": "s3://lab", "DeploymentType": "PERSISTENT_2"}, "IncompatibleParameterError", "association"),
    ],
)
def test_other_links_are_refused_by_their_fault(lustre: dict[str, Any], fault: str, words: str) -> None:
    with pytest.raises(ControlFault, match=words) as caught:
        link_of(**lustre)
    assert caught.value.fault == fault and fault in MODEL["CreateFileSystem"].faults


@pytest.mark.parametrize(("events", "policy"), [((), "NONE"), (("DELETED",), "NONE"), (("NEW", "DELETED"), "NEW")])
def test_policy_that_fsx_has_no_word_for_is_shown_by_the_nearest(events: tuple[str, ...], policy: str) -> None:
    assert fsx_legacy.policy_of(frozenset(events)) == policy


# --- file caches -------------------------------------------------------------------------------------------------------------

LUSTRE = {"PerUnitStorageThroughput": 1000, "DeploymentType": "CACHE_1", "MetadataConfiguration": {"StorageCapacity": 2400}}
CACHE: dict[str, Any] = {
    "FileCacheType": "LUSTRE", "FileCacheTypeVersion": "2.12", "StorageCapacity": 1200,
    "SubnetIds": ["subnet-0123456789abcdef0"], "LustreConfiguration": LUSTRE,
}  # fmt: skip


def cache(*links: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**CACHE, **more, **({"DataRepositoryAssociations": list(links)} if links else {})}


@pytest.mark.parametrize("capacity", [1200, 2400, 7200])
def test_cache_that_fsx_takes_is_kept(capacity: int) -> None:
    request = cache({"FileCachePath": "/ns1/", "DataRepositoryPath": "s3://lab/in"}, StorageCapacity=capacity)
    assert MODEL["CreateFileCache"].input_defect(request) is None
    assert fsx_caches.settings_of(request)["StorageCapacity"] == capacity
    assert fsx_caches.links_of(request) == [
        {"file_system_path": "/ns1/", "data_repository_path": "s3://lab/in", "auto_import": [], "auto_export": []}
    ]


S3 = {"FileCachePath": "/a", "DataRepositoryPath": "s3://lab/in"}


@pytest.mark.parametrize(
    ("request_", "fault", "words"),
    [
        (cache(StorageCapacity=1201), "BadRequest", "multiple of 2400"),
        (cache(FileCacheTypeVersion="2.15"), "BadRequest", "2.12"),
        (cache(LustreConfiguration={**LUSTRE, "PerUnitStorageThroughput": 500}), "InvalidPerUnitStorageThroughput", "1000"),
        (cache(SubnetIds=CACHE["SubnetIds"] * 2), "BadRequest", "exactly one"),
        ({key: value for key, value in CACHE.items() if key != "LustreConfiguration"}, "MissingFileCacheConfiguration", "required"),
        (cache(*[{**S3, "FileCachePath": f"/{number}"} for number in range(9)]), "BadRequest", "at most 8"),
        (cache({**S3, "DataRepositoryPath": "nfs://filer/export"}), "BadRequest", "NFS repositories are not available"),
        (cache({**S3, "NFS": {"Version": "NFS3"}}), "BadRequest", "NFS repositories are not available"),
        (cache({**S3, "DataRepositorySubdirectories": ["/x"]}), "BadRequest", "DataRepositorySubdirectories"),
        (cache({**S3, "FileCachePath": "/"}), "BadRequest", "name a directory"),
    ],
)
def test_cache_that_cannot_be_had_is_refused(request_: dict[str, Any], fault: str, words: str) -> None:
    with pytest.raises(ControlFault, match=words) as caught:
        fsx_caches.settings_of(request_)
        fsx_caches.links_of(request_)
    assert caught.value.fault == fault and fault in MODEL["CreateFileCache"].faults
