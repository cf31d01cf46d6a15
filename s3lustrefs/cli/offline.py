"""Commands that need no running daemon: check a bucket before mounting it, verify a state directory afterwards."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from s3lustrefs.errors import S3LustreError

CLEAN, FINDINGS, UNUSABLE = 0, 1, 2


@click.command()
@click.argument("state_dir", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
def fsck(state_dir: str, as_json: bool) -> None:
    """Verify every invariant of the state directory of an unmounted file system. Changes nothing.

    Exit status: 0 clean, 1 findings (listed), 2 the directory cannot be read: in use, of another format, not there.

    \b
    Example:  s3lustrefs fsck /var/lib/s3lustrefs/scratch
    """
    from s3lustrefs.meta.check import check_state_dir

    try:
        findings = list(check_state_dir(Path(os.path.abspath(state_dir))))
    except S3LustreError as exc:
        click.echo(json.dumps({"error": str(exc)}) if as_json else f"s3lustrefs: {exc}", err=not as_json)
        sys.exit(UNUSABLE)
    if as_json:
        click.echo(json.dumps({"findings": findings}))
    else:
        for finding in findings:
            click.echo(finding)
        click.echo(f"{state_dir}: {len(findings)} findings" if findings else f"{state_dir}: clean", err=True)
    sys.exit(FINDINGS if findings else CLEAN)


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
    from s3lustrefs.repository import probe

    reports = []
    mount = config.load(source, ",".join(options), mountpoint="/")
    for dra in mount.dras:
        findings: list[probe.Finding] = list(probe.check(dra.bucket, dra.prefix, dra.endpoint, writable=not mount.read_only))
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
