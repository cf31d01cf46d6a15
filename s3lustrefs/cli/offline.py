"""Commands that need no running daemon: check a bucket before mounting it, verify a state directory afterwards."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from s3lustrefs.errors import S3LustreError

CLEAN, REPAIRED, LEFT, UNUSABLE = 0, 1, 4, 8
"""Exit statuses of fsck. Source: man 8 fsck, "EXIT STATUS"."""


@click.command()
@click.argument("state_dir", type=click.Path())
@click.option("--repair", "do_repair", is_flag=True, help="Repair what can be repaired; without it nothing is changed.")
@click.option(
    "--cache-dir", "cache_dirs", multiple=True, type=click.Path(), metavar="DIR",
    help="Where the content is now, if it was moved; once per storage target, in order.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="What was found or done as JSON.")
def fsck(state_dir: str, do_repair: bool, cache_dirs: tuple[str, ...], as_json: bool) -> None:
    """Verify the state directory of an unmounted file system: log, inode table, and the content on its storage targets.

    With --repair, content that the bucket has is fetched again when it is read; what existed only here and is gone is listed, and
    reading it gives EIO. Nothing is made up. The next mount lists the bucket again.

    Exit status, as fsck(8): 0 clean, 1 repaired, 4 something is lost, or (without --repair) wrong; it is listed. 8 nothing could be
    done: the directory is in use, of another format, not there.

    \b
    Example:  s3lustrefs fsck --repair /var/lib/s3lustrefs/scratch
    """
    from s3lustrefs.movers import repair

    directory, targets = Path(os.path.abspath(state_dir)), [Path(os.path.abspath(each)) for each in cache_dirs]
    try:
        told = _repaired(directory, targets) if do_repair else {"findings": repair.find(directory, targets)}
    except S3LustreError as exc:
        click.echo(json.dumps({"error": str(exc)}) if as_json else f"s3lustrefs: {exc}", err=not as_json)
        sys.exit(UNUSABLE)
    if as_json:
        click.echo(json.dumps(told))
    else:
        for kind, lines in told.items():
            for line in lines:
                click.echo(line if kind == "findings" else f"{kind}: {line}")
        summary = ", ".join(f"{len(lines)} {kind}" for kind, lines in told.items() if lines)
        click.echo(f"{state_dir}: {summary or 'clean'}", err=True)
    bad = any(told.get(kind) for kind in ("findings", "lost", "not repaired"))
    sys.exit(LEFT if bad else REPAIRED if told.get("repaired") else CLEAN)


def _repaired(state_dir: Path, cache_dirs: list[Path]) -> dict[str, list[str]]:
    import trio

    from s3lustrefs.movers import repair

    outcome = trio.run(repair.repair, state_dir, cache_dirs)
    return {"repaired": outcome.repaired, "lost": outcome.lost, "not repaired": outcome.left}


_MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


@click.command()
@click.argument("source")
@click.option(
    "-o", "options", multiple=True, metavar="OPTS", help="The mount options you will use: endpoint_url, region, profile, ..."
)
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
def check(source: str, options: tuple[str, ...], as_json: bool) -> None:
    """Find out before mounting what a bucket can do: Region, permissions, encryption, versioning, conditional writes.

    Writes and deletes one small object below the prefix. Exit status: 0 usable, 1 something needed is missing.

    \b
    Example:  s3lustrefs check s3://lab-results/run-17 -o region=eu-central-1,profile=lab
    """
    from s3lustrefs import config
    from s3lustrefs.movers import event_plan
    from s3lustrefs.repository import probe

    reports = []
    mount = config.load(source, ",".join(options), mountpoint="/")
    for dra in mount.dras:
        findings: list[probe.Finding] = list(
            probe.check(dra.bucket, dra.prefix, dra.endpoint, dra.write_prefix, writable=not mount.read_only)
        )
        if not any(finding.result == "fail" for finding in findings):
            findings.append(event_plan.check(dra, read_only=mount.read_only))
        reports.append((f"s3://{dra.bucket}/{dra.prefix}", findings))
    if as_json:
        rows = [
            {"source": name, "name": f.name, "result": f.result, "text": f.text, "remedy": f.remedy}
            for name, fs in reports
            for f in fs
        ]
        click.echo(json.dumps({"findings": rows}))
    else:
        for name, findings in reports:
            _print_findings(name, findings)
    sys.exit(any(finding.result == "fail" for _, findings in reports for finding in findings))


def _print_findings(name: str, findings: list[Any]) -> None:
    click.echo(name)
    for finding in findings:
        word, colour = _MARKS[finding.result]
        click.echo(f"  {click.style(word, fg=colour)}  {finding.name}: {finding.text}")
        if finding.remedy:
            click.echo(f"        {finding.remedy}")
