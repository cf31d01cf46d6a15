"""The life of an association: which state may follow which, and whose turn it is. Pure functions.

CREATING, UPDATING and DELETING stand for a request that is queued or worked on, so that the queue is in the associations
themselves: each has at most one request open, and there are at most eight of them.
Source: FSx for Lustre User Guide, "Data repository association lifecycle"; fsx-spec section 2.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from s3lustrefs.model.association import Association, Lifecycle

FOLLOWING: Mapping[Lifecycle, frozenset[Lifecycle]] = {
    "CREATING": frozenset({"AVAILABLE", "FAILED", "DELETING"}),
    "AVAILABLE": frozenset({"UPDATING", "MISCONFIGURED", "FAILED", "DELETING"}),
    "UPDATING": frozenset({"UPDATING", "AVAILABLE", "MISCONFIGURED", "FAILED", "DELETING"}),
    "MISCONFIGURED": frozenset({"AVAILABLE", "UPDATING", "MISCONFIGURED", "FAILED", "DELETING"}),
    "FAILED": frozenset({"DELETING"}),
    "DELETING": frozenset(),
}
"""A deleted association is gone: nothing follows."""

ASKED: frozenset[Lifecycle] = frozenset({"CREATING", "UPDATING", "DELETING"})
"""States that a request is queued or worked on in."""
_WITH_CAUSE: frozenset[Lifecycle] = frozenset({"MISCONFIGURED", "FAILED", "DELETING"})


def may_follow(before: Lifecycle, after: Lifecycle) -> bool:
    return after in FOLLOWING[before]


def moved(association: Association, lifecycle: Lifecycle, failure: str = "") -> Association:
    """The association in its next state. The cause ends with the state that has one; an update keeps it until its outcome shows."""
    assert may_follow(association.lifecycle, lifecycle), f"{association.lifecycle} -> {lifecycle}"
    kept = association.failure if lifecycle == "UPDATING" else ""
    return replace(association, lifecycle=lifecycle, failure=failure if lifecycle in _WITH_CAUSE else kept)


def next_asked(associations: Iterable[Association]) -> Association | None:
    """Whose request is worked on now: the one that was asked for first."""
    return min((each for each in associations if each.lifecycle in ASKED), key=lambda each: each.asked_ns, default=None)
