"""`s3lustrefs dra`: data repository associations, with the option names of `aws fsx`."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import click

from s3lustrefs.cli import shorthand
from s3lustrefs.cli.fsx import call, filter_of, json_option, mount_option, page_options, print_table, say_more, token_option
from s3lustrefs.cli.target import find
from s3lustrefs.errors import ControlFault, UsageError

_POLL_SECONDS = 0.2
_wait_option = click.option("--wait", is_flag=True, help="Return once it is done; exit status 1 if it failed.")


@click.group()
def dra() -> None:
    """Data repository associations: what is linked with which bucket, and what flows between them.

    \b
    Example:  s3lustrefs dra list
              s3lustrefs dra create --file-system-path /reference --data-repository-path s3://genomes/hg38
              s3lustrefs dra update --association-id dra-0123456789abcdef0 --s3 'AutoExportPolicy={Events=[NEW]}'
    """


@dra.command("create")
@click.option("--file-system-path", required=True, metavar="PATH", help="The directory, from the root of the mount: /reference.")
@click.option("--data-repository-path", required=True, metavar="URL", help="s3://BUCKET[/PREFIX].")
@click.option("--file-system-id", metavar="ID", help="Left out: that of the mount.")
@click.option(
    "--batch-import-meta-data-on-create/--no-batch-import-meta-data-on-create",
    help="Import everything the bucket has; otherwise only what comes from now on shows, as --s3 says.",
)
@click.option("--imported-file-chunk-size", type=int, metavar="MIB", help="Of imported files; 1024 if left out.")
@click.option("--s3", metavar="POLICIES", help="AutoImportPolicy={Events=[...]},AutoExportPolicy={Events=[...]}; left out is off.")
@click.option("--tags", multiple=True, metavar="TAG", help="Key=KEY,Value=VALUE; may be repeated.")
@token_option
@_wait_option
@mount_option
@json_option
def create_association(
    file_system_path: str,
    data_repository_path: str,
    file_system_id: str | None,
    batch_import_meta_data_on_create: bool,
    imported_file_chunk_size: int | None,
    s3: str | None,
    tags: tuple[str, ...],
    client_request_token: str | None,
    wait: bool,
    mount: str | None,
    as_json: bool,
) -> None:
    """Link a directory with a bucket or prefix. Access to the bucket is checked first; the rest is done in the background.

    \b
    Example:  s3lustrefs dra create --file-system-path /reference --data-repository-path s3://genomes/hg38 \\
                  --batch-import-meta-data-on-create --s3 'AutoImportPolicy={Events=[NEW,CHANGED,DELETED]}' --wait
    """
    file_system_id = file_system_id or call(mount, "DescribeFileSystems")["FileSystems"][0]["FileSystemId"]
    answer = call(
        mount, "CreateDataRepositoryAssociation",
        FileSystemId=file_system_id, FileSystemPath=file_system_path, DataRepositoryPath=data_repository_path,
        BatchImportMetaDataOnCreate=batch_import_meta_data_on_create, ImportedFileChunkSize=imported_file_chunk_size,
        S3=None if s3 is None else shorthand.parse(s3), Tags=[shorthand.parse(each) for each in tags] or None,
        ClientRequestToken=client_request_token or str(uuid.uuid4()),
    )  # fmt: skip
    shown = answer["Association"]
    while wait and shown["Lifecycle"] == "CREATING":
        time.sleep(_POLL_SECONDS)
        shown = _described(mount, shown["AssociationId"])
    _show_one(shown, as_json)
    if shown["Lifecycle"] == "FAILED":
        raise UsageError(f"{shown['AssociationId']} failed: {shown['FailureDetails']['Message']}")


@dra.command("delete")
@click.option("--association-id", required=True, metavar="ID")
@click.option(
    "--delete-data-in-file-system/--no-delete-data-in-file-system",
    help="Remove the local tree too. Nothing in the bucket is removed either way.",
)
@click.option("--abandon-unexported", is_flag=True, help="Delete it although changes below it are not in the bucket yet.")
@token_option
@_wait_option
@mount_option
@json_option
def delete_association(
    association_id: str,
    delete_data_in_file_system: bool,
    abandon_unexported: bool,
    client_request_token: str | None,
    wait: bool,
    mount: str | None,
    as_json: bool,
) -> None:
    """Part a directory from its bucket. Files whose content is here become local files; others can no longer be read.

    Refused with exit status 1 while changes below it are due for export: `s3lustrefs drain` first.

    \b
    Example:  s3lustrefs dra delete --association-id dra-0123456789abcdef0 --wait
    """
    if not abandon_unexported:
        _check_exported(mount, association_id)
    answer = call(
        mount, "DeleteDataRepositoryAssociation",
        AssociationId=association_id, DeleteDataInFileSystem=delete_data_in_file_system,
        ClientRequestToken=client_request_token or str(uuid.uuid4()),
    )  # fmt: skip
    while wait and _is_there(mount, association_id):
        time.sleep(_POLL_SECONDS)
    click.echo(json.dumps(answer) if as_json else f"{association_id} {'deleted' if wait else answer['Lifecycle']}")


def _check_exported(mount: str | None, association_id: str) -> None:
    """Raises: UsageError while something below the association is not in the bucket."""
    association = _described(mount, association_id)
    if association["Lifecycle"] in ("CREATING", "DELETING", "FAILED"):
        return
    target, _ = find(mount)
    answer = target.client().call("Drain", paths=[association["FileSystemPath"]])
    waiting = int(str(answer["remaining"])) + int(str(answer["failed_count"]))
    if waiting:
        raise UsageError(
            f"{waiting} changes below {association['FileSystemPath']} are not in the bucket yet: `s3lustrefs drain` first, "
            "or delete it with --abandon-unexported"
        )


def _described(mount: str | None, association_id: str) -> dict[str, Any]:
    answer = call(mount, "DescribeDataRepositoryAssociations", AssociationIds=[association_id])
    described: dict[str, Any] = answer["Associations"][0]
    return described


def _is_there(mount: str | None, association_id: str) -> bool:
    try:
        _described(mount, association_id)
    except ControlFault as exc:
        if exc.fault == "DataRepositoryAssociationNotFound":
            return False
        raise
    return True


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
@page_options
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


@dra.command("update")
@click.option("--association-id", required=True, metavar="ID")
@click.option("--imported-file-chunk-size", type=int, metavar="MIB", help="Of files imported from now on.")
@click.option("--s3", metavar="POLICIES", help="AutoImportPolicy={Events=[...]},AutoExportPolicy={Events=[...]}, or JSON.")
@token_option
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
    _show_one(answer["Association"], as_json)


def _show_one(association: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"Association": association}))
    else:
        _show_associations({"Associations": [association]}, as_json=False)


def _show_associations(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer))
        return
    heads = ("ASSOCIATION", "LIFECYCLE", "DIRECTORY", "REPOSITORY", "IMPORT", "EXPORT", "CHUNK")
    print_table(heads, [_row(each) for each in answer["Associations"]])
    for each in answer["Associations"]:
        if "FailureDetails" in each:
            click.echo(f"{each['AssociationId']}: {each['FailureDetails']['Message']}", err=True)
    say_more(answer)


def _row(association: dict[str, Any]) -> tuple[str, ...]:
    policies = association["S3"]
    return (
        association["AssociationId"], association["Lifecycle"], association["FileSystemPath"], association["DataRepositoryPath"],
        _events(policies["AutoImportPolicy"]), _events(policies["AutoExportPolicy"]), f"{association['ImportedFileChunkSize']} MiB",
    )  # fmt: skip


def _events(policy: dict[str, list[str]]) -> str:
    return "+".join(event.lower() for event in policy["Events"]) or "off"
