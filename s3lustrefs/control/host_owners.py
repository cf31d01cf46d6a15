"""Owners: asks a file system of this host, whether a daemon has it mounted or nobody has; and finds out whose an id is.

Nothing waits longer than `patience_seconds` for one of them. A question goes to everybody at once.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import trio

from s3lustrefs import errors
from s3lustrefs.control import daemon_client, unmounted
from s3lustrefs.control.fsx_request import TOKEN, Json, refused
from s3lustrefs.control.host_mounts import Mounts
from s3lustrefs.control.host_places import Place, Places
from s3lustrefs.errors import ControlFault

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 20.0
"""For one file system to answer. Switching export on looks at a bucket first."""
_RETRY_SECONDS = 0.1
"""A state directory that is in use without a daemon that answers: it is being mounted or unmounted."""

T = TypeVar("T")


class Unanswered(ControlFault):
    """A file system of this host does not say anything; the message names it and the reason."""

    def __init__(self, message: str) -> None:
        super().__init__(message, fault="InternalServerError")


@dataclass(frozen=True, slots=True)
class Owner:
    """A file system or file cache of this host. `about`: as it described itself last."""

    place: Place
    resource_id: str
    about: Json


class Owners:
    """See the module docstring."""

    def __init__(self, places: Places, mounts: Mounts | None, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """`mounts` None: only what `places` leads to."""
        self._places = places
        self._mounts = mounts
        self._patience = patience_seconds
        self._known: dict[Place, Owner] = {}
        self._holders: dict[str, str] = {}
        """Associations and tasks, and the file system that had them when somebody asked last."""

    async def all(self) -> tuple[list[Owner], list[Unanswered]]:
        """Every file system of this host, by id, and those of which not even that could be found out."""
        places = self._places.all(await self._mounts.state_dirs() if self._mounts else ())
        # Its file may have come, gone or changed its name: it is the same file system all the same.
        self._known = {place: replace(self._known[place], place=place) for place in places if place in self._known}
        fresh = [place for place in places if place not in self._known]
        silent: list[Unanswered] = []
        for place, found in zip(fresh, await gathered([partial(self._identify, p) for p in fresh]), strict=True):
            if isinstance(found, ControlFault):
                if not place.exists():
                    continue  # it was removed meanwhile
                if not isinstance(found, Unanswered):
                    raise found
                silent.append(found)
            elif found is not None:
                self._known[place] = found
        return sorted(self._known.values(), key=lambda owner: owner.resource_id), silent

    async def ask(self, owner: Owner, operation: str, request: Json, *, is_change: bool) -> Json:
        """Raises: ControlFault, Unanswered."""
        return await self._ask(owner.place, operation, request, is_change=is_change)

    async def is_mounted(self, owner: Owner) -> bool:
        """Whether a daemon has it, also one that does not answer."""
        try:
            await unmounted.look(owner.place.state_dir, lambda engine: engine.file_system())
        except errors.StateDirInUse:
            return True
        return False

    def heard(self, owner: Owner, about: Json) -> None:
        """How it is described now."""
        self._known[owner.place] = Owner(owner.place, owner.resource_id, about)

    async def holder(self, name: str, operation: str, request: Json, owners: Sequence[Owner]) -> Owner | None:
        """Who knows the association or task `name`, which `request` asks for. Raises: Unanswered when it may be who is silent."""
        likely = [owner for owner in owners if owner.resource_id == self._holders.get(name)]
        silent: list[Unanswered] = []
        for group in (likely, [owner for owner in owners if owner not in likely]):
            answers = await self.gathered(group, operation, request)
            for owner, answer in zip(group, answers, strict=True):
                if isinstance(answer, dict):
                    self._holders[name] = owner.resource_id
                    return owner
                if isinstance(answer, Unanswered):
                    silent.append(answer)
        if silent:
            raise silent[0]
        return None

    async def gathered(self, owners: Sequence[Owner], operation: str, request: Json) -> list[Json | ControlFault]:
        """A question to several at once."""
        return await gathered([partial(self.ask, each, operation, request, is_change=False) for each in owners])

    async def _identify(self, place: Place) -> Owner | None:
        """None: it has no identity yet; its first daemon is on its way to one. Raises: Unanswered."""
        for operation, members, key in (
            ("DescribeFileSystems", "FileSystems", "FileSystemId"), ("DescribeFileCaches", "FileCaches", "FileCacheId"),
        ):  # fmt: skip
            answer = await self._ask(place, operation, {}, is_change=False)
            for about in answer.get(members, ()):
                return Owner(place, about[key], about)
        return None

    async def _ask(self, place: Place, operation: str, request: Json, *, is_change: bool) -> Json:
        deadline = trio.current_time() + self._patience
        reason: Exception | None = None
        with trio.move_on_after(self._patience):
            while True:
                try:
                    return await self._once(place, operation, request, deadline, is_change=is_change)
                except errors.StateDirInUse as exc:
                    reason = exc
                except errors.DaemonUnreachable as exc:
                    # It may have ended while it was asked. What changes something is repeated only if it is known by its token.
                    if is_change and TOKEN not in request:
                        raise Unanswered(f"{place.name}: {exc}") from exc
                    reason = exc
                except (errors.StateDirError, errors.StorageError) as exc:
                    if not place.exists():
                        raise refused("FileSystemNotFound", f"{place.name} was removed meanwhile") from exc
                    raise Unanswered(f"{place.name}: {exc}") from exc
                log.debug("file system asked again name=%s reason=%s", place.name, reason)
                await trio.sleep(_RETRY_SECONDS)
        raise Unanswered(f"{place.name} has not answered within {self._patience:.0f} s{f' ({reason})' if reason else ''}")

    async def _once(self, place: Place, operation: str, request: Json, deadline: float, *, is_change: bool) -> Json:
        try:
            left = max(0.0, deadline - trio.current_time())
            return await daemon_client.ask(place.control_path, operation, request, seconds=left)
        except errors.NoDaemon:
            if is_change:
                return await unmounted.change(place.state_dir, operation, request)
            return await unmounted.question(place.state_dir, operation, request)


async def gathered(deeds: Sequence[Callable[[], Awaitable[T]]]) -> list[T | ControlFault]:
    """Each result, or the refusal in its place."""
    results: dict[int, T | ControlFault] = {}

    async def do(number: int, deed: Callable[[], Awaitable[T]]) -> None:
        try:
            results[number] = await deed()
        except ControlFault as exc:
            results[number] = exc

    async with trio.open_nursery() as nursery:
        for number, deed in enumerate(deeds):
            nursery.start_soon(do, number, deed)
    return [results[number] for number in range(len(deeds))]
