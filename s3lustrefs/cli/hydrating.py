"""`s3lustrefs hydrate`: brings files and whole trees from the bucket before a job reads them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.cli.draining import ALL_THERE, FIRST_POLL_SECONDS, LAST_POLL_SECONDS, SOME_FAILED, UNASKED
from s3lustrefs.cli.reports import json_option, mount_option, printable, size_text, time_text
from s3lustrefs.cli.target import find
from s3lustrefs.errors import S3LustreError

_INTERRUPTED = 130


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@mount_option
@json_option
def hydrate(paths: tuple[str, ...], mount: str | None, as_json: bool) -> None:
    """Bring the content of each PATH here, or of all files below it, and return when it is.

    Many at once, the largest first; what a reader waits for goes before it. Files that are here already are left alone. When it is
    interrupted, what was brought stays. Exit status: 0 all here, 1 some failed (listed), 3 no answer.

    \b
    Example:  s3lustrefs hydrate /mnt/run/reference && srun ./job
    """
    started = time.monotonic()
    try:
        target, inside = find(mount, paths)
        client = target.client()
        number = int(str(client.call("Hydrate", paths=inside)["hydrate"]))
        try:
            progress = _follow(client, number, f"hydrating {target.mount_point}")
        except KeyboardInterrupt:
            client.call("CancelHydrate", hydrate=number)
            click.echo("s3lustrefs: interrupted; what was brought stays", err=True)
            sys.exit(_INTERRUPTED)
    except S3LustreError as exc:
        click.echo(f"s3lustrefs: {exc}", err=True)
        sys.exit(UNASKED)
    seconds = time.monotonic() - started
    for failure in () if as_json else progress["failures"]:
        click.echo(printable(f"{target.mount_point.rstrip('/')}{failure['path']}: {failure['error']}"), err=True)
    if as_json:
        click.echo(json.dumps({**progress, "seconds": seconds}))
    else:
        rate = f", {size_text(progress['brought_bytes'] / seconds)}/s" if progress["brought_bytes"] else ""
        click.echo(
            f"{progress['brought']:,} files brought ({size_text(progress['brought_bytes'])} in {time_text(seconds)}{rate}), "
            f"{progress['local']:,} here already, {progress['failed']:,} failed"
        )
    sys.exit(SOME_FAILED if progress["failed"] else ALL_THERE)


def _follow(client: ControlClient, number: int, title: str) -> dict[str, Any]:
    if not sys.stderr.isatty():
        return _poll(client, number, lambda _: None)
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)

        def show(progress: dict[str, Any]) -> None:
            bar.update(task, total=progress["bytes"] or None, completed=progress["brought_bytes"])

        return _poll(client, number, show)


def _poll(client: ControlClient, number: int, show: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    pause = FIRST_POLL_SECONDS
    while True:
        progress: dict[str, Any] = client.call("HydrateProgress", hydrate=number)
        show(progress)
        if progress["done"]:
            return progress
        time.sleep(pause)
        pause = min(pause * 1.5, LAST_POLL_SECONDS)
