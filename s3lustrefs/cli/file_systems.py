"""`s3lustrefs fs`: the file system of a mount, and, where `s3lustrefs api` runs, all file systems of the host."""

from __future__ import annotations

import json
import os
import uuid
from typing import Any

import click

from s3lustrefs.cli import shorthand
from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.cli.fsx import ANSWER_SECONDS, SERVICE_PREFIX, call, json_option, mount_option, print_table, token_option
from s3lustrefs.cli.host import STATE_DIR
from s3lustrefs.errors import DaemonUnreachable

_ANY_SUBNET = "subnet-00000000000000000"
"""FSx wants one, which means nothing here."""
_WHOLE_NUMBERS = frozenset(
    {"AutomaticBackupRetentionDays", "ImportedFileChunkSize", "Iops", "PerUnitStorageThroughput", "SizeGiB", "ThroughputCapacity"}
)
_YES_OR_NO = {"true": True, "false": False}

host_option = click.option(
    "--state-dir", default=STATE_DIR, show_default=True, type=click.Path(file_okay=False), help="That of `s3lustrefs api`."
)
id_option = click.option("--file-system-id", required=True, metavar="ID", help="As `fs list` shows it.")
lustre_option = click.option(
    "--lustre-configuration", metavar="SETTINGS", help="DeploymentType=SCRATCH_2,DataCompressionType=LZ4, or JSON."
)


def ask_host(state_dir: str, operation: str, **request: object) -> dict[str, Any]:
    """The answer of the host's endpoint; parameters that are None are left out. Raises: DaemonUnreachable, ControlFault."""
    path = os.path.join(os.path.abspath(state_dir), "api", "control.sock")
    given = {name: value for name, value in request.items() if value is not None}
    if not os.path.exists(os.path.dirname(path)):
        raise DaemonUnreachable(f"{path} is not there: start `s3lustrefs api`, or say with --state-dir where it keeps its state")
    try:
        return ControlClient(path, prefix=SERVICE_PREFIX, timeout=ANSWER_SECONDS).call(operation, **given)
    except DaemonUnreachable as exc:
        raise DaemonUnreachable(f"{exc}; is `s3lustrefs api` running?") from exc


@click.group()
def fs() -> None:
    """File systems as FSx's clients see them. All but `describe` need `s3lustrefs api` to run.

    \b
    Example:  s3lustrefs fs describe
              s3lustrefs fs list
    """


@fs.command("describe")
@mount_option
@json_option
def describe_file_system(mount: str | None, as_json: bool) -> None:
    """Describe a mounted file system: id, ARN, capacity, settings.

    \b
    Example:  s3lustrefs fs describe --json
    """
    answer = call(mount, "DescribeFileSystems")
    if as_json:
        click.echo(json.dumps(answer))
        return
    for each in answer["FileSystems"]:
        click.echo(f"{each['FileSystemId']}  {each['Lifecycle']}  {each['StorageCapacity']:,} GiB\n{each['ResourceARN']}")
        for name, value in sorted(each["LustreConfiguration"].items()):
            click.echo(f"    {name:30}  {value if isinstance(value, str) else json.dumps(value)}")


@fs.command("list")
@host_option
@json_option
def list_file_systems(state_dir: str, as_json: bool) -> None:
    """List the file systems of this host, mounted or not.

    \b
    Example:  s3lustrefs fs list
    """
    found: list[dict[str, Any]] = []
    token = None
    while True:
        answer = ask_host(state_dir, "DescribeFileSystems", NextToken=token)
        found += answer["FileSystems"]
        token = answer.get("NextToken")
        if token is None:
            break
    if as_json:
        click.echo(json.dumps({"FileSystems": found}))
    else:
        _show(found)


def _show(found: list[dict[str, Any]]) -> None:
    heads = ("FILE SYSTEM", "LIFECYCLE", "CAPACITY", "TYPE", "NAME")
    print_table(heads, [_row(each) for each in found])
    for each in found:
        if "FailureDetails" in each:
            click.echo(f"{each['FileSystemId']}: {each['FailureDetails']['Message']}", err=True)


