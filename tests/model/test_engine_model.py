"""Random verbs on the engine and on a dict, with clean ends, kills and power cuts in between; the checker after every step."""

from __future__ import annotations

import shutil
import stat
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from s3lustrefs import errors
from s3lustrefs.meta.attributes import AttributeChange
from s3lustrefs.meta.check import check_engine
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE
from s3lustrefs.meta.schema import ObjectRecord
from s3lustrefs.meta.store import Store
from s3lustrefs.model.association import Association
from s3lustrefs.model.ids import Ino
from tests.model.engine_model import ROOT, Model

NAMES = st.sampled_from([b"a", b"b", b"c", b"dd", b"a" * 255])
PICK = st.integers(0, 1000)
FLAGS = st.sampled_from([0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE])
T = TypeVar("T")


class EngineMachine(RuleBasedStateMachine):
    """`/a` may be linked: then names below it are journalled, exported, and settled at random."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = Path(tempfile.mkdtemp(prefix="s3lustrefs-model-"))
        self.life = 0
        self.boot = 0
        self.model = Model()
        self.etags = 0
        self.synced: tuple[Model, int] | None = None
        self.open_store()
        linked = Association("/a", "bucket", "p/", association_id="dra-1")
        self.run(lambda: self.engine.link_association(linked))
        root = self.run(lambda: self.engine.lookup(Ino(ROOT), b"a"))
        self.linked = int(root.ino)
        self.model.create(ROOT, b"a", self.linked, root.mode, b"")
        for parent, name in ((self.linked, b"b"), (self.linked, b"c"), (ROOT, b"b"), (ROOT, b"c")):
            kind = stat.S_IFDIR if name == b"b" else stat.S_IFREG
            inode = self.run(lambda: self.engine.create(Ino(parent), name, kind | 0o755, 0, 0))  # noqa: B023
            self.model.create(parent, name, inode.ino, inode.mode, b"")

    def run(self, deed: Callable[[], Awaitable[T]]) -> T:
        """Engine verbs never wait; one that needs trio gets it."""

        async def call() -> T:
            return await deed()

        return trio.run(call)

    def open_store(self) -> None:
        self.store = Store(self.scratch / str(self.life), boot_id=f"boot-{self.boot}")
        self.engine = LmdbEngine(self.store)

    def both(self, verb: Callable[[], Awaitable[Any]], twin: Callable[[], Any]) -> Any:
        """Run both; they must agree on success, or on the error. The engine's answer, or None after an error."""
        try:
            found = self.run(verb)
        except errors.MetadataError as exc:
            try:
                twin()
            except errors.MetadataError as expected:
                assert type(expected) is type(exc), (expected, exc)
                return None
            raise
        twin()
        return found

    def directory(self, pick: int) -> int:
        return self.model.directories()[pick % len(self.model.directories())]

    def entry(self, pick: int, name: bytes) -> tuple[int, bytes]:
        """Mostly a name that exists."""
        entries = [
            (ino, child) for ino, node in self.model.nodes.items() for child in node.children if child != b"a" or ino != ROOT
        ]
        return entries[pick % len(entries)] if entries and pick % 7 else (self.directory(pick), name)

    def node(self, pick: int) -> int:
        return list(self.model.nodes)[pick % len(self.model.nodes)]

    # --- names -------------------------------------------------------------------------------------------------------------

    @rule(pick=PICK, name=NAMES, kind=st.sampled_from([stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO]))
    def create(self, pick: int, name: bytes, kind: int) -> None:
        parent = self.directory(pick)
        target = b"somewhere" if kind == stat.S_IFLNK else b""
        made: list[int] = []

        async def verb() -> None:
            inode = await self.engine.create(Ino(parent), name, kind | 0o644, 0, 0, target=target)
            made.append(inode.ino)

        def twin() -> None:
            self.model.check_free(parent, name)
            self.model.create(parent, name, made[0], kind | 0o644, target)

        self.both(verb, twin)

    @rule(pick=PICK, to=PICK, name=NAMES)
    def link(self, pick: int, to: int, name: bytes) -> None:
        ino, parent = self.node(pick), self.directory(to)
        self.both(lambda: self.engine.link(Ino(ino), Ino(parent), name), lambda: self.model.link(ino, parent, name))

    @rule(pick=PICK, name=NAMES)
    def unlink(self, pick: int, name: bytes) -> None:
        parent, name = self.entry(pick, name)
        self.both(lambda: self.engine.unlink(Ino(parent), name), lambda: self.model.unlink(parent, name))

    @rule(pick=PICK, name=NAMES)
    def rmdir(self, pick: int, name: bytes) -> None:
        parent, name = self.entry(pick, name)
        if self.model.nodes[parent].children.get(name) != self.linked:
            self.both(lambda: self.engine.rmdir(Ino(parent), name), lambda: self.model.rmdir(parent, name))

    @rule(pick=PICK, name=NAMES, to=PICK, new_name=NAMES, flags=FLAGS)
    def rename(self, pick: int, name: bytes, to: int, new_name: bytes, flags: int) -> None:
        parent, name = self.entry(pick, name)
        new_parent, new_name = self.entry(to, new_name) if to % 2 else (self.directory(to), new_name)
        touched = {self.model.nodes[parent].children.get(name), self.model.nodes[new_parent].children.get(new_name)}
        if self.linked not in touched:
            self.both(
                lambda: self.engine.rename(Ino(parent), name, Ino(new_parent), new_name, flags),
                lambda: self.model.rename(parent, name, new_parent, new_name, flags),
            )

    # --- attributes and content --------------------------------------------------------------------------------------------

    @rule(pick=PICK, mode=st.sampled_from([0o700, 0o755, 0o2755]))
    def chmod(self, pick: int, mode: int) -> None:
        ino = self.node(pick)
        self.run(lambda: self.engine.set_attributes(Ino(ino), AttributeChange(mode=mode)))
        node = self.model.nodes[ino]
        node.mode = stat.S_IFMT(node.mode) | mode

    @rule(pick=PICK, name=NAMES, value=st.binary(max_size=10))
    def set_xattr(self, pick: int, name: bytes, value: bytes) -> None:
        ino = self.node(pick)
        self.run(lambda: self.engine.set_xattr(Ino(ino), name, value))
        self.model.nodes[ino].xattrs[name] = value

    @rule(pick=PICK, end=st.integers(1, 5000), closed=st.booleans())
    def write(self, pick: int, end: int, closed: bool) -> None:
        files = [ino for ino, node in self.model.nodes.items() if stat.S_ISREG(node.mode)]
        if files:
            ino = files[pick % len(files)]

            async def deed() -> None:
                await self.engine.begin_write(Ino(ino))
                await self.engine.end_write(Ino(ino), end)
                if closed:
                    await self.engine.make_due(Ino(ino))

            self.run(deed)
            self.model.nodes[ino].size = max(self.model.nodes[ino].size, end)

    @rule(pick=PICK, size=st.integers(0, 3000))
    def truncate(self, pick: int, size: int) -> None:
        files = [ino for ino, node in self.model.nodes.items() if stat.S_ISREG(node.mode)]
        if files:
            ino = files[pick % len(files)]
            self.run(lambda: self.engine.set_size(Ino(ino), size, still_open=False))
            self.model.nodes[ino].size = size

    # --- what the exporter does ----------------------------------------------------------------------------------------------

    @rule(pick=PICK, content=st.booleans(), finished=st.booleans())
    def export_one(self, pick: int, content: bool, finished: bool) -> None:
        """One record as the exporter treats it, with every condition met."""

        async def deed() -> None:
            rows = await self.engine.due(b"", 1000)
            if not rows:
                return
            record = rows[pick % len(rows)][1]
            if record.change & 8 and record.ino:
                await self.engine.expand_directory(record, b"", 1000)
                await self.engine.end_expansion(record)
            elif record.change & 8:
                association = self.engine.association(record.assoc)
                assert association is not None
                await self.engine.expand_prefix(association, record, b"", 1000)
                await self.engine.end_expansion(record)
            elif record.ino:
                await self._export_inode(record, finished)
            elif await self.engine.holder(record.assoc, record.key) is None:
                await self.engine.forget_object(record.assoc, record.key, with_writes=True)
                await self.engine.finish(record)

        self.run(deed)

    async def _export_inode(self, record: Any, finished: bool) -> None:
        view = await self.engine.export_view(record.ino)
        assert view is not None
        for target in view.targets:
            if await self.engine.dependant(target.known, record.ino) is None:
                self.etags += 1
                exported = ObjectRecord(target.association.assoc_id, target.key, record.ino, f"e{self.etags}", view.inode.size)
                await self.engine.settle_object(record.ino, exported, content=True, version=view.inode.content_version)
        if finished:
            await self.engine.finish(record)

    @rule(pick=PICK)
    def release(self, pick: int) -> None:
        ino = self.node(pick)

        async def deed() -> None:
            try:
                await self.engine.release_content(Ino(ino))
            except errors.NotPermitted:
                return

        self.run(deed)

    # --- ends ----------------------------------------------------------------------------------------------------------------

    @rule()
    def checkpoint(self) -> None:
        self.run(self.store.checkpoint)

    @rule()
    def end_cleanly(self) -> None:
        self.run(self.store.close)
        self.open_store()

    @rule()
    def be_killed(self) -> None:
        """What a killed daemon leaves is a copy of the files as they are."""
        self._copy_files()
        self.open_store()

    def _copy_files(self) -> None:
        old, self.life = self.scratch / str(self.life), self.life + 1
        shutil.copytree(old, self.scratch / str(self.life))
        self.run(self.store.close)
        shutil.rmtree(old)

    @rule()
    def be_synced_and_lose_power(self) -> None:
        """Everything before an fsync is there after a power cut."""
        self.run(self.store.sync)
        self._copy_files()
        self.boot += 1
        self.open_store()

    # --- what must hold ------------------------------------------------------------------------------------------------------

    @invariant()
    def table_is_sound(self) -> None:
        assert check_engine(self.store) == []

    @invariant()
    def engine_equals_model(self) -> None:
        async def look() -> None:
            for ino, node in self.model.nodes.items():
                inode = await self.engine.get(Ino(ino))
                assert (inode.mode, inode.gid, inode.size) == (node.mode, node.gid, node.size), ino
                assert inode.nlink == self.model.nlink(ino), ino
                assert {n: await self.engine.get_xattr(Ino(ino), n) for n in await self.engine.list_xattrs(Ino(ino))} == node.xattrs
                if node.is_dir:
                    entries = await self.engine.readdir(Ino(ino), b"", 1000)
                    assert [(n, i.ino) for n, i in entries] == sorted(node.children.items())
            assert self.engine.inode_count == len(self.model.nodes)

        self.run(look)

    def teardown(self) -> None:
        self.run(self.store.close)
        shutil.rmtree(self.scratch)


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(max_examples=60, stateful_step_count=40, suppress_health_check=list(HealthCheck), database=None)
