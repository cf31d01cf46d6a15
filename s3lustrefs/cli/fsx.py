"""Commands that speak the FSx API over the control socket, with AWS's option names: tag; and what all such commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import click

from s3lustrefs.cli import shorthand
from s3lustrefs.cli.target import Target, find

SERVICE_PREFIX = "AWSSimbaAPIService_v20180301"

ANSWER_SECONDS = 120.0
"""Switching export on looks at the bucket first, which may be slow to answer."""

mount_option = click.option("--mount", "mount", metavar="MOUNTPOINT", help="Which mount, if there are several.")
json_option = click.option("--json", "as_json", is_flag=True, help="The API's answer as JSON.")
token_option = click.option("--client-request-token", metavar="TOKEN", help="Repeating it repeats nothing.")
arn_option = click.option(
    "--resource-arn", required=True, metavar="ARN", help="As `dra describe --json` and `fs describe` show it."
)


def call(mount: str | None, operation: str, **request: object) -> dict[str, Any]:
    """The API's answer; parameters that are None are left out. Raises: DaemonUnreachable, ControlFault."""
    target, _ = find(mount)
    return ask(target, operation, **request)


def ask(target: Target, operation: str, **request: object) -> dict[str, Any]:
    """The same of a mount that was found before."""
    given = {name: value for name, value in request.items() if value is not None}
    return target.client(prefix=SERVICE_PREFIX, timeout=ANSWER_SECONDS).call(operation, **given)


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns that are never folded: paths stay whole, and can be copied."""
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    for row in [heads, *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def page_options(command: Callable[..., None]) -> Callable[..., None]:
    """How much of a long answer is wanted, and from where on."""
    start = click.option("--next-token", metavar="TOKEN", help="Go on after the answer that showed it.")
    return click.option("--max-results", type=int, metavar="N", help="At most N in one answer.")(start(command))


def say_more(answer: dict[str, Any]) -> None:
    """How to see what this answer has no room for."""
    if "NextToken" in answer:
        click.echo(f"there are more: --next-token {answer['NextToken']}", err=True)


def filter_of(text: str) -> object:
    """A filter as the AWS command line takes it; one value needs no list."""
    parsed = shorthand.parse(text)
    if isinstance(parsed, dict) and isinstance(parsed.get("Values"), str):
        return {**parsed, "Values": [parsed["Values"]]}
    return parsed


# --- tags -----------------------------------------------------------------------------------------------------------------------


@click.group()
def tag() -> None:
    """Tags of the file system, its associations and its tasks.

    \b
    Example:  s3lustrefs tag list --resource-arn arn:aws:fsx:eu-central-1:000000000000:file-system/fs-0123456789abcdef0
    """


@tag.command("list")
@arn_option
@mount_option
@json_option
def list_tags(resource_arn: str, mount: str | None, as_json: bool) -> None:
    """List the tags of a resource.

    \b
    Example:  s3lustrefs tag list --resource-arn arn:aws:fsx:eu-central-1:000000000000:file-system/fs-0123456789abcdef0
    """
    answer = call(mount, "ListTagsForResource", ResourceARN=resource_arn)
    if as_json:
        click.echo(json.dumps(answer))
    else:
        print_table(("KEY", "VALUE"), [(each["Key"], each["Value"]) for each in answer["Tags"]])


@tag.command("add")
@arn_option
@click.option("--tags", multiple=True, required=True, metavar="TAG", help="Key=KEY,Value=VALUE; may be repeated.")
@mount_option
def add_tags(resource_arn: str, tags: tuple[str, ...], mount: str | None) -> None:
    """Set tags of a resource; others stay.

    \b
    Example:  s3lustrefs tag add --tags Key=team,Value=genomics \\
                  --resource-arn arn:aws:fsx:eu-central-1:000000000000:file-system/fs-0123456789abcdef0
    """
    call(mount, "TagResource", ResourceARN=resource_arn, Tags=[shorthand.parse(each) for each in tags])


@tag.command("remove")
@arn_option
@click.option("--tag-keys", multiple=True, required=True, metavar="KEY", help="May be repeated.")
@mount_option
def remove_tags(resource_arn: str, tag_keys: tuple[str, ...], mount: str | None) -> None:
    """Remove tags of a resource, by their keys.

    \b
    Example:  s3lustrefs tag remove --tag-keys team \\
                  --resource-arn arn:aws:fsx:eu-central-1:000000000000:file-system/fs-0123456789abcdef0
    """
    call(mount, "UntagResource", ResourceARN=resource_arn, TagKeys=list(tag_keys))
