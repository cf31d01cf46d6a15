"""`s3lustrefs api`: the endpoint in front of all file systems of this host, in the foreground."""

from __future__ import annotations

import os
from pathlib import Path

import click

from s3lustrefs.config import named_files

LISTEN = "127.0.0.1:8987"
STATE_DIR = "/var/lib/s3lustrefs"


@click.command()
@click.option(
    "--listen", default=LISTEN, show_default=True, metavar="HOST:PORT", help="Other than loopback only with a certificate."
)
@click.option(
    "--state-dir", default=STATE_DIR, show_default=True, type=click.Path(file_okay=False), metavar="DIR",
    help="Its own state is in DIR/api; new file systems get theirs in DIR/NAME.",
)  # fmt: skip
@click.option(
    "--config-dir",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Where the NAME.toml files are.  [default: /etc/s3lustrefs]",
)
@click.option(
    "--region", metavar="REGION", help="In ARNs of new file systems, and to sign requests for. Kept from the first start on."
)
@click.option("-o", "options", multiple=True, metavar="OPTS", help="Options for new NAME.toml files: endpoint_url, profile, ...")
@click.option(
    "--mounts/--no-mounts", "with_mounts", default=True, show_default=True,
    help="Also serve mounts that neither a NAME.toml nor DIR leads to.",
)  # fmt: skip
@click.option(
    "--certificate", type=click.Path(dir_okay=False), metavar="FILE", help="PEM: serve TLS; --key if its key is elsewhere."
)
@click.option("--key", type=click.Path(dir_okay=False), metavar="FILE")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
def api(
    listen: str,
    state_dir: str,
    config_dir: str | None,
    region: str | None,
    options: tuple[str, ...],
    with_mounts: bool,
    certificate: str | None,
    key: str | None,
    log_level: str,
) -> None:
    """Serve the FSx API for all file systems of this host, mounted or not, until SIGTERM. Logs to standard error.

    Clients need the key pair in STATE_DIR/api/api-credentials. Exit status: 0 after SIGTERM or SIGINT, 1 if it cannot start.

    \b
    Example:  sudo s3lustrefs api --listen 127.0.0.1:8987
    """
    from s3lustrefs import log
    from s3lustrefs.host import HostConfig, serve

    os.umask(0o077)
    log.setup(log_level)
    config = HostConfig(
        listen, Path(os.path.abspath(state_dir)), Path(os.path.abspath(config_dir)) if config_dir else named_files(),
        region, _path(certificate), _path(key), ",".join(options), with_mounts,
    )  # fmt: skip
    serve(config, ready=lambda url: click.echo(f"listening on {url}", err=True))


def _path(given: str | None) -> Path | None:
    return Path(os.path.abspath(given)) if given else None
