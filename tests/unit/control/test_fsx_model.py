"""What requests are held against: every rule of the model, and a flood of requests made from the model's own shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from s3lustrefs import errors
from s3lustrefs.control import fsx_model
from tests.unit.control import fsx_requests
from tests.unit.control.fsx_scene import MODEL, REGION, Api

ID = "dra-0123456789abcdef0"
ARN = "arn:aws:fsx:eu-west-1:000000000000:file-system/fs-1"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"AssociationId": None}, "AssociationId is required"),
        ({"AssociationId": 5}, "AssociationId must be of type string"),
        ({"AssociationId": "dra-1"}, "has 5 characters, at least 13 characters"),
        ({"AssociationId": ID + "000"}, "has 24 characters, at most 23"),
        ({"AssociationId": "dra-0123456789abcdeg"}, "does not match"),
        ({"AssociationId": ID + "\n"}, "does not match"),
        ({"Colour": 1}, "Colour is not a member"),
        ({"ImportedFileChunkSize": 0}, "is 0, at least 1"),
        ({"ImportedFileChunkSize": 512001}, "at most 512000"),
        ({"ImportedFileChunkSize": 10**400}, "at most 512000"),
        ({"ImportedFileChunkSize": True}, "must be of type integer"),
        ({"ImportedFileChunkSize": 1.5}, "must be of type integer"),
        ({"S3": []}, "S3 must be of type structure"),
        ({"S3": {"AutoImportPolicy": {"Events": ["OLD"]}}}, "Events[0] 'OLD' is not one of NEW, CHANGED, DELETED"),
        ({"S3": {"AutoImportPolicy": {"Events": ["NEW"] * 4}}}, "S3.AutoImportPolicy.Events has 4 items, at most 3 items"),
        ({"S3": {"AutoImportPolicy": {"Events": "NEW"}}}, "Events must be of type list"),
        ({"S3": {"AutoImportPolicy": {"Events": [None]}}}, "Events[0] must be of type string"),
        ({"ClientRequestToken": "a b"}, "ClientRequestToken 'a b' does not match"),
    ],
)
def test_defect_of_an_update_is_named(changes: dict[str, Any], words: str) -> None:
    defect = MODEL["UpdateDataRepositoryAssociation"].input_defect({"AssociationId": ID, **changes})
    assert words in (defect or "no defect")


@pytest.mark.parametrize(
    ("operation", "request_", "words"),
    [
        ("DescribeFileSystems", {"FileSystemIds": ["fs-0123456789"] * 51}, "has 51 items, at most 50"),
        ("DescribeFileSystems", {"MaxResults": 2**40}, "at most 2147483647"),
        ("TagResource", {"ResourceARN": ARN, "Tags": [{"Key": "\ud800", "Value": ""}]}, "not valid Unicode"),
        ("CreateFileSystem", {"FileSystemType": "LUSTRE", "SubnetIds": ["subnet-1"]}, "at least 15"),
        ("CreateFileCache", {}, "FileCacheType is required"),
    ],
)
def test_defect_is_named(operation: str, request_: dict[str, Any], words: str) -> None:
    assert words in (MODEL[operation].input_defect(request_) or "no defect")


@pytest.mark.parametrize(
    ("operation", "request_"),
    [
        ("UpdateDataRepositoryAssociation", {"AssociationId": "dra-0123456789abcdef0", "S3": {"AutoImportPolicy": {"Events": []}}}),
        ("DescribeDataRepositoryAssociations", {"Filters": [{"Name": "file-system-id", "Values": ["fs-*?"]}]}),
        (
            "TagResource",
            {"ResourceARN": ARN, "Tags": [{"Key": "Ä b", "Value": "½"}]},
        ),
        ("DescribeFileSystems", {"NextToken": "Zm9v", "MaxResults": None}),
    ],
)
def test_what_the_model_allows_passes(operation: str, request_: dict[str, Any]) -> None:
    assert MODEL[operation].input_defect(request_) is None


def test_secret_is_not_told_back() -> None:
    secret = {"WindowsConfiguration": {"SelfManagedActiveDirectoryConfiguration": {"Password": "p\nq", "UserName": "u"}}}
    defect = MODEL["UpdateFileSystem"].input_defect({"FileSystemId": "fs-01234567", **secret})
    assert defect is not None and "Password" in defect and "p\nq" not in defect


# --- a flood --------------------------------------------------------------------------------------------------------------------


IMPLEMENTED = (
    "DescribeDataRepositoryAssociations", "UpdateDataRepositoryAssociation", "DescribeFileSystems", "UpdateFileSystem",
    "TagResource", "UntagResource", "ListTagsForResource",
)  # fmt: skip
REQUESTS = st.sampled_from(IMPLEMENTED).flatmap(lambda name: st.tuples(st.just(name), fsx_requests.of(name)))


@settings(
    max_examples=15, deadline=None, suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # to make a failing list of requests smaller takes minutes
)  # fmt: skip
@given(st.lists(REQUESTS, min_size=10, max_size=40))
def test_any_request_is_answered_as_described_or_refused_as_documented(
    tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[str, dict[str, Any]]]
) -> None:
    trio.run(_send_all, tmp_path_factory.mktemp("api"), requests)


async def _send_all(directory: Path, requests: list[tuple[str, dict[str, Any]]]) -> None:
    api = Api(directory)
    await api.start().file_systems.establish(REGION)
    await api.link()
    own = api.arn.rpartition("/")[2]
    for name, made in requests:
        request = fsx_requests.placed(made, {"OURS": own, "ARN": api.arn})
        with trio.fail_after(20):
            try:
                answer = await api.fsx.call(name, request)
            except errors.ControlFault as fault:
                documented = MODEL[name].faults | {"UnsupportedOperation"}
                assert fault.fault in documented - {"InternalServerError"}, (name, request, fault)
                assert 0 < len(str(fault)) <= 256
                continue
        assert MODEL[name].input_defect(request) is None
        if answer.get("Tags") != []:  # FSx says so where there are none, although its description wants one at least
            assert MODEL[name].output_defect(answer) is None, (name, request)
    # Whatever got in is still as described after the next mount.
    await api.restart()
    for name in ("DescribeFileSystems", "DescribeDataRepositoryAssociations"):
        assert MODEL[name].output_defect(await api.fsx.call(name, {})) is None
    await api.store.close()


def test_every_pattern_of_the_model_is_understood_and_quick() -> None:
    import botocore.loaders
    import botocore.model

    description = botocore.loaders.create_loader().load_service_model("fsx", "service-2")
    model = botocore.model.ServiceModel(description, "fsx")
    patterns = {model.shape_for(name).metadata.get("pattern") for name in model.shape_names} - {None}
    assert len(patterns) > 40
    for pattern in patterns:
        for text in ("", "a", "arn:aws:fsx:a:000000000000:" + "a:" * 240, "a-:/" * 128, "0" * 512, "/" * 512):
            fsx_model._compiled(pattern).fullmatch(text)
