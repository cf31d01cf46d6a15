"""What an open says about the kernel's pages: they stay as long as they are of the content that is opened."""

from __future__ import annotations

from s3lustrefs.fs.handles import Handles
from s3lustrefs.model.ids import ContentVersion, Ino

FILE = Ino(5)
V1, V2, V3 = ContentVersion(1), ContentVersion(2), ContentVersion(3)


def opened(handles: Handles, version: ContentVersion) -> bool:
    """Open and close; whether the pages have to go."""
    handle = handles.open_file(FILE, version)
    handles.close_file(handle.fh)
    return handle.is_renewed


def test_pages_go_when_the_content_was_replaced_since_the_last_open() -> None:
    handles = Handles()
    assert [opened(handles, version) for version in (V1, V1, V2, V2, V1)] == [False, False, True, False, True]


def test_pages_stay_with_a_file_that_was_emptied_here_or_forgotten() -> None:
    handles = Handles()
    handle = handles.open_file(FILE, V1)
    handles.renew(FILE, V1, V2)
    handles.close_file(handle.fh)
    assert not opened(handles, V2)
    handles.note_forgotten(FILE)
    assert not opened(handles, V3)
