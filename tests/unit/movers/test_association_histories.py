"""Associations under random requests, deaths of the daemon between any two steps, and buckets that come and go.

Against a model that knows only what clients were told: what was answered is done in the end, whoever dies meanwhile; nothing else
is; and the table is sound at every moment.
"""

from __future__ import annotations

import shutil
import stat
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.errors import ControlFault
from s3lustrefs.meta.check import check_engine
from s3lustrefs.meta.schema import ObjectRecord
from s3lustrefs.model.ids import ROOT_INO, Ino
from tests.unit.movers.associations_scene import Scene, is_death, run

T = TypeVar("T")
pytestmark = pytest.mark.usefixtures("quiet")
IDLE = -1
BUCKETS = ("bucket-a", "bucket-b")
PATHS = ("/a", "/b", "/c/deep", "/a/below")
EVENTS = st.sampled_from([[], ["NEW"], ["NEW", "CHANGED", "DELETED"]])
DEATH = st.none() | st.integers(0, 40)
WORK = st.just(IDLE) | st.none() | st.none() | st.integers(0, 40)
"""Whether the daemon works on a request at once, and until when."""
FAULTS = {
    "denied": errors.RepositoryDenied("no permission"),
    "gone": errors.BucketNotFound("no bucket"),
    "slow": errors.RepositoryUnavailable("503"),
}