def _row(about: dict[str, Any]) -> tuple[str, ...]:
    names = [tag["Value"] for tag in about.get("Tags", ()) if tag["Key"] == "Name"]
    capacity = f"{about['StorageCapacity']:,} GiB" if "StorageCapacity" in about else "elastic"
    return about["FileSystemId"], about["Lifecycle"], capacity, about["LustreConfiguration"]["DeploymentType"], "".join(names)


@fs.command("create")
@click.option("--storage-capacity", type=int, metavar="GIB", help="Becomes the cache_size: 1200, 2400, ...")
@click.option("--storage-type", metavar="TYPE", help="SSD, HDD or INTELLIGENT_TIERING.")
@click.option("--file-system-type-version", metavar="VERSION", help="2.10, 2.12 or 2.15.")
@lustre_option
@click.option("--tags", multiple=True, metavar="TAG", help="Key=KEY,Value=VALUE; may be repeated. Name names the file it gets.")
@token_option
@host_option
@json_option
def create_file_system(
    storage_capacity: int | None,
    storage_type: str | None,
    file_system_type_version: str | None,
    lustre_configuration: str | None,
    tags: tuple[str, ...],
    client_request_token: str | None,
    state_dir: str,
    as_json: bool,
) -> None:
    """Create a file system: a state directory and a NAME.toml, to be mounted by name or id.

    \b
    Example:  s3lustrefs fs create --storage-capacity 1200 --tags Key=Name,Value=analysis \\
                  --lustre-configuration DeploymentType=SCRATCH_2
    """
    answer = ask_host(
        state_dir, "CreateFileSystem", FileSystemType="LUSTRE", SubnetIds=[_ANY_SUBNET], StorageCapacity=storage_capacity,
        StorageType=storage_type, FileSystemTypeVersion=file_system_type_version,
        LustreConfiguration=_settings(lustre_configuration), Tags=[shorthand.parse(each) for each in tags] or None,
        ClientRequestToken=client_request_token or str(uuid.uuid4()),
    )  # fmt: skip
    _tell(answer["FileSystem"], answer, as_json)


@fs.command("update")
@id_option
@lustre_option
@host_option
@json_option
def update_file_system(file_system_id: str, lustre_configuration: str | None, state_dir: str, as_json: bool) -> None:
    """Change settings of a file system, mounted or not.

    \b
    Example:  s3lustrefs fs update --file-system-id fs-0123456789abcdef0 --lustre-configuration WeeklyMaintenanceStartTime=1:05:30
    """
    settings = _settings(lustre_configuration)
    answer = ask_host(state_dir, "UpdateFileSystem", FileSystemId=file_system_id, LustreConfiguration=settings)
    _tell(answer["FileSystem"], answer, as_json)


@fs.command("delete")
@id_option
@host_option
@json_option
def delete_file_system(file_system_id: str, state_dir: str, as_json: bool) -> None:
    """Delete an unmounted file system that holds nothing but what the buckets have: state directory and NAME.toml.

    \b
    Example:  s3lustrefs fs delete --file-system-id fs-0123456789abcdef0
    """
    answer = ask_host(state_dir, "DeleteFileSystem", FileSystemId=file_system_id, ClientRequestToken=str(uuid.uuid4()))
    click.echo(json.dumps(answer) if as_json else f"{file_system_id}  {answer['Lifecycle']}")


def _tell(about: dict[str, Any], answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer))
    else:
        _show([about])


def _settings(text: str | None) -> object:
    return None if text is None else _typed("", shorthand.parse(text))


def _typed(name: str, value: shorthand.Value) -> object:
    """The shorthand knows texts only; the API wants numbers where FSx has numbers."""
    if isinstance(value, dict):
        return {key: _typed(key, each) for key, each in value.items()}
    if isinstance(value, list):
        return [_typed(name, each) for each in value]
    if isinstance(value, str) and name in _WHOLE_NUMBERS and value.isdecimal():
        return int(value)
    return _YES_OR_NO.get(value, value) if isinstance(value, str) else value
