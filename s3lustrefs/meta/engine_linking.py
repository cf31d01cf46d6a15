"""LinkingEngine: what may be asked of the inode table about associations themselves, from their making to their end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from s3lustrefs.meta.vanished import Removed
from s3lustrefs.model.association import Association, Lifecycle
from s3lustrefs.model.file_system import Asked
from s3lustrefs.model.ids import AssocId, Ino


class LinkingEngine(Protocol):
    """See `engine` for what all verbs have in common."""

    def associations(self) -> list[Association]:
        """All that are linked, by number."""

    def all_associations(self) -> list[Association]:
        """Those, too, that are not linked yet, or not any more."""

    def association(self, assoc: AssocId) -> Association | None:
        """One that is linked; None: no such number, or nothing belongs to it yet, or any more."""

    async def link_association(self, association: Association) -> Association:
        """Store an association, a new one under a number given here, and make its directory. From now on names in it are keys.

        Raises: ConfigError when something that is no directory is in the way.
        """

    async def update_association(self, association: Association, asked: Asked | None = None) -> None:
        """Replace the settings of an association; `asked`: the request that did it. Raises: NotInRepository when it is gone, or
        being deleted."""

    async def add_association(self, association: Association, asked: Asked | None, tags: Mapping[str, str]) -> Association:
        """Store a new association under a number given here, without linking anything."""

    async def move_association(self, assoc: AssocId, lifecycle: Lifecycle, failure: str = "") -> Association | None:
        """Take an association to its next state, see `model.association_lifecycle`. None: gone, or that cannot follow."""

    @property
    def unlink_steps(self) -> Sequence[str]:
        """What `unlink_step` can do, in the order in which it is to be done."""

    async def unlink_step(self, association: Association, step: str, after: bytes, limit: int) -> bytes | None:
        """Take one page of the table's rows out of an association that is DELETING; what to go on after, None at the end."""

    async def remove_entries(self, directory: Ino, names: Sequence[bytes]) -> list[Removed]:
        """Remove files, and directories that are empty, which are in no association. What is in use, or not there, stays so."""

    async def forget_association(self, association: Association) -> bool:
        """The end of an association; False while some row of the table speaks of it."""

    def is_deleted(self, file_system_path: str, configured_as: str) -> bool:
        """Whether an association that was configured just so was deleted since."""

    async def keep_local(self, directory: Ino, after: bytes, limit: int) -> tuple[bytes | None, list[Ino]]:
        """A page of a directory that was linked: its files are not to be exported for that. The name to go on after, None at the
        end; and its subdirectories."""
