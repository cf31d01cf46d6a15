"""What an open says about the kernel's pages: they stay as long as they are of the content that is opened; and what becomes of
those who still have other content open."""

from __future__ import annotations

import pytest

from s3lustrefs import errors
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


def test_content_replaced_while_open_is_another_inode_to_the_kernel_until_the_kernel_is_told_otherwise() -> None:
    handles = Handles()
    assert handles.generation(FILE, V1) == 0
    old = handles.open_file(FILE, V1)
    assert (handles.generation(FILE, V1), handles.generation(FILE, V2), handles.generation(FILE, V2)) == (0, 1, 1)
    new = handles.open_file(FILE, V2)
    handles.renew(FILE, V2, V3)  # emptied here: who has it open goes on with the same inode
    assert handles.generation(FILE, V3) == 1 and new.version == V3
    handles.close_file(old.fh)
    assert handles.generation(FILE, V3) == 1
    handles.note_forgotten(FILE)
    assert handles.generation(FILE, V3) == 1
    assert handles.generation(FILE, ContentVersion(4)) == 2
    handles.close_file(new.fh)
    assert handles.generation(FILE, ContentVersion(5)) == 2


def test_who_opens_beside_older_content_looks_up_first() -> None:
    handles = Handles()
    handles.note_lookup(FILE, V1, 7)
    handles.check_open(FILE, V1, 8)
    old = handles.open_file(FILE, V1)
    handles.check_open(FILE, V1, 8)
    for thread in (7, 8):
        with pytest.raises(errors.StaleEntry):
            handles.check_open(FILE, V2, thread)
        handles.note_lookup(FILE, V2, thread)
        handles.check_open(FILE, V2, thread)
    new = handles.open_file(FILE, V2)
    with pytest.raises(errors.StaleEntry):
        handles.check_open(FILE, V2, 7)
    handles.close_file(old.fh)
    handles.check_open(FILE, V2, 7)
    handles.close_file(new.fh)
