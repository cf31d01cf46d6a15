"""Frames and batches between the daemon and its listing process: grouping by directory, encoding, decoding.

Towards the child: a 4-byte length and JSON; byte strings as Latin-1 text. Towards the daemon: a 4-byte length and
`marshal`, the fastest codec at hand (0.2 us per entry), fit because both ends are the same interpreter. The credentials
travel in the first direction only and never leave the pipe.
"""

from __future__ import annotations

import importlib
import json
import marshal
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any

from s3lustrefs import errors
from s3lustrefs.model.association import MAX_NAME_BYTES, Endpoint, key_defect
from s3lustrefs.repository.credential_snapshot import CredentialSnapshot
from s3lustrefs.repository.list_page import Page
from s3lustrefs.repository.list_request import ListingTarget
from s3lustrefs.repository.listing import Progress

LENGTH = struct.Struct(">I")
_BYTES = ("prefix", "left_out")
"""Of a target, which JSON cannot carry."""

Preparer = Callable[[bytes, bytes, int, bytes, int, bytes], tuple[Any, ...]]
"""(relative key, name, size, etag, mtime_ns, storage class) → what the daemon is to get for the entry, of types `marshal` knows.

Called by one thread at a time, so it may keep state between its statements and its calls."""


class BatchKind(IntEnum):
    """What a batch answers."""

    BULK = 1
    DIRECTORY = 2
    PROBE = 3
    END = 4


@dataclass(frozen=True, slots=True)
class ListingRequest:
    """What to list and how.

    `bulk` False: no listing of the whole prefix, only answers to single requests. `preparer` is `module:function` of a
    function that gets `preparer_options` and returns a Preparer; empty: `(name, size, etag, mtime_ns, storage_class)`.
    """

    target: ListingTarget
    credentials: CredentialSnapshot
    workers: int = 8
    bulk: bool = True
    patience_seconds: float = 120.0
    preparer: str = ""
    preparer_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """Part of an answer. Paths are relative to the prefix, without leading or trailing slash; `b""` is the linked directory."""

    kind: BatchKind
    request_id: int = 0
    groups: list[tuple[bytes, list[tuple[Any, ...]]]] = field(default_factory=list)
    """(directory, prepared entries), in key order. A directory can come again, in this batch or a later one."""
    markers: list[tuple[bytes, int, bytes, int, bytes]] = field(default_factory=list)
    """Directory objects: (directory, size, etag, mtime_ns, storage class)."""
    skipped: list[tuple[bytes, str]] = field(default_factory=list)
    """Keys that cannot be files: (relative key, reason)."""
    common_prefixes: list[bytes] = field(default_factory=list)
    """Subdirectories: of a directory listing its direct ones, of a probe the name itself if keys are below it."""
    span: tuple[bytes, bytes | None] | None = None
    """Of a BULK batch: whole keys in `(span[0], span[1]]` are in this batch or not in the bucket; None at the end: no limit."""
    done: bool = False
    progress: Progress = field(default_factory=Progress)
    error: errors.RepositoryError | None = None
    """Why a single request failed; what fails the bulk listing is raised instead."""


def raw_entry(_relative: bytes, name: bytes, size: int, etag: bytes, mtime_ns: int, storage_class: bytes) -> tuple[Any, ...]:
    """The default Preparer: what was listed, as it is."""
    return name, size, etag, mtime_ns, storage_class


def load_preparer(request: ListingRequest) -> Preparer:
    """The Preparer a request names. Raises: ImportError, AttributeError for a name that does not exist."""
    if not request.preparer:
        return raw_entry
    module, _, function = request.preparer.partition(":")
    preparer: Preparer = getattr(importlib.import_module(module), function)(**request.preparer_options)
    return preparer


