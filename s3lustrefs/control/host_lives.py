"""Lives: file systems made and removed through the API of a host.

A request is checked, then recorded durably with its token, then answered (CREATING, DELETING); the deed follows, also after a
death in between. A file system that is mounted, has tasks, or holds anything that no bucket has, is not removed.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trio

from s3lustrefs import errors
from s3lustrefs.control import fsx_caches, fsx_creation, fsx_legacy, host_births, unmounted
from s3lustrefs.control.fsx_filesystems import described
from s3lustrefs.control.fsx_request import Json, refuse_another_request, refused, wanted_tags
from s3lustrefs.control.host_config import config_text, settings_in
from s3lustrefs.control.host_owners import Owner, Owners
from s3lustrefs.control.host_places import OWN, Places
from s3lustrefs.control.host_records import HostRecords, Work
from s3lustrefs.meta import associations, only_here
from s3lustrefs.model.association import Association, AssociationSettings
from s3lustrefs.model.file_system import Asked, FileSystemRecord
from s3lustrefs.model.task import AUTO_RELEASE
from s3lustrefs.movers.preflights import look_at
from s3lustrefs.repository.object_store import Capabilities

log = logging.getLogger(__name__)

_NAME = re.compile(r"(?!(?:fs|fc)-)[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?<!\.toml)", re.ASCII)
"""A tag Name that can name a file; and is never taken for an id."""
_BIRTH_SECONDS = 30.0
"""How long a request for a file system that is being made waits for it."""
_PROBE_SECONDS = 20.0
"""For a bucket to show that it can be used."""


class Lives:
    """See the module docstring."""

    def __init__(self, owners: Owners, places: Places, records: HostRecords, *, region: str, defaults: Mapping[str, Any]) -> None:
        self._owners = owners
        self._places = places
        self._records = records
        self._region = region
        self._defaults = defaults
        self._changing = trio.Lock()
        self._wake = trio.Event()
        self._ended: dict[str, trio.Event] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do what is recorded, one file system after the other. Ends by cancellation only."""
        task_status.started()
        while True:
            self._wake = trio.Event()
            for work in [each for each in self._records.works.values() if not each.failure]:
                await self._do(work)
            if all(each.failure for each in self._records.works.values()):
                await self._wake.wait()

    async def _do(self, work: Work) -> None:
        deed: Callable[[Work], None] = host_births.make if work.kind == "create" else host_births.remove
        reason = ""
        try:
            await unmounted.in_thread(lambda: deed(work))
        except (errors.S3LustreError, OSError) as exc:
            reason = str(exc)
            log.error("file system stuck id=%s lifecycle=%s reason=%s", work.resource_id, work.lifecycle, exc)
        else:
            log.info("file system done kind=%s id=%s state_dir=%s", work.kind, work.resource_id, work.state_dir)
        try:
            if not reason:
                self._records.finish(work.resource_id)
            elif work.kind == "delete" and Path(work.state_dir).exists():
                self._records.finish(work.resource_id)  # it stays as it was
            else:
                self._records.fail(work, reason)
        except errors.StateDirError as exc:
            log.error("host state not written, trying again reason=%s", exc)
            await trio.sleep(1)
            return
        self._ended.pop(work.resource_id, trio.Event()).set()

    # --- what is on its way -------------------------------------------------------------------------------------------------

    def passing_ids(self) -> set[str]:
        """File systems that are being made or removed, or got stuck."""
        return set(self._records.works)

    def passing(self, kind: str, ids: Sequence[str], last: str) -> list[Json]:
        """Descriptions of those among them that a question asks for: of `kind` fs or fc."""
        works = [work for key, work in self._records.works.items() if key > last and (not ids or key in ids)]
        return [_described(work) for work in works if work.resource_id.startswith(f"{kind}-")]

    async def wait_born(self, resource_id: str) -> None:
        """Return once a file system being made is there. Raises: ControlFault when it is not to be had."""
        work = self._records.works.get(resource_id)
        if work is not None and work.kind == "create" and not work.failure:
            with trio.move_on_after(_BIRTH_SECONDS):
                await self._ended.setdefault(resource_id, trio.Event()).wait()
            work = self._records.works.get(resource_id)
        if work is not None:
            raise refused("BadRequest", f"{resource_id} is {work.lifecycle}{f': {work.failure}' if work.failure else ''}")

    # --- create -------------------------------------------------------------------------------------------------------------

    async def create(self, request: Json, asked: Asked | None) -> Json:
        if (before := self._done_before(asked)) is not None:
            return {"FileSystem": await self._created_before(before)}
        settings, tags = fsx_creation.settings_of(request), wanted_tags(request.get("Tags", ()))
        link = fsx_legacy.link_of(request, time.time())
        if link is not None:
            settings["DataRepositoryConfiguration"] = link
        links = [fsx_legacy.configured(link)] if link else []
        made = await self._begin_life(self._new("fs", settings), tags, links, asked, fault="InvalidImportPath")
        return {"FileSystem": await self._created_before(made)}

    async def create_cache(self, request: Json, asked: Asked | None) -> Json:
        if (before := self._done_before(asked)) is None:
            settings, tags, links = (
                fsx_caches.settings_of(request),
                wanted_tags(request.get("Tags", ())),
                fsx_caches.links_of(request),
            )
            before = await self._begin_life(self._new("fc", settings), tags, links, asked, fault="BadRequest")
        about = await self._created_before(before)
        rest = {"Tags": request["Tags"]} if request.get("Tags") else {}
        copied = request.get("CopyTagsToDataRepositoryAssociations", False)
        return {"FileCache": {**about, **rest, "CopyTagsToDataRepositoryAssociations": copied}}

    def _new(self, kind: str, settings: Json) -> FileSystemRecord:
        return FileSystemRecord(f"{kind}-{secrets.token_hex(9)[:17]}", time.time_ns(), self._region, settings)

    async def _begin_life(
        self, record: FileSystemRecord, tags: Mapping[str, str], links: list[dict[str, Any]], asked: Asked | None, *, fault: str
    ) -> str:
        """Its id. Raises: ControlFault, StateDirError."""
        linked = await self._linked(record, links, fault)
        async with self._changing:
            if (before := self._done_before(asked)) is not None:
                return before
            name = self._free_name(tags.get("Name", ""), record.file_system_id)
            state_dir, config_path = self._places.state_root / name, self._places.config_dir / f"{name}.toml"
            text = config_text(record, state_dir, self._defaults, links)
            self._begin(Work("create", record, str(state_dir), str(config_path), text, tags, linked), asked)
            return record.file_system_id

    async def _linked(self, record: FileSystemRecord, links: list[dict[str, Any]], fault: str) -> tuple[str, ...]:
        """Its associations, whose buckets can be reached, as the table holds them. Raises: ControlFault."""
        try:
            dras = settings_in(config_text(record, Path("/"), self._defaults, links))
        except errors.ConfigError as exc:
            raise refused(fault, str(exc)) from exc
        found = []
        for dra in dras:
            able: Capabilities | None = None
            try:
                with trio.move_on_after(_PROBE_SECONDS):
                    able = await self._probe(dra, is_cache=record.is_cache)
            except errors.RepositoryError as exc:
                where = dra.data_repository_path_given
                raise refused(fault, f"cannot validate access to the bucket of {where}: {exc}") from exc
            if able is None:
                message = f"the bucket of {dra.data_repository_path_given} has not answered within {_PROBE_SECONDS:.0f} s"
                raise refused(fault, message)
            made = Association(
                dra.file_system_path, dra.bucket, dra.prefix, association_id=f"dra-{secrets.token_hex(9)[:17]}",
                created_ns=record.created_ns, capabilities=asdict(able), is_lazy=record.is_cache,
            ).with_settings(dra)  # fmt: skip
            found.append(associations.encode(made).decode())
        return tuple(found)

    async def _probe(self, dra: AssociationSettings, *, is_cache: bool) -> Capabilities:
        """A cache may be of a bucket that can only be read."""
        try:
            return await look_at(dra, writable=True)
        except errors.RepositoryDenied:
            if not is_cache:
                raise
            return await look_at(dra, writable=False)

    def _free_name(self, wanted: str, otherwise: str) -> str:
        taken = {Path(work.config_path).stem for work in self._records.works.values()}
        is_free = (
            _NAME.fullmatch(wanted)
            and wanted not in (OWN, *taken)
            and not (self._places.state_root / wanted).exists()
            and not (self._places.config_dir / f"{wanted}.toml").exists()
        )
        return wanted if is_free else otherwise

    async def _created_before(self, resource_id: str) -> Json:
        if resource_id in self._records.works:
            return _described(self._records.works[resource_id])
        owners, silent = await self._owners.all()
        for owner in owners:
            if owner.resource_id == resource_id:
                kind = "FileCaches" if resource_id.startswith("fc-") else "FileSystems"
                answer = await self._owners.ask(owner, f"Describe{kind}", {}, is_change=False)
                found: Json = answer[kind][0]
                return found
        raise silent[0] if silent else refused("BadRequest", f"this request made {resource_id}, which is deleted since")

    # --- delete -------------------------------------------------------------------------------------------------------------

    async def delete(self, request: Json, asked: Asked | None) -> Json:
        file_system_id = request["FileSystemId"]
        lustre = request.get("LustreConfiguration", {})
        if lustre.get("SkipFinalBackup") is False or lustre.get("FinalBackupTags"):
            raise refused("BadRequest", "there are no backups here: delete with SkipFinalBackup=true, or without it")
        async with self._changing:
            if self._done_before(asked) is None:
                await self._begin_end(file_system_id, asked)
        return {"FileSystemId": file_system_id, "Lifecycle": "DELETING"}

    async def delete_cache(self, request: Json, asked: Asked | None) -> Json:
        cache_id = request["FileCacheId"]
        async with self._changing:
            if self._done_before(asked) is None:
                await self._begin_end(cache_id, asked)
        return {"FileCacheId": cache_id, "Lifecycle": "DELETING"}

    async def _begin_end(self, resource_id: str, asked: Asked | None) -> None:
        stuck = self._records.works.get(resource_id)
        if stuck is not None and stuck.kind == "create" and stuck.failure:
            self._begin(Work("delete", stuck.record, stuck.state_dir, _ours(stuck)), asked)
            return
        await self.wait_born(resource_id)
        owners, silent = await self._owners.all()
        owner = next((each for each in owners if each.resource_id == resource_id), None)
        if owner is None:
            kind, fault = ("file cache", "FileCacheNotFound") if resource_id[:2] == "fc" else ("file system", "FileSystemNotFound")
            raise silent[0] if silent else refused(fault, f"there is no {kind} {resource_id} on this host")
        await self._refuse_loss(owner)
        config_path = str(owner.place.config_path) if owner.place.config_path else ""
        record = await unmounted.look(owner.place.state_dir, lambda engine: engine.file_system())
        assert record is not None, "it has told its id"
        self._begin(Work("delete", record, str(owner.place.state_dir), config_path), asked)

    async def _refuse_loss(self, owner: Owner) -> None:
        """Raises: ControlFault with the remedy."""
        state_dir, name = owner.place.state_dir, owner.place.name
        try:
            await self._refuse_tasks(owner)
            found = await unmounted.in_thread(lambda: only_here.find(state_dir))
        except errors.StateDirInUse as exc:
            raise refused("BadRequest", f"{name} is mounted: unmount it first (`s3lustrefs unmount MOUNTPOINT`)") from exc
        outside = [target for target in found.targets if not Path(target).is_relative_to(state_dir)]
        if outside:
            raise refused("BadRequest", f"{name} keeps content in {outside[0]}: remove that and {state_dir} by hand")
        if not found.is_nothing:
            message = f"{name}: {found} are in no bucket. Mount it and export or delete them; or, to lose them, remove {state_dir}"
            raise refused("BadRequest", message)

    async def _refuse_tasks(self, owner: Owner) -> None:
        """Raises: ControlFault, StateDirInUse."""
        running = {"Filters": [{"Name": "task-lifecycle", "Values": ["PENDING", "EXECUTING"]}]}
        answer = await unmounted.question(owner.place.state_dir, "DescribeDataRepositoryTasks", running)
        for task in answer["DataRepositoryTasks"]:
            if task["Type"] == AUTO_RELEASE:  # cut short by the end of a daemon: nothing of it is to come
                continue
            raise refused("BadRequest", f"task {task['TaskId']} of {owner.resource_id} is {task['Lifecycle']}: cancel it first")

    # --- both ---------------------------------------------------------------------------------------------------------------

    def _done_before(self, asked: Asked | None) -> str | None:
        """The file system that this very request was about. Raises: ControlFault when the token was used for another."""
        done = self._records.find_done(asked.token) if asked else None
        if asked is None or done is None:
            return None
        refuse_another_request(done.asked, asked)
        return done.resource_id

    def _begin(self, work: Work, asked: Asked | None) -> None:
        self._records.begin(work, asked)
        self._wake.set()


def _described(work: Work) -> Json:
    if work.record.is_cache:
        links = [associations.decode(each.encode()).association_id for each in work.associations]
        return fsx_caches.described(work.record, links, lifecycle=work.lifecycle, failure=work.failure)
    return described(work.record, work.tags, capacity_gib=0, lifecycle=work.lifecycle, failure=work.failure)


def _ours(work: Work) -> str:
    """The configuration file of a file system that got stuck, if it was made for it."""
    path = Path(work.config_path)
    return work.config_path if path.exists() and path.read_text(errors="replace") == work.config_text else ""
