"""The listing process itself: `python -m s3lustrefs.movers.listing_child`, started by `listing_process`.

Main thread: reads messages from standard input until it closes, which ends the process whatever else it is doing. The
threads of `repository.listing` fetch, parse, group and prepare; each writes its own frames to standard output, through a
gate that lets answers to single requests pass bulk pages. The full pipe is the backpressure.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
import threading
from typing import Any, BinaryIO

from s3lustrefs import errors
from s3lustrefs.movers.listing_frames import (
    LENGTH,
    Batch,
    BatchKind,
    ListingRequest,
    decode_request,
    encode_batch,
    fill_batch,
    load_preparer,
)
from s3lustrefs.repository.credential_snapshot import CredentialSnapshot
from s3lustrefs.repository.list_page import Page
from s3lustrefs.repository.list_request import ListClient
from s3lustrefs.repository.listing import URGENT_THREADS, BulkListing, PriorityGate, UrgentRequests

GC_THRESHOLD = 200_000
"""A page makes some 10,000 objects and no cycles; the collector's default of 700 costs 0.4 us per key."""
EXIT_CRASHED = 70
_KINDS = {"directory": BatchKind.DIRECTORY, "probe": BatchKind.PROBE}


class ListingService:
    """One request being served: the bulk listing, if wanted, and single requests beside it."""

    def __init__(self, request: ListingRequest, output: int) -> None:
        self._prefix = request.target.prefix
        self._left_out = request.target.left_out
        self._prepare = load_preparer(request)
        self._preparing = threading.Lock()
        self._output = output
        self._gate = PriorityGate()
        self._client = ListClient(request.target, request.credentials, connections=request.workers + URGENT_THREADS)
        self._urgent = UrgentRequests(self._client, self, threads=URGENT_THREADS if request.bulk else request.workers)
        self._bulk = BulkListing(self._client, self._emit, workers=request.workers, patience_seconds=request.patience_seconds)
        self._bulk_thread = threading.Thread(target=self._run_bulk, name="bulk", daemon=True)
        if request.bulk:
            self._bulk_thread.start()
        self._bulk_wanted = request.bulk

    def handle(self, message: dict[str, Any]) -> None:
        """Act on one message after the first."""
        kind = message["type"]
        if kind == "credentials":
            self._client.replace_credentials(CredentialSnapshot(**message["credentials"]))
        elif kind == "finish":
            threading.Thread(target=self._finish, name="finish", daemon=True).start()
        else:
            self._urgent.submit(message["request_id"], kind, message["relative"].encode("latin-1"))

    def answer(self, request_id: int, kind: str, page: Page, done: bool) -> None:
        batch = Batch(_KINDS[kind], request_id, done=done, progress=self._bulk.progress())
        self._send(self._fill(batch, page), urgent=True)

    def refuse(self, request_id: int, kind: str, error: errors.RepositoryError) -> None:
        self._send(Batch(_KINDS[kind], request_id, done=True, progress=self._bulk.progress(), error=error), urgent=True)

    def _run_bulk(self) -> None:
        error = None
        try:
            self._bulk.run()
        except errors.RepositoryError as exc:
            error = exc
        self._send(Batch(BatchKind.BULK, done=True, progress=self._bulk.progress(), error=error), urgent=False)

    def _finish(self) -> None:
        self._urgent.finish()
        if self._bulk_wanted:
            self._bulk_thread.join()
        self._send(Batch(BatchKind.END, done=True, progress=self._bulk.progress()), urgent=False)

    def _emit(self, page: Page) -> None:
        batch = Batch(BatchKind.BULK, span=page.span, progress=self._bulk.progress())
        self._send(self._fill(batch, page), urgent=False)

    def _fill(self, batch: Batch, page: Page) -> Batch:
        """One thread at a time, since preparers keep state; the GIL would not let more than one work here anyway."""
        with self._preparing:
            return fill_batch(batch, page, self._prefix, self._prepare, self._left_out)

    def _send(self, batch: Batch, urgent: bool) -> None:
        view = memoryview(encode_batch(batch))
        with self._gate.turn(urgent):
            while view:
                view = view[os.write(self._output, view) :]


def read_message(stream: BinaryIO) -> dict[str, Any] | None:
    """The next message, None at the end of the stream."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    size = LENGTH.unpack(head)[0]
    body = stream.read(size)
    if len(body) < size:
        return None
    message: dict[str, Any] = json.loads(body)
    return message


def _crash(args: threading.ExceptHookArgs) -> None:
    """A thread that dies must not leave the daemon waiting for it. The daemon having gone first is no crash."""
    if not isinstance(args.exc_value, BrokenPipeError):
        info = (args.exc_type, args.exc_value, args.exc_traceback) if args.exc_value else None
        logging.getLogger(__name__).critical("listing thread died", exc_info=info)
    os._exit(EXIT_CRASHED)


def main() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s listing[%(process)d] %(name)s: %(message)s"
    )
    # At debug level botocore logs what it signs, session token included.
    logging.getLogger("botocore").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    threading.excepthook = _crash
    # Ctrl-C at a foreground mount reaches the whole process group; the daemon decides what becomes of this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    # Frames get a descriptor of their own, so that a stray print cannot corrupt them.
    output = os.dup(1)
    os.dup2(2, 1)
    first = read_message(sys.stdin.buffer)
    if first is not None:
        service = ListingService(decode_request(first), output)
        while (message := read_message(sys.stdin.buffer)) is not None:
            service.handle(message)
    # The worker threads may be in the middle of a request; there is nothing of theirs to save.
    os._exit(0)


if __name__ == "__main__":
    main()
