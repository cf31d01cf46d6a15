"""Commands that speak the FSx API over the control socket, with AWS's option names: dra, tag; and what all such commands share."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

import click

from s3lustrefs.cli import shorthand
from s3lustrefs.cli.target import find

SERVICE_PREFIX = "AWSSimbaAPIService_v20180301"

ANSWER_SECONDS = 120.0
"""Switching export on looks at the bucket first, which may be slow to answer."""

mount_option = click.option("--mount", "mount", metavar="MOUNTPOINT", help="Which mount, if there are several.")
json_option = click.option("--json", "as_json", is_flag=True, help="The API's answer as JSON.")
arn_option = click.option(
    "--resource-arn", required=True, metavar="ARN", help="As `dra describe --json` and `fs describe` show it."
)


def call(mount: str | None, operation: str, **request: object) -> dict[str, Any]:
    """The API's answer; parameters that are None are left out. Raises: DaemonUnreachable, ControlFault."""
    target, _ = find(mount)
    given = {name: value for name, value in request.items() if value is not None}
    return target.client(prefix=SERVICE_PREFIX, timeout=ANSWER_SECONDS).call(operation, **given)


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns that are never folded: paths stay whole, and can be copied."""
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    for row in [heads, *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


# --- associations ------------------------------------------------------------------------------------------------------------


@click.group()
def dra() -> None:
    """Data repository associations: what is linked with which bucket, and what flows between them.

    \b
    Example:  s3lustrefs dra list
              s3lustrefs dra update --association-id dra-0123456789abcdef0 --s3 'AutoExportPolicy={Events=[NEW]}'
    """


@dra.command("list")
@mount_option
@json_option
def list_associations(mount: str | None, as_json: bool) -> None:
    """List the associations of a mount.

    \b
    Example:  s3lustrefs dra list
    """
    _show_associations(call(mount, "DescribeDataRepositoryAssociations"), as_json)


@dra.command("describe")
@click.option("--association-ids", multiple=True, metavar="ID", help="Only these; may be repeated.")
@click.option(
    "--filters", multiple=True, metavar="FILTER", help="Only what meets it: Name=data-repository-type,Values=S3; may be repeated."
)
@click.option("--max-results", type=int, metavar="N", help="At most N in one answer.")
@click.option("--next-token", metavar="TOKEN", help="Go on after the answer that showed it.")
@mount_option
@json_option
def describe_associations(
    association_ids: tuple[str, ...],
    filters: tuple[str, ...],
    max_results: int | None,
    next_token: str | None,
    mount: str | None,
    as_json: bool,
) -> None:
    """Describe associations: paths, policies, state.

    \b
    Example:  s3lustrefs dra describe --association-ids dra-0123456789abcdef0 --json
    """
    answer = call(
        mount, "DescribeDataRepositoryAssociations",
        AssociationIds=list(association_ids) or None,
        Filters=[filter_of(text) for text in filters] or None,
        MaxResults=max_results, NextToken=next_token,
    )  # fmt: skip
    _show_associations(answer, as_json)


def filter_of(text: str) -> object:
    """A filter as the AWS command line takes it; one value needs no list."""
    parsed = shorthand.parse(text)
    if isinstance(parsed, dict) and isinstance(parsed.get("Values"), str):
        return {**parsed, "Values": [parsed["Values"]]}
    return parsed


@dra.command("update")
@click.option("--association-id", required=True, metavar="ID")
@click.option("--imported-file-chunk-size", type=int, metavar="MIB", help="Of files imported from now on.")
@click.option("--s3", metavar="POLICIES", help="AutoImportPolicy={Events=[...]},AutoExportPolicy={Events=[...]}, or JSON.")
@click.option("--client-request-token", metavar="TOKEN", help="Repeating it repeats nothing.")
@mount_option
@json_option
def update_association(
    association_id: str,
    imported_file_chunk_size: int | None,
    s3: str | None,
    client_request_token: str | None,
    mount: str | None,
    as_json: bool,
) -> None:
    """Change the policies of an association, at once. What is not given stays as it is; an empty list is off.

    \b
    Example:  s3lustrefs dra update --association-id dra-0123456789abcdef0 \\
                  --s3 'AutoImportPolicy={Events=[NEW,CHANGED,DELETED]},AutoExportPolicy={Events=[]}'
    """
    answer = call(
        mount, "UpdateDataRepositoryAssociation",
        AssociationId=association_id, ImportedFileChunkSize=imported_file_chunk_size,
        S3=None if s3 is None else shorthand.parse(s3), ClientRequestToken=client_request_token or str(uuid.uuid4()),
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(answer))
    else:
        _show_associations({"Associations": [answer["Association"]]}, as_json=False)


def _show_associations(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer))
        return
    heads = ("ASSOCIATION", "LIFECYCLE", "DIRECTORY", "REPOSITORY", "IMPORT", "EXPORT", "CHUNK")
    print_table(heads, [_row(each) for each in answer["Associations"]])
    for each in answer["Associations"]:
        if "FailureDetails" in each:
            click.echo(f"{each['AssociationId']}: {each['FailureDetails']['Message']}", err=True)
    if "NextToken" in answer:
        click.echo(f"there are more: --next-token {answer['NextToken']}", err=True)


def _row(association: dict[str, Any]) -> tuple[str, ...]:
    policies = association["S3"]
    return (
        association["AssociationId"], association["Lifecycle"], association["FileSystemPath"], association["DataRepositoryPath"],
        _events(policies["AutoImportPolicy"]), _events(policies["AutoExportPolicy"]), f"{association['ImportedFileChunkSize']} MiB",
    )  # fmt: skip


def _events(policy: dict[str, list[str]]) -> str:
    return "+".join(event.lower() for event in policy["Events"]) or "off"


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
