"""`s3lustrefs hsm`: Lustre's HSM commands for who has no `lfs`; what they do is in `hsm_client`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from s3lustrefs.cli import hsm_client
from s3lustrefs.cli.hsm_client import Refusal
from s3lustrefs.cli.reports import json_option

Command = Callable[..., Any]
_paths = click.argument("paths", nargs=-1, required=True, metavar="PATH...")
_some_paths = click.argument("paths", nargs=-1, metavar="[PATH...]")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def hsm() -> None:
    """Lustre's HSM commands: where the bytes of files are, and to have them archived, restored, released.

    They go through the mount: everybody may restore, the owner release, root everything. Exit status: 0 done, else the errno of
    what failed first.

    \b
    Example:  s3lustrefs hsm state /mnt/run/results/*
    """


@hsm.command("state")
@_paths
@json_option
def hsm_state(paths: tuple[str, ...], as_json: bool) -> None:
    """Print the HSM state of each PATH as `lfs hsm_state` does.

    \b
    Example:  s3lustrefs hsm state /mnt/run/input.dat
              /mnt/run/input.dat: (0x0000000d) released exists archived, archive_id:1
    """
    if not as_json:
        sys.exit(hsm_client.state("s3lustrefs hsm state", paths))
    states, status = [], 0
    for path in paths:
        try:
            text = hsm_client.ask(path)
            states.append({"path": path, "flags": int(text[1:11], 16), "text": text})
        except Refusal as refusal:
            status = status or refusal.number
            states.append({"path": path, "error": str(refusal)})
    click.echo(json.dumps({"states": states}))
    sys.exit(status)


@hsm.command("action")
@_paths
def hsm_action(paths: tuple[str, ...]) -> None:
    """Print what is being done with each PATH, or NOOP.

    \b
    Example:  s3lustrefs hsm action /mnt/run/input.dat
              /mnt/run/input.dat: RESTORE running (1048576 bytes moved)
    """
    sys.exit(hsm_client.action("s3lustrefs hsm action", paths))


def _request(verb: str, summary: str, example: str, *, has_archive: bool = False) -> None:
    """Add the command of one request."""

    def run(
        paths: tuple[str, ...], filelist: str | None, data: str | None, mntpath: str | None, archive: int | None = None
    ) -> None:
        sys.exit(
            hsm_client.request(f"s3lustrefs hsm {verb}", verb, paths, filelist=filelist, archive_id=archive, mount_point=mntpath)
        )

    run.__doc__ = f"{summary}\n\n    Success prints nothing.\n\n    \b\n    Example:  s3lustrefs hsm {example}"
    options: list[Command] = [
        _some_paths,
        click.option("--filelist", "-l", metavar="FILE", help="More paths, one in each line of FILE."),
        click.option("--data", "-D", metavar="DATA", help="For Lustre's copytools; not used here."),
        click.option("--mntpath", "-m", metavar="DIR", help="The mount that all of the files must be in."),
    ]
    if has_archive:
        options.append(click.option("--archive", "-a", type=int, metavar="N", help="There is only one: 1."))
    decorated: Command = run
    for option in reversed(options):
        decorated = option(decorated)
    hsm.command(verb)(decorated)


_request(
    "archive",
    "Have each PATH exported now, whatever the export policy of its association says.",
    "archive /mnt/run/results/model.bin",
    has_archive=True,
)
_request("restore", "Have each released PATH brought back from the bucket; `action` shows how it goes.", "restore /mnt/run/input/*")
_request("release", "Drop the local bytes of each archived PATH; who reads it next brings them back.", "release /mnt/run/input/*")
_request(
    "remove",
    "Delete the archived copy of each PATH in the bucket; the file stays here.",
    "remove /mnt/run/results/scratch.bin",
    has_archive=True,
)
_request("cancel", "Give up what is being done with each PATH.", "cancel /mnt/run/input/huge.bin")

_FLAG_LETTERS = {"norelease": "r", "noarchive": "a", "dirty": "d", "exists": "e", "archived": "A", "lost": "l"}


def _flags(order: str, summary: str, example: str) -> None:
    """Add `set` or `clear`."""

    def run(paths: tuple[str, ...], archive_id: int | None = None, **given: bool) -> None:
        flags = [flag for flag, is_given in given.items() if is_given]
        sys.exit(hsm_client.change_flags(f"s3lustrefs hsm {order}", paths, order, flags, archive_id))

    who = "The owner may change norelease, noarchive and dirty, root all."
    run.__doc__ = f"{summary}\n\n    {who}\n\n    \b\n    Example:  s3lustrefs hsm {example}"
    decorated: Command = run
    if order == "set":
        decorated = click.option("--archive-id", "-i", type=int, metavar="N", help="There is only one: 1.")(decorated)
    for flag, letter in reversed(_FLAG_LETTERS.items()):
        decorated = click.option(f"--{flag}", f"-{letter}", is_flag=True)(decorated)
    hsm.command(order)(_paths(decorated))


_flags("set", "Set flags of each PATH.", "set --norelease /mnt/run/reference.fa")
_flags("clear", "Clear flags of each PATH.", "clear --norelease /mnt/run/reference.fa")
