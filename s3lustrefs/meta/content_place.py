"""ContentPlace: where the content of a file system lies, as the table remembers it from mount to mount."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from s3lustrefs.meta.schema import SUPER_CONTENT_PLACE, Table
from s3lustrefs.meta.store import Store


@dataclass(frozen=True, slots=True)
class ContentPlace:
    """`identity` is what every target is marked with once `is_marked`; `targets` are the paths of the last mount, in order."""

    identity: str
    targets: tuple[str, ...]
    is_marked: bool


def decode(raw: bytes) -> ContentPlace:
    fields = json.loads(raw)
    return ContentPlace(fields["identity"], tuple(fields["targets"]), fields["is_marked"])


def load(store: Store) -> ContentPlace | None:
    """None: no mount has recorded one yet."""
    raw = store.get(Table.SUPER, SUPER_CONTENT_PLACE)
    return None if raw is None else decode(raw)


def save(store: Store, place: ContentPlace) -> None:
    with store.begin() as txn:
        txn.put(Table.SUPER, SUPER_CONTENT_PLACE, json.dumps(asdict(place)).encode())
