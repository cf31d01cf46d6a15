"""HsmDoor: the way of HSM commands into the daemon: attributes below `system.s3lustrefs.hsm`, read on the file they are about.

Of all name spaces only `system.` and `security.` are free of checks by the kernel, so that every user gets here, and what who may
is decided by Lustre's rules. Orders are read, not written: reading gives the reason when one is refused, works in a mount that is
read-only, and leaves the file's times alone. None of these names is ever listed. Source: linux fs/xattr.c, xattr_permission.

    system.s3lustrefs.hsm                 as `lfs hsm_state` prints it
    system.s3lustrefs.hsm.action          as `lfs hsm_action` prints it
    system.s3lustrefs.hsm.archive         an order; so are restore, release, remove, cancel
    system.s3lustrefs.hsm.set.00000010    sets flags; so does clear
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from s3lustrefs import errors
from s3lustrefs.fs.filesystem import Caller
from s3lustrefs.meta.engine import MetadataEngine
from s3lustrefs.model.hsm import OWNER_FLAGS, SETTABLE, Hsm, Request, action_text, may_ask, state_text
from s3lustrefs.model.ids import Ino
from s3lustrefs.model.inode import Inode
from s3lustrefs.movers.hsm_requests import HsmRequests

PREFIX = b"system.s3lustrefs.hsm"
_ACTION = PREFIX + b".action"
_REQUESTS = {PREFIX + b"." + request.name.lower().encode(): request for request in Request}
_SET, _CLEAR = PREFIX + b".set.", PREFIX + b".clear."


def is_order(name: bytes) -> bool:
    """Whether this name asks for something, so that the answer is a refusal's text and not an error."""
    return name in _REQUESTS or name.startswith((_SET, _CLEAR))


class HsmDoor:
    """`known` returns an inode once its owner is known; `superusers` may whatever root may."""

    def __init__(
        self,
        engine: MetadataEngine,
        requests: HsmRequests,
        known: Callable[[Inode], Awaitable[Inode]],
        superusers: frozenset[int],
    ) -> None:
        self._engine = engine
        self._requests = requests
        self._known = known
        self._superusers = superusers

    async def answer(self, ino: Ino, name: bytes, caller: Caller) -> bytes:
        """What to read under a name. An order that is accepted is empty.

        Raises: NoAttribute for another name, or anything but a regular file; for orders: what `HsmRequests` raises, NotPermitted.
        """
        if name in _REQUESTS:
            await self._ask(ino, _REQUESTS[name], caller)
            return b""
        if name.startswith((_SET, _CLEAR)):
            await self._change(ino, name, caller)
            return b""
        inode = await self._engine.get(ino)
        if not inode.is_file or name not in (PREFIX, _ACTION):
            raise errors.NoAttribute("only regular files have an HSM state")
        if name == _ACTION:
            return action_text(await self._requests.action(ino)).encode()
        return state_text(inode.hsm_state()).encode()

    async def _ask(self, ino: Ino, request: Request, caller: Caller) -> None:
        if not may_ask(request, is_root=self._is_root(caller), is_owner=await self._is_owner(ino, caller)):
            who = "the owner or root" if request is Request.RELEASE else "root"
            raise errors.NotPermitted(f"only {who} may {request.name.lower()} it")
        await self._requests.ask(ino, request)

    async def _change(self, ino: Ino, name: bytes, caller: Caller) -> None:
        try:
            flags = Hsm(int(name.rpartition(b".")[2], 16))
        except ValueError:
            raise errors.InvalidArgument(f"{name!r} names no flags") from None
        if flags & ~SETTABLE or not flags:
            raise errors.InvalidArgument(f"flags {int(flags):#x} cannot be set or cleared")
        if not self._is_root(caller):
            if not await self._is_owner(ino, caller):
                raise errors.NotPermitted("only the owner or root may change its flags")
            if flags & ~OWNER_FLAGS:
                raise errors.NotPermitted("only root may change flags other than never_release, never_archive and dirty")
        add, drop = (flags, Hsm.NONE) if name.startswith(_SET) else (Hsm.NONE, flags)
        await self._requests.set_flags(ino, add, drop)

    def _is_root(self, caller: Caller) -> bool:
        return caller.uid in self._superusers

    async def _is_owner(self, ino: Ino, caller: Caller) -> bool:
        return (await self._known(await self._engine.get(ino))).uid == caller.uid
