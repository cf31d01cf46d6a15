"""Composition root: build, serve, shut down. Owns the only long-lived nursery.

Start: lock the state directory, open table and chunk store, recover, connect the associations, mount, serve, and say ready once the
mount answers. Stop, however it comes about: the kernel's door first, then the control door, then the movers (what they had under
way stays in the journal), then the stores.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable
from functools import partial

import trio

from s3lustrefs import errors
from s3lustrefs.config import Config
from s3lustrefs.control import api_server
from s3lustrefs.control.fsx_api import FsxApi
from s3lustrefs.control.fsx_associations import Linking
from s3lustrefs.control.fsx_model import TARGET_PREFIX
from s3lustrefs.control.fsx_tasks import OlderThan
from s3lustrefs.control.hsm_api import HsmApi
from s3lustrefs.control.native_api import NativeApi, Parts
from s3lustrefs.control.object_api import ObjectApi
from s3lustrefs.control.server import ControlServer
from s3lustrefs.data import targets
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.data.snapshot import Snapshots
from s3lustrefs.fs.file_io import FileIO
from s3lustrefs.fs.filesystem import FileSystem
from s3lustrefs.fs.handles import Handles
from s3lustrefs.fs.hsm_door import HsmDoor
from s3lustrefs.fs.open_exports import OpenExports
from s3lustrefs.fs.status import InodeStatus
from s3lustrefs.fs.xattrs import Xattrs
from s3lustrefs.fuse.invalidator import Invalidator
from s3lustrefs.fuse.operations import Operations
from s3lustrefs.fuse.session import Session
from s3lustrefs.meta import content_place
from s3lustrefs.meta.content_place import ContentPlace
from s3lustrefs.meta.damage import Damage
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.redo_log import current_boot_id
from s3lustrefs.meta.state_dir import StateDir
from s3lustrefs.meta.store import Store
from s3lustrefs.model.association import Association, AssociationSettings
from s3lustrefs.model.task import EXPORT, IMPORT, RELEASE, TaskType
from s3lustrefs.movers import event_log, recovery
from s3lustrefs.movers.archive import Archive
from s3lustrefs.movers.association_requests import AssociationRequests, unexported
from s3lustrefs.movers.association_watch import AssociationWatch
from s3lustrefs.movers.capability_watch import CapabilityWatch
from s3lustrefs.movers.configured_links import ConfiguredLinks
from s3lustrefs.movers.disputes import Disputes
from s3lustrefs.movers.evictions import Evictions
from s3lustrefs.movers.export_deletes import DeleteExport
from s3lustrefs.movers.export_files import FileExport
from s3lustrefs.movers.exporter import Exporter
from s3lustrefs.movers.headers import HeaderFetcher
from s3lustrefs.movers.hsm_requests import HsmRequests
from s3lustrefs.movers.hsm_restores import HsmRestores
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.movers.links import Links, Shared
from s3lustrefs.movers.losses import Losses
from s3lustrefs.movers.lost_found import LostFound
from s3lustrefs.movers.multipart import Multipart
from s3lustrefs.movers.preflights import look_at
from s3lustrefs.movers.preloads import Preloads
from s3lustrefs.movers.refresher import Refresher
from s3lustrefs.movers.releaser import Releaser
from s3lustrefs.movers.removals import Removals
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.restore_jobs import RestoreJobs
from s3lustrefs.movers.room import Room
from s3lustrefs.movers.task_export import ExportJob
from s3lustrefs.movers.task_import import ImportJob
from s3lustrefs.movers.task_release import ReleaseJob
from s3lustrefs.movers.task_report import ReportDelivery
from s3lustrefs.movers.task_roots import Roots
from s3lustrefs.movers.tasks import Job, Tasks
from s3lustrefs.movers.unlinker import Unlinker
from s3lustrefs.movers.versions import Versions
from s3lustrefs.repository.credentials import resolve_region
from s3lustrefs.repository.object_store import Capabilities
from s3lustrefs.repository.probe import reachable

log = logging.getLogger(__name__)

_SWITCH_SECONDS = 0.0005
"""How long another Python thread may keep the GIL from the trio thread."""
_GC_THRESHOLD = 20_000
"""New objects between two collections of the youngest generation. Python's 700 cost 3 % of a busy daemon."""


