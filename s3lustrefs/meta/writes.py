"""Transaction functions about requests that are on their way: what they may have written until somebody knows.

A request that was cut off, by a crash, by a writer who could not wait, by the network, may have been carried out all the same.
Its object would be taken for somebody else's, or, if the file loses its name meanwhile, be left behind for ever. So what is about
to be written under a key is noted before the request, and forgotten in the transaction that records what the key holds.
"""

from __future__ import annotations

from s3lustrefs.meta import schema
from s3lustrefs.meta.schema import SentObject, Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.ids import AssocId

_MOST = 64
"""Attempts remembered per key."""


def note(txn: Txn, assoc: AssocId, key: bytes, sent: SentObject) -> None:
    known = noted(txn, assoc, key)
    if sent not in known:
        txn.put(Table.WRITES, schema.object_key(assoc, key), schema.encode_writes(key, [*known, sent][-_MOST:]))


def noted(txn: Txn, assoc: AssocId, key: bytes) -> list[SentObject]:
    raw = txn.get(Table.WRITES, schema.object_key(assoc, key))
    return [] if raw is None else schema.decode_writes(raw)[1]


def forget(txn: Txn, assoc: AssocId, key: bytes) -> None:
    table_key = schema.object_key(assoc, key)
    if txn.get(Table.WRITES, table_key) is not None:
        txn.delete(Table.WRITES, table_key)


def below(txn: Txn, assoc: AssocId, prefix: bytes) -> list[bytes]:
    """Keys under a prefix that requests may have written."""
    rows = txn.scan(Table.WRITES, schema.pack_u16(assoc) + prefix[: schema.CUT])
    keys = [schema.decode_writes(raw)[0] for _, raw in rows]
    return [key for key in keys if key.startswith(prefix)]
