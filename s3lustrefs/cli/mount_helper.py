"""What the top-level mount.s3lustrefs runs: mount(8) arguments, daemonise.

Source: man 8 mount, "EXTERNAL HELPERS": `/sbin/mount.SUFFIX SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE.SUBTYPE]`.
mount(8) takes `noauto`, `nofail` and `x-...` out itself, adds `rw`, and starts the helper without PATH.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from s3lustrefs.cli import file_system_names
from s3lustrefs.cli.launch import start_daemon
from s3lustrefs.cli.mount_checks import Host, check_host, check_mount_point
from s3lustrefs.config import Config, load
from s3lustrefs.errors import S3LustreError

MOUNT_FAILURE = 32
"""mount(8): "mount failure"; 1 is "incorrect invocation or permissions"."""


def prepare(source: str, mount_point: str, options: str, host: Host | None = None) -> tuple[Config, str]:
    """Everything that can be found wrong without starting anything: (config, resolved mount point). Raises: UsageError."""
    host = host or Host()
    named = file_system_names.file_of(source)
    config = replace(load(str(named or source), options, mountpoint=mount_point), source=source)
    check_host(host, allow_other=config.allow_other)
    return config, check_mount_point(mount_point, host)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="mount.s3lustrefs", description="mount(8) helper; to mount by hand use `s3lustrefs mount` or `mount -t s3lustrefs`"
    )
    parser.add_argument(
        "source",
        help="s3://BUCKET[/PREFIX], a TOML file, NAME of /etc/s3lustrefs/NAME.toml, or the id or DNS name of a file system",
    )
    parser.add_argument("mount_point")
    parser.add_argument("-o", dest="options", action="append", default=[], help="mount options, comma-separated")
    parser.add_argument("-t", dest="type", help="file-system type, ignored")
    parser.add_argument("-f", dest="fake", action="store_true", help="check everything, mount nothing")
    parser.add_argument("-v", dest="verbose", action="store_true")
    parser.add_argument("-n", dest="no_mtab", action="store_true", help="ignored")
    parser.add_argument("-s", dest="sloppy", action="store_true", help="ignored: an unknown option is always an error")
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status as mount(8) wants it."""
    arguments = _arguments(sys.argv[1:] if argv is None else argv)
    try:
        config, mount_point = prepare(arguments.source, arguments.mount_point, ",".join(arguments.options))
        if arguments.fake:
            return 0
        pid = start_daemon(config, mount_point)
    except S3LustreError as exc:
        print(f"mount.s3lustrefs: {exc}", file=sys.stderr)
        return MOUNT_FAILURE
    if arguments.verbose:
        print(f"mount.s3lustrefs: {arguments.source} mounted on {mount_point} by process {pid}, log {config.state_dir}/daemon.log")
    return 0
