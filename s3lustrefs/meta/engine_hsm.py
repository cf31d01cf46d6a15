"""HsmEngine: what HSM commands may ask of the inode table."""

from __future__ import annotations

from typing import Protocol

from s3lustrefs.model.hsm import Hsm
from s3lustrefs.model.ids import ContentVersion, Ino
from s3lustrefs.model.inode import Inode


class HsmEngine(Protocol):
    """See `engine` for what all verbs have in common."""

    async def order_archive(self, ino: Ino) -> bool:
        """Have a file exported whatever the policy says; False when the bucket has it as it is here.

        Raises: NotPermitted with the reason; NotInRepository; InvalidArgument: not a file.
        """

    async def order_remove(self, ino: Ino, version: ContentVersion) -> bool:
        """Have a file's objects deleted, whatever the policy says; it is local only from now on. False: it has none.

        `version`: the content that is known to be on disk. Raises: NotPermitted (not all of it is local, or it is damaged), InUse
        (an export is to come, or it has other content by now), InvalidArgument.
        """

    async def set_hsm_flags(self, ino: Ino, add: Hsm, drop: Hsm) -> Inode:
        """Raises: InvalidArgument for an illegal combination; NotPermitted for one that could cost bytes."""
