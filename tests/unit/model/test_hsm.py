"""HSM states: legal combinations, and the words of `lfs hsm_state`."""

from __future__ import annotations

import pytest

from s3lustrefs.model.hsm import Hsm, state_text, violation
from s3lustrefs.model.ids import AssocId, Ino
from s3lustrefs.model.inode import Inode, InodeFlag

ARCHIVED = Hsm.EXISTS | Hsm.ARCHIVED


@pytest.mark.parametrize(
    "flags", [Hsm.NONE, ARCHIVED, ARCHIVED | Hsm.DIRTY, ARCHIVED | Hsm.RELEASED, ARCHIVED | Hsm.LOST, Hsm.NOARCHIVE]
)
def test_legal(flags: Hsm) -> None:
    assert violation(flags) is None


@pytest.mark.parametrize(
    "flags", [Hsm.DIRTY, ARCHIVED | Hsm.RELEASED | Hsm.DIRTY, Hsm.EXISTS | Hsm.RELEASED, Hsm.EXISTS | Hsm.LOST]
)
def test_illegal(flags: Hsm) -> None:
    assert violation(flags)


def test_words_are_lustres() -> None:
    assert state_text(ARCHIVED | Hsm.RELEASED) == "(0x0000000d) released exists archived, archive_id:1"
    assert state_text(Hsm.NONE) == "(0x00000000)"
    assert state_text(ARCHIVED | Hsm.DIRTY) == "(0x0000000b) exists dirty archived, archive_id:1"


def test_released_is_derived_and_hidden_while_dirty() -> None:
    inode = Inode(Ino(1), 0o100644, 0, 0, 1, 5, 0, 0, 0, hsm=ARCHIVED, flags=InodeFlag.PARTIAL, source_assoc=AssocId(1))
    assert inode.hsm_state() & Hsm.RELEASED
    inode.hsm |= Hsm.DIRTY
    assert not inode.hsm_state() & Hsm.RELEASED and inode.is_dirty
