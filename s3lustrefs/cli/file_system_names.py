"""Sources that name a file system as FSx does: `fs-...`, `DNSNAME:/MOUNTNAME`, or `DNSNAME@tcp:/MOUNTNAME` as its console shows.

The id is what counts: the table of each file system that has a NAME.toml says which id it has, mounted or not. What follows the id
in a DNS name is Region and host, which may have changed since somebody wrote it down.
Source: FSx for Lustre User Guide, "Mounting from an Amazon EC2 instance".
"""

from __future__ import annotations

import re
from pathlib import Path

from s3lustrefs import errors
from s3lustrefs.config import configured_state_dir, named_files
from s3lustrefs.model.file_system import MOUNT_NAME

_SOURCE = re.compile(r"((?:fs|fc)-[0-9a-f]{8,})(\.[A-Za-z0-9.-]+)?(?:@tcp\d*)?(?::/([A-Za-z0-9_-]{1,8}))?")


def file_of(source: str) -> Path | None:
    """The TOML file of the file system meant; None when the source does not name one by id. Raises: ConfigError."""
    match = _SOURCE.fullmatch(source)
    if match is None:
        return None
    if match[3] not in (None, MOUNT_NAME):
        raise errors.ConfigError(f"source {source!r}: the mount name of {match[1]} is {MOUNT_NAME}: write {match[1]}:/{MOUNT_NAME}")
    directory = named_files()
    if (directory / f"{match[1]}.toml").exists():
        return directory / f"{match[1]}.toml"
    for path in sorted(directory.glob("*.toml")):
        state_dir = configured_state_dir(path)
        if state_dir is not None and _id_of(state_dir) == match[1]:
            return path
    raise errors.ConfigError(
        f"source {source!r}: no file in {directory} configures a file system {match[1]} on this host; "
        "one that was mounted without a file there is mounted as it was before"
    )


def _id_of(state_dir: Path) -> str:
    """Empty: there is none yet, or nobody can say."""
    from s3lustrefs.meta.unmounted_store import reading  # a mount by name has no use for what this loads

    try:
        with reading(state_dir) as engine:
            record = engine.file_system()
            return record.file_system_id if record else ""
    except errors.StateDirInUse:
        return _id_of_mounted(state_dir)
    except errors.StateDirError:
        return ""


def _id_of_mounted(state_dir: Path) -> str:
    from s3lustrefs.cli.control_client import ControlClient

    client = ControlClient(str(state_dir / "control.sock"), prefix="AWSSimbaAPIService_v20180301", timeout=5)
    try:
        answer = client.call("DescribeFileSystems")
    except errors.UsageError:
        return ""
    found = answer["FileSystems"]
    assert isinstance(found, list)
    return str(found[0]["FileSystemId"]) if found else ""
