"""BulkListing, UrgentRequests: all keys of a prefix from several threads, and single directories ahead of them.

Runs in the listing process. Worker threads share a list of KeyRanges. One thread reads one range page by page; a thread
without a range asks for the keys behind a boundary inside somebody else's. Only when that page is there, in order and
behind the boundary, does it take the rest of the range over, with the page as its first. So a server that ignores
`start-after`, or knows only continuation tokens, is found out by its first wrong answer, and the listing stays the one
sequential read that it was. Throttling or an unordered page also ends splitting.

INVARIANT 1: under the lock, the ranges in `_active` and what was emitted cover the prefix without overlap.
INVARIANT 2: nothing is emitted that `KeyRange.take` did not pass, and `take` runs under the lock.
Should an order violation show after ranges were split, neither holds: the listing then starts again from the first key
without splitting, so that keys may come twice but none is lost.

Memory: at most one page per thread, since `emit` blocks until its receiver has taken the page.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from s3lustrefs import errors
from s3lustrefs.repository.list_page import Page
from s3lustrefs.repository.list_ranges import Cut, Explore, KeyRange, is_ordered
from s3lustrefs.repository.list_request import ListClient

log = logging.getLogger(__name__)

FREE_MISSES = 8
"""Requests that may be spent on wrong guesses at once; then one more per two pages, so that guessing costs at most half."""
URGENT_PATIENCE_SECONDS = 15.0
URGENT_THREADS = 2


@dataclass(frozen=True, slots=True)
class Progress:
    """Numbers of a bulk listing: keys and pages emitted, requests answered."""

    keys: int = 0
    requests: int = 0
    pages: int = 0


class BulkListing:
    """Lists every key of the client's prefix once. `emit` is called from several threads at once."""

    def __init__(
        self, client: ListClient, emit: Callable[[Page], None], *, workers: int = 8, patience_seconds: float = 120.0
    ) -> None:
        self._client = client
        self._emit = emit
        self._workers = workers
        self._patience_seconds = patience_seconds
        self._prefix = client.target.prefix
        self._state = threading.Condition()
        self._active: list[KeyRange] = [KeyRange(self._prefix)]
        self._unstarted: list[KeyRange] = list(self._active)
        self._error: errors.RepositoryError | None = None
        self._may_split = workers > 1
        self._may_explore = True
        self._splits = self._misses = self._keys = self._requests = self._pages = 0

    def run(self) -> None:
        """List everything; returns when every page has been emitted. Raises: RepositoryError."""
        threads = [threading.Thread(target=self._work, name=f"list-{n}", daemon=True) for n in range(self._workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error

    def progress(self) -> Progress:
        with self._state:
            return Progress(self._keys, self._requests, self._pages)

    # --- the worker's loop ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._state:
                job = self._next_job()
                while job is None and self._active and self._may_split and self._error is None:
                    self._state.wait()
                    job = self._next_job()
            if job is None:
                return
            part, question = job
            try:
                if question is None:
                    self._read(part)
                elif isinstance(question, Explore):
                    self._explore(part, question.level)
                else:
                    self._try_cut(part, question)
            except errors.RepositoryError as exc:
                self._fail(exc)
                return

    def _next_job(self) -> tuple[KeyRange, Cut | Explore | None] | None:
        """A range nobody reads, else a question about the range that most likely has most left."""
        if self._error is not None:
            return None
        if self._unstarted:
            return self._unstarted.pop(), None
        if not self._may_split or self._misses > FREE_MISSES + self._pages // 2:
            return None
        for part in sorted(self._active, key=lambda part: (-len(part.hints), -part.pages)):
            question = None if part.probed else part.guess(self._may_explore)
            if question is not None:
                part.probed = True
                return part, question
        return None

    def _read(self, part: KeyRange) -> None:
        while not part.finished:
            page = self._client.page(after=part.position, token=part.token, patience_seconds=self._patience_seconds)
            with self._state:
                if self._error is not None or part not in self._active:
                    return
                if not is_ordered(page.keys, part.position) and self._give_up_splitting("keys out of order"):
                    return
                self._take(part, page)
            self._emit(page)
            self._settle(part)

    def _take(self, part: KeyRange, page: Page) -> None:
        self._requests += 1
        after = part.position
        part.take(page)
        page.span = after, part.end if part.finished else part.position
        self._pages += 1
        self._keys += len(page.keys)
        self._state.notify_all()

    def _settle(self, part: KeyRange) -> None:
        """Called after a page was emitted, so that the listing ends only when all of it has been."""
        with self._state:
            if part.finished and part in self._active:
                self._active.remove(part)
                self._state.notify_all()

    def _fail(self, error: errors.RepositoryError) -> None:
        with self._state:
            self._error = self._error or error
            self._state.notify_all()

    # --- splitting ------------------------------------------------------------------------------------------------------

    def _explore(self, part: KeyRange, level: bytes) -> None:
        """Fetch subdirectory names as hints. A refusal (a policy that allows only the whole prefix) only ends exploring."""
        asked_after = part.position
        try:
            page = self._client.page(prefix=level, after=asked_after, delimiter=True, patience_seconds=self._patience_seconds)
        except errors.RepositoryError as exc:
            page = None
            log.info("listing explore bucket=%s refused=%s", self._client.target.bucket, exc)
        with self._state:
            part.probed = False
            self._requests += 1
            if page is None or any(b"/" in key[len(level) :] for key in page.keys):
                self._may_explore = False
            else:
                part.learn(level, page)
            if page is not None and page.keys and page.keys[0] <= asked_after:
                self._give_up_splitting("start-after ignored")
            self._misses += not part.hints
            self._state.notify_all()

    def _try_cut(self, part: KeyRange, cut: Cut) -> None:
        try:
            page = self._client.page(after=cut.boundary, patience_seconds=self._patience_seconds)
        except errors.RepositoryError as exc:
            page = None
            log.info("listing split bucket=%s refused=%s", self._client.target.bucket, exc)
        with self._state:
            part.probed = False
            rest = self._commit_cut(part, cut.boundary, page)
            if rest is None:
                self._requests += 1
                self._state.notify_all()
                return
        assert page is not None
        self._emit(page)
        self._settle(rest)
        self._read(rest)

    def _commit_cut(self, part: KeyRange, boundary: bytes, page: Page | None) -> KeyRange | None:
        """Turn an answered Cut into a new range, if the answer can be trusted and is still of use."""
        if page is None or not is_ordered(page.keys, boundary):
            self._give_up_splitting("start-after not honoured")
            return None
        useless = part.finished or part not in self._active or part.position >= boundary
        if useless or not self._may_split or self._error is not None:
            self._misses += 1
            return None
        if not page.keys or (part.end is not None and page.keys[0] > part.end):
            part.empty_after = boundary
            self._misses += 1
            return None
        rest = part.cut(boundary)
        self._active.append(rest)
        self._splits += 1
        self._take(rest, page)
        return rest

    def _give_up_splitting(self, reason: str) -> bool:
        """Stop splitting; if ranges were split already, start again as one. Answers whether it did start again."""
        if self._may_split:
            log.info("listing unsplit bucket=%s reason=%s", self._client.target.bucket, reason)
        self._may_split = False
        restart = self._splits > 0 and reason == "keys out of order"
        if restart:
            log.warning("listing restart bucket=%s reason=%s", self._client.target.bucket, reason)
            self._splits = 0
            self._active = [KeyRange(self._prefix)]
            self._unstarted = list(self._active)
        self._state.notify_all()
        return restart


# --- single directories and names ---------------------------------------------------------------------------------------------


def list_directory(client: ListClient, relative: bytes, patience_seconds: float = URGENT_PATIENCE_SECONDS) -> Iterator[Page]:
    """Pages of the objects and subdirectories directly below one directory; the last page has no token.

    Names that a server without delimiters lists from further down are folded into their subdirectory.
    """
    directory = client.target.prefix + (relative + b"/" if relative else b"")
    seen: set[bytes] = set()
    token = None
    while True:
        page = client.page(prefix=directory, token=token, delimiter=True, patience_seconds=patience_seconds)
        _fold(page, directory, seen)
        yield page
        token = page.token
        if token is None:
            return


def _fold(page: Page, directory: bytes, seen: set[bytes]) -> None:
    cut = len(directory)
    nested = {key[: key.index(b"/", cut) + 1] for key in page.keys if b"/" in key[cut:]}
    if not nested:
        return
    page.keep_positions([n for n, key in enumerate(page.keys) if b"/" not in key[cut:]])
    page.common_prefixes = sorted(nested.union(page.common_prefixes) - seen)
    seen |= nested


def probe_name(client: ListClient, relative: bytes, patience_seconds: float = URGENT_PATIENCE_SECONDS) -> Page:
    """What there is of one name: its object, its directory marker, and `name/` among the common prefixes if keys are below it.

    Two requests, because `name-x` sorts between `name` and `name/x`.
    """
    name = client.target.prefix + relative
    page = client.page(prefix=name, max_keys=1, patience_seconds=patience_seconds)
    first = page.keys[0] if page.keys else b""
    found = page if first == name else Page()
    found.keep(0, 1)
    if first:
        below = client.page(prefix=name + b"/", max_keys=1, patience_seconds=patience_seconds)
        if below.keys:
            found.common_prefixes = [name + b"/"]
        if below.keys[:1] == [name + b"/"]:
            for column, more in zip(found.columns(), below.columns(), strict=True):
                column.extend(more[:1])
    found.token = None
    return found


class UrgentReceiver(Protocol):
    """Takes the answers of UrgentRequests, from their threads. The last one of a request is `done`."""

    def answer(self, request_id: int, kind: str, page: Page, done: bool) -> None: ...

    def refuse(self, request_id: int, kind: str, error: errors.RepositoryError) -> None: ...


class UrgentRequests:
    """Answers `directory` and `probe` requests from threads of their own, so that they never wait for a bulk page."""

    def __init__(self, client: ListClient, receiver: UrgentReceiver, *, threads: int = URGENT_THREADS) -> None:
        self._client = client
        self._receiver = receiver
        self._queue: queue.SimpleQueue[tuple[int, str, bytes] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"urgent-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, request_id: int, kind: str, relative: bytes) -> None:
        self._queue.put((request_id, kind, relative))

    def finish(self) -> None:
        """Return when everything submitted has been answered; nothing may be submitted afterwards."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (request := self._queue.get()) is not None:
            request_id, kind, relative = request
            try:
                if kind == "probe":
                    self._receiver.answer(request_id, kind, probe_name(self._client, relative), True)
                else:
                    for page in list_directory(self._client, relative):
                        self._receiver.answer(request_id, kind, page, page.token is None)
            except errors.RepositoryError as exc:
                self._receiver.refuse(request_id, kind, exc)


class PriorityGate:
    """Lets one thread at a time through, urgent ones first."""

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._busy = False
        self._urgent_waiting = 0
        self._waiting = 0

    def waiting(self) -> int:
        """How many threads stand before the gate."""
        with self._state:
            return self._waiting

    @contextmanager
    def turn(self, urgent: bool) -> Iterator[None]:
        with self._state:
            self._urgent_waiting += urgent
            self._waiting += 1
            try:
                self._state.wait_for(lambda: not self._busy and (urgent or not self._urgent_waiting))
            finally:
                self._urgent_waiting -= urgent
                self._waiting -= 1
            self._busy = True
        try:
            yield
        finally:
            with self._state:
                self._busy = False
                self._state.notify_all()
