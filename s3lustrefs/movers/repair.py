"""fsck: checks, and with `repair` makes good, what a damaged disk may have done to an unmounted file system.

Repair goes from the log (what can be read counts, up to the first damage) over the table (meta/repair) to the content: bytes that
the bucket has are fetched again when they are read; bytes that existed only here and are gone are never made up, but reported, and
reading them gives EIO. Content that belongs to nothing is kept in `TARGET/lost+found`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from s3lustrefs import errors
from s3lustrefs.data import targets
from s3lustrefs.data.layout import ChunkKey, Layout
from s3lustrefs.meta import check, content_place, records
from s3lustrefs.meta import repair as table_repair
from s3lustrefs.meta.content_place import ContentPlace
from s3lustrefs.meta.redo_log import current_boot_id
from s3lustrefs.meta.schema import SUPER_CONTENT_PLACE, SUPER_FORMAT, Table
from s3lustrefs.meta.state_dir import StateDir
from s3lustrefs.meta.store import Store
from s3lustrefs.meta.table_view import TableView, unmounted, view_of
from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import ContentVersion
from s3lustrefs.movers.content_check import ContentCheck, Missing

LOST_AND_FOUND = "lost+found"


@dataclass(slots=True)
class Outcome:
    """One line per repair; `lost`: what is gone for good, or is not as it was; `left`: what could not be repaired."""

    repaired: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def find(state_dir: Path, cache_dirs: Sequence[Path] = ()) -> list[str]:
    """Findings about log, table and content, none of which is changed; empty: clean. Raises: StateDirError.

    `cache_dirs`: where the content is now; without them, where it was at the last mount.
    """
    with unmounted(state_dir) as view:
        if view.get(Table.SUPER, SUPER_FORMAT) is None:
            return []  # its first daemon died before it wrote anything
        findings = [*view.log_defects, *check.findings(view)]
        place = _place(view)
        paths = list(cache_dirs) or [Path(target) for target in place.targets]
        if not place.is_marked or not paths:
            return findings
        defects = targets.defects(paths, place.identity)
        if defects:
            return [*findings, *(f"storage target {defect}" for defect in defects)]
        with closing(Layout(paths)) as layout:
            content = ContentCheck(view, layout)
            findings += [f"{each.path}: {_told(each)}" for each in content.missing()]
            if not view.is_content_ahead:
                findings += [f"{path}: content of a file the table does not know" for _, path in content.unknown()]
        return findings


async def repair(state_dir: Path, cache_dirs: Sequence[Path] = ()) -> Outcome:
    """Repair what can be repaired. Raises: StateDirError, when the directory is in use or nothing can be done at all."""
    if not (state_dir / "meta" / "data.mdb").exists():
        raise errors.StateDirError(f"no inode table in {state_dir / 'meta'}")
    outcome = Outcome()
    with StateDir(state_dir, patience_seconds=0):
        store = Store(state_dir / "meta", boot_id=current_boot_id(), accept_damaged_log=True)
        try:
            if store.check_format():
                _Repair(store, cache_dirs, outcome).run()
        finally:
            await store.close()
    outcome.left += find(state_dir, cache_dirs)
    return outcome


class _Repair:
    """One run over an open store."""

    def __init__(self, store: Store, cache_dirs: Sequence[Path], outcome: Outcome) -> None:
        self._store = store
        self._outcome = outcome
        self._given = tuple(cache_dirs)
        self._highest: dict[int, int] = {}

    def run(self) -> None:
        outcome = self._outcome
        outcome.lost += [f"{defect}: changes from there on are lost" for defect in self._store.log_defects]
        layout, suspect = self._targets()
        try:
            self._repair(layout, suspect)
        finally:
            if layout is not None:
                layout.close()

    def _repair(self, layout: Layout | None, suspect: list[int]) -> None:
        outcome = self._outcome
        if layout is not None:
            for key, _ in layout.entries():
                self._highest[key.ino] = max(key.version, self._highest.get(key.ino, 0))
            self._keep_unknown(layout)
        table = table_repair.TableRepair(self._store)
        table.run(least_next_ino=max(self._highest, default=1) + 1)
        for line in table.lines:
            (outcome.lost if "LOST" in line else outcome.repaired).append(line)
        if layout is not None:
            for missing in list(ContentCheck(view_of(self._store), layout, suspect=suspect).missing()):
                self._repair_content(missing, layout)
            self._mark_targets(layout, suspect)
        if outcome.lost or outcome.repaired:
            table_repair.import_again(self._store)

    def _targets(self) -> tuple[Layout | None, list[int]]:
        """The layout, and the targets whose content is gone. Raises: StateDirError for targets that are somebody else's."""
        place = _place(view_of(self._store))
        paths = self._given or tuple(Path(target) for target in place.targets)
        if not place.is_marked or not paths:
            return None, []
        suspect = []
        for index, path in enumerate(paths):
            mark = targets.read_mark(path)
            wanted = targets.Mark(place.identity, index, len(paths))
            if mark is not None and mark != wanted:
                raise errors.StateDirError(f"storage target {'; '.join(targets.defects(paths, place.identity))}")
            if mark is None:
                suspect.append(index)
        layout = Layout(paths)
        if suspect:
            layout.prepare()
        return layout, suspect

    def _mark_targets(self, layout: Layout, suspect: list[int]) -> None:
        """Last, so that a repair cut short begins anew."""
        place = _place(view_of(self._store))
        paths = layout.targets
        for index in suspect:
            targets.write_mark(paths[index], targets.Mark(place.identity, index, len(paths)))
            self._outcome.repaired.append(
                f"{paths[index]}: marked as storage target {index + 1}; it held no content of this file system"
            )
        content_place.save(self._store, ContentPlace(place.identity, tuple(map(str, paths)), is_marked=True))

    def _keep_unknown(self, layout: Layout) -> None:
        for key, path in list(ContentCheck(view_of(self._store), layout).unknown()):
            kept = _keep(path)
            self._outcome.lost.append(
                f"inode {key.ino}: its name is lost, its bytes (part {key.chunk_index + 1}) are kept in {kept}"
            )

    def _repair_content(self, missing: Missing, layout: Layout) -> None:
        inode = missing.inode.copy()
        with self._store.begin() as txn:
            known = records.find_object(txn, inode.source_assoc, inode.source_key) if inode.source_assoc else None
            if known is None or known.ino != inode.ino:
                table_repair.damage(txn, inode, missing.intact.encode())
                self._outcome.lost.append(f"{missing.path}: {_told(missing)}; LOST, since the bucket does not have them")
                return
            inode.content_version = ContentVersion(max(inode.content_version, self._highest.get(inode.ino, 0)) + 1)
            if not inode.hsm & Hsm.DIRTY:
                table_repair.forget_content(txn, inode)
                self._outcome.repaired.append(f"{missing.path}: {_told(missing)}; they are fetched again from the bucket")
                return
            table_repair.revert(txn, inode, known)
        kept = [_keep(layout.path(key)) for key in _chunks_of(missing, layout)]
        rest = f"; what was left is kept in {', '.join(kept)}" if kept else ""
        self._outcome.lost.append(f"{missing.path}: {_told(missing)}; LOST are all changes since the version in the bucket{rest}")


def _chunks_of(missing: Missing, layout: Layout) -> list[ChunkKey]:
    return layout.keys_of(missing.inode.ino, missing.inode.content_version)


def _keep(path: str) -> str:
    """Move a chunk file out of the way of whoever removes chunk files without an inode."""
    target = Path(path).parents[2]
    (target / LOST_AND_FOUND).mkdir(mode=0o700, exist_ok=True)
    kept = target / LOST_AND_FOUND / Path(path).name
    while kept.exists():
        kept = kept.with_name(kept.name + "+")
    os.rename(path, kept)
    return str(kept)


def _place(view: TableView) -> ContentPlace:
    raw = view.get(Table.SUPER, SUPER_CONTENT_PLACE)
    return content_place.decode(raw) if raw else ContentPlace("", (), is_marked=False)


def _told(missing: Missing) -> str:
    start, end = missing.lost[0]
    more = f" and {len(missing.lost) - 1} more extents" if len(missing.lost) > 1 else ""
    return f"{missing.lost_bytes} of {missing.inode.size} bytes are not on disk (from {start} to {end}{more})"
