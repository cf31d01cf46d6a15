"""Links: what runs for each association while it is connected with its bucket, added and taken away at run time.

A `Link` has a scope of its own: what one association does can be ended without touching the others. Listeners are shared, since
one queue may carry the events of several associations (`event_plan.queue_of`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import trio

from s3lustrefs import errors
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.association import Association
from s3lustrefs.model.events import Invalidation
from s3lustrefs.model.ids import ROOT_INO, AssocId, Ino
from s3lustrefs.model.inode import Inode, InodeFlag
from s3lustrefs.movers import event_plan
from s3lustrefs.movers.directory_importer import DirectoryImporter
from s3lustrefs.movers.event_judge import EventJudge
from s3lustrefs.movers.event_listener import EventListener, Member
from s3lustrefs.movers.event_observer import EventObserver
from s3lustrefs.movers.headers import HeaderFetcher
from s3lustrefs.movers.importer import Importer
from s3lustrefs.movers.observer import Observer
from s3lustrefs.movers.removals import Removals
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.sweeper import Sweeper
from s3lustrefs.repository.credentials import Credentials, resolve_region
from s3lustrefs.repository.list_request import ListingTarget
from s3lustrefs.repository.object_store import Capabilities
from s3lustrefs.repository.s3 import S3Store

log = logging.getLogger(__name__)

_CREDENTIALS_RETRY_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Shared:
    """What the links of all associations work on. `refresh` re-imports one object, `notify` tells the kernel's door; a `read_only`
    mount listens to no queue that it would have to make."""

    engine: MetadataEngine
    repositories: Repositories
    headers: HeaderFetcher
    removals: Removals
    refresh: Callable[[Ino, tuple[AssocId, bytes]], Awaitable[object]]
    notify: Callable[[Invalidation], None]
    read_only: bool


@dataclass(slots=True)
class Link:
    """The parts of one association. `ended` is set once none of its tasks runs any more."""

    assoc: AssocId
    store: S3Store
    credentials: Credentials
    importer: Importer | DirectoryImporter
    sweeper: Sweeper
    observer: EventObserver
    queue: str
    """Under which key its listener is known; empty: nobody listens to its events."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)


@dataclass(slots=True)
class _Listening:
    """A listener and its task."""

    listener: EventListener
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)


