"""`s3lustrefs versions`: the versions that a bucket keeps of a file, and bringing one back."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.cli.reports import json_option, mount_option, size_text
from s3lustrefs.cli.target import find


@click.command()
@click.argument("path")
@mount_option
@json_option
@click.option("--restore", "version_id", metavar="ID", help="Make this version the current one again.")
def versions(path: str, mount: str | None, as_json: bool, version_id: str | None) -> None:
    """List the versions that the bucket keeps of PATH, or bring one back. PATH need not exist any more.

    Bringing back is a copy within the bucket, which becomes the newest version, with the metadata it had; the mount shows it at
    once. It is refused while PATH has changes that are not in the bucket, or the bucket has changes not seen here. In the list
    `here` is the version that the mount shows, and `posix` one written by s3lustrefs or FSx.

    \b
    Example:  s3lustrefs versions /mnt/run/results/model.bin
              s3lustrefs versions /mnt/run/results/model.bin --restore 3sL4kqtJlcpXroDTDmJ.rmSpXd3dIbrH
    """
    target, inside = find(mount, [path])
    client = target.client(timeout=None)
    if version_id is not None:
        _bring_back(client, path, inside[0], version_id, as_json=as_json)
        return
    answer: dict[str, Any] = client.call("Versions", path=inside[0])
    click.echo(json.dumps(answer) if as_json else "\n".join(_table(answer["versions"])))


def _bring_back(client: ControlClient, path: str, inside: str, version_id: str, *, as_json: bool) -> None:
    answer: dict[str, Any] = client.call("BringBackVersion", path=inside, version_id=version_id)
    if as_json:
        click.echo(json.dumps(answer))
    elif answer["changed"]:
        click.echo(f"{path}: {size_text(answer['size'])} of {_time(answer['time_ns'])} are the current version again")
    else:
        click.echo(f"{path}: {version_id} is the current version already")


def _table(found: list[dict[str, Any]]) -> list[str]:
    """Never folded: version ids are long, and are there to be copied."""
    rows = [("VERSION", "WRITTEN (UTC)", "SIZE", "")]
    rows += [(each["version_id"], _time(each["time_ns"]), _size(each), _remarks(each)) for each in found]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]


def _time(time_ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time_ns / 1e9))


def _size(entry: dict[str, Any]) -> str:
    return "-" if entry["delete_marker"] else size_text(entry["size"])


def _remarks(entry: dict[str, Any]) -> str:
    words = [
        "current" if entry["current"] else "",
        "here" if entry["here"] else "",
        "deleted" if entry["delete_marker"] else "",
        "posix" if entry["posix_headers"] else "",
        entry["storage_class"] if entry["storage_class"] not in (None, "STANDARD") else "",
    ]
    return ", ".join(filter(None, words))
