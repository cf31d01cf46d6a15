"""Transaction functions of the record of conflicts: how many there were, the latest of them, and which a file was part of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

from s3lustrefs.meta import schema
from s3lustrefs.meta.schema import SUPER_CONFLICTS, Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.conflict import Conflict, ConflictKind
from s3lustrefs.model.ids import Ino

_KEPT = 1000
"""Conflicts that are remembered one by one; all are counted."""


def note(txn: Txn, conflict: Conflict) -> None:
    number = count(txn) + 1
    txn.put(Table.SUPER, SUPER_CONFLICTS, str(number).encode())
    txn.put(Table.CONFLICTS, _log_key(number), json.dumps(asdict(conflict)).encode())
    for ino in filter(None, (conflict.winner_ino, conflict.loser_ino)):
        txn.put(Table.CONFLICTS, _ino_key(ino), schema.pack_u64(number))
    _forget(txn, number - _KEPT)


def _forget(txn: Txn, number: int) -> None:
    old = _find(txn, number)
    if old is None:
        return
    txn.delete(Table.CONFLICTS, _log_key(number))
    for ino in filter(None, (old.winner_ino, old.loser_ino)):
        if txn.get(Table.CONFLICTS, _ino_key(ino)) == schema.pack_u64(number):
            txn.delete(Table.CONFLICTS, _ino_key(ino))


def count(txn: Txn) -> int:
    """Since the file system was made."""
    return int(txn.get(Table.SUPER, SUPER_CONFLICTS) or b"0")


def latest(txn: Txn, limit: int) -> list[Conflict]:
    """The newest first."""
    last = count(txn)
    found = [_find(txn, number) for number in range(last, max(0, last - limit), -1)]
    return [each for each in found if each is not None]


def of_inode(txn: Txn, ino: Ino) -> Conflict | None:
    """The latest conflict a file won or lost."""
    raw = txn.get(Table.CONFLICTS, _ino_key(ino))
    return None if raw is None else _find(txn, schema.decode_u64(raw))


def decode(raw: bytes) -> Conflict:
    fields = json.loads(raw)
    return Conflict(**{**fields, "kind": ConflictKind(fields["kind"])})


def defects(key: bytes, raw: bytes) -> Iterator[str]:
    """What is wrong with a row. Raises: what decoding a damaged one raises."""
    if key[:1] == b"L":
        decode(raw)
    elif key[:1] != b"I" or len(raw) != 8:
        yield "is neither a conflict nor the number of one"


def _find(txn: Txn, number: int) -> Conflict | None:
    raw = txn.get(Table.CONFLICTS, _log_key(number)) if number > 0 else None
    return None if raw is None else decode(raw)


def _log_key(number: int) -> bytes:
    return b"L" + schema.pack_u64(number)


def _ino_key(ino: int) -> bytes:
    return b"I" + schema.pack_u64(ino)
