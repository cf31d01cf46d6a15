"""ListingProcess: the daemon's side of a listing, which runs in a process of its own.

Parsing listings in the daemon would hold the GIL for milliseconds at a time, and every file-system request with it. Here
the child's batches arrive ready to be put into the inode table. A reader that is slow holds the child up through the pipe
between them, so that neither side's memory grows.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from s3lustrefs import errors
from s3lustrefs.movers.listing_frames import LENGTH, Batch, BatchKind, ListingRequest, decode_batch, encode_message, encode_request
from s3lustrefs.repository.credential_snapshot import CredentialSnapshot
from s3lustrefs.repository.credentials import Credentials

PIPE_BYTES = 256 << 10
"""Two to three bulk frames: enough to keep the child busy; more would make answers to single requests wait behind them."""
READ_BYTES = 256 << 10
_CREDENTIALS_SECONDS = 60.0


@asynccontextmanager
async def open_listing(request: ListingRequest, stderr: int | None = None) -> AsyncIterator[ListingProcess]:
    """Start a child for one request; on leaving, however that happens, it is killed and reaped.

    Its log lines go to `stderr`, a file descriptor; None: the daemon's own.
    """
    reader, writer = os.pipe()
    output = trio.lowlevel.FdStream(reader)
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        # -P: what lies in the current directory, which may be anybody's, is never imported.
        command = [sys.executable, "-P", "-m", "s3lustrefs.movers.listing_child"]
        child = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=writer, stderr=stderr)
    except BaseException:
        await trio.aclose_forcefully(output)
        raise
    finally:
        os.close(writer)
    assert child.stdin is not None
    listing = ListingProcess(request, child, child.stdin, output)
    try:
        await listing.start()
        yield listing
    finally:
        child.kill()
        with trio.CancelScope(shield=True):
            await child.wait()
        await trio.aclose_forcefully(child.stdin)
        await trio.aclose_forcefully(output)


class ListingProcess:
    """A running child. One task reads `batches`; any task may send requests."""

    def __init__(
        self, request: ListingRequest, child: trio.Process, messages: trio.abc.SendStream, output: trio.abc.ReceiveStream
    ) -> None:
        self._request = request
        self._child = child
        self._messages = messages
        self._output = output
        self._sending = trio.Lock()
        self._last_id = 0
        self._finishing = False

    @property
    def pid(self) -> int:
        return self._child.pid

    async def start(self) -> None:
        await self._send(encode_request(self._request))

    async def request_directory(self, relative: bytes, register: Callable[[int], None] | None = None) -> int:
        """Ask for one directory ahead of everything else; its DIRECTORY batches carry the number returned, the last is `done`.

        `register` gets the number before anything is sent, for callers that must know it when the answer comes.
        Raises: RepositoryUnavailable when the listing has ended.
        """
        return await self._ask("directory", relative, register)

    async def request_probe(self, relative: bytes, register: Callable[[int], None] | None = None) -> int:
        """Ask what there is of one name; one PROBE batch answers. Otherwise as `request_directory`."""
        return await self._ask("probe", relative, register)

    async def replace_credentials(self, credentials: CredentialSnapshot) -> None:
        """Have the child sign with these from now on."""
        fields = {"access_key": credentials.access_key, "secret_key": credentials.secret_key, "token": credentials.token}
        await self._send(encode_message({"type": "credentials", "credentials": fields}))

    async def keep_credentials(self, credentials: Credentials) -> None:
        """Have the child sign with the latest ones for as long as it runs. Ends by cancellation. Raises: RepositoryError."""
        while True:
            await trio.sleep(_CREDENTIALS_SECONDS)
            await self.replace_credentials(await credentials.snapshot())

    async def finish(self) -> None:
        """Take no more requests: `batches` ends once the bulk listing and everything asked for have been delivered."""
        if not self._finishing:
            self._finishing = True
            await self._send(encode_message({"type": "finish"}))

    async def batches(self) -> AsyncIterator[Batch]:
        """Everything the child delivers, until `finish` has been called and all is there.

        The last BULK batch is `done`, and a listing with `bulk` then finishes by itself. Raises what ended the bulk
        listing: RepositoryDenied, BucketNotFound, RepositoryRejected, RepositoryUnavailable.
        """
        buffer = bytearray()
        while True:
            while (frame := _take_frame(buffer)) is not None:
                batch = decode_batch(frame)
                if batch.kind is BatchKind.END:
                    return
                if batch.kind is BatchKind.BULK and batch.error is not None:
                    raise batch.error
                yield batch
                if batch.kind is BatchKind.BULK and batch.done:
                    await self.finish()
            data = await self._output.receive_some(READ_BYTES)
            if not data:
                raise await self._ended()
            buffer += data

    async def _ask(self, kind: str, relative: bytes, register: Callable[[int], None] | None) -> int:
        if self._finishing:
            raise self._unavailable("the listing has ended")
        self._last_id += 1
        request_id = self._last_id
        if register is not None:
            register(request_id)
        await self._send(encode_message({"type": kind, "request_id": request_id, "relative": relative.decode("latin-1")}))
        return request_id

    async def _send(self, message: bytes) -> None:
        async with self._sending:
            try:
                await self._messages.send_all(message)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                raise self._unavailable("the listing process is gone") from exc

    async def _ended(self) -> errors.RepositoryUnavailable:
        status = await self._child.wait()
        return self._unavailable(f"the listing process ended with status {status}, see the log")

    def _unavailable(self, reason: str) -> errors.RepositoryUnavailable:
        target = self._request.target
        return errors.RepositoryUnavailable(
            f"s3://{target.bucket}/{target.prefix.decode(errors='replace')}: {reason}", bucket=target.bucket
        )


def _take_frame(buffer: bytearray) -> bytes | None:
    """Remove one whole frame from the front of the buffer."""
    if len(buffer) < LENGTH.size:
        return None
    end = LENGTH.size + LENGTH.unpack_from(buffer)[0]
    if len(buffer) < end:
        return None
    frame = bytes(memoryview(buffer)[LENGTH.size : end])
    del buffer[:end]
    return frame