class Links:
    """The links of all connected associations, by their numbers. Iterating gives the links."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._links: dict[AssocId, Link] = {}
        self._listening: dict[str, _Listening] = {}
        self._nursery: trio.Nursery | None = None
        self.are_lazy = False
        """Whether there are directories whose names come when somebody looks into them: see `ensure_listed`."""

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._links.values()))

    def find(self, assoc: AssocId) -> Link | None:
        return self._links.get(assoc)

    def of(self, assoc: AssocId) -> Link:
        """Raises: NotInRepository when the association is not connected (any more)."""
        link = self._links.get(assoc)
        if link is None:
            raise errors.NotInRepository(f"association {assoc} is not connected to its bucket")
        return link

    def has_own_queue(self, association: Association) -> bool:
        """Whether a queue is made for its events."""
        return event_plan.queue_of(association, read_only=self._shared.read_only) == association.association_id

    def listener_of(self, assoc: AssocId) -> EventListener | None:
        link = self._links.get(assoc)
        listening = self._listening.get(link.queue) if link is not None else None
        return listening.listener if listening is not None else None

    def listeners(self) -> list[EventListener]:
        """Each of them once, however many associations it serves."""
        return [each.listener for each in self._listening.values()]

    # --- names that come when somebody looks -----------------------------------------------------------------------------

    async def ensure_listed(self, directory: Inode) -> None:
        """Return once every name that the bucket has in a directory of a file cache is in the table.

        Nobody is told a name in such a directory before that. Raises: RepositoryError after a bounded time.
        """
        if not directory.flags & InodeFlag.UNLISTED:
            return
        location = await self._shared.engine.locate(directory)
        link = self._links.get(location.association.assoc_id) if location is not None else None
        if location is not None and link is not None:
            await link.importer.ensure_directory(location.relative)

    async def resolve(self, path: bytes) -> Inode:
        """What an absolute path inside the mount leads to, symlinks not followed.

        Raises: NotFound; RepositoryError when only the bucket knows and does not answer.
        """
        engine = self._shared.engine
        if self.are_lazy:
            with contextlib.suppress(errors.MetadataError):  # the way ends there, as it does below
                inode = await engine.get(ROOT_INO)
                for name in [part for part in path.split(b"/") if part]:
                    await self.ensure_listed(inode)
                    inode = await engine.lookup(inode.ino, name)
        return await engine.resolve(path)

    # --- connecting ------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks of all links, those connected before included. Ends by cancellation."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for link in self:
                self._start(link)
            for listening in self._listening.values():
                nursery.start_soon(self._listen, listening)
            task_status.started()
            await trio.sleep_forever()

    def connect(self, association: Association) -> Link:
        """Have everything run for an association, from now on or from `run` on. Raises: RepositoryDenied for an unknown profile."""
        link = self._build(association)
        self._links[link.assoc] = link
        self.are_lazy = self.are_lazy or association.is_lazy
        self._shared.repositories.connect(link.assoc, link.store)
        if association.lifecycle == "MISCONFIGURED":
            self._shared.repositories.fail(link.assoc, errors.RepositoryRejected(association.failure, bucket=association.bucket))
        self._join_queue(link)
        if self._nursery is not None:
            self._start(link)
        return link

    def listen_again(self, assoc: AssocId) -> None:
        """Have its queue looked for, or made, again."""
        link = self._links.get(assoc)
        if link is not None:
            self._join_queue(link)

    async def disconnect(self, assoc: AssocId) -> None:
        """Return once nothing runs for an association any more, and nobody finds its store. One that is not connected is fine."""
        link = self._links.pop(assoc, None)
        if link is None:
            return
        with trio.CancelScope(shield=True):
            self._shared.repositories.disconnect(assoc)
            link.importer.end()
            link.scope.cancel()
            if self._nursery is not None:
                await link.ended.wait()
            await self._leave_queue(link)
            await link.store.aclose()

    def _build(self, association: Association) -> Link:
        shared, assoc = self._shared, association.assoc_id
        credentials = Credentials(association.endpoint)
        able = Capabilities(**association.capabilities) if association.capabilities else Capabilities()  # type: ignore[arg-type]
        store = S3Store(association.endpoint, association.bucket, credentials, capabilities=able)
        target = ListingTarget(
            association.bucket, association.prefix.encode(), resolve_region(association.endpoint), association.endpoint,
            association.export_prefix.encode(),
        )  # fmt: skip
        kind: type[DirectoryImporter] | type[Importer] = DirectoryImporter if association.is_lazy else Importer
        importer = kind(shared.engine, association, target, credentials, shared.notify, shared.headers)
        observer = Observer(shared.engine, assoc, shared.repositories, shared.headers, shared.removals, shared.notify)
        sweeper = Sweeper(shared.engine, association, target, credentials, importer, observer, shared.refresh)
        judge = EventJudge(shared.engine, assoc)
        told = EventObserver(shared.engine, assoc, observer, shared.headers, shared.notify, judge)
        queue = event_plan.queue_of(association, read_only=shared.read_only)
        return Link(assoc, store, credentials, importer, sweeper, told, queue)

    def _join_queue(self, link: Link) -> None:
        if not link.queue:
            return
        member = Member(link.observer, link.importer, event_plan.connector(link.observer.association, link.credentials))
        listening = self._listening.get(link.queue)
        if listening is not None:
            listening.listener.join(link.assoc, member)
            return
        listening = self._listening[link.queue] = _Listening(EventListener(self._shared.engine))
        listening.listener.join(link.assoc, member)
        if self._nursery is not None:
            self._nursery.start_soon(self._listen, listening)

    async def _leave_queue(self, link: Link) -> None:
        listening = self._listening.get(link.queue)
        if listening is None:
            return
        await listening.listener.leave(link.assoc)
        if not listening.listener.is_idle:
            return
        del self._listening[link.queue]
        listening.scope.cancel()
        if self._nursery is not None:
            await listening.ended.wait()

    # --- tasks -----------------------------------------------------------------------------------------------------------

    def _start(self, link: Link) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._run_link, link, name=f"link {link.assoc}")

    async def _run_link(self, link: Link) -> None:
        try:
            with link.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep_credentials, link)
                    nursery.start_soon(_until_gone, link.importer.run)
                    nursery.start_soon(_until_gone, link.sweeper.run)
        finally:
            link.ended.set()

    async def _listen(self, listening: _Listening) -> None:
        try:
            with listening.scope:
                await listening.listener.run()
        finally:
            listening.ended.set()

    async def _keep_credentials(self, link: Link) -> None:
        """Without keys the association waits; everything local goes on."""
        recovered = _Recovered(self._shared.repositories, link.assoc)
        while True:
            try:
                await link.credentials.run(task_status=recovered)
            except errors.RepositoryError as exc:
                recovered.reason = exc
                self._shared.repositories.fail(link.assoc, exc)
                log.error("association has no credentials association=%d error=%s", link.assoc, exc)
                await trio.sleep(_CREDENTIALS_RETRY_SECONDS)


async def _until_gone(run: Callable[[], Awaitable[None]]) -> None:
    """An association is gone from the moment its deletion is asked for; what runs for it is ended some time later."""
    try:
        await run()
    except errors.NotInRepository as exc:
        log.info("link ends reason=%s", exc)


class _Recovered(trio.TaskStatus[None]):
    """Called by `Credentials.run` once it has keys."""

    def __init__(self, repositories: Repositories, assoc: AssocId) -> None:
        self._repositories = repositories
        self._assoc = assoc
        self.reason: errors.RepositoryError | None = None
        """Why there were none before."""

    def started(self, value: None = None) -> None:
        if self.reason is not None:
            self._repositories.recover(self._assoc, self.reason)
