"""The checker finds each kind of damage, says where, and changes nothing; a sound table has no findings."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from s3lustrefs import errors
from s3lustrefs.meta import records, schema
from s3lustrefs.meta.check import check_engine, check_state_dir
from s3lustrefs.meta.listing import preparer, preparer_options
from s3lustrefs.meta.lmdb_engine import LmdbEngine
from s3lustrefs.meta.redo_log import current_boot_id
from s3lustrefs.meta.schema import SUPER_FORMAT, SUPER_NEXT_INO, Change, JournalRecord, JournalState, ObjectRecord, Table
from s3lustrefs.meta.store import Store
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.association import Association
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import ROOT_INO, AssocId, Ino
from s3lustrefs.model.inode import Inode, InodeFlag

FILE, DIR = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755
ONE = AssocId(1)


async def sound(directory: Path) -> tuple[Store, dict[str, Inode]]:
    """A table with one of everything, and its inodes by name."""
    store = Store(directory / "meta", boot_id=current_boot_id())
    in_use: set[Ino] = set()
    engine = LmdbEngine(store, in_use=in_use.__contains__)
    association = await engine.link_association(Association("/a", "bucket", "p/", association_id="dra-1"))
    root = Ino(association.root_ino)
    prepare = preparer(**preparer_options(association))  # type: ignore[arg-type]
    await engine.apply_listing(association, [(b"", [prepare(b"cold", b"cold", 10, b"e", 5, b"STANDARD")])])
    made = {"a": await engine.get(root), "cold": await engine.lookup(root, b"cold")}
    made["file"] = await engine.create(root, b"file", FILE, 0, 0)
    made["dir"] = await engine.create(root, b"dir", DIR, 0, 0)
    made["below"] = await engine.create(made["dir"].ino, b"below", DIR, 0, 0)
    await engine.link(made["file"].ino, made["dir"].ino, b"link")
    await engine.set_xattr(made["file"].ino, b"user.x", b"1")
    await engine.put_residency(made["cold"].ino, made["cold"].content_version, b"x", complete=False)
    gone = await engine.create(root, b"gone", FILE, 0, 0)
    in_use.add(gone.ino)
    made["gone"] = await engine.unlink(root, b"gone")
    return store, {name: await engine.get(inode.ino) for name, inode in made.items()}


Damage = Callable[[Txn, dict[str, Inode]], None]


def changed(name: str, **fields: object) -> Damage:
    return lambda txn, made: records.put_inode(txn, replace(made[name], **fields))  # type: ignore[arg-type]


def removed(table: Table, key: Callable[[dict[str, Inode]], bytes]) -> Damage:
    return lambda txn, made: txn.delete(table, key(made))


def added(table: Table, key: Callable[[dict[str, Inode]], bytes], value: bytes = b"") -> Damage:
    return lambda txn, made: txn.put(table, key(made), value)


def ino(name: str) -> Callable[[dict[str, Inode]], bytes]:
    return lambda made: schema.pack_u64(made[name].ino)


def loop(txn: Txn, made: dict[str, Inode]) -> None:
    """`dir` and `below` contain each other."""
    records.delete_dentry(txn, made["a"].ino, b"dir")
    records.put_dentry(txn, made["below"].ino, b"dir", made["dir"].ino)
    records.put_inode(txn, replace(made["a"], nlink=2))
    records.put_inode(txn, replace(made["below"], nlink=3))
    records.put_inode(txn, replace(made["dir"], parent=made["below"].ino))


def put_object(found: ObjectRecord) -> Damage:
    return lambda txn, made: records.put_object(txn, found)


def put_journal(record: JournalRecord) -> Damage:
    return lambda txn, made: records.put_journal(txn, record)


DAMAGE: dict[str, tuple[Damage, str]] = {
    "inode missing": (removed(Table.INODES, ino("file")), "DENTRIES 2 b'file': names an inode that is not there"),
    "dentry missing": (removed(Table.DENTRIES, lambda m: schema.dentry_key(m["a"].ino, b"file")), "is not its dentry"),
    "dentry of nobody": (
        added(Table.DENTRIES, lambda m: schema.dentry_key(Ino(77), b"x"), b"\0" * 8),
        "in an inode that is not there",
    ),
    "directory object of a file": (
        lambda txn, m: records.put_object(txn, ObjectRecord(ONE, b"p/cold/", m["cold"].ino, "d", 0)),
        "which is no directory",
    ),
    "dentry in a file": (
        lambda txn, m: records.put_dentry(txn, m["file"].ino, b"x", m["cold"].ino),
        "in an inode that is no directory",
    ),
    "dentry unknown to its inode": (
        lambda txn, m: records.put_dentry(txn, m["a"].ino, b"x", m["cold"].ino),
        "does not know this name",
    ),
    "name with a slash": (lambda txn, m: records.put_dentry(txn, m["a"].ino, b"x/y", m["cold"].ino), "cannot be a name"),
    "dentry in an orphan": (
        lambda txn, m: records.put_inode(txn, replace(m["dir"], nlink=0, parent=Ino(0), name=b"")),
        "that was removed",
    ),
    "loop": (loop, "cannot be reached from the root"),
    "nlink of a file": (changed("file", nlink=5), "has nlink 5 with 2 names"),
    "nlink of a single file": (changed("cold", nlink=2), "has nlink 2 but one name"),
    "nlink of a directory": (changed("dir", nlink=2), "has nlink 2 with 1 subdirectories"),
    "nlink of an empty directory": (changed("below", nlink=9), "has nlink 9 but is empty"),
    "link missing": (
        removed(Table.LINKS, lambda m: schema.link_key(m["file"].ino, m["dir"].ino, b"link")),
        "does not know this name",
    ),
    "link of nobody": (added(Table.LINKS, lambda m: schema.link_key(Ino(77), m["dir"].ino, b"x")), "belongs to no file"),
    "link that is no dentry": (added(Table.LINKS, lambda m: schema.link_key(m["file"].ino, m["dir"].ino, b"x")), "is not a dentry"),
    "link that is the primary name": (
        added(Table.LINKS, lambda m: schema.link_key(m["file"].ino, m["a"].ino, b"file")),
        "is the primary name",
    ),
    "xattr of nobody": (added(Table.XATTRS, lambda m: schema.pack_u64(77) + b"user.x"), "XATTRS 77 b'user.x': belongs to an inode"),
    "xattr without name": (added(Table.XATTRS, ino("file")), "has no name"),
    "orphan missing": (removed(Table.ORPHANS, ino("gone")), "has no name and is no orphan"),
    "orphan of nobody": (added(Table.ORPHANS, lambda m: schema.pack_u64(77)), "ORPHANS 77: is not there"),
    "orphan with a name": (added(Table.ORPHANS, ino("file")), "has nlink 2"),
    "residency of nobody": (
        added(Table.RESIDENCY, lambda m: schema.pack_u64(77), b"\0\0\0\1"),
        "RESIDENCY 77: belongs to an inode",
    ),
    "residency of a whole file": (added(Table.RESIDENCY, ino("file"), b"\0\0\0\1"), "every byte is resident"),
    "residency of other content": (added(Table.RESIDENCY, ino("cold"), b"\0\0\0\x09"), "is of content version 9, the inode has 1"),
    "residency cut short": (added(Table.RESIDENCY, ino("cold"), b"\0"), "cannot be decoded"),
    "object of nobody": (put_object(ObjectRecord(ONE, b"p/x", Ino(77), "e", 1)), "names inode 77, which was never handed out"),
    "object of no association": (
        put_object(ObjectRecord(AssocId(9), b"p/x", Ino(0), "e", 1)),
        "association 9, which does not exist",
    ),
    "object outside the prefix": (put_object(ObjectRecord(ONE, b"q/x", Ino(0), "e", 1)), "is outside the prefix 'p/'"),
    "object cut short": (added(Table.OBJECTS, lambda m: schema.object_key(ONE, b"p/x"), b"\0"), "cannot be decoded"),
    "source missing": (removed(Table.OBJECTS, lambda m: schema.object_key(ONE, b"p/cold")), "bytes are missing"),
    "source of no association": (changed("cold", source_assoc=AssocId(9)), "association 9, which does not exist"),
    "journal of nobody": (
        put_journal(JournalRecord(Ino(77), AssocId(0), b"", JournalState.DUE, Change.CONTENT, 1, 1)),
        "inode 77 exported",
    ),
    "journal of an orphan": (
        lambda txn, m: records.put_journal(
            txn, JournalRecord(m["gone"].ino, AssocId(0), b"", JournalState.DUE, Change.CONTENT, 1, 1)
        ),
        "which has no name",
    ),
    "journal of no association": (
        put_journal(JournalRecord(Ino(0), AssocId(9), b"p/x", JournalState.DUE, Change.NAME, 1, 1)),
        "JOURNAL 9 b'p/x': is of association 9",
    ),
    "dirty and not journalled": (removed(Table.JOURNAL, lambda m: schema.journal_ino_key(m["file"].ino)), "not in the journal"),
    "illegal flags": (changed("cold", hsm=Hsm.DIRTY), "dirty without exists"),
    "flags of a directory": (changed("below", hsm=Hsm.EXISTS), "has HSM flags but is no file"),
    "partial directory": (changed("below", flags=InodeFlag.PARTIAL), "no bytes that could be missing"),
    "kind unknown, headers known": (changed("file", flags=InodeFlag.KIND_UNKNOWN), "is of unknown kind"),
    "no chunk size": (changed("file", chunk_bytes=0), "has no chunk size"),
    "no kind of file": (changed("below", mode=0o644), "which is no kind of file"),
    "next ino": (added(Table.SUPER, lambda m: SUPER_NEXT_INO, b"3"), "is taken"),
    "association elsewhere": (removed(Table.DENTRIES, lambda m: schema.dentry_key(ROOT_INO, b"a")), "/a is not its directory 2"),
    "association cut short": (added(Table.ASSOCIATIONS, lambda m: b"\0\1", b"{"), "ASSOCIATIONS 1: cannot be decoded"),
    "association number": (
        lambda txn, m: txn.put(Table.ASSOCIATIONS, b"\0\2", txn.get(Table.ASSOCIATIONS, b"\0\1") or b""),
        "carries number 1",
    ),
    "skipped without reason": (added(Table.SKIPPED, lambda m: b"\0\1p/x", b"x"), "has no reason"),
    "write of another key": (
        added(Table.WRITES, lambda m: b"\0\1p/x", schema.encode_writes(b"p/y", [])),
        "WRITES 1 b'p/x': carries another key",
    ),
    "root missing": (removed(Table.INODES, lambda m: schema.pack_u64(ROOT_INO)), "the root is not there"),
}


@pytest.mark.parametrize("what", DAMAGE)
async def test_damage_is_found(tmp_path: Path, what: str) -> None:
    store, made = await sound(tmp_path)
    assert check_engine(store) == []
    damage, expected = DAMAGE[what]
    with store.begin() as txn:
        damage(txn, made)
    findings = check_engine(store)
    assert any(expected in finding for finding in findings), findings
    await store.checkpoint()
    assert check_engine(store) == findings
    await store.close()


async def test_findings_are_bounded(tmp_path: Path) -> None:
    store, _ = await sound(tmp_path)
    with store.begin() as txn:
        for number in range(1500):
            txn.put(Table.ORPHANS, schema.pack_u64(10_000 + number), b"")
    assert len(check_engine(store)) == 1001
    await store.close()


# --- a directory nobody uses -------------------------------------------------------------------------------------------------


async def left_behind(tmp_path: Path) -> Path:
    """What a killed daemon leaves: half of it in the log only."""
    store, _ = await sound(tmp_path / "old")
    await store.checkpoint()
    with store.begin() as txn:
        txn.put(Table.XATTRS, schema.pack_u64(77) + b"user.x", b"")
    state_dir = tmp_path / "state"
    shutil.copytree(store.directory, state_dir / "meta")
    (state_dir / "lock").touch()
    await store.close()
    return state_dir


def digest(state_dir: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in state_dir.rglob("*") if p.is_file()}


async def test_log_is_replayed_and_nothing_is_changed(tmp_path: Path) -> None:
    state_dir = await left_behind(tmp_path)
    before = digest(state_dir)
    assert check_state_dir(state_dir) == ["XATTRS 77 b'user.x': belongs to an inode that is not there"]
    assert digest(state_dir) == before


async def test_after_a_power_cut_what_was_not_synced_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state_dir = await left_behind(tmp_path)
    monkeypatch.setattr("s3lustrefs.meta.table_view.current_boot_id", lambda: "another boot")
    assert check_state_dir(state_dir) == []


async def test_directory_in_use_missing_or_foreign_is_refused(tmp_path: Path) -> None:
    state_dir = await left_behind(tmp_path)
    with open(state_dir / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(errors.StateDirError, match="in use"):
            check_state_dir(state_dir)
    with pytest.raises(errors.StateDirError, match="absent"):
        check_state_dir(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "lock").touch()
    with pytest.raises(errors.StateDirError, match="no inode table"):
        check_state_dir(tmp_path / "empty")
    store = Store(state_dir / "meta", boot_id=current_boot_id())
    with store.begin() as txn:
        txn.put(Table.SUPER, SUPER_FORMAT, b"99")
    await store.close()
    with pytest.raises(errors.StateDirError, match="format 99"):
        check_state_dir(state_dir)


async def test_daemon_that_died_before_its_first_record_left_nothing_wrong(tmp_path: Path) -> None:
    await Store(tmp_path / "meta", boot_id="b").close()
    (tmp_path / "lock").touch()
    assert check_state_dir(tmp_path) == []
