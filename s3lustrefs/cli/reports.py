"""Commands that ask a running daemon and print its answer: status, why, refresh."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from s3lustrefs.cli.target import find

mount_option = click.option("--mount", "mount", metavar="MOUNTPOINT", help="Which mount, if there are several.")
json_option = click.option("--json", "as_json", is_flag=True, help="The daemon's answer as JSON.")


def size_text(count: float) -> str:
    """Bytes for people: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("the loop ends at TiB")


def time_text(seconds: float | None) -> str:
    """Seconds for people: `2 h 5 min`; unknown is `-`."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def printable(text: str) -> str:
    """Names of others for people: nothing in them breaks a line or steers the terminal."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


@click.command()
@click.argument("mountpoint", required=False)
@mount_option
@json_option
@click.option("--skipped", is_flag=True, help="List the objects that cannot be files, with the reason.")
def status(mountpoint: str | None, mount: str | None, as_json: bool, skipped: bool) -> None:
    """Show associations, import progress, export queue, hydration and cache of a mount.

    \b
    Example:  s3lustrefs status /mnt/run
              s3lustrefs status --skipped --json
    """
    target, _ = find(mount or mountpoint)
    client = target.client()
    answer: dict[str, Any] = client.call("Skipped" if skipped else "Status")
    if as_json:
        click.echo(json.dumps(answer))
    elif skipped:
        for item in answer["skipped"]:
            click.echo(printable(f"{item['key']}: {item['reason']}"))
    else:
        _print_status(answer)


def _print_status(answer: dict[str, Any]) -> None:
    """Plain lines, not a table: repository paths are long, and a table would fold them."""
    mode = "read-only" if answer["read_only"] else "read-write"
    click.echo(f"{answer['mountpoint']}  {mode}, up {time_text(answer['uptime_seconds'])}, process {answer['pid']}")
    click.echo(f"state directory {answer['state_dir']}, {answer['inodes']:,} inodes\n")
    if not answer["associations"]:
        click.echo("no associations: everything here is local scratch")
    for association in answer["associations"]:
        click.echo(f"{association['file_system_path']}  {association['data_repository_path']}  {association['lifecycle']}")
        if association.get("export_repository_path"):
            click.echo(f"    exported to  {association['export_repository_path']}")
        if association.get("failure"):
            click.secho(f"    {association['failure']}", fg="red")
        click.echo(f"    import       {_import_text(association['import'])}")
        click.echo(
            f"    automatic    import {_events_text(association['auto_import'])}, export {_events_text(association['auto_export'])}"
        )
        click.echo(f"    versioning   {association['capabilities'].get('versioning', 'unknown')}")
        click.echo(f"    last sweep   {_sweep_text(association['sweep'])}")
        click.echo(f"    conditions   {_conditions_text(association)}")
        click.echo(f"    events       {_bucket_events_text(association['events'])}")
    click.echo()
    for line in _work_lines(answer):
        click.echo(line)


_CONDITIONS = {
    "put_if_none_match": "creations",
    "put_if_match": "writes",
    "complete_if_match": "multipart completion",
    "copy_if_match": "copies",
    "delete_if_match": "deletes",
}
"""Requests that must not replace what nobody has seen, by the capability that makes the endpoint see to it."""


def _conditions_text(association: dict[str, Any]) -> str:
    able = association["capabilities"]
    if not association["auto_export"]:
        return "nothing is written"
    missing = [words for name, words in _CONDITIONS.items() if not able.get(name)]
    return f"a look just before stands in for {', '.join(missing)}" if missing else "all enforced by the endpoint"


def _events_text(events: list[str]) -> str:
    return "+".join(event.lower() for event in events) or "off"


def _sweep_text(sweep: dict[str, Any] | None) -> str:
    if sweep is None or not (sweep["at"] or sweep["error"]):
        return "none yet"
    if sweep["error"]:
        return f"failed: {sweep['error']}"
    return (
        f"{time_text(max(0.0, time.time() - sweep['at']))} ago, {sweep['objects']:,} objects in {time_text(sweep['seconds'])}: "
        f"{sweep['new']:,} new, {sweep['changed']:,} changed, {sweep['deleted']:,} deleted{_refused_text(sweep)}"
    )


def _refused_text(found: dict[str, Any]) -> str:
    return f", {found['refused']:,} left as they were: the bucket refuses to tell" if found["refused"] else ""


