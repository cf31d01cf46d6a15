"""Composition root of `s3lustrefs api`: one FSx endpoint in front of all file systems of a host. Runs until SIGTERM or SIGINT.

Its own state is small and in `STATE_DIR/api`: the key pair, file systems being made or removed, and the tokens of such requests.
Everything else is asked of the daemons, or read from the tables of file systems that are not mounted. When it is down, mounts
notice nothing.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from configparser import Error as ConfigParserError
from configparser import RawConfigParser
from dataclasses import dataclass
from pathlib import Path

import trio

from s3lustrefs import errors
from s3lustrefs.config import checked_defaults
from s3lustrefs.control import api_server
from s3lustrefs.control.api_credentials import load_or_make
from s3lustrefs.control.fsx_model import TARGET_PREFIX
from s3lustrefs.control.host_api import HostApi
from s3lustrefs.control.host_lives import Lives
from s3lustrefs.control.host_mounts import Mounts
from s3lustrefs.control.host_owners import PATIENCE_SECONDS, Owners
from s3lustrefs.control.host_places import OWN, Places
from s3lustrefs.control.host_records import HostRecords
from s3lustrefs.control.server import ControlServer
from s3lustrefs.control.signature import Verifier
from s3lustrefs.meta.state_dir import StateDir
from s3lustrefs.model import option_values
from s3lustrefs.model.association import Endpoint
from s3lustrefs.repository.credentials import resolve_region

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HostConfig:
    """`options`: mount options for the configuration files of file systems that are made here."""

    listen: str
    state_dir: Path
    config_dir: Path
    region: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    options: str = ""
    with_mounts: bool = True
    """Serve what is mounted, whatever leads to it."""
    patience_seconds: float = PATIENCE_SECONDS


def serve(config: HostConfig, *, ready: Callable[[str], None]) -> None:
    """`ready` gets the URL once requests are answered. Raises: UsageError."""
    defaults = checked_defaults(config.options)
    _check_listen(config)
    with StateDir(config.state_dir / OWN) as own:
        trio.run(_run, config, own.path, defaults, ready)


async def _run(config: HostConfig, own: Path, defaults: dict[str, object], ready: Callable[[str], None]) -> None:
    region = config.region or _known_region(own / "api-credentials") or resolve_region(Endpoint())
    context = api_server.tls(config.certificate, config.key) if config.certificate else None
    pair = load_or_make(own / "api-credentials", region)
    places = Places(config.state_dir, config.config_dir)
    owners = Owners(places, Mounts() if config.with_mounts else None, patience_seconds=config.patience_seconds)
    lives = Lives(owners, places, HostRecords(own / "records.json"), region=region, defaults=defaults)
    service = HostApi(owners, lives).call
    server = api_server.ApiServer(api_server.listen(config.listen), service, Verifier(pair, region), context)
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            await nursery.start(lives.run)
            await nursery.start(ControlServer(own / "control.sock", {}, {TARGET_PREFIX: service}).run)
            await nursery.start(server.run)
            ready(server.url)
            async for number in signals:
                log.info("api stopping signal=%s", signal.Signals(number).name)
                break
        nursery.cancel_scope.cancel()


def _check_listen(config: HostConfig) -> None:
    """Raises: ConfigError."""
    try:
        option_values.parse_listen(config.listen)
    except ValueError as exc:
        raise errors.ConfigError(f"--listen {config.listen}: {exc}") from exc
    if config.certificate is None and not option_values.is_loopback(config.listen):
        raise errors.ConfigError(f"{config.listen} is not a loopback address: others could read along without a certificate (TLS)")


def _known_region(credentials: Path) -> str | None:
    """The Region that the key pair was made for: clients take it from the same file."""
    found = RawConfigParser()
    try:
        found.read(credentials)
    except (ConfigParserError, UnicodeDecodeError):
        return None  # what is wrong with it is said by whoever needs the keys
    return found.get("default", "region", fallback=None)
