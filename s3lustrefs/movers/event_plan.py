"""Who listens to which queue, as `event_queue_url` says.

A URL: that queue, one listener for all associations that name it. `create`: a queue for the association is found or made. `auto`,
the default: the same at Amazon, as FSx does, unless the mount is read-only; nothing elsewhere, where a service that answers
on the same address may be another's. `off`: sweeps alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from s3lustrefs import errors
from s3lustrefs.model.association import Association, AssociationSettings
from s3lustrefs.model.option_values import EVENT_QUEUE_WORDS
from s3lustrefs.repository.address import is_amazon
from s3lustrefs.repository.credentials import Credentials, resolve_region
from s3lustrefs.repository.event_queue import EventQueue
from s3lustrefs.repository.event_setup import EventSource, check_queue, given_queue, look, make_queue, remove_queue
from s3lustrefs.repository.probe import Finding


def no_events(association: AssociationSettings, *, read_only: bool) -> str:
    """Why nobody listens to events of an association; empty when somebody does."""
    choice = association.event_queue_url or "auto"
    if choice == "off":
        return "event_queue_url=off"
    if choice == "auto" and not is_amazon(association.endpoint):
        return "not Amazon S3: event_queue_url=create makes a queue, or name one"
    if choice == "auto" and read_only:
        return "a read-only mount configures no bucket: event_queue_url=create does, or name a queue"
    return ""


def check(settings: AssociationSettings, *, read_only: bool) -> Finding:
    """What a mount with these settings would listen to, without making or taking anything. Blocks."""
    reason = no_events(settings, read_only=read_only)
    if reason or not settings.auto_import:
        return Finding("events", "ok", f"sweeps alone: {reason or 'auto_import=none'}")
    choice = settings.event_queue_url or "auto"
    credentials = Credentials(settings.endpoint)
    try:
        if choice in EVENT_QUEUE_WORDS:
            return Finding("events", "ok", look(_source(settings, "s3lustrefs-check"), trio.run(credentials.snapshot)))
        queue = EventQueue(given_queue(choice, resolve_region(settings.endpoint)), credentials)
        trio.run(partial(queue.receive, 0, hidden_seconds=0))
    except errors.RepositoryError as exc:
        return Finding("events", "warn", str(exc), "Sweeps serve alone until then.")
    return Finding("events", "ok", f"queue {queue.address.name} can be read")


def _source(settings: AssociationSettings, queue_name: str) -> EventSource:
    """Raises: RepositoryDenied for an unknown profile."""
    return EventSource(settings.bucket, settings.prefix, settings.endpoint, resolve_region(settings.endpoint), queue_name)


def queue_of(association: Association, *, read_only: bool) -> str:
    """What names the queue of an association's events: those with the same name share one listener. Empty: nobody listens."""
    if no_events(association, read_only=read_only):
        return ""
    return association.association_id if has_own_queue(association) else association.event_queue_url or ""


def has_own_queue(association: Association) -> bool:
    """Whether its queue is one that is made for it."""
    return (association.event_queue_url or "auto") in EVENT_QUEUE_WORDS


def connector(current: Callable[[], Association], credentials: Credentials) -> Callable[[], Awaitable[EventQueue]]:
    """Finds or makes the queue of an association, as that is at the time. A configuration of the bucket that was seen and is gone
    is not made again: somebody has removed it.
    """

    async def connect() -> EventQueue:
        association = current()
        if not has_own_queue(association):
            url = association.event_queue_url or ""
            return EventQueue(given_queue(url, resolve_region(association.endpoint)), credentials)
        if association.has_event_queue:
            await check_own_queue(association, credentials)
        return EventQueue(await make_queue(_own(association), credentials), credentials)

    return connect


async def check_own_queue(association: Association, credentials: Credentials) -> None:
    """Raises: RepositoryRejected when the bucket does not send its events there any more; other RepositoryError."""
    await check_queue(_own(association), credentials)


async def remove_own_queue(association: Association) -> None:
    """For an association that is deleted. Raises: RepositoryError."""
    await remove_queue(_own(association), Credentials(association.endpoint))


def _own(association: Association) -> EventSource:
    return _source(association, f"s3lustrefs-{association.association_id}")
