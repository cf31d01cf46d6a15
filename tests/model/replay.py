"""`python -m tests.model.replay TRACE [--minimise]`: does a failed trace again, or finds the fewest operations that still fail."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tests import servers
from tests.model.operations import Operation
from tests.model.session import Session
from tests.model.test_random_operations import OPTIONS, run
from tests.servers import S3Server


def failure(server: S3Server, options: dict[str, str], trace: list[Operation], tries: int) -> str:
    """How it fails, if it does within so many tries (exports run beside the operations); empty when it does not."""
    return next((found for _ in range(tries) if (found := _failure(server, options, trace))), "")


def _failure(server: S3Server, options: dict[str, str], trace: list[Operation]) -> str:

    def play(session: Session) -> None:
        for operation in trace:
            session.do(operation)

    try:
        run(server, "replay", play, options)
    except AssertionError as exc:
        return str(exc)
    return ""


def minimise(server: S3Server, options: dict[str, str], trace: list[Operation], tries: int) -> list[Operation]:
    """Leave out ever smaller parts for as long as it still fails the same way."""
    kind = failure(server, options, trace, tries).split(":")[0]
    if not kind:
        return trace
    size = len(trace) // 2
    while size:
        start = 0
        while start < len(trace):
            shorter = trace[:start] + trace[start + size :]
            if failure(server, options, shorter, tries).split(":")[0] == kind:
                trace = shorter
                print(f"{len(trace)} operations fail", flush=True)
            else:
                start += size
        size //= 2
    return trace


def main() -> None:
    parser = argparse.ArgumentParser(description="Repeat a trace of the random test.")
    parser.add_argument("trace", type=Path)
    parser.add_argument("--minimise", action="store_true")
    parser.add_argument("--tries", type=int, default=1, help="how often to look whether it fails")
    arguments = parser.parse_args()
    found = json.loads(arguments.trace.read_text())
    options, trace = found[OPTIONS], found["trace"]
    with servers.moto() as server:
        if arguments.minimise:
            trace = minimise(server, options, trace, arguments.tries)
            arguments.trace.with_suffix(".small.json").write_text(json.dumps({OPTIONS: options, "trace": trace}))
        for operation in trace:
            print(json.dumps(operation))
        print(failure(server, options, trace, arguments.tries) or "does not fail")


if __name__ == "__main__":
    main()
