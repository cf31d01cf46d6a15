"""CredentialSnapshot: in a module of its own, since a listing process starts in half the time without what finds credentials."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CredentialSnapshot:
    """Keys as they are now; picklable, for the listing process."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
