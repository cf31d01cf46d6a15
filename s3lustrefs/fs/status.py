"""InodeStatus: what one file is linked to, where it stands, what went wrong last and what to do about it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from s3lustrefs import errors
from s3lustrefs.data.chunk_store import ChunkStore
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.meta.location import Location
from s3lustrefs.meta.schema import UNKNOWN_CLASS, Change, JournalRecord, JournalState, ObjectRecord
from s3lustrefs.model.hsm import Hsm, state_text
from s3lustrefs.model.ids import AssocId, Ino
from s3lustrefs.model.inode import Inode, InodeFlag
from s3lustrefs.movers.archive import Archive
from s3lustrefs.movers.hydrator import Hydrator
from s3lustrefs.movers.links import Links
from s3lustrefs.movers.repositories import Repositories

_LOST = "delete the file, cut it to the part that can still be read, or empty it and write it anew"
_REMEDIES = {
    "S3AccessDenied": "grant the credentials s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload on the prefix "
    "(and the KMS key, if the bucket has one); it is tried again by itself, or at once by `s3lustrefs drain`",
    "S3ObjectNotFound": "the object was removed in the bucket; write the file anew or delete it",
    "S3FileDeleted": "the object changed in the bucket meanwhile; it is looked at again by itself",
    "S3ObjectInUnsupportedTier": "`s3lustrefs restore PATH` has the bucket make its object readable; "
    "it can be read then, and what waits to be exported goes on by itself",
    "AssociationDeleted": "link the directory with the bucket again and import it (`s3lustrefs dra create`), fetch the object with "
    "another tool, or delete the file",
    "PathSizeTooLong": "shorten the path, or rename it: a key is at most 1,024 bytes of UTF-8",
    "FileSizeTooLarge": "split the file: an object has at most 5 TiB",
    "ContentLost": _LOST,
    "LocalStorageError": "free space on the storage target or state directory, or repair its disk (`s3lustrefs status` names it); "
    "it is tried again by itself",
    "InternalError": "see daemon.log in the state directory",
}
_RETRIED = "it is tried again by itself until the bucket answers; `s3lustrefs drain` tries at once"


def remedy(code: str) -> str:
    """What to do about an export failure of this FSx code."""
    return _REMEDIES.get(code, _RETRIED)


class InodeStatus:
    """Answers for single files."""

    def __init__(
        self,
        engine: MetadataEngine,
        chunks: ChunkStore,
        hydrator: Hydrator,
        repositories: Repositories,
        archive: Archive,
        links: Links,
    ) -> None:
        self._engine = engine
        self._chunks = chunks
        self._hydrator = hydrator
        self._repositories = repositories
        self._archive = archive
        self._links = links

    async def hsm_text(self, ino: Ino) -> bytes:
        """As `lfs hsm_state` prints it after the path. Raises: NoAttribute for anything but a regular file."""
        inode = await self._engine.get(ino)
        if not inode.is_file:
            raise errors.NoAttribute("only regular files have an HSM state")
        return state_text(inode.hsm_state()).encode()

    async def describe(self, ino: Ino) -> dict[str, Any]:
        """Everything known of one inode, as JSON can carry it."""
        inode = await self._engine.get(ino)
        location = await self._engine.locate(inode)
        source = await self._engine.source_of(inode)
        record = await self._engine.find_journal(ino)
        failure = self._failure(ino, location.association.assoc_id if location else None)
        loss = self._chunks.loss_of(ino, inode.content_version)
        return {
            "ino": ino,
            "association": location.association.association_id if location else None,
            "data_repository_path": location.association.data_repository_path if location else None,
            "bucket": location.association.bucket if location else None,
            "key": (location.key + (b"/" if inode.is_dir else b"")).decode(errors="replace") if location else None,
            "imported_key": _imported_key(location, source),
            "etag": source.etag if source else None,
            "version_id": source.version_id or None if source else None,
            "storage_class": source.storage_class if source and source.storage_class != UNKNOWN_CLASS else None,
            "size": inode.size,
            "resident_bytes": await self._hydrator.resident_bytes(inode) if inode.is_file else 0,
            "hsm_flags": int(inode.hsm_state()),
            "hsm_state": state_text(inode.hsm_state()) if inode.is_file else None,
            "excluded_by_policy": bool(inode.flags & InodeFlag.EXCLUDED),
            "import": self._import(location.association.assoc_id) if location else None,
            "attributes_known": not inode.flags & InodeFlag.HEADERS_UNKNOWN,
            "export": _export(record) if record else None,
            "conflict": await self._conflict(ino),
            "hides": [{"key": k.decode(errors="replace"), "reason": r} for k, r in await self._engine.hidden_below(inode)],
            "last_error": _last_error(loss, record, failure),
            "remedy": remedy(errors.ContentLost.code) if loss else _advice(inode, record, failure),
        }

    def _failure(self, ino: Ino, assoc: AssocId | None) -> errors.S3LustreError | None:
        """What keeps the association, or else this inode, from being fetched."""
        general = self._repositories.failure(assoc) if assoc is not None else None
        return general or self._repositories.troubles.find(ino)

    def _import(self, assoc: AssocId) -> dict[str, Any] | None:
        """How far an import is that is not complete."""
        link = self._links.find(assoc)
        if link is None or link.importer.is_done:
            return None
        statistics = link.importer.statistics()
        return {"objects": statistics.objects, "error": statistics.error or None}

    async def _conflict(self, ino: Ino) -> dict[str, Any] | None:
        found = await self._engine.conflict_of(ino)
        return None if found is None else {"path": found.path, "at": found.at_ns / 1e9, "kind": found.kind, "text": found.text()}

    async def why(self, path: bytes) -> dict[str, Any]:
        """`describe`, what the bucket says of an archived object, and the same in sentences; of a name that is not here, why its
        object does not show. Raises: NotFound."""
        shown = path.decode(errors="replace")
        hidden = await self._hidden(path)
        try:
            inode = await self._engine.resolve(path)
        except errors.NotFound:
            if not hidden:
                raise
            return {"path": shown, "hidden": hidden, "lines": [f"{shown}: no such file here", *hidden]}
        status = {**await self.describe(inode.ino), "archive": await self._archive_state(inode)}
        return {"path": shown, **status, "hidden": hidden, "lines": [*_sentences(path, inode, status), *hidden]}

    async def _hidden(self, path: bytes) -> list[str]:
        """Objects that would have this path, or are this directory's, but cannot show."""
        found = []
        for association in self._engine.associations():
            above = association.file_system_path.rstrip("/").encode() + b"/"
            for relative in (path.removeprefix(above), path.removeprefix(above) + b"/") if path.startswith(above) else ():
                if reason := await self._engine.skipped_reason(association, relative):
                    key = association.key_of(relative).decode(errors="replace")
                    found.append(f"the object s3://{association.bucket}/{key} is not shown: {reason}")
        return found

    async def _archive_state(self, inode: Inode) -> dict[str, Any] | None:
        try:
            state = await self._archive.state(inode)
        except errors.RepositoryError as exc:
            return {"error": str(exc)}
        return asdict(state) if state is not None else None


