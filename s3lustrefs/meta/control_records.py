"""Transaction functions of what the FSx API alone knows: the file system's own record, tags, requests done.

JSON in the table SUPER, small and rarely changed.

| key                | value                                      |
|--------------------|--------------------------------------------|
| `fsx/file_system`  | FileSystemRecord                           |
| `fsx/tags/` id     | object of the tags of a resource           |
| `fsx/asked/` token | Asked, without its token                   |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

from s3lustrefs.meta.schema import Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.file_system import Asked, FileSystemRecord

_FILE_SYSTEM = b"fsx/file_system"
_TAGS = b"fsx/tags/"
_ASKED = b"fsx/asked/"
_MOST_ASKED = 1000
"""Requests remembered at most. Clients repeat one within minutes; the older half goes, so that looking for it stays rare."""


def file_system(txn: Txn) -> FileSystemRecord | None:
    raw = txn.get(Table.SUPER, _FILE_SYSTEM)
    return FileSystemRecord(**json.loads(raw)) if raw else None


def store_file_system(txn: Txn, record: FileSystemRecord) -> None:
    txn.put(Table.SUPER, _FILE_SYSTEM, json.dumps(asdict(record)).encode())


def tags(txn: Txn, resource: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(txn.get(Table.SUPER, _TAGS + resource.encode()) or b"{}")
    return found


def store_tags(txn: Txn, resource: str, tags: Mapping[str, str]) -> None:
    if tags:
        txn.put(Table.SUPER, _TAGS + resource.encode(), json.dumps(dict(sorted(tags.items()))).encode())
    else:
        txn.delete(Table.SUPER, _TAGS + resource.encode())


def find_asked(txn: Txn, token: str) -> Asked | None:
    raw = txn.get(Table.SUPER, _ASKED + token.encode())
    return Asked(token, **json.loads(raw)) if raw else None


def remember(txn: Txn, asked: Asked | None) -> None:
    """Part of the transaction that does what was asked, so that a crash leaves both or neither. None: nothing to remember."""
    if asked is None:
        return
    fields = asdict(asked)
    txn.put(Table.SUPER, _ASKED + fields.pop("token").encode(), json.dumps(fields).encode())
    known = txn.scan(Table.SUPER, _ASKED, limit=_MOST_ASKED + 1)
    if len(known) > _MOST_ASKED:
        by_age = sorted(known, key=lambda row: int(json.loads(row[1])["at_ns"]))
        for key, _ in by_age[: _MOST_ASKED // 2]:
            txn.delete(Table.SUPER, key)
