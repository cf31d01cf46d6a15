"""`s3lustrefs restore`: has the bucket make archived objects readable, and waits for that with --wait."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.cli.reports import json_option, mount_option
from s3lustrefs.cli.target import find

FIRST_POLL_SECONDS, LAST_POLL_SECONDS = 0.05, 2.0


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@mount_option
@json_option
@click.option("--days", type=click.IntRange(min=1), default=7, show_default=True, help="How long to keep the objects readable.")
@click.option(
    "--tier",
    type=click.Choice(["Expedited", "Standard", "Bulk"], case_sensitive=False),
    default="Standard",
    show_default=True,
    help="How fast, and at what price; Deep Archive has no Expedited.",
)
@click.option("--wait", is_flag=True, help="Return once all of it can be read: after minutes to two days.")
def restore(paths: tuple[str, ...], mount: str | None, as_json: bool, days: int, tier: str, wait: bool) -> None:
    """Have the bucket restore the archived objects of each PATH; of a directory, those of all files below it that are not local.

    Reading such a file gives ENODATA until its object is restored, then it can be read at once. Objects that are readable stay so
    for --days from now. Exit status: 0 all asked for (with --wait: all readable), 1 some failed (listed).

    \b
    Example:  s3lustrefs restore /mnt/run/raw/2019 --days 3 --tier Bulk --wait && ./reprocess /mnt/run/raw/2019
    """
    target, inside = find(mount, paths)
    client = target.client()
    answer = client.call("Restore", paths=inside, days=days, tier=tier.title())
    progress = _follow(client, int(str(answer["restore"])), wait=wait)
    if as_json:
        click.echo(json.dumps(progress))
    else:
        for failure in progress["failures"]:
            click.echo(f"{target.mount_point.rstrip('/')}{failure['path']}: {failure['error']}", err=True)
        click.echo(f"{progress['readable']:,} readable, {progress['waiting']:,} being restored, {progress['failed']:,} failed")
    sys.exit(1 if progress["failed"] else 0)


def _follow(client: ControlClient, number: int, *, wait: bool) -> dict[str, Any]:
    if not sys.stderr.isatty():
        return _poll(client, number, wait=wait, show=lambda _: None)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("restoring", total=None)

        def show(progress: dict[str, Any]) -> None:
            done = progress["readable"] + progress["failed"]
            bar.update(task, total=(done + progress["waiting"]) or None, completed=done)

        return _poll(client, number, wait=wait, show=show)


def _poll(client: ControlClient, number: int, *, wait: bool, show: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    pause = FIRST_POLL_SECONDS
    while True:
        progress: dict[str, Any] = client.call("RestoreProgress", restore=number)
        show(progress)
        if progress["asked"] and not (wait and progress["waiting"]):
            return progress
        time.sleep(pause)
        pause = min(pause * 1.5, LAST_POLL_SECONDS)
