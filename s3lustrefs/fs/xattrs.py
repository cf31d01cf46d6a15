"""Extended attributes: the user's own, and the virtual ones that tell a file's state.

`user.s3lustrefs.hsm` is the text of `lfs hsm_state`, `user.s3lustrefs.status` a JSON object. They can be read by name but are not
listed, so that `cp -a` and archivers do not carry them along. What begins with `system.s3lustrefs.hsm` is the door of HSM commands.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from s3lustrefs import errors
from s3lustrefs.fs import hsm_door
from s3lustrefs.fs.filesystem import Caller
from s3lustrefs.fs.hsm_door import HsmDoor
from s3lustrefs.fs.status import InodeStatus
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.ids import ROOT_INO, Ino

_VIRTUAL = b"user.s3lustrefs."
HSM = _VIRTUAL + b"hsm"
STATUS = _VIRTUAL + b"status"
CONTROL = _VIRTUAL + b"control"
_ALLOWED = (b"user.", b"trusted.", b"security.")


class Xattrs:
    """`control_path` is answered on the root directory, so that commands find the daemon of a mount."""

    def __init__(self, engine: MetadataEngine, status: InodeStatus, hsm: HsmDoor, control_path: str) -> None:
        self._engine = engine
        self._hsm = hsm
        self._control_path = control_path.encode()
        self._virtual: dict[bytes, Callable[[Ino], Awaitable[bytes]]] = {HSM: status.hsm_text, STATUS: self._status_json}
        self._status = status

    async def get(self, ino: Ino, name: bytes, caller: Caller) -> bytes:
        """Raises: NoAttribute, NotSupported; what `HsmDoor.answer` raises."""
        if name.startswith(hsm_door.PREFIX):
            return await self._hsm.answer(ino, name, caller)
        if name.startswith(_VIRTUAL):
            if name == CONTROL and ino == ROOT_INO:
                return self._control_path
            answer = self._virtual.get(name)
            if answer is None:
                raise errors.NoAttribute(f"no attribute {name!r}")
            return await answer(ino)
        _check(name)
        return await self._engine.get_xattr(ino, name)

    async def list(self, ino: Ino) -> list[bytes]:
        await self._engine.get(ino)
        return await self._engine.list_xattrs(ino)

    async def set(self, ino: Ino, name: bytes, value: bytes) -> None:
        """Raises: NotPermitted for virtual names, NotSupported, InvalidArgument."""
        if name.startswith(_VIRTUAL):
            raise errors.NotPermitted(f"{name!r} is computed, it cannot be set")
        _check(name)
        await self._engine.set_xattr(ino, name, value)

    async def remove(self, ino: Ino, name: bytes) -> None:
        if name.startswith(_VIRTUAL):
            raise errors.NotPermitted(f"{name!r} is computed, it cannot be removed")
        _check(name)
        await self._engine.remove_xattr(ino, name)

    async def _status_json(self, ino: Ino) -> bytes:
        status: dict[str, Any] = await self._status.describe(ino)
        return json.dumps(status).encode()


def _check(name: bytes) -> None:
    if not name.startswith(_ALLOWED):
        raise errors.NotSupported(f"attribute {name!r} cannot be kept here")
    if name in _ALLOWED:
        raise errors.InvalidArgument(f"{name!r} names no attribute")
