"""`s3lustrefs task`: data repository tasks over the control socket, with AWS's option names."""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import click

from s3lustrefs.cli import shorthand
from s3lustrefs.cli.fsx import (
    ANSWER_SECONDS,
    ask,
    call,
    filter_of,
    json_option,
    mount_option,
    page_options,
    print_table,
    say_more,
    token_option,
)
from s3lustrefs.cli.reports import printable
from s3lustrefs.cli.target import Target, find
from s3lustrefs.cli.task_waiting import UNASKED, follow, status_of
from s3lustrefs.errors import S3LustreError, UsageError
from s3lustrefs.model.option_values import parse_seconds

_TYPES = {
    "IMPORT_METADATA_FROM_REPOSITORY": "import",
    "EXPORT_TO_REPOSITORY": "export",
    "RELEASE_DATA_FROM_FILESYSTEM": "release",
    "AUTO_RELEASE_DATA": "auto-release",
}

_paths_option = click.option(
    "--paths", "more_paths", multiple=True, metavar="PATH", help="As FSx's clients name it; may be repeated."
)
_CREATION = (
    click.option("--report", metavar="REPORT", help="Enabled=true,Path=s3://BUCKET/PREFIX: a CSV of what failed goes there."),
    click.option("--tags", multiple=True, metavar="TAG", help="Key=KEY,Value=VALUE; may be repeated."),
    token_option,
    click.option("--wait", is_flag=True, help="Return when the task has ended; the exit status tells how."),
    click.option("--timeout", type=click.FloatRange(min=0), metavar="S", help="Give up waiting after S seconds; the task goes on."),
    mount_option,
    json_option,
)


def _creation_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_CREATION):
        command = option(command)
    return command


@click.group()
def task() -> None:
    """Data repository tasks: import, export and release in bulk, with progress and reports.

    \b
    Example:  s3lustrefs task export /mnt/run/results --wait || exit 1
              s3lustrefs task list
    """


@task.command("import")
@click.argument("paths", nargs=-1, metavar="[s3://BUCKET/PREFIX...]")
@_paths_option
@_creation_options
def import_(paths: tuple[str, ...], more_paths: tuple[str, ...], **given: Any) -> None:
    """Bring new and changed objects of linked prefixes (default: all of them) into the mount. Nothing is deleted here.

    Exit status: 0 created (with --wait: succeeded), 1 failed, 2 time is up or it was canceled, 3 refused or no answer.

    \b
    Example:  s3lustrefs task import s3://lab-results/run-17/raw --wait
    """
    _create("IMPORT_METADATA_FROM_REPOSITORY", (), [*paths, *more_paths], given)


@task.command("export")
@click.argument("paths", nargs=-1, metavar="[PATH...]")
@_paths_option
@_creation_options
def export(paths: tuple[str, ...], more_paths: tuple[str, ...], **given: Any) -> None:
    """Bring what differs under PATH (default: the whole mount) into the bucket. Nothing is deleted there.

    PATH is one of this host; --paths are relative to the mount. Not for associations that export automatically.
    Exit status: 0 created (with --wait: succeeded), 1 failed, 2 time is up or it was canceled, 3 refused or no answer.

    \b
    Example:  s3lustrefs task export /mnt/run/results --report Enabled=true,Path=s3://lab-results/run-17/reports --wait
    """
    _create("EXPORT_TO_REPOSITORY", paths, list(more_paths), given)


@task.command("release")
@click.argument("paths", nargs=-1, metavar="[PATH...]")
@_paths_option
@click.option("--older-than", metavar="AGE", help="Only what was not used for longer than AGE: 90s, 15m, 12h, 9d.")
@click.option(
    "--release-configuration", metavar="CONFIGURATION", help="DurationSinceLastAccess={Unit=DAYS,Value=9}, as FSx's clients say it."
)
@_creation_options
def release(
    paths: tuple[str, ...],
    more_paths: tuple[str, ...],
    older_than: str | None,
    release_configuration: str | None,
    **given: Any,
) -> None:
    """Drop the local bytes of files under PATH (default: the whole mount) that the bucket has. Reading fetches them again.

    Files that are open, changed since their export or pinned stay as they are.
    Exit status: 0 created (with --wait: succeeded), 1 failed, 2 time is up or it was canceled, 3 refused or no answer.

    \b
    Example:  s3lustrefs task release /mnt/run/raw --older-than 12h --wait
    """
    if older_than is not None and release_configuration is not None:
        raise click.UsageError("--older-than and --release-configuration say the same: give one of them")
    more: dict[str, Any] = {}
    if release_configuration is not None:
        more["ReleaseConfiguration"] = _with_numbers(shorthand.parse(release_configuration))
    if older_than is not None:
        try:
            more["OlderThanSeconds"] = int(parse_seconds(older_than))
        except ValueError as exc:
            raise click.UsageError(f"--older-than {older_than} {exc}") from exc
    _create("RELEASE_DATA_FROM_FILESYSTEM", paths, list(more_paths), given, **more)


def _with_numbers(value: shorthand.Value) -> Any:
    """The AWS command line knows from the description of FSx which members are numbers; here are only these."""
    if isinstance(value, dict):
        return {
            key: int(each) if key == "Value" and isinstance(each, str) and each.isdigit() else _with_numbers(each)
            for key, each in value.items()
        }
    return value


