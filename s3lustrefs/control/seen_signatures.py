"""SeenSignatures: which signed requests came already, so that one that somebody recorded is not served to whoever sends it again.

AWS's clients cannot be held to one request per signature: X-Amz-Date has whole seconds and nothing else in a request is new each
time (botocore adds its `amz-sdk-` headers after signing), so that equal requests of one second are signed alike. What comes again
soon is such a request; what comes later is a recording. Attempts of a client that tries again are signed anew.

Only signatures that were right are kept, so that strangers cannot fill this. It is lost with the process: see `Verifier`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from s3lustrefs.control.fsx_request import refused

REPEAT_SECONDS = 5.0
"""How long equal requests are served, counted from the first: a second in which they were signed, and what busy clients take to
send them."""
MAX_SEEN = 20_000
"""66 different requests in each of the 300 seconds that they are kept for; 2.5 MB when full (measured)."""


class SeenSignatures:
    """INVARIANT: a signature is kept for as long as a request with its date passes. `uptime` never goes back, in seconds."""

    def __init__(self, uptime: Callable[[], float] = time.monotonic) -> None:
        self._uptime = uptime
        self._first_seen: dict[int, dict[bytes, float]] = {}
        """By date (s since the epoch) and signature: when it came first."""

    def __len__(self) -> int:
        return sum(map(len, self._first_seen.values()))

    def admit(self, signature: str, at: int, oldest: float, newest: float) -> None:
        """A request dated `at`; dates before `oldest` and after `newest` are refused elsewhere. Raises: ControlFault."""
        for passed in [each for each in self._first_seen if not oldest <= each <= newest]:
            del self._first_seen[passed]
        key, now = bytes.fromhex(signature), self._uptime()
        first = self._first_seen.get(at, {}).get(key)
        if first is not None and now - first > REPEAT_SECONDS:
            raise refused(
                "RequestExpired",
                f"this very request came {now - first:.0f} s ago, and is served again within {REPEAT_SECONDS:.0f} s: sign it anew",
            )
        if first is None:
            if len(self) >= MAX_SEEN:
                raise refused("ThrottlingException", f"{MAX_SEEN} different requests within minutes: try again later")
            self._first_seen.setdefault(at, {})[key] = now
