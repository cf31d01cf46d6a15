"""A job that meets every kind of request: it reads cold files, writes, copies, deletes, and knows what must come of it."""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from tests.mount.site import Site
from tests.semantics.mounted import put_objects

Result = TypeVar("Result")

DEADLINE_SECONDS = 100.0
"""For one operation, attempts included: a read that waits for the bucket ends after a minute."""
EXCUSABLE = (errno.EIO, errno.EACCES)
SMALL, MIDDLE, LARGE = 700, 200_000, (17 << 20) + 3
"""By libcurl in one piece; by libcurl, nearly too large for it; several ranged GETs by the CRT, two parts of an upload."""


def content(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


@dataclass
class Job:
    """Owns one directory of a mount; `expected` is what the bucket must hold below it once everything is drained."""

    site: Site
    folder: str
    expected: dict[str, bytes] = field(default_factory=dict)
    excused: list[int] = field(default_factory=list)
    """errnos of operations that were tried again."""

    def seed(self, *, small: int = 24, middle: int = 6, large: int = 1) -> None:
        """Put cold files into the bucket, behind the proxy's back."""
        sizes = [("s", small, SMALL), ("m", middle, MIDDLE), ("l", large, LARGE)]
        names = [(f"{kind}{number:02d}", size) for kind, count, size in sizes for number in range(count)]
        self.expected = {name: content(f"{self.folder}/{name}", size) for name, size in names}
        posix = {"file-permissions": "0100640", "file-owner": "7", "file-group": "8"}
        rows = [(f"p/{self.folder}/{name}", body, posix) for name, body in self.expected.items()]
        put_objects(self.site.server, self.site.bucket, rows, threads=4)

    def path(self, name: str) -> str:
        return f"{self.site.root}/{self.folder}/{name}"

    def insist(self, operation: Callable[[], Result]) -> Result:
        """As an application that tries again what the bucket is to blame for. Raises: OSError for anything else."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                return operation()
            except OSError as exc:
                if exc.errno not in EXCUSABLE or time.monotonic() > deadline:
                    raise
                self.excused.append(exc.errno or 0)
                time.sleep(0.05)

    def read(self, name: str) -> bytes:
        def operation() -> bytes:
            with open(self.path(name), "rb") as file:
                return file.read()

        return self.insist(operation)

    def read_everything(self, threads: int = 6) -> None:
        """Every cold file shows its own attributes and bytes."""

        def check(name: str) -> None:
            status = self.insist(lambda: os.stat(self.path(name)))
            assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (7, 8, 0o640), name
            assert status.st_size == len(self.expected[name])
            assert self.read(name) == self.expected[name], f"{name}: wrong bytes"

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(check, list(self.expected)))

    def write(self, name: str, body: bytes) -> None:
        def operation() -> None:
            with open(self.path(name), "wb") as file:
                file.write(body)

        self.insist(operation)
        self.expected[name] = body

    def change_everything(self, mark: str = "") -> None:
        """New files small and in parts, overwritten, renamed (a copy), with new attributes (another), deleted."""
        for number in range(8):
            self.write(f"new{mark}{number}", content(f"new{mark}{number}", SMALL))
        self.write(f"parts{mark}", content(f"parts{mark}", LARGE))
        self.write("s00", content(f"again{mark}", SMALL))
        old = next(name for name in sorted(self.expected) if name.startswith("s") and name != "s00")
        self.insist(lambda: os.rename(self.path(old), self.path(f"t{mark}{old}")))
        self.expected[f"t{mark}{old}"] = self.expected.pop(old)
        self.insist(lambda: os.chmod(self.path("m00"), 0o600))
        gone = next(name for name in sorted(self.expected, reverse=True) if name.startswith("s"))
        self.insist(lambda: os.unlink(self.path(gone)))
        del self.expected[gone]

    def check_bucket(self) -> None:
        """Plain boto3, past the proxy, finds exactly the files, byte for byte, and nothing unfinished."""
        found = self.site.objects(f"p/{self.folder}/")
        wanted = {f"p/{self.folder}/{name}": body for name, body in self.expected.items()}
        found.pop(f"p/{self.folder}/", None)
        too_much, too_little = set(found) - set(wanted), set(wanted) - set(found)
        assert not too_much and not too_little, f"too much: {too_much}, missing: {too_little}"
        wrong = [key for key in wanted if found[key] != wanted[key]]
        assert not wrong, f"wrong content: {wrong}"
        uploads = self.site.s3.list_multipart_uploads(Bucket=self.site.bucket).get("Uploads", [])
        assert uploads == []