def _imported_key(location: Location | None, source: ObjectRecord | None) -> str | None:
    """Of the object that has the content, where that is not one that is exported to."""
    if location is None or source is None or location.association.is_written(source.key):
        return None
    return source.key.decode(errors="replace")


def _export(record: JournalRecord) -> dict[str, Any]:
    return {
        "state": "due" if record.state is JournalState.DUE else "open",
        "changes": [c.name for c in Change if c and record.change & c],
        "age_seconds": max(0.0, (time.time_ns() - record.since_ns) / 1e9),
        "attempts": record.attempts,
        "code": record.error_code or None,
        "failed": record.terminal,
    }


def _last_error(loss: str | None, record: JournalRecord | None, failure: errors.S3LustreError | None) -> str | None:
    if loss:
        return f"content was lost: {loss}"
    if record is not None:
        return record.error_text or None
    return str(failure) if failure is not None else None


def _advice(inode: Inode, record: JournalRecord | None, failure: errors.S3LustreError | None) -> str | None:
    if record is not None and record.error_code:
        return remedy(record.error_code)
    if inode.flags & InodeFlag.DAMAGED:
        return _LOST
    if inode.is_left_behind:
        return remedy(errors.AssociationGone.code)
    if inode.hsm & Hsm.LOST:
        return "the object is gone from the bucket and was not wholly local: restore it in the bucket, or delete the file"
    return remedy(failure.code) if isinstance(failure, errors.RepositoryError) else None


