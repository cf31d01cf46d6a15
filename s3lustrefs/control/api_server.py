"""ApiServer: the FSx API on TCP, for AWS's own clients: every request must be signed with the key pair of `api_credentials`.

Without TLS on loopback only (`config` sees to that): requests are signed, but neither they nor the answers are secret on the wire.
"""

from __future__ import annotations

import logging
import socket
import ssl
from pathlib import Path
from typing import Any

import trio

from s3lustrefs.config import Config
from s3lustrefs.control.api_credentials import load_or_make
from s3lustrefs.control.dispatch import Answer, Dispatcher, Service, faulty
from s3lustrefs.control.faults import fault_of
from s3lustrefs.control.fsx_model import TARGET_PREFIX
from s3lustrefs.control.http_door import HttpDoor, Request
from s3lustrefs.control.signature import Verifier
from s3lustrefs.errors import ConfigError

log = logging.getLogger(__name__)


def listen(address: str) -> trio.SocketListener:
    """A listener on HOST:PORT. Raises: ConfigError."""
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, resolved = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(resolved)
            sock.listen(64)
        except BaseException:
            sock.close()
            raise
    except OSError as exc:
        raise ConfigError(f"api_listen={address}: {exc.strerror}; choose another port or address") from exc
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def tls(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """What to serve with; the files are read now, and not again. Raises: ConfigError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # else it would ask the terminal
    except (OSError, ValueError) as exc:  # SSLError is an OSError
        raise ConfigError(f"api_certificate={certificate}, api_key={key or certificate}: cannot be used: {exc}") from exc
    return context


def open_(config: Config, region: str, service: Service) -> ApiServer | None:
    """A server where the configuration says, for clients that have the key pair; None: nowhere.

    Raises: ConfigError, StateDirError.
    """
    if config.api_listen is None:
        return None
    context = tls(config.api_certificate, config.api_key) if config.api_certificate else None
    pair = load_or_make(config.state_dir / "api-credentials", region)
    return ApiServer(listen(config.api_listen), service, Verifier(pair, region), context)


class ApiServer:
    """Serves `service` on a listener that is open already, so that a port that is taken is found before anything is mounted."""

    def __init__(
        self, listener: trio.SocketListener, service: Service, verifier: Verifier, context: ssl.SSLContext | None = None
    ) -> None:
        self._address = listener.socket.getsockname()[:2]
        self._scheme = "https" if context else "http"
        self._listener = trio.SSLListener(listener, context, https_compatible=True) if context else listener
        self._verifier = verifier
        self._dispatcher = Dispatcher({}, {TARGET_PREFIX: service})
        self._door = HttpDoor(self._answer)

    @property
    def url(self) -> str:
        host, port = self._address
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then every connection is dropped."""
        async with trio.open_nursery() as nursery:
            listeners: list[trio.abc.Listener[Any]] = [self._listener]
            await nursery.start(trio.serve_listeners, self._door.serve_connection, listeners)
            log.info("api listening url=%s", self.url)
            task_status.started()

    async def _answer(self, request: Request) -> Answer:
        try:
            self._verifier.verify(request)
        except Exception as exc:  # noqa: BLE001 - no request of a stranger may end the daemon
            return faulty(fault_of(exc, "verify"))
        return await self._dispatcher.answer(request.method, request.header("x-amz-target"), request.body)