def _bucket_events_text(events: dict[str, Any]) -> str:
    if events["state"] == "OFF":
        return f"sweeps alone: {events['reason']}"
    if events["state"] == "FAILING":
        return f"not available, sweeps alone: {events['reason']}"
    if events["state"] == "STARTING":
        oldest = events["oldest_queued_seconds"]
        return "starting" if oldest is None else f"waiting for the import, oldest queued {time_text(oldest)}"
    text = f"{events['events']:,} from queue {events['queue'].rpartition('/')[2]}"
    if events["last_event_at"]:
        text += f", last {time_text(max(0.0, time.time() - events['last_event_at']))} ago"
    if events["lag_seconds"] is not None:
        text += f", lag {events['lag_seconds']:.1f} s"
    text += f", oldest queued {time_text(events['oldest_queued_seconds'])}"
    bad = {
        "unreadable": events["unreadable"], "given up": events["lost"], "of other keys": events["foreign"],
        "keys that the bucket refuses to tell of": events["unanswered"],
    }  # fmt: skip
    return text + "".join(f", {count:,} {word}" for word, count in bad.items() if count)


def _import_text(progress: dict[str, Any]) -> str:
    text = f"{progress['state'].lower()}, {progress['objects']:,} objects"
    if progress["state"] == "RUNNING":
        text += f", {progress['objects_per_second']:,.0f}/s"
        if progress["eta_seconds"] is not None:
            text += f", {time_text(progress['eta_seconds'])} to go"
    if progress["headers_pending"]:
        text += f", {progress['headers_pending']:,} headers to fetch"
    if progress["skipped"]:
        text += f", {progress['skipped']:,} skipped (--skipped lists them)"
    return text


def _work_lines(answer: dict[str, Any]) -> list[str]:
    export, hydration, cache = answer["export"], answer["hydration"], answer["cache"]
    kept = answer["lost_found"]
    capacity = "" if cache["capacity_bytes"] is None else f" of {size_text(cache['capacity_bytes'])}"
    oldest = "" if export["oldest_due_seconds"] is None else f", oldest waits {time_text(export['oldest_due_seconds'])}"
    to_go = "" if export["eta_seconds"] is None else f", {time_text(export['eta_seconds'])} to go"
    return [
        f"export     {export['due']:,} due, {export['in_flight']:,} in flight, {export['open']:,} still open, "
        f"{export['failed']:,} failed{oldest}",
        f"           {export['exported_objects']:,} objects, {size_text(export['exported_bytes'])} exported, "
        f"{export['records_per_second']:,.0f} changes/s, {size_text(export['bytes_per_second'])}/s{to_go}",
        f"hydration  {hydration['in_flight']:,} in flight, {hydration['waiting_readers']:,} readers waiting, "
        f"{hydration['restores_waiting']:,} restores waiting, "
        f"{size_text(hydration['bytes'])} fetched, {size_text(hydration['bytes_per_second'])}/s",
        *([f"restoring  {answer['restoring']:,} archived objects"] if answer.get("restoring") else []),
        f"cache      {size_text(cache['used_bytes'])}{capacity} in use",
        *(f"           {target['path']}: {_target_text(target)}" for target in cache["targets"]),
        f"conflicts  {answer['conflicts']:,}; {kept['files']:,} losers, {size_text(kept['bytes'])} in .s3lustrefs-lost+found"
        + (f", the oldest {time_text(kept['oldest_seconds'])} old" if kept["files"] else ""),
        *(
            f"           {time_text(max(0.0, time.time() - each['at']))} ago: {each['path']} {each['text']}"
            for each in answer["latest_conflicts"]
        ),
        *([f"state      FAILING: {answer['state_failure']}"] if answer.get("state_failure") else []),
    ]


def _target_text(target: dict[str, Any]) -> str:
    free = f"{size_text(target['free_bytes'])} free"
    return f"{free}, FAILING: {target['failure']}" if target.get("failure") else free


@click.command()
@click.argument("path")
@mount_option
@json_option
def why(path: str, mount: str | None, as_json: bool) -> None:
    """Say what PATH is linked to, its state, the last error and what to do about it.

    \b
    Example:  s3lustrefs why /mnt/run/results/model.bin
    """
    target, inside = find(mount, [path])
    answer: dict[str, Any] = target.client().call("Why", path=inside[0])
    click.echo(json.dumps(answer) if as_json else "\n".join(map(printable, answer["lines"])))


@click.command()
@click.argument("path")
@mount_option
@json_option
def refresh(path: str, mount: str | None, as_json: bool) -> None:
    """Look at once for changes in the bucket: of PATH, or of everything below it if it is a directory.

    New objects become files, changed ones are read anew, deleted ones go, whatever auto_import says. Files with changes of
    their own stay. Returns when that is done.

    \b
    Example:  s3lustrefs refresh /mnt/run/input
    """
    target, inside = find(mount, [path])
    answer: dict[str, Any] = target.client(timeout=None).call("Refresh", path=inside[0])
    if as_json:
        click.echo(json.dumps(answer))
    else:
        click.echo(
            f"{path}: {answer['objects']:,} objects looked at, {answer['new']:,} new, {answer['changed']:,} changed, "
            f"{answer['deleted']:,} deleted{_refused_text(answer)}, {time_text(answer['seconds'])}"
        )