def serve(config: Config, mount_point: str, *, ready: Callable[[], None]) -> None:
    """Mount and serve until unmounted or told to end (SIGTERM, SIGINT). `ready` is called once the mount answers.

    Raises: UsageError, RepositoryError when the mount cannot be made; nothing is mounted then.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    with StateDir(config.state_dir) as state_dir:
        trio.run(Daemon(config, mount_point, state_dir).run, ready)


class Daemon:
    """Every component of one mount, made in dependency order."""

    def __init__(self, config: Config, mount_point: str, state_dir: StateDir) -> None:
        self._config = config
        self._mount_point = mount_point
        self._state_dir = state_dir
        self._handles = Handles()
        self._invalidator = Invalidator()
        self._repositories = Repositories()
        self._losses: Losses | None = None

    async def run(self, ready: Callable[[], None]) -> None:
        self._chunks = ChunkStore(self._config.cache_dirs, cache_bytes=self._config.cache_bytes)
        self._snapshots = Snapshots(self._chunks)
        self._chunks.open_()
        self._store = Store(
            self._config.state_dir / "meta",
            boot_id=current_boot_id(),
            sync_content=self._sync_content,
            on_durable=self._chunks.table_is_durable,
        )
        self._damage = Damage(self._store)
        try:
            self._engine = LmdbEngine(self._store, in_use=self._handles.is_open, keep_nameless=True)
            await self._find_content()
            await self._chunks.measure_used()
            await recovery.recover(self._engine, self._chunks, interrupted=self._store.is_content_ahead)
            if self._store.is_content_ahead:
                self._store.content_is_cut()
            self._refresher = Refresher(self._engine, self._chunks, self._repositories, self._invalidator.notify)
            self._headers = HeaderFetcher(self._engine, self._repositories, self._refresher.refresh)
            self._build_links()
            await self._open_doors()
            await self._link_all()
            await self._build().resume()
            await self._tasks.recover()
            await self._serve(ready)
        finally:
            self._state_dir.stopping()
            await self._store.close()
            with trio.CancelScope(shield=True):
                await self._chunks.remove_condemned()
            self._chunks.close()

    async def _find_content(self) -> None:
        """Make sure that the storage targets are those the table speaks of. Raises: StateDirError."""
        paths = tuple(map(str, self._config.cache_dirs))
        place = content_place.load(self._store) or ContentPlace(targets.new_identity(), paths, is_marked=False)
        if not place.is_marked:
            content_place.save(self._store, place)
            await self._store.sync()
            targets.claim(self._config.cache_dirs, place.identity)
        defects = targets.defects(self._config.cache_dirs, place.identity)
        if defects:
            raise errors.StateDirError(
                f"storage target {defects[0]} (cache_dir was {':'.join(place.targets)}; if the content is lost, "
                f"`s3lustrefs fsck --repair {self._config.state_dir}` goes on without it)"
            )
        if not place.is_marked or place.targets != paths:
            content_place.save(self._store, ContentPlace(place.identity, paths, is_marked=True))

    # --- associations ------------------------------------------------------------------------------------------------------

    async def _link_all(self) -> None:
        where, read_only = str(self._config.state_dir), self._config.read_only
        configured = ConfiguredLinks(self._engine, self._links, self._requests, self._probe, where, read_only=read_only)
        await configured.link_all(self._config.dras, self._config.defaults)

    async def _probe(self, dra: AssociationSettings) -> Capabilities:
        return await look_at(dra, writable=bool(dra.auto_export) and not self._config.read_only)

    async def _probe_export(self, association: Association) -> Capabilities:
        """Look at a bucket again that is to be written from now on."""
        store = self._repositories.of(association.assoc_id)
        if not self._config.read_only:
            store.capabilities = await look_at(association, writable=True)
        return store.capabilities

    async def _reach(self, association: Association, writable: bool) -> None:
        store = self._links.of(association.assoc_id).store
        writable = writable and not self._config.read_only
        await reachable(store, association.prefix, association.write_prefix, writable=writable)

    async def _open_doors(self) -> None:
        """What administrators talk to; requests are answered once everything is served. Raises: ConfigError, StateDirError."""
        linking = Linking(
            self._config.defaults, self._probe, self._probe_export, partial(unexported, self._engine), self._requests.wake
        )  # fmt: skip
        self._tasks = self._build_tasks()
        self._fsx = FsxApi(
            self._engine, self._repositories, self._tasks, read_only=self._config.read_only,
            capacity_bytes=lambda: self._chunks.space().capacity_bytes, linking=linking,
        )  # fmt: skip
        event_log.follow(self._engine.file_system)
        first = next(iter(self._config.dras), self._config.defaults)
        record = await self._fsx.file_systems.establish(resolve_region(first.endpoint))
        self._api = api_server.open_(self._config, record.region, self._fsx.call)

    # --- components --------------------------------------------------------------------------------------------------------

    def _build_links(self) -> None:
        engine, chunks, repositories, notify = self._engine, self._chunks, self._repositories, self._invalidator.notify
        self._room = Room(chunks)
        self._hydrator = Hydrator(engine, chunks, repositories, self._refresher.refresh, notify, self._room)
        self._removals = Removals(chunks, self._hydrator, self._handles.note_nameless, notify)
        self._links = Links(
            Shared(
                engine, repositories, self._headers, self._removals, self._refresher.refresh, notify,
                read_only=self._config.read_only,
            )
        )  # fmt: skip
        self._watch = AssociationWatch(
            engine, repositories, self._links, self._reach, lambda: self._exporter.urge(again=True)
        )  # fmt: skip
        unlinker = Unlinker(engine, self._removals)
        self._requests = AssociationRequests(engine, self._links, unlinker, self._watch, self._probe)

    def _build(self) -> Losses:
        engine, chunks, repositories, room = self._engine, self._chunks, self._repositories, self._room
        config = self._config
        disputes = Disputes(engine, self._removals, repositories, self._refresher, self._invalidator.notify)
        self._lost_found = LostFound(
            engine, chunks, self._removals, keep_seconds=config.lost_found_seconds, most_bytes=config.lost_found_bytes
        )
        files = FileExport(engine, chunks, self._hydrator, repositories, self._headers.known, disputes)
        deletes = DeleteExport(engine, self._hydrator, repositories, disputes)
        self._exporter = Exporter(engine, files, deletes, lambda: self._operations.requests.total())
        self._evictions = Evictions(engine, self._tasks)
        self._releaser = Releaser(
            engine, chunks, self._hydrator, room, self._handles.is_open, self._invalidator.notify, self._exporter.urge,
            self._evictions,
        )  # fmt: skip
        self._losses = Losses(engine, chunks, self._damage, self._hydrator, self._exporter.cancel, self._invalidator.notify)
        self._io = FileIO(
            engine, chunks, self._hydrator, self._exporter, self._handles, self._damage, room,
            noatime=config.noatime or config.read_only,
        )  # fmt: skip
        self._open_exports = OpenExports(engine, chunks, self._snapshots, self._hydrator, self._exporter, self._handles, room)
        fs = FileSystem(
            engine, chunks, self._io, self._headers, self._exporter, self._handles, self._links, read_only=config.read_only
        )
        self._archive = Archive(
            engine, repositories, self._hydrator, partial(self._refresher.refresh, always=True), self._invalidator.notify,
            self._exporter.wake,
        )  # fmt: skip
        self._restores = RestoreJobs(engine, self._archive, self._links)
        status = InodeStatus(engine, chunks, self._hydrator, repositories, self._archive, self._links)
        control_path = config.state_dir / "control.sock"
        self._hsm_restores = HsmRestores(engine, self._hydrator)
        self._preloads = Preloads(engine, self._hydrator, self._hsm_restores, self._links, self._headers.known)
        hsm = HsmRequests(
            engine, self._hydrator, self._exporter, self._releaser, self._hsm_restores, read_only=config.read_only
        )  # fmt: skip
        door = HsmDoor(engine, hsm, self._headers.known, frozenset({0, os.geteuid()}))
        self._operations = Operations(fs, Xattrs(engine, status, door, str(control_path)))
        parts = Parts(
            engine, chunks, self._hydrator, self._exporter, self._headers, self._lost_found, repositories, self._links,
            self._archive, self._hsm_restores, status, self._operations.requests, self._mount_point,
            str(config.state_dir),
            lambda: self._store.statistics().failure, config.read_only, self._invalidator.wait_told, self._watch.look_again,
        )  # fmt: skip
        versions = Versions(
            engine, repositories, Multipart(chunks), self._refresher, self._headers, self._invalidator.notify, self._exporter.hold,
            self._links.resolve,
        )  # fmt: skip
        object_api = ObjectApi(versions, self._restores, read_only=config.read_only)
        operations = {
            **NativeApi(parts).operations(),
            **object_api.operations(),
            **HsmApi(self._preloads).operations(),
            "CreateReleaseTask": OlderThan(self._fsx.call).create,
        }
        self._control = ControlServer(control_path, operations, {TARGET_PREFIX: self._fsx.call})
        return self._losses

    def _build_tasks(self) -> Tasks:
        """The queue knows how to make jobs; what they work with is there when the first one starts."""
        engine = self._engine
        jobs: dict[TaskType, Callable[[], Job]] = {
            IMPORT: lambda: ImportJob(engine, self._links),
            EXPORT: lambda: ExportJob(engine, Roots(engine, self._links), self._exporter.wake),
            RELEASE: lambda: ReleaseJob(engine, Roots(engine, self._links), self._releaser.release),
        }
        reports = ReportDelivery(engine, self._repositories, self._config.state_dir)
        return Tasks(engine, jobs, reports, resting={EXPORT} if self._config.read_only else ())

    async def _sync_content(self) -> None:
        if self._losses is not None:
            await self._losses.sync_content()
        else:  # what is lost now is told again once somebody can deal with it
            await self._chunks.sync_dirty()

    async def _serve(self, ready: Callable[[], None]) -> None:
        session = Session(self._operations, self._mount_point, _mount_options(self._config))
        with session.mounted():
            async with trio.open_nursery() as nursery:
                for part in (
                    self._store, self._chunks, self._hydrator, self._evictions, self._releaser, self._io, self._invalidator,
                    self._headers, self._archive, self._restores, self._hsm_restores, self._preloads,
                    CapabilityWatch(self._engine, self._repositories, self._probe),
                ):  # fmt: skip
                    await nursery.start(part.run)
                if not self._config.read_only:
                    await nursery.start(self._exporter.run)
                    await nursery.start(self._open_exports.run)
                    await nursery.start(self._lost_found.run)
                await nursery.start(self._links.run)
                await nursery.start(self._requests.run)
                await nursery.start(self._watch.run)
                await nursery.start(self._tasks.run)
                await nursery.start(self._control.run)
                if self._api is not None:
                    await nursery.start(self._api.run)
                nursery.start_soon(recovery.collect_garbage, self._engine, self._chunks, self._snapshots)
                await session.serve(partial(self._announce, ready))
                nursery.cancel_scope.cancel()

    def _announce(self, ready: Callable[[], None]) -> None:
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD, 20, 50)
        log.info("mount ready mount_point=%s state_dir=%s", self._mount_point, self._config.state_dir)
        ready()


def _mount_options(config: Config) -> set[str]:
    options = {"default_permissions", "subtype=s3lustrefs", f"fsname={config.source.replace(',', '_')}", *config.kernel_options}
    if config.allow_other:
        options.add("allow_other")
    if config.read_only:
        options.add("ro")
    return options
