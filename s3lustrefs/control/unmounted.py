"""The FSx API of a file system that is not mounted: the same operations, on its own table.

A question only reads. A change is made in the table as the daemon would make it, durably, before it is answered; what needs
the daemon (an association to be linked, a task to be done) stands there as requested, and the next mount goes on with it. So
there is one queue of requests, in one place, whoever wrote it. A mount that begins meanwhile waits for the change.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from s3lustrefs import errors
from s3lustrefs.control.fsx_api import FsxApi
from s3lustrefs.control.fsx_associations import Linking
from s3lustrefs.control.fsx_request import Json
from s3lustrefs.meta import redo_log
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.redo_log import current_boot_id
from s3lustrefs.meta.state_dir import StateDir
from s3lustrefs.meta.store import Store
from s3lustrefs.meta.unmounted_store import reading
from s3lustrefs.model.association import Association, AssociationSettings
from s3lustrefs.movers.association_requests import unexported
from s3lustrefs.movers.repositories import Repositories
from s3lustrefs.movers.task_report import ReportDelivery
from s3lustrefs.movers.tasks import Tasks
from s3lustrefs.repository.object_store import Capabilities

T = TypeVar("T")

_AT_ONCE = trio.CapacityLimiter(8)
"""Threads that look at tables. One that a failing disk holds up is left behind, and counts until it comes back."""


async def question(state_dir: Path, operation: str, request: Json) -> Json:
    """Raises: StateDirInUse, StateDirError, ControlFault."""
    return await look(state_dir, lambda engine: trio.run(_api(engine, state_dir).call, operation, request))


async def look(state_dir: Path, deed: Callable[[LmdbEngine], T]) -> T:
    """What `deed` finds in the table, in a thread. Raises: StateDirInUse, StateDirError."""

    def looking() -> T:
        with reading(state_dir) as engine:
            return deed(engine)

    return await in_thread(looking)


async def in_thread(deed: Callable[[], T]) -> T:
    """Something that blocks."""
    return await trio.to_thread.run_sync(deed, abandon_on_cancel=True, limiter=_AT_ONCE)


async def change(state_dir: Path, operation: str, request: Json) -> Json:
    """Raises: StateDirInUse, StateDirError, StorageError, ControlFault."""

    def changing() -> Json:
        return trio.run(_change, state_dir, operation, request)

    return await in_thread(changing)


async def _change(state_dir: Path, operation: str, request: Json) -> Json:
    if not (state_dir / "meta" / "data.mdb").exists():
        raise errors.StateDirError(f"no inode table in {state_dir / 'meta'}")
    with StateDir(state_dir, patience_seconds=0) as held:
        held.stopping()  # a mount may wait for us
        if _has_log(state_dir):
            # Its daemon was killed. The records about to be committed speak of content that may not be on the disk yet.
            os.sync()
        store = Store(state_dir / "meta", boot_id=current_boot_id())
        try:
            answer = await _api(LmdbEngine(store), state_dir).call(operation, request)
            await store.sync()
            return answer
        finally:
            await store.close()


def _has_log(state_dir: Path) -> bool:
    return any(path.stat().st_size > 0 for _, path in redo_log.segments(state_dir / "meta"))


def _api(engine: MetadataEngine, state_dir: Path) -> FsxApi:
    repositories = Repositories()
    # The next mount looks at buckets, with the endpoint and credentials of its configuration, and does what is asked for.
    linking = Linking(
        AssociationSettings("", "", ""), _looked_at_by_the_mount, _probed_at_the_mount, partial(unexported, engine), lambda: None
    )
    return FsxApi(
        engine, repositories, Tasks(engine, {}, ReportDelivery(engine, repositories, state_dir)),
        capacity_bytes=lambda: shutil.disk_usage(state_dir).total, linking=linking,
    )  # fmt: skip


async def _looked_at_by_the_mount(settings: AssociationSettings) -> Capabilities | None:
    await trio.lowlevel.checkpoint()
    return None


async def _probed_at_the_mount(association: Association) -> Capabilities:
    await trio.lowlevel.checkpoint()
    return Capabilities(**association.capabilities) if association.capabilities else Capabilities()  # type: ignore[arg-type]
