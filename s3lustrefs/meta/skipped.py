"""Transaction functions that tell which objects do not show, and why; `listing` notes them."""

from __future__ import annotations

from s3lustrefs.meta import schema
from s3lustrefs.meta.schema import Table
from s3lustrefs.meta.txn import Txn
from s3lustrefs.model.association import Association

_HIDDEN = 3
"""Examples of what a file hides."""


def page(txn: Txn, association: Association, below: bytes, after: bytes, limit: int) -> list[tuple[bytes, str]]:
    """(relative key, reason) of up to `limit` keys that could not become files and come behind the key `after`.

    Keys count as below `below` by the first 440 bytes (`schema.object_key`).
    """
    assoc = association.assoc_id
    behind = schema.object_key(assoc, association.key_of(after)) if after else b""
    found = []
    for _, value in txn.scan(
        Table.SKIPPED, schema.pack_u16(assoc) + association.key_of(below)[: schema.CUT], after=behind, limit=limit
    ):
        reason, _, relative = value.partition(b"\0")
        found.append((relative, reason.decode()))
    return found


def skipped_reason(txn: Txn, association: Association, relative: bytes) -> str:
    """Why the object with this key does not show; empty when it does, or is not there."""
    value = txn.get(Table.SKIPPED, schema.object_key(association.assoc_id, association.key_of(relative)))
    return value.partition(b"\0")[0].decode() if value else ""


def hidden_below(txn: Txn, association: Association, relative: bytes) -> list[tuple[bytes, str]]:
    """(relative key, reason) of some objects that do not show since a file has the name of their directory."""
    key = schema.object_key(association.assoc_id, association.key_of(relative) + b"/")
    parts = [value.partition(b"\0") for _, value in txn.scan(Table.SKIPPED, key, limit=_HIDDEN)]
    return [(hidden, reason.decode()) for reason, _, hidden in parts]
