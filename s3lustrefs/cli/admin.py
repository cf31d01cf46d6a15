"""The `s3lustrefs` command. Mounting and unmounting are here; what asks a running daemon is in `reports` and `draining`.

Exit status: 0 done; 1 it failed (one line on stderr says why); 64 the command line is wrong. Commands with a meaning of
their own for 1 and 2 (drain, unmount, check, fsck) say so in their help and use 3 for "could not even ask".
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from s3lustrefs.cli import associations, draining, fsx, offline, reports, tasks
from s3lustrefs.cli.completion import completion
from s3lustrefs.cli.file_systems import fs
from s3lustrefs.cli.host import api
from s3lustrefs.cli.hsm import hsm
from s3lustrefs.cli.hydrating import hydrate
from s3lustrefs.cli.lfs_install import install_lfs
from s3lustrefs.cli.mount_checks import Host, detach, is_dead
from s3lustrefs.cli.restoring import restore
from s3lustrefs.cli.target import Target
from s3lustrefs.cli.versions import versions
from s3lustrefs.errors import MountPointError, S3LustreError, UsageError
from s3lustrefs.mountinfo import mounted_at, read_mounts

EXIT_USAGE = 64
GONE_SECONDS = 120.0
"""How long `unmount` waits for the daemon to end once nothing can reach it: it finishes or requeues open uploads."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="s3lustrefs")
def cli() -> None:
    """Mount S3 buckets as a POSIX file system, and see what it does.

    \b
    Example:  s3lustrefs mount s3://lab-results/run-17 /mnt/run
              s3lustrefs status
              s3lustrefs drain /mnt/run && s3lustrefs unmount /mnt/run
    """


@cli.command()
@click.argument("source")
@click.argument("mountpoint")
@click.option(
    "-o", "options", multiple=True, metavar="OPTS", help="Mount options, comma-separated; may be repeated. See the README."
)
@click.option("--foreground", is_flag=True, help="Stay in this process and log to standard error.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
def mount(source: str, mountpoint: str, options: tuple[str, ...], foreground: bool, log_level: str) -> None:
    """Mount SOURCE (s3://BUCKET[/PREFIX], a TOML file, or NAME of /etc/s3lustrefs/NAME.toml) on MOUNTPOINT.

    Returns once the mount answers; the daemon stays behind and logs to STATE_DIR/daemon.log.

    \b
    Example:  s3lustrefs mount s3://lab-results/run-17 /mnt/run -o region=eu-central-1,cache_size=500GiB
    """
    from s3lustrefs import log
    from s3lustrefs.cli import launch, mount_helper

    config, mount_point = mount_helper.prepare(source, mountpoint, ",".join(options))
    if foreground:
        log.setup(log_level)
        launch.run_in_foreground(config, mount_point, lambda: None)
        return
    launch.start_daemon(config, mount_point, log_level=log_level)


@cli.command()
@click.argument("mountpoint")
@click.option("--no-drain", is_flag=True, help="Do not wait for exports; what is due goes on after the next mount.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="S", help="Give up draining after S seconds.")
def unmount(mountpoint: str, no_drain: bool, timeout: float | None) -> None:
    """Export everything that is due, then unmount MOUNTPOINT and wait until its daemon has ended.

    If some file cannot be exported (exit status 1) or the time is up (2) it stays mounted; --no-drain unmounts anyway.
    Nothing is lost either way: what was not exported is exported after the next mount.

    \b
    Example:  s3lustrefs unmount /mnt/run --timeout 600
    """
    host = Host()
    path = os.path.realpath(mountpoint)
    entry = mounted_at(path, read_mounts(host.mountinfo))
    if entry is None or not entry.is_ours:
        raise MountPointError(f"{mountpoint}: s3lustrefs has nothing mounted there")
    if is_dead(path):
        detach(path, host, lazy=True)
        click.echo(f"{path}: the daemon was gone already; what it had not exported is exported after the next mount", err=True)
        return
    client = Target(path).client()
    if not no_drain:
        status = draining.drain(client, ["/"], timeout=timeout, title=f"draining {path}")
        if status:
            click.echo(f"{path}: still mounted; `s3lustrefs unmount --no-drain {path}` unmounts anyway", err=True)
            sys.exit(status)
    pid = int(str(client.call("Status")["pid"]))
    daemon = _watch(pid)
    detach(path, host, lazy=False)
    if daemon is not None and not _ended(daemon, GONE_SECONDS):
        raise UsageError(f"{path} is unmounted, but its daemon (process {pid}) has not ended after {GONE_SECONDS:.0f} s")


def _watch(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None if it has ended."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _ended(pidfd: int, seconds: float) -> bool:
    import select

    try:
        return bool(select.select([pidfd], [], [], seconds)[0])
    finally:
        os.close(pidfd)


@cli.command("install-helper")
@click.option(
    "--directory", default="/sbin", show_default=True, type=click.Path(file_okay=False), help="Where mount(8) looks for helpers."
)
@click.option(
    "--lfs-directory",
    default="/usr/local/bin",
    show_default=True,
    type=click.Path(file_okay=False),
    help="Where `lfs` goes, unless there is one already.",
)
def install_helper(directory: str, lfs_directory: str) -> None:
    """Link mount.s3lustrefs into /sbin, so that `mount -t s3lustrefs`, `mount -t fuse.s3lustrefs` and fstab work.

    Also installs `lfs` with Lustre's HSM commands for our mounts; a real one is left alone.

    \b
    Example:  sudo .venv/bin/s3lustrefs install-helper
    """
    helper = Path(sys.argv[0]).absolute().parent / "mount.s3lustrefs"
    if not helper.exists():
        helper = Path(sys.executable).parent / "mount.s3lustrefs"
    if not helper.exists():
        raise UsageError(f"{helper} does not exist: install s3lustrefs with pip first")
    for name in ("mount.s3lustrefs", "mount.fuse.s3lustrefs"):
        link = Path(directory) / name
        try:
            # Replaced by rename, so that a mount at the same time finds the old or the new link, never none.
            fresh = link.with_name(f".{name}.{os.getpid()}")
            fresh.symlink_to(helper)
            fresh.replace(link)
        except OSError as exc:
            raise UsageError(f"{link} cannot be linked to {helper}: {exc.strerror}; try with sudo") from exc
        click.echo(f"{link} -> {helper}")
    if installed := install_lfs(Path(lfs_directory)):
        click.echo(str(installed))
    else:
        click.echo("there is another lfs, which is left alone; `s3lustrefs hsm` has the same commands")


cli.add_command(draining.drain_command)
cli.add_command(reports.status)
cli.add_command(reports.why)
cli.add_command(reports.refresh)
cli.add_command(hsm)
cli.add_command(hydrate)
cli.add_command(versions)
cli.add_command(restore)
cli.add_command(associations.dra)
cli.add_command(fs)
cli.add_command(fsx.tag)
cli.add_command(api)
cli.add_command(completion)
cli.add_command(tasks.task)
cli.add_command(api)
cli.add_command(completion)
cli.add_command(offline.check)
cli.add_command(offline.fsck)


def main() -> None:
    """Run the command; our own errors are one line on stderr, everything else is a defect and keeps its traceback."""
    try:
        cli.main(prog_name="s3lustrefs", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.UsageError as exc:
        exc.show()
        sys.exit(EXIT_USAGE)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except S3LustreError as exc:
        click.echo(f"s3lustrefs: {exc}", err=True)
        sys.exit(1)
