"""HSM state of a file: Lustre's flags, their legal combinations, and how `lfs hsm_state` prints them.

Source: lustre llapi_hsm_state_get(3) and lfs-hsm(1); digest in fsx-spec section 8.1.
"""

from __future__ import annotations

from enum import IntFlag


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