def fill_batch(batch: Batch, page: Page, prefix: bytes, prepare: Preparer, left_out: bytes = b"") -> Batch:
    """Put a page's objects and subdirectories into a batch, grouped by directory, but for those whose keys begin with `left_out`.
    The page is of no further use."""
    if left_out:
        page.keep_positions([n for n, key in enumerate(page.keys) if not key.startswith(left_out)])
        page.common_prefixes = [name for name in page.common_prefixes if not name.startswith(left_out)]
    cut = len(prefix)
    if cut:
        page.keys = [key[cut:] for key in page.keys]
    for name in page.common_prefixes:
        relative = name[cut:]
        defect = key_defect(relative)
        if defect is None:
            batch.common_prefixes.append(relative[:-1])
        else:
            batch.skipped.append((relative, defect))
    _skip_defects(page, batch.skipped)
    _group(page, prepare, batch)
    return batch


def _group(page: Page, prepare: Preparer, batch: Batch) -> None:
    directory: bytes | None = None
    entries: list[tuple[Any, ...]] = []
    for key, size, etag, mtime_ns, storage_class in page.objects():
        parent, _, name = key.rpartition(b"/")
        if not name:
            batch.markers.append((parent, size, etag, mtime_ns, storage_class))
            continue
        if parent != directory:
            directory, entries = parent, []
            batch.groups.append((parent, entries))
        entries.append(prepare(key, name, size, etag, mtime_ns, storage_class))


def _skip_defects(page: Page, skipped: list[tuple[bytes, str]]) -> None:
    """Move keys that cannot be files out of the page. A look at all keys at once clears nearly every page."""
    if not page.keys:
        return
    joined = b"\n" + b"\n".join(page.keys)
    harmless = joined.isascii() and not any(sign in joined for sign in (b"//", b"/.", b"\n/", b"\n.", b"\0"))
    if harmless and max(map(len, page.keys)) <= MAX_NAME_BYTES:
        return
    defects = {n: defect for n, key in enumerate(page.keys) if (defect := key_defect(key)) is not None}
    if defects:
        skipped.extend((page.keys[n], defect) for n, defect in defects.items())
        kept = [n for n in range(len(page.keys)) if n not in defects]
        page.keep_positions(kept)


# --- encoding ----------------------------------------------------------------------------------------------------------


def encode_batch(batch: Batch) -> bytes:
    """One frame, its length first."""
    error = batch.error
    progress = batch.progress
    body = marshal.dumps(
        (
            int(batch.kind), batch.request_id, batch.groups, batch.markers, batch.skipped, batch.common_prefixes, batch.span,
            batch.done,
            (progress.keys, progress.requests, progress.pages), (_error_name(error), str(error), error.bucket) if error else None,
        )
    )  # fmt: skip
    return LENGTH.pack(len(body)) + body


def decode_batch(body: bytes) -> Batch:
    """One frame without its length."""
    kind, request_id, groups, markers, skipped, common_prefixes, span, done, progress, error = marshal.loads(body)
    return Batch(
        BatchKind(kind),
        request_id,
        groups,
        markers,
        skipped,
        common_prefixes,
        span,
        done,
        Progress(*progress),
        _error(*error) if error else None,
    )


def _error_name(error: errors.RepositoryError) -> str:
    """The class in `errors` that an exception of the child is, or is derived from."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__)


def _error(name: str, message: str, bucket: str) -> errors.RepositoryError:
    kind: type[errors.RepositoryError] = getattr(errors, name)
    return kind(message, bucket=bucket)


def encode_message(message: Mapping[str, Any]) -> bytes:
    """One message to the child."""
    body = json.dumps(message).encode()
    return LENGTH.pack(len(body)) + body


def encode_request(request: ListingRequest) -> bytes:
    """The first message to the child."""
    fields = asdict(request)
    for name in _BYTES:
        fields["target"][name] = fields["target"][name].decode("latin-1")
    return encode_message(fields)


def decode_request(message: Mapping[str, Any]) -> ListingRequest:
    """The first message as the child reads it."""
    fields = dict(message["target"])
    words = {name: fields[name].encode("latin-1") for name in _BYTES}
    target = ListingTarget(**{**fields, **words, "endpoint": Endpoint(**fields["endpoint"])})
    return ListingRequest(**{**message, "target": target, "credentials": CredentialSnapshot(**message["credentials"])})
