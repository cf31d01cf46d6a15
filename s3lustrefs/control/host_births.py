"""Makes the state directory and the configuration file of a new file system, and takes both away: each step can be repeated.

A death between two steps is followed by the same steps again, from the record in `host_records`: what is there already, and is what
was to be made, is left as it is. Nothing of anybody else's is ever overwritten or removed. Everything here blocks.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import trio

from s3lustrefs import errors
from s3lustrefs.control.host_records import Work
from s3lustrefs.durable_files import sync_directory, write_synced
from s3lustrefs.failpoints import failpoint
from s3lustrefs.meta import associations, only_here
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.redo_log import current_boot_id
from s3lustrefs.meta.state_dir import StateDir
from s3lustrefs.meta.store import Store
from s3lustrefs.meta.unmounted_store import reading


def make(work: Work) -> None:
    """Raises: StateDirError, StorageError, OSError."""
    state_dir, config_path = Path(work.state_dir), Path(work.config_path)
    if not _is_made(work, state_dir):
        fresh = state_dir.with_name(f".{work.resource_id}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        trio.run(_make_table, fresh, work)
        failpoint("host.create.table")
        fresh.rename(state_dir)
        sync_directory(state_dir.parent)
    failpoint("host.create.state_dir")
    _make_config(config_path, work)
    failpoint("host.create.config")


def _is_made(work: Work, state_dir: Path) -> bool:
    """Raises: StateDirError when something else is there."""
    if not state_dir.exists():
        return False
    try:
        with reading(state_dir) as engine:
            record = engine.file_system()
    except errors.StateDirInUse:
        return True  # it is mounted already
    if record is None or record.file_system_id != work.resource_id:
        raise errors.StateDirError(f"{state_dir} is there already and belongs to another file system")
    return True


async def _make_table(fresh: Path, work: Work) -> None:
    with StateDir(fresh):
        store = Store(fresh / "meta", boot_id=current_boot_id())
        try:
            engine = LmdbEngine(store)
            await engine.update_file_system(work.record)
            await engine.set_tags(work.resource_id, work.tags)
            for each in work.associations:
                association = await engine.link_association(associations.decode(each.encode()))
                if work.record.settings.get("CopyTagsToDataRepositoryAssociations"):
                    await engine.set_tags(association.association_id, work.tags)
            await store.sync()
        finally:
            await store.close()
    sync_directory(fresh)


def _make_config(path: Path, work: Work) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{work.resource_id}")
    try:
        write_synced(fresh, work.config_text, mode=0o644)
        try:
            os.link(fresh, path)
        except FileExistsError as exc:
            if path.read_text(encoding="utf-8", errors="replace") != work.config_text:
                raise errors.StateDirError(f"{path} is there already; it was not overwritten") from exc
    finally:
        fresh.unlink(missing_ok=True)
    sync_directory(path.parent)


def remove(work: Work) -> None:
    """Raises: StateDirInUse, StateDirError when it may not go; OSError."""
    shutil.rmtree(Path(work.state_dir).with_name(f".{work.resource_id}.new"), ignore_errors=True)
    state_dir, doomed = Path(work.state_dir), Path(work.state_dir).with_name(f".{work.resource_id}.deleted")
    if state_dir.exists():
        _refuse_loss(state_dir, work)
        with StateDir(state_dir, patience_seconds=0):
            if work.config_path:
                Path(work.config_path).unlink(missing_ok=True)
            failpoint("host.delete.config")
            state_dir.rename(doomed)
            sync_directory(state_dir.parent)
    elif work.config_path:
        Path(work.config_path).unlink(missing_ok=True)
    failpoint("host.delete.state_dir")
    if doomed.exists():
        shutil.rmtree(doomed)


def _refuse_loss(state_dir: Path, work: Work) -> None:
    """It may have been mounted since somebody looked. Raises: StateDirInUse, StateDirError."""
    with reading(state_dir) as engine:
        record = engine.file_system()
    if record is None or record.file_system_id != work.resource_id:
        raise errors.StateDirError(f"{state_dir} belongs to another file system now")
    found = only_here.find(state_dir)
    if not found.is_nothing:
        raise errors.StateDirError(f"{found} in {state_dir} are in no bucket")