class Histories(RuleBasedStateMachine):
    """`promised`: what clients were told of each association, by its id; None: that it is being deleted."""

    linked = Bundle("linked")

    def __init__(self) -> None:
        super().__init__()
        self.scratch = Path(tempfile.mkdtemp(prefix="s3lustrefs-t-"))
        self.chunks = ChunkStore([self.scratch / "data"])
        self.chunks.open_()
        self.scene = Scene(self.scratch, self.chunks)
        self.promised: dict[str, dict[str, Any] | None] = {}
        self.files = 0
        self.run(self._make_directories)

    async def _make_directories(self) -> None:
        """Some of what is linked later is there before."""
        parent = ROOT_INO
        for name in (b"c", b"deep"):
            parent = (await self.scene.engine.create(parent, name, stat.S_IFDIR | 0o755, 0, 0)).ino
        await self.scene.engine.create(ROOT_INO, b"a", stat.S_IFDIR | 0o755, 0, 0)

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.run(self.scene.store.close)
            self.chunks.close()
            shutil.rmtree(self.scratch)

    run = staticmethod(run)

    def mortally(self, death: int | None, deed: Callable[[], Awaitable[T]]) -> T | None:
        """Do something in a daemon that dies before its verb of that number; None when it did. The next daemon begins then."""
        self.scene.mortal.calls_left = death
        try:
            return self.run(deed)
        except BaseException as exc:
            if not is_death(exc):
                raise
            self.scene.start()
            return None
        finally:
            self.scene.mortal.calls_left = None

    @initialize(target=linked, path=st.sampled_from(PATHS), exports=EVENTS)
    def begin(self, path: str, exports: list[str]) -> Any:
        return self.create(path, BUCKETS[0], "", True, [], exports, None)

    # --- what clients do -----------------------------------------------------------------------------------------------------

    @rule(target=linked, path=st.sampled_from(PATHS), bucket=st.sampled_from(BUCKETS), prefix=st.sampled_from(["", "", "/in"]),
          batch=st.booleans(), imports=EVENTS, exports=EVENTS, then=WORK)  # fmt: skip
    def create(
        self, path: str, bucket: str, prefix: str, batch: bool, imports: list[str], exports: list[str], then: int | None
    ) -> Any:
        policies = {"AutoImportPolicy": {"Events": imports}, "AutoExportPolicy": {"Events": exports}}
        given = {"BatchImportMetaDataOnCreate": batch, "S3": policies}
        try:
            made = self.run(lambda: self.scene.create(path, f"s3://{bucket}{path}{prefix}", **given))
        except ControlFault as exc:
            overlaps = any(word in str(exc) for word in ("contains the other", "cannot validate access", "is not a directory"))
            assert exc.fault == "BadRequest" and overlaps, exc
            return multiple()
        assert bucket not in self.scene.faults
        self.promised[made] = {"FileSystemPath": path, **given}
        self.work(then)
        return made

    def work(self, then: int | None) -> None:
        if then != IDLE:
            self.mortally(then, self.scene.work)

    @rule(association=linked, exports=EVENTS, then=WORK)
    def update(self, association: str, exports: list[str], then: int | None) -> None:
        request = {"AssociationId": association, "S3": {"AutoExportPolicy": {"Events": exports}}}
        try:
            self.run(lambda: self.scene.call("UpdateDataRepositoryAssociation", **request))
        except ControlFault as exc:
            if exc.fault == "DataRepositoryAssociationNotFound":
                assert self.promised[association] is None
            else:
                assert any(word in str(exc) for word in ("cannot be updated", "cannot validate access")), exc
            return
        told = self.promised[association]
        assert told is not None
        told["S3"] = {**told["S3"], "AutoExportPolicy": {"Events": exports}}
        self.work(then)

    @rule(association=consumes(linked), data=st.booleans(), then=WORK)
    def delete(self, association: str, data: bool, then: int | None) -> None:
        answer = self.run(
            lambda: self.scene.call("DeleteDataRepositoryAssociation", AssociationId=association, DeleteDataInFileSystem=data)
        )
        assert answer["Lifecycle"] == "DELETING"
        self.promised[association] = None
        self.work(then)

    # --- what users do -------------------------------------------------------------------------------------------------------

    @rule(pick=st.integers(0, 20), kinds=st.lists(st.sampled_from(["cold", "exported", "dirty"]), min_size=1, max_size=4))
    def make_files(self, pick: int, kinds: list[str]) -> None:
        linked = [each.file_system_path for each in self.scene.engine.all_associations() if each.is_linked]
        places = [*linked, *linked, *PATHS]

        async def make() -> None:
            for kind in kinds:
                self.files += 1
                await self._make_file(places[pick % len(places)], b"f%d" % self.files, kind == "cold", kind == "dirty")

        self.run(make)

    async def _make_file(self, path: str, name: bytes, is_cold: bool, is_dirty: bool) -> None:
        engine = self.scene.engine
        with suppress(errors.NotFound):
            parent = (await engine.resolve(path.encode())).ino
            inode = await engine.create(parent, name, stat.S_IFREG | 0o644, 0, 0)
            await engine.begin_write(inode.ino)
            await engine.end_write(inode.ino, 3)
            await engine.make_due(inode.ino)
            view = await engine.export_view(inode.ino)
            if is_dirty or view is None or not view.targets:
                return
            target = view.targets[0]
            sent = ObjectRecord(target.association.assoc_id, target.key, inode.ino, "etag", 3)
            await engine.settle_object(inode.ino, sent, content=True, version=view.inode.content_version)
            record = await engine.find_journal(inode.ino)
            assert record is not None and await engine.finish(record)
            if is_cold:
                await engine.release_content(inode.ino)

    @rule(path=st.sampled_from(PATHS), to=st.sampled_from(PATHS))
    def move_something(self, path: str, to: str) -> None:
        async def move() -> None:
            engine = self.scene.engine
            with suppress(errors.MetadataError):
                source, target = [(await engine.resolve(each.encode())).ino for each in (path, to)]
                name, _ = (await engine.readdir(Ino(source), b"", 1))[0]
                await engine.rename(source, name, target, name + b"-moved")

        with suppress(IndexError):
            self.run(move)

    # --- what happens --------------------------------------------------------------------------------------------------------

    @rule(bucket=st.sampled_from(BUCKETS), fault=st.sampled_from([None, None, None, None, *FAULTS]))
    def bucket_changes(self, bucket: str, fault: str | None) -> None:
        self.scene.faults.pop(bucket, None)
        if fault is not None:
            self.scene.faults[bucket] = FAULTS[fault]

    @rule(death=DEATH)
    def daemon_works(self, death: int | None) -> None:
        self.mortally(death, self.scene.work)

    @rule(death=DEATH)
    def watch_looks(self, death: int | None) -> None:
        async def look() -> None:
            with trio.move_on_after(60):
                await self.scene.watch.run()

        self.mortally(death, look)

    @rule()
    def daemon_dies(self) -> None:
        self.scene.start()

    # --- what must hold ------------------------------------------------------------------------------------------------------

    @invariant()
    def table_is_sound(self) -> None:
        assert check_engine(self.scene.store) == []

    @rule()
    def settle(self) -> None:
        """Once everything is worked on and the buckets are well, the associations are those that clients were promised."""
        self.scene.faults.clear()
        self.run(self.scene.work)
        self.watch_looks(None)
        found = self.run(self.scene.described)
        promised = {key: told for key, told in self.promised.items() if told is not None}
        assert found.keys() == promised.keys()
        for key, told in promised.items():
            assert found[key]["Lifecycle"] == "AVAILABLE" and "FailureDetails" not in found[key]
            assert {name: found[key][name] for name in told} == told
        for association in self.scene.engine.all_associations():
            assert self.scene.links.find(association.assoc_id) is not None
            assert self.scene.repositories.failure(association.assoc_id) is None
        self.table_is_sound()


Histories.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)  # fmt: skip


TestHistories = Histories.TestCase
