"""The drain barrier: wait until everything due is in the bucket, with a progress bar for people and an exit status for scripts."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence

import click

from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.cli.reports import printable
from s3lustrefs.cli.target import find
from s3lustrefs.errors import S3LustreError

ALL_THERE, SOME_FAILED, TIMED_OUT, UNASKED = 0, 1, 2, 3
FIRST_POLL_SECONDS, LAST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.02, 0.5, 10.0
_WORK_PER_ANSWER = 20
"""The daemon counts what remains in the thread that exports it: it gets this much time for that per time it took to answer."""


def poll(
    client: ControlClient, paths: Sequence[str], *, timeout: float | None, progress: Callable[[int, float], None]
) -> tuple[bool, int, list[dict[str, str]]]:
    """Ask until nothing remains or the time is up: (timed out, remaining, failed files).

    `remaining` counts what is still being tried; `failed` is what was given up until somebody changes something.
    `progress` is told what remains, and how much of it is done per second.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    pause, patience, first = FIRST_POLL_SECONDS, 0.0, True
    while True:
        asked = time.monotonic()
        answer = client.call("Drain", paths=list(paths), urgent=True, again=first, wait_seconds=patience)
        first = False
        remaining = int(str(answer["remaining"]))
        failed = answer["failed"]
        assert isinstance(failed, list)
        rate = float(str(answer["records_per_second"]))
        progress(remaining, rate)
        if not remaining:
            return False, 0, failed
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            return True, remaining, failed
        time.sleep(max(0.0, patience - (now - asked)))  # nothing was under way, but something remains
        patience = max(min(pause, remaining / rate if rate else pause), _WORK_PER_ANSWER * float(str(answer["counting_seconds"])))
        patience = min(patience, LONGEST_POLL_SECONDS, math.inf if deadline is None else max(0.0, deadline - time.monotonic()))
        pause = min(pause * 1.5, LAST_POLL_SECONDS)


def _poll_with_bar(
    client: ControlClient, paths: Sequence[str], timeout: float | None, title: str
) -> tuple[bool, int, list[dict[str, str]]]:
    if not sys.stderr.isatty():
        return poll(client, paths, timeout=timeout, progress=lambda *_: None)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, rate="")
        done, before = 0, 0

        def show(remaining: int, rate: float) -> None:
            # A directory that was renamed is one record at first, and as many as it has files once the exporter looks into it.
            nonlocal done, before
            done, before = done + max(0, before - remaining), remaining
            bar.update(task, total=done + remaining or None, completed=done, rate=f"{rate:,.0f}/s")

        return poll(client, paths, timeout=timeout, progress=show)


def drain(client: ControlClient, paths: Sequence[str], *, timeout: float | None, title: str, as_json: bool = False) -> int:
    """Wait, report, and return the exit status."""
    timed_out, remaining, failed = _poll_with_bar(client, paths, timeout, title)
    if as_json:
        click.echo(json.dumps({"remaining": remaining, "timed_out": timed_out, "failed": failed}))
    else:
        for file in failed:
            click.echo(printable(f"{file['path']}: {file['error']} [{file['code']}]"), err=True)
            if file.get("remedy"):
                click.echo(f"    {file['remedy']}", err=True)
        if timed_out:
            click.echo(f"s3lustrefs: time is up with {remaining} still to be exported; the export goes on", err=True)
    if timed_out:
        return TIMED_OUT
    return SOME_FAILED if failed else ALL_THERE


@click.command("drain")
@click.argument("paths", nargs=-1, metavar="[PATH...]")
@click.option("--mount", "mount", metavar="MOUNTPOINT", help="Which mount, if there are several and no PATH.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="S", help="Give up waiting after S seconds; the export itself goes on."
)
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on standard output.")
def drain_command(paths: tuple[str, ...], mount: str | None, timeout: float | None, as_json: bool) -> None:
    """Wait until everything due under PATH (default: all) is in the bucket.

    Exit status: 0 all there, 1 some files failed (listed with the reason and what to do), 2 time is up, 3 no answer.

    \b
    Example:  s3lustrefs drain /mnt/run/results --timeout 3600 || exit 1     # the end of a job script
    """
    try:
        target, inside = find(mount, paths)
        status = drain(target.client(), inside or ["/"], timeout=timeout, title=f"draining {target.mount_point}", as_json=as_json)
    except S3LustreError as exc:
        click.echo(f"s3lustrefs: {exc}", err=True)
        status = UNASKED
    sys.exit(status)
