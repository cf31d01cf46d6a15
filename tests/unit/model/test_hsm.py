"""HSM states: legal combinations, and the words of `lfs hsm_state`."""

from __future__ import annotations

import pytest

from s3lustrefs.model.hsm import Action, Hsm, Request, action_text, may_ask, refusal, state_text, violation
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


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (None, "NOOP"),
        (Action(Request.RESTORE), "RESTORE waiting (from 0 to EOF)"),
        (Action(Request.RESTORE, 17), "RESTORE running (17 bytes moved)"),
        (Action(Request.ARCHIVE, 0), "ARCHIVE running (0 bytes moved)"),
        (Action(Request.REMOVE, 0), "REMOVE running (from 0 to EOF)"),
    ],
)
def test_actions_are_printed_as_lfs_does(action: Action | None, text: str) -> None:
    assert action_text(action) == text


_CLEAN = Hsm.EXISTS | Hsm.ARCHIVED
_RELEASED_FILE = _CLEAN | Hsm.RELEASED


@pytest.mark.parametrize(
    ("request_", "allowed", "refused"),
    [
        (Request.ARCHIVE, (Hsm.NONE, _CLEAN, _CLEAN | Hsm.DIRTY, _RELEASED_FILE), (Hsm.NOARCHIVE, _CLEAN | Hsm.NOARCHIVE)),
        (Request.RESTORE, (Hsm.NONE, _CLEAN, _RELEASED_FILE), (_CLEAN | Hsm.DIRTY, _RELEASED_FILE | Hsm.LOST)),
        (
            Request.RELEASE,
            (_CLEAN, _RELEASED_FILE),
            (Hsm.NONE, Hsm.EXISTS, _CLEAN | Hsm.DIRTY, _CLEAN | Hsm.NORELEASE, _CLEAN | Hsm.LOST),
        ),
        (Request.REMOVE, (Hsm.NONE, _CLEAN, _CLEAN | Hsm.DIRTY), (_RELEASED_FILE,)),
        (Request.CANCEL, (Hsm.NONE, _RELEASED_FILE), ()),
    ],
)
def test_states_in_which_a_request_is_refused(request_: Request, allowed: tuple[Hsm, ...], refused: tuple[Hsm, ...]) -> None:
    assert [flags for flags in allowed if refusal(request_, flags)] == []
    assert [flags for flags in refused if not refusal(request_, flags)] == []


def test_who_may_ask() -> None:
    assert all(may_ask(request, is_root=True, is_owner=False) for request in Request)
    assert {r for r in Request if may_ask(r, is_root=False, is_owner=True)} == {Request.RESTORE, Request.RELEASE}
    assert {r for r in Request if may_ask(r, is_root=False, is_owner=False)} == {Request.RESTORE}