def _report(text: str | None) -> dict[str, Any]:
    if text is None:
        return {"Enabled": False}
    parsed = shorthand.parse(text)
    if not isinstance(parsed, dict):
        raise UsageError(f"--report {text!r}: write for example Enabled=true,Path=s3://BUCKET/PREFIX")
    enabled: Any = parsed.get("Enabled", True)
    if isinstance(enabled, str):
        enabled = {"true": True, "false": False}.get(enabled.lower(), enabled)
    return {"Format": "REPORT_CSV_20191124", "Scope": "FAILED_FILES_ONLY", **parsed, "Enabled": enabled}


def _create(kind: str, host_paths: Sequence[str], paths: list[str], given: dict[str, Any], **more: Any) -> None:
    """Create a task, follow it if that was asked for, and end with the exit status."""
    try:
        target, inside = find(given["mount"], host_paths)
        request: dict[str, Any] = {
            "Type": kind,
            "FileSystemId": ask(target, "DescribeFileSystems")["FileSystems"][0]["FileSystemId"],
            "Paths": [*inside, *paths],
            "Report": _report(given["report"]),
            "Tags": [shorthand.parse(each) for each in given["tags"]],
            "ClientRequestToken": given["client_request_token"] or str(uuid.uuid4()),
            **more,
        }
        request = {name: value for name, value in request.items() if value != []}
        created = _submit(target, request)
        if given["wait"]:
            created = follow(lambda: _look(target, created["TaskId"]), created, given["timeout"], title=_TYPES[kind])
        if given["as_json"]:
            click.echo(json.dumps({"DataRepositoryTask": created}))
        else:
            _show([created])
    except S3LustreError as exc:
        click.echo(f"s3lustrefs: {exc}", err=True)
        sys.exit(UNASKED)
    sys.exit(status_of(created) if given["wait"] else 0)


def _submit(target: Target, request: dict[str, Any]) -> dict[str, Any]:
    """What the API has no member for goes by an operation of the control socket's own."""
    if "OlderThanSeconds" in request:
        own: dict[str, Any] = target.client(timeout=ANSWER_SECONDS).call("CreateReleaseTask", **request)
        return dict(own["DataRepositoryTask"])
    return dict(ask(target, "CreateDataRepositoryTask", **request)["DataRepositoryTask"])


def _look(target: Target, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = ask(target, "DescribeDataRepositoryTasks", TaskIds=[task_id])["DataRepositoryTasks"][0]
    return found


# --- tasks there are ------------------------------------------------------------------------------------------------------------


@task.command("list")
@mount_option
@json_option
def list_tasks(mount: str | None, as_json: bool) -> None:
    """List the tasks of a mount, the oldest first.

    \b
    Example:  s3lustrefs task list
    """
    target, _ = find(mount)
    found: list[dict[str, Any]] = []
    token = None
    while True:
        answer = ask(target, "DescribeDataRepositoryTasks", NextToken=token)
        found += answer["DataRepositoryTasks"]
        token = answer.get("NextToken")
        if token is None:
            break
    if as_json:
        click.echo(json.dumps({"DataRepositoryTasks": found}))
    else:
        _show(sorted(found, key=lambda each: each["CreationTime"]))


@task.command("describe")
@click.option("--task-ids", multiple=True, metavar="ID", help="Only these; may be repeated.")
@click.option(
    "--filters", multiple=True, metavar="FILTER", help="Only what meets it: Name=task-lifecycle,Values=FAILED; may be repeated."
)
@page_options
@mount_option
@json_option
def describe_tasks(
    task_ids: tuple[str, ...],
    filters: tuple[str, ...],
    max_results: int | None,
    next_token: str | None,
    mount: str | None,
    as_json: bool,
) -> None:
    """Describe tasks: state, counts, and why one failed.

    \b
    Example:  s3lustrefs task describe --filters Name=task-lifecycle,Values=FAILED --json
    """
    answer = call(
        mount, "DescribeDataRepositoryTasks",
        TaskIds=list(task_ids) or None, Filters=[filter_of(text) for text in filters] or None,
        MaxResults=max_results, NextToken=next_token,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(answer))
        return
    _show(answer["DataRepositoryTasks"])
    say_more(answer)


@task.command("cancel")
@click.option("--task-id", required=True, metavar="ID")
@mount_option
@json_option
def cancel_task(task_id: str, mount: str | None, as_json: bool) -> None:
    """Cancel a task that waits or executes. What it has done stays done.

    \b
    Example:  s3lustrefs task cancel --task-id task-0123456789abcdef0
    """
    answer = call(mount, "CancelDataRepositoryTask", TaskId=task_id)
    click.echo(json.dumps(answer) if as_json else f"{answer['TaskId']}  {answer['Lifecycle']}")


def _show(tasks: Sequence[dict[str, Any]]) -> None:
    heads = ("TASK", "TYPE", "LIFECYCLE", "TOTAL", "DONE", "FAILED", "CREATED", "PATHS")
    print_table(heads, [_row(each) for each in tasks])
    for each in tasks:
        if "FailureDetails" in each:
            click.echo(printable(f"{each['TaskId']}: {each['FailureDetails']['Message']}"), err=True)


def _row(each: dict[str, Any]) -> tuple[str, ...]:
    status = each["Status"]
    created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each["CreationTime"]))
    return (
        each["TaskId"], _TYPES[each["Type"]], each["Lifecycle"], f"{status['TotalCount']:,}", f"{status['SucceededCount']:,}",
        f"{status['FailedCount']:,}", created, printable(" ".join(each["Paths"])) or "everything",
    )  # fmt: skip
