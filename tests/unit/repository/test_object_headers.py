"""What a HEAD tells of archived objects."""

from __future__ import annotations

import pytest

from s3lustrefs.repository.object_headers import head_of
from s3lustrefs.repository.object_store import RestoreState
from s3lustrefs.repository.replies import Response

EXPIRY = ' expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"'
EXPIRY_NS = 1_356_048_000 * 10**9


@pytest.mark.parametrize(
    ("headers", "archived", "restore"),
    [
        ({}, False, None),
        ({"x-amz-storage-class": "STANDARD_IA"}, False, None),
        ({"x-amz-storage-class": "GLACIER_IR"}, False, None),
        ({"x-amz-storage-class": "INTELLIGENT_TIERING"}, False, None),
        ({"x-amz-storage-class": "GLACIER"}, True, None),
        ({"x-amz-storage-class": "GLACIER", "x-amz-restore": "nonsense"}, True, None),
        ({"x-amz-storage-class": "GLACIER", "x-amz-restore": 'ongoing-request="true"'}, True, RestoreState(True, 0)),
        (
            {"x-amz-storage-class": "DEEP_ARCHIVE", "x-amz-restore": 'ongoing-request="false",' + EXPIRY},
            False,
            RestoreState(False, EXPIRY_NS),
        ),
        ({"x-amz-storage-class": "INTELLIGENT_TIERING", "x-amz-archive-status": "DEEP_ARCHIVE_ACCESS"}, True, None),
        (
            {
                "x-amz-storage-class": "INTELLIGENT_TIERING",
                "x-amz-archive-status": "ARCHIVE_ACCESS",
                "x-amz-restore": 'ongoing-request="true"',
            },
            True,
            RestoreState(True, 0),
        ),
    ],
)
def test_head_tells_whether_an_object_can_be_read(headers: dict[str, str], archived: bool, restore: RestoreState | None) -> None:
    head = head_of(Response(200, {"etag": '"e"', "content-length": "5", **headers}))
    assert (head.archived, head.restore) == (archived, restore)
    assert (head.version.etag, head.version.size) == ("e", 5)