def _sentences(path: bytes, inode: Inode, status: dict[str, Any]) -> Any:
    yield f"{path.decode(errors='replace')}: {_kind(inode)}, {inode.size} bytes"
    if inode.flags & InodeFlag.DAMAGED:
        yield f"bytes of it are gone which existed only here; {status['resident_bytes']} can still be read"
    if conflict := status["conflict"]:
        at = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(conflict["at"]))
        yield f"conflict at {at}: {conflict['path']} {conflict['text']}"
    if status["association"] is None:
        yield "not inside any association: local only, never exported"
        if inode.is_left_behind:
            yield (
                f"{status['resident_bytes']} of {inode.size} bytes are local; the others are in {_url(inode)} alone, and the "
                "association that led there was deleted: reading them fails"
            )
        yield from _troubles(status)
        return
    yield f"linked to s3://{status['bucket']}/{status['key']} by {status['association']} ({status['data_repository_path']})"
    if status["imported_key"]:
        yield f"imported from s3://{status['bucket']}/{status['imported_key']}, which nothing here changes"
    if status["import"]:
        yield from _import_texts(inode, **status["import"])
    for hidden in status["hides"]:
        yield f"in the bucket, but not shown: {hidden['key']} ({hidden['reason']})"
    if inode.is_file:
        yield f"state {status['hsm_state']}; {status['resident_bytes']} of {inode.size} bytes are local"
        yield (
            f"archived copy: ETag {status['etag']}, storage class {status['storage_class'] or 'not known yet'}"
            if status["etag"]
            else "no archived copy yet"
        )
    if status["archive"]:
        yield _archive_text(status["archive"])
    if not status["attributes_known"]:
        yield "owner, permissions and times were not asked for yet"
    if status["excluded_by_policy"] and inode.hsm & Hsm.NOARCHIVE:
        yield "changed here, but never_archive keeps the change local until `lfs hsm_clear --noarchive`"
    elif status["excluded_by_policy"] and inode.is_file and not status["etag"]:
        yield "kept local: by the export policy of the association, or because `lfs hsm_remove` took its archived copy away"
    elif status["excluded_by_policy"]:
        yield "changed here, but the export policy of the association keeps the change local"
    export = status["export"]
    if export is None:
        yield (
            "nothing to export"
            if not status["excluded_by_policy"]
            else "nothing will be exported until the policy or the file changes"
        )
    else:
        wait = "waits for the last writer to close it" if export["state"] == "open" else "due for export"
        changes = ", ".join(export["changes"]).lower()
        yield f"{wait} since {export['age_seconds']:.0f} s ({changes}), {export['attempts']} failed attempts"
    yield from _troubles(status)


def _import_texts(inode: Inode, objects: int, error: str | None) -> Iterator[str]:
    yield f"its association is still being imported, {objects} objects so far{f'; last error: {error}' if error else ''}"
    if inode.is_dir:
        yield "renaming this directory has to wait for that: a minute at most, then it fails with EBUSY and can be tried again"


def _url(inode: Inode) -> str:
    return inode.source_key.decode(errors="replace")


def _archive_text(state: dict[str, Any]) -> str:
    if "error" in state:
        return f"perhaps archived: {state['error']}"
    if state["ongoing"]:
        return f"its object is archived ({state['storage_class']}) and being restored: it can be read when that is done"
    if state["readable"]:
        until = (
            time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(state["expires_ns"] / 1e9)) if state["expires_ns"] else "further notice"
        )
        return f"its object is restored from the archive ({state['storage_class']}) until {until}"
    return f"its object is archived ({state['storage_class']}): reading needs `s3lustrefs restore` first"


def _troubles(status: dict[str, Any]) -> Iterator[str]:
    if status["last_error"]:
        yield f"last error: {status['last_error']}"
    if status["remedy"]:
        yield f"what to do: {status['remedy']}"


def _kind(inode: Inode) -> str:
    if inode.is_dir:
        return "directory"
    if inode.is_symlink:
        return f"symbolic link to {inode.target.decode(errors='replace')}"
    return "file" if inode.is_file else "special file"
