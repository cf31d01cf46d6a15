"""The operations behind `s3lustrefs hydrate`: whole trees brought from the bucket before anybody reads them."""

from __future__ import annotations

import os
from typing import Any

from s3lustrefs.movers.preloads import Preloads


class HsmApi:
    """Handlers by operation name, as `NativeApi`."""

    def __init__(self, preloads: Preloads) -> None:
        self._preloads = preloads

    def operations(self) -> dict[str, Any]:
        return {"Hydrate": self.hydrate, "HydrateProgress": self.progress, "CancelHydrate": self.cancel}

    async def hydrate(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers at once with a number, to ask for the progress of."""
        paths = [os.fsencode(str(path)).rstrip(b"/") for path in request.get("paths") or ["/"]]
        return {"hydrate": await self._preloads.start(paths)}

    async def progress(self, request: dict[str, Any]) -> dict[str, Any]:
        """Bytes and files to be brought, as far as they are known, and brought."""
        job = self._preloads.look(int(request.get("hydrate", 0)))
        return {
            "done": job.is_done,
            "walked": job.is_walked,
            "files": job.files,
            "local": job.local,
            "brought": job.brought,
            "bytes": job.total_bytes,
            "brought_bytes": job.brought_bytes + await self._preloads.partial_bytes(job),
            "failed": job.failed,
            "failures": [{"path": path.decode(errors="replace"), "error": reason} for path, reason in job.failures],
        }

    async def cancel(self, request: dict[str, Any]) -> dict[str, Any]:
        self._preloads.cancel(int(request.get("hydrate", 0)))
        return {}
