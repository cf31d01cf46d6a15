"""HSM state of a file and requests about it: Lustre's flags, which combinations are legal, who may ask for what when, and how
`lfs hsm_state` and `lfs hsm_action` print them.

Source: lustre llapi_hsm_state_get(3), lfs-hsm(1), sanity-hsm.sh.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntFlag


class Hsm(IntFlag):
    """The bits of `lfs hsm_state`."""

    NONE = 0
    EXISTS = 0x01
    DIRTY = 0x02
    RELEASED = 0x04
    ARCHIVED = 0x08
    NORELEASE = 0x10
    NOARCHIVE = 0x20
    LOST = 0x40


OWNER_FLAGS = Hsm.DIRTY | Hsm.NORELEASE | Hsm.NOARCHIVE
"""What the owner of a file may set and clear; the others take root."""
SETTABLE = OWNER_FLAGS | Hsm.EXISTS | Hsm.ARCHIVED | Hsm.LOST


class Request(Enum):
    """What can be asked for; the value is Lustre's number."""

    ARCHIVE = 10
    RESTORE = 11
    RELEASE = 12
    REMOVE = 13
    CANCEL = 14


@dataclass(frozen=True, slots=True)
class Action:
    """A request that is being dealt with; `moved_bytes` None: it waits."""

    request: Request
    moved_bytes: int | None = None


_PRINT_ORDER = (
    (Hsm.RELEASED, "released"),
    (Hsm.EXISTS, "exists"),
    (Hsm.DIRTY, "dirty"),
    (Hsm.ARCHIVED, "archived"),
    (Hsm.NORELEASE, "never_release"),
    (Hsm.NOARCHIVE, "never_archive"),
    (Hsm.LOST, "lost_from_hsm"),
)

ARCHIVE_ID = 1
"""The only archive backend there is; printed once a file has a copy there."""


def state_text(flags: Hsm) -> str:
    """The part of an `lfs hsm_state` line after the path, e.g. `(0x0000000d) released exists archived, archive_id:1`."""
    words = [word for bit, word in _PRINT_ORDER if flags & bit]
    text = " ".join([f"({int(flags):#010x})", *words])
    return f"{text}, archive_id:{ARCHIVE_ID}" if flags & Hsm.EXISTS else text


def violation(flags: Hsm) -> str | None:
    """Why this combination is illegal, or None. Source: sanity-hsm.sh tests 2 and 3 (fsx-spec section 8.1)."""
    if flags & Hsm.DIRTY and not flags & Hsm.EXISTS:
        return "dirty without exists"
    if flags & Hsm.RELEASED and flags & Hsm.DIRTY:
        return "released with dirty"
    if flags & Hsm.RELEASED and not flags & Hsm.ARCHIVED:
        return "released without archived"
    if flags & Hsm.LOST and not flags & Hsm.ARCHIVED:
        return "lost without archived"
    return None


def action_text(action: Action | None) -> str:
    """The part of an `lfs hsm_action` line after the path. Requests are always about whole files."""
    if action is None:
        return "NOOP"
    if action.moved_bytes is None:
        return f"{action.request.name} waiting (from 0 to EOF)"
    if action.request in (Request.ARCHIVE, Request.RESTORE):
        return f"{action.request.name} running ({action.moved_bytes} bytes moved)"
    return f"{action.request.name} running (from 0 to EOF)"


def may_ask(request: Request, *, is_root: bool, is_owner: bool) -> bool:
    """Restoring is for everybody, releasing for the owner. Source: FSx for Lustre User Guide, "Releasing files"; Lustre's default
    request masks."""
    return is_root or request is Request.RESTORE or (is_owner and request is Request.RELEASE)


def refusal(request: Request, flags: Hsm) -> str | None:
    """Why a file in this state cannot have the request (EPERM), or None; a no-op is not refused."""
    if request is Request.ARCHIVE:
        return "never_archive is set" if flags & Hsm.NOARCHIVE else None
    if request is Request.RESTORE:
        if flags & Hsm.DIRTY:
            return "it has changes which are not archived: what is archived would replace them"
        if flags & Hsm.RELEASED and flags & Hsm.LOST:
            return "its archived copy is lost"
        return None
    if request is Request.RELEASE:
        return _release_refusal(flags)
    if request is Request.REMOVE and flags & Hsm.RELEASED:
        return "it is released, the archived copy is the only one: restore it first"
    return None


def _release_refusal(flags: Hsm) -> str | None:
    if not flags & Hsm.ARCHIVED:
        return "it is not archived"
    if flags & Hsm.DIRTY:
        return "it has changes which are not archived"
    if flags & Hsm.NORELEASE:
        return "never_release is set"
    return "its archived copy is lost" if flags & Hsm.LOST else None
